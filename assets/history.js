// What stood in the prompt: what typing, an example, a clip or a preset put there can be taken back and done again.
const PAUSE = 1000;  // ms without typing begin another step
const MOST = 100;
const stood = JSON.parse(sessionStorage.getItem("prompts") ?? '{"undo": [], "redo": []}');
let text, typed = 0;
const promptBox = () => document.querySelector("#prompt textarea");
const stand = (now, step = true) => {
  if (step && text?.trim()) stood.undo.splice(0, Math.max(0, stood.undo.push(text) - MOST));
  if (step) stood.redo.length = 0;
  text = now;
  sessionStorage.setItem("prompts", JSON.stringify(stood));
  for (const button of document.querySelectorAll("[data-history]")) button.disabled = !stood[button.dataset.history].length;
};
const lookAtPrompt = () => {  // for what the page itself put there
  const now = promptBox()?.value;
  if (now !== undefined && now !== text) stand(now, text !== undefined);
};
const turn = (from, to) => {
  lookAtPrompt();
  if (!stood[from].length) return;
  const now = stood[from].pop();
  stood[to].push(text);
  stand(now, false);
  promptBox().value = now;
  promptBox().dispatchEvent(new Event("input", {bubbles: true}));
};
const turns = {undo: () => turn("undo", "redo"), redo: () => turn("redo", "undo")};
document.addEventListener("input", ({target}) => {
  if (target !== promptBox() || target.value === text) return;
  stand(target.value, Date.now() - typed > PAUSE);
  typed = Date.now();
}, true);
document.addEventListener("click", ({target}) => turns[target.closest?.("[data-history]")?.dataset.history]?.());
document.addEventListener("keydown", (event) => {
  const key = event.key.toLowerCase();
  if (event.target !== promptBox() || event.altKey || !(event.ctrlKey || event.metaKey) || !["z", "y"].includes(key)) return;
  event.preventDefault();
  turns[key === "y" || event.shiftKey ? "redo" : "undo"]();
});
setInterval(lookAtPrompt, 200);
