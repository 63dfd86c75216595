// Culling: a step opens the next clip at once. The studio is told where the steps end, before anything else is done. What it is
// told has a number, which its answer shows; until the last one is answered, `stepped` is open: the address of a tile's file.
const STEPS = 120;  // ms without one before the studio is told
let stepped, untold, sought;
let count = 0;  // of what the studio was told
const tiles = () => [...document.querySelectorAll("#grid .strip > li")];
const addressOf = (tile) => {
  const {film, picture} = tile?.querySelector("img").dataset ?? {};
  return film ?? picture ?? "";
};
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
  const now = addressOf(tile);
  if (now === sought || !tile?.offsetParent) return;
  sought = now;
  tile.scrollIntoView({block: "nearest", inline: "nearest"});
};
const select = (address) => {
  const tile = tiles().find((one) => addressOf(one) === address);
  if (!tile) return undefined;
  document.querySelector("#grid .shown")?.classList.remove("shown");
  tile.classList.add("shown");
  return tile;
};
const openAhead = () => {
  const tile = select(stepped);
  scrollToOpen();
  const cull = document.querySelector("#viewer .cull");
  if (!tile || !cull || cull.dataset.open === stepped) return;
  const image = tile.querySelector("img");
  const ahead = document.createElement(image.dataset.film ? "video" : "img");
  Object.assign(ahead, {src: stepped, muted: true, autoplay: true, loop: true, playsInline: true});
  ahead.alt = ahead.ariaLabel = image.alt;
  cull.querySelector(".stage").replaceChildren(ahead);
  cull.dataset.open = stepped;
  cull.classList.add("ahead");
  marks.delete(ahead.src);
  const next = tile.nextElementSibling?.querySelector("img").dataset.film;
  const waiting = document.querySelector("#viewer video[hidden]");
  if (next && waiting) waiting.src = next;
};
const answered = () => {
  const cull = document.querySelector("#viewer .cull:not(.ahead)");
  if (cull && !untold && +cull.dataset.count === count) stepped = undefined;
  if (stepped !== undefined) return openAhead();
  if (cull) select(cull.dataset.open);
  scrollToOpen();
};
window.neodragonCull = (element, trigger) => {
  const tell = (verb, id, many, open) => {
    count += 1;
    trigger("click", {verb, id, many, open, count, ...neodragonFrames(element.querySelector(".player"))});
  };
  const step = (tile) => {
    if (!tile) return;
    stepped = addressOf(tile);
    openAhead();
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
    const tile = document.querySelector("#grid .shown");
    const next = tile?.nextElementSibling;
    const some = Boolean(document.querySelector("#grid .chosen"));
    if (verb === "next") return step(next);
    if (verb === "previous") return step(tile?.previousElementSibling);
    if (verb === "open" && !many && !some) return step(tiles()[id]);
    tellSteps();
    stepped = undefined;
    tell(verb, id, many, addressOf(tile));
    if (some || !next || !["keep", "reject", "back"].includes(verb)) return;
    if (verb === "keep") tile.classList.add("kept");
    stepped = addressOf(next);  // where the studio goes on, too
    openAhead();
  });
  new MutationObserver(answered).observe(element, {childList: true, subtree: true});
};
