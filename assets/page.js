// Ctrl+Enter animates, Ctrl+Shift+Enter makes a first frame, Esc stops all, Alt+1.. opens a tab; what has a data-key
// is clicked by it.
document.addEventListener("keydown", (event) => {
  const enter = event.key === "Enter" && (event.ctrlKey || event.metaKey);
  const id = event.key === "Escape" ? "stop" : enter && (event.shiftKey ? "draw" : "animate");
  const typing = event.target.closest("input:not([type=checkbox], [type=radio]), textarea, select");
  const keys = typing || event.altKey ? [] : document.querySelectorAll(`[data-key="${CSS.escape(event.key)}"]`);
  const shown = [...keys].find((key) => key.offsetParent);  // on the tab that is open
  const tab = event.altKey && document.querySelectorAll("#tabs [role=tab]")[event.key - 1];
  const button = tab || shown || (id && document.getElementById(id));
  if (button && !button.disabled) {
    event.preventDefault();
    event.stopPropagation();
    if (!event.repeat) button.click();
  }
}, true);

// Gradio takes the system's colours; the user's own choice stands above them.
const colours = document.querySelector("meta[name=colours]")?.content;
addEventListener("load", () => {
  if (colours && colours !== "system") document.body.classList.toggle("dark", colours === "dark");
});

setInterval(() => {
  const percent = document.querySelector("#progress [aria-valuenow]")?.getAttribute("aria-valuenow");
  document.title = (percent ? `${percent} % · ` : "") + "Neodragon Studio";
}, 500);

// A clip that is being made plays as far as it is: each unit is a picture of its frames below each other.
const units = new Map();
const unit = (source) => {
  if (!units.has(source)) {
    const image = new Image();
    image.src = source;
    units.set(source, image);
  }
  return units.get(source);
};
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const framesOf = ({dataset: {units: count, stride, folder}}) => {
  const frames = [];
  for (let k = 0; k < +count; k += 1) {
    const image = unit(`${folder}/unit-${k}.jpg`);
    if (!image.complete || !image.naturalWidth) break;
    const rows = k ? +stride : 1;
    for (let row = 0; row < rows; row += 1) frames.push([image, row, rows]);
  }
  return frames;
};
const paint = (canvas, [image, row, rows]) => {
  const height = image.naturalHeight / rows;
  if (canvas.width !== image.naturalWidth) [canvas.width, canvas.height] = [image.naturalWidth, height];
  canvas.getContext("2d").drawImage(image, 0, row * height, canvas.width, height, 0, 0, canvas.width, height);
};
const grow = () => {
  const canvases = document.querySelectorAll("canvas.growing, canvas.before");
  if (!canvases.length) units.clear();
  for (const canvas of canvases) {
    const frames = framesOf(canvas);
    if (!frames.length) continue;
    const film = canvas.matches(".before") && canvas.previousElementSibling;  // it is laid over that
    const still = calm.matches ? frames.length - 1 : Math.floor(performance.now() / 1000 * 24) % frames.length;
    const now = film ? Math.min(frames.length - 1, Math.floor(film.currentTime * 24 + 0.01)) : still;
    if (film) canvas.style.clipPath = `inset(0 ${100 - canvas.nextElementSibling.value}% 0 0)`;
    paint(canvas, frames[now]);
  }
  requestAnimationFrame(grow);
};
requestAnimationFrame(grow);

// Clips in the library play while pointed at or focused; those that are compared play in step.
const play = ({target}) => {
  const still = target.closest?.(".film")?.querySelector("img[data-film]");
  if (!still || still.nextElementSibling?.matches("video") || calm.matches) return;
  const video = document.createElement("video");
  Object.assign(video, {src: still.dataset.film, muted: true, loop: true, playsInline: true, autoplay: true});
  still.after(video);
};
const rest = ({target, relatedTarget}) => {
  const film = target.closest?.(".film");
  if (film && !film.contains(relatedTarget)) film.querySelector("img[data-film] + video")?.remove();
};
for (const [event, verb] of [["mouseover", play], ["focusin", play], ["mouseout", rest], ["focusout", rest]]) {
  document.addEventListener(event, verb);
}
setInterval(() => {
  const [first, ...others] = document.querySelectorAll(".sync video");
  for (const video of others) {
    const ahead = (video.currentTime - first.currentTime) / video.duration;
    const apart = Math.abs(ahead - Math.round(ahead)) * video.duration;  // they play in a loop
    if (!video.seeking && apart > 1 / 24) video.currentTime = first.currentTime;
  }
}, 100);
for (const verb of ["play", "pause"]) {
  document.addEventListener(verb, ({target}) => {
    if (!target.matches(".sync video:hover, .sync video:focus")) return;
    for (const video of document.querySelectorAll(".sync video")) video[verb]();
  }, true);
}

// A report goes to the clipboard.
document.addEventListener("click", ({target}) => {
  const report = target.closest?.("[data-copy]");
  if (report) navigator.clipboard.writeText(report.dataset.copy).then(() => { report.textContent += " ✓"; });
});
