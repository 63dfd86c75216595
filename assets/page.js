// Keys act only where no control wants them: Ctrl+Enter animates, Ctrl+Shift+Enter draws a first frame, Esc stops,
// Alt+1.. opens a tab, ? lists all keys, and what has a data-key is clicked by that key.
const wanted = ({key, target}) => {
  if (target.closest("input:not([type=checkbox], [type=radio]), textarea, select, [contenteditable], dialog[open]")) return true;
  const control = "a, button, summary, input, video, [role=tab], [role=slider], [role=option], [role=button]";
  if (key === " " || key === "Enter") return Boolean(target.closest(control));
  return key.startsWith("Arrow") && Boolean(target.closest("input, video, .crop, [role=tab], [role=slider], [role=option]"));
};
const sheet = () => document.getElementById("keys");
document.addEventListener("keydown", (event) => {
  const enter = event.key === "Enter" && (event.ctrlKey || event.metaKey);
  const open = sheet()?.open;
  const id = event.key === "Escape" ? "stop" : enter && (event.shiftKey ? "draw" : "animate");
  const plain = !event.altKey && !event.ctrlKey && !event.metaKey && !wanted(event);
  if (plain && event.key === "?") {
    sheet()?.showModal();
    sheet()?.scrollTo(0, 0);  // the focus is on the button at its end
    return event.preventDefault();
  }
  const keys = plain ? document.querySelectorAll(`[data-key="${CSS.escape(event.key)}"]`) : [];
  const shown = [...keys].find((key) => key.offsetParent);  // on the tab that is open
  const tab = event.altKey && document.querySelectorAll("#tabs [role=tab]")[event.key - 1];
  const button = !open && (tab || shown || (id && document.getElementById(id)));
  if (button && !button.disabled) {
    event.preventDefault();
    event.stopPropagation();
    if (!event.repeat) button.click();
  }
}, true);

// Gradio follows the system's colours whenever it mounts; the user's own choice stands above them.
const colours = document.querySelector("meta[name=colours]");
const dark = matchMedia("(prefers-color-scheme: dark)");
const colour = () => {
  const choice = colours?.content ?? "system";
  const wants = choice === "system" ? dark.matches : choice === "dark";
  if (document.body && document.body.classList.contains("dark") !== wants) document.body.classList.toggle("dark", wants);
};
window.neodragonColours = (choice) => { if (colours) colours.content = choice; colour(); };
dark.addEventListener("change", colour);
addEventListener("DOMContentLoaded", () => {
  colour();
  new MutationObserver(colour).observe(document.body, {attributeFilter: ["class"]});
});

// Labels that Gradio has in English only, in the language of the page.
const labels = Object.entries(JSON.parse(document.querySelector("meta[name=labels]")?.content ?? "{}"));
const relabel = () => {
  for (const [english, ours] of labels)
    for (const element of document.querySelectorAll(`[aria-label^="${english}"], [title^="${english}"]`))
      for (const name of ["aria-label", "title"]) {
        const text = element.getAttribute(name);
        if (text?.startsWith(english)) element.setAttribute(name, ours + text.slice(english.length));
      }
};
if (labels.length) new MutationObserver(relabel).observe(document.documentElement, {subtree: true, childList: true});

document.addEventListener("click", ({target}) => {
  const {tab, card} = target.closest?.("[data-tab]")?.dataset ?? {};
  if (tab) document.querySelector(`#tabs [data-tab-id="${tab}"]`)?.click();
  if (card) unfold(card, 100);
});

// Opens a card of a tab that is about to be shown, which may not hear the first click.
const unfold = (card, tries) => {
  const head = document.querySelector(`#${card} > .label-wrap`);
  if (head?.offsetParent && head.classList.contains("open")) {
    head.focus();
    head.scrollIntoView();
  } else if (tries) {
    if (head?.offsetParent) head.click();
    setTimeout(unfold, 200, card, tries - 1);
  }
};

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
document.addEventListener("loadstart", ({target}) => {  // then a clip plays when it is asked to, once
  if (calm.matches && target.matches?.("video")) target.autoplay = target.loop = false;
}, true);
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
  const now = `${image.src} ${row}`;
  if (canvas.painted === now) return;
  canvas.painted = now;
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
    if (film) {
      const split = canvas.nextElementSibling;
      const at = split.querySelector("input").value;
      split.style.setProperty("--at", `${at}%`);
      canvas.style.clipPath = `inset(0 ${100 - at}% 0 0)`;
    }
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

// A frame to drag over a start picture: by mouse, by touch (two fingers zoom), or by arrow keys, + and -.
window.neodragonCrop = (element, trigger) => {
  const limit = (value, low, high) => Math.min(high, Math.max(low, value));
  const sizes = (crop) => {
    const {naturalWidth: width, naturalHeight: height} = crop.querySelector("img");
    const tall = Math.min(height, width / crop.dataset.aspect) / crop.dataset.zoom;
    return [tall * crop.dataset.aspect / width, tall / height];  // of the picture
  };
  const place = (crop) => {
    const [wide, high] = sizes(crop);
    if (!wide) return;
    const {across, down} = crop.dataset;
    Object.assign(crop.querySelector(".frame").style, {
      width: `${100 * wide}%`, height: `${100 * high}%`, left: `${100 * (1 - wide) * across}%`, top: `${100 * (1 - high) * down}%`,
    });
  };
  let timer;
  const send = (crop) => {
    place(crop);
    clearTimeout(timer);
    const {zoom, across, down} = crop.dataset;
    timer = setTimeout(() => trigger("click", {verb: "crop", id: 0, zoom: +zoom, across: +across, down: +down}), 250);
  };
  const move = (crop, right, lower) => {  // by parts of the picture
    const [wide, high] = sizes(crop);
    if (wide < 1) crop.dataset.across = limit(+crop.dataset.across + right / (1 - wide), 0, 1);
    if (high < 1) crop.dataset.down = limit(+crop.dataset.down + lower / (1 - high), 0, 1);
    send(crop);
  };
  const zoom = (crop, by) => {
    crop.dataset.zoom = limit(crop.dataset.zoom * by, 1, 4);
    send(crop);
  };
  const fingers = new Map();
  const apart = () => {
    const [a, b] = [...fingers.values()];
    return b ? Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY) : 0;
  };
  element.addEventListener("load", ({target}) => target.closest(".crop") && place(target.closest(".crop")), true);
  element.addEventListener("pointerdown", (event) => {
    const crop = event.target.closest(".crop");
    if (!crop) return;
    event.preventDefault();
    crop.querySelector(".frame").focus();
    crop.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, event);
  });
  element.addEventListener("pointermove", (event) => {
    const crop = event.target.closest(".crop");
    const before = fingers.get(event.pointerId);
    if (!crop || !before) return;
    const gap = apart();
    fingers.set(event.pointerId, event);
    if (gap) return zoom(crop, apart() / gap || 1);
    const box = crop.getBoundingClientRect();
    move(crop, (event.clientX - before.clientX) / box.width, (event.clientY - before.clientY) / box.height);
  });
  for (const end of ["pointerup", "pointercancel"]) element.addEventListener(end, (event) => fingers.delete(event.pointerId));
  element.addEventListener("wheel", (event) => {
    const crop = event.target.closest(".crop");
    if (!crop) return;
    event.preventDefault();
    zoom(crop, event.deltaY < 0 ? 1.1 : 1 / 1.1);
  }, {passive: false});
  element.addEventListener("keydown", (event) => {
    const crop = event.target.closest(".crop");
    const step = {ArrowLeft: [-0.02, 0], ArrowRight: [0.02, 0], ArrowUp: [0, -0.02], ArrowDown: [0, 0.02]}[event.key];
    if (!crop || (!step && !"+-".includes(event.key))) return;
    event.preventDefault();
    if (step) move(crop, ...step);
    else zoom(crop, event.key === "+" ? 1.1 : 1 / 1.1);
  });
};
