// The bar under a clip: K plays or pauses, J and L go back and on (again: faster), comma and full stop step by a frame,
// I and O mark in and out, between which it plays. What the studio draws anew keeps its marks: they are of the clip's address.
const clipOf = (bar) => bar.parentElement.querySelector(".stage > video");
const barOf = () => [...document.querySelectorAll(".player")].find((bar) => bar.offsetParent && clipOf(bar));
const frameOf = (bar) => Math.min(bar.dataset.frames - 1, Math.floor(clipOf(bar).currentTime * bar.dataset.fps + 0.01));
const marks = new Map();  // address to {in, out, speed}
const marksOf = (bar) => {
  const {src} = clipOf(bar);
  if (!marks.has(src)) marks.set(src, {});
  return marks.get(src);
};
const seek = (bar, frame) => {
  const at = Math.min(bar.dataset.frames - 1, Math.max(0, frame));
  clipOf(bar).pause();
  bar.dataset.frame = at;
  clipOf(bar).currentTime = (at + 0.5) / bar.dataset.fps;
};
const shuttle = (bar, by) => {  // J and L: 1, 2, 4 times as fast, K stops
  const now = marksOf(bar).speed ?? 0;
  const speed = by * now > 0 ? Math.max(-4, Math.min(4, now * 2)) : by;
  const video = clipOf(bar);
  marksOf(bar).speed = speed;
  if (speed < 0) return video.pause();
  video.playbackRate = speed;
  video.play();
};
const toggle = (bar) => {
  const video = clipOf(bar);
  const playing = !video.paused || marksOf(bar).speed < 0;
  delete marksOf(bar).speed;
  video.playbackRate = 1;
  if (playing) video.pause(); else video.play();
};
const edge = (bar, side) => {
  const frame = frameOf(bar);
  const here = marksOf(bar);
  if (here[side] === frame) delete here[side];
  else here[side] = frame;
  if (here.in >= here.out) delete here[side === "in" ? "out" : "in"];
};
const plays = {
  back: (bar) => seek(bar, frameOf(bar) - 1), on: (bar) => seek(bar, frameOf(bar) + 1), toggle,
  in: (bar) => edge(bar, "in"), out: (bar) => edge(bar, "out"),
};
const playKeys = {
  ",": plays.back, ".": plays.on, k: toggle, j: (bar) => shuttle(bar, -1), l: (bar) => shuttle(bar, 1), i: plays.in, o: plays.out,
};
document.addEventListener("click", ({target}) => {
  const button = target.closest?.("[data-play]");
  if (button) plays[button.dataset.play](button.closest(".player"));
});
document.addEventListener("input", ({target}) => {
  if (target.matches?.(".player input")) seek(target.closest(".player"), +target.value);
});
document.addEventListener("keydown", (event) => {
  const act = playKeys[event.key.toLowerCase()];
  const bar = act && !event.altKey && !event.ctrlKey && !event.metaKey && !wanted(event) && barOf();
  if (!bar) return;
  event.preventDefault();
  act(bar);
});
let lookedAt = 0;
const watchPlayer = (now) => {
  requestAnimationFrame(watchPlayer);
  const bar = barOf();
  if (!bar) return;
  const video = clipOf(bar);
  const {dataset} = bar;
  const {in: from, out: to, speed} = marksOf(bar);
  let frame = frameOf(bar);
  if (speed < 0 && now - lookedAt >= 1000 / dataset.fps / -speed) {
    seek(bar, frame > (from ?? 0) ? frame - 1 : to ?? dataset.frames - 1);
    lookedAt = now;
  }
  if (!video.paused && (frame > (to ?? Infinity) || frame < (from ?? 0))) {
    video.currentTime = ((from ?? 0) + 0.5) / dataset.fps;
  }
  frame = frameOf(bar);
  const slider = bar.querySelector("input");
  if (+slider.value !== frame) slider.value = frame;
  dataset.frame = frame;
  const shown = `${frame} / ${dataset.frames - 1}`;
  const output = bar.querySelector("output");
  if (output.textContent !== shown) output.textContent = shown;
  const share = (at) => `${100 * at / (dataset.frames - 1)}%`;
  bar.style.setProperty("--in", share(from ?? 0));
  bar.style.setProperty("--out", share(to ?? dataset.frames - 1));
  for (const side of ["in", "out"]) bar.querySelector(`[data-play=${side}]`).setAttribute("aria-pressed", side in marksOf(bar));
  const sign = video.paused && !(speed < 0) ? "▶" : "❚❚";
  const play = bar.querySelector("[data-play=toggle]");
  if (play.textContent !== sign) play.textContent = sign;
};
requestAnimationFrame(watchPlayer);
// Frame, in and out of a bar, for the verbs; there may be none.
window.neodragonFrames = (bar) => {
  const {in: start = 0, out: end = -1} = bar && clipOf(bar) ? marksOf(bar) : {};
  return {frame: +(bar?.dataset.frame ?? 0), start, end};
};
// In and out of the clip that is open, for an export.
window.neodragonMarks = () => {
  const bar = barOf();
  const {in: from, out} = bar ? marksOf(bar) : {};
  return JSON.stringify({in: from, out});
};
// Shots of a film one after another.
document.addEventListener("click", ({target}) => {
  const reel = target.closest?.("[data-reel]")?.closest(".reel");
  if (!reel) return;
  const video = reel.querySelector("video");
  const shots = JSON.parse(reel.dataset.shots);
  let at = -1;
  const next = () => {
    at += 1;
    reel.dataset.at = at;
    if (at >= shots.length || !video.isConnected) return video.pause();
    video.src = shots[at].source;
    video.currentTime = shots[at].from;
    video.play();
  };
  const watch = () => {
    if (at >= shots.length || !video.isConnected) return;
    if (video.ended || video.currentTime >= shots[at].to - 0.005) next();
    requestAnimationFrame(watch);
  };
  next();
  watch();
});
