// Culling: a step opens the next clip at once. The studio is told where the steps end, before anything else is done; until it
// answers, `stepped` is the open tile, whatever an older answer says.
const STEPS = 120;  // ms without one before the studio is told
let stepped, untold, ahead, sought;
let count = 0;  // of what the studio was told, since requests may overtake one another
const tiles = () => [...document.querySelectorAll("#grid .strip > li")];
const tellSteps = () => {
  clearTimeout(untold?.timer);
  untold?.tell();
  untold = undefined;
};
document.addEventListener("click", ({target}) => {
  if (!target.closest?.("#grid [data-do], #viewer [data-do], #counts [data-do]")) tellSteps();
}, true);
const scrollToOpen = () => {
  const tile = document.querySelector("#grid .shown");
  const now = tile?.querySelector("img").src;
  if (now === sought || !tile?.offsetParent) return;
  sought = now;
  tile.scrollIntoView({block: "nearest", inline: "nearest"});
};
const openAhead = (number) => {
  const all = tiles();
  const cull = document.querySelector("#viewer .cull");
  if (!all[number] || !cull) return;
  document.querySelector("#grid .shown")?.classList.remove("shown");
  all[number].classList.add("shown");
  scrollToOpen();
  if (+cull.dataset.at === number) return;
  const {film, picture} = all[number].querySelector("img").dataset;
  const stage = cull.querySelector(film ? ".stage video" : ".stage img");
  if (!stage) return;  // a picture after a clip: it comes with the answer
  stage.src = film ?? picture;
  ahead = stage;
  cull.dataset.at = number;
  cull.classList.add("ahead");
  for (const name of ["in", "out", "speed"]) delete cull.querySelector(".player")?.dataset[name];
  const next = all[number + 1]?.querySelector("img").dataset.film;
  const waiting = document.querySelector("#viewer video[hidden]");
  if (next && waiting) waiting.src = next;
};
const answered = () => {
  const cull = document.querySelector("#viewer .cull:not(.ahead)");
  if (cull && !untold && +cull.dataset.at === stepped) stepped = undefined;
  if (stepped !== undefined) return openAhead(stepped);
  const video = cull?.querySelector(".stage video");
  if (ahead?.matches("video") && !ahead.isConnected && video?.src === ahead.src) {  // it plays on
    video.replaceWith(ahead);
    if (!calm.matches) ahead.play();
  }
  if (cull) ahead = undefined;
  scrollToOpen();
};
window.neodragonCull = (element, trigger) => {
  const tell = (verb, id, many, at) => {
    const {frame, in: from, out} = element.querySelector(".player")?.dataset ?? {};
    count += 1;
    trigger("click", {verb, id, many, at, count, frame: +(frame ?? 0), start: +(from ?? 0), end: +(out ?? -1)});
  };
  const step = (to) => {
    if (!tiles()[to]) return;
    openAhead(stepped = to);
    clearTimeout(untold?.timer);
    untold = {tell: () => tell("rest", 0, "", stepped), timer: setTimeout(tellSteps, STEPS)};
  };
  element.addEventListener("click", (event) => {
    const target = event.target.closest("[data-do]");
    if (!target) return;
    event.preventDefault();
    const verb = target.dataset.do;
    const id = +target.dataset.id;
    const many = event.shiftKey ? "range" : event.ctrlKey || event.metaKey ? "choose" : "";
    const all = tiles();
    const now = stepped ?? Math.max(0, all.findIndex((tile) => tile.matches(".shown")));
    const some = Boolean(document.querySelector("#grid .chosen"));
    const to = {next: now + 1, previous: now - 1, open: many || some ? undefined : id}[verb];
    if (to !== undefined) return step(to);
    tellSteps();
    stepped = undefined;
    tell(verb, id, many, now);
    if (verb !== "keep" || some) return;
    all[now]?.classList.add("kept");
    step(now + 1);
  });
  new MutationObserver(answered).observe(element, {childList: true, subtree: true});
};
