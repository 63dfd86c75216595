// The queue panel: its button in the head, the order by drag, the tab's title and icon, and news without asking.
window.neodragonSort = (element, trigger) => {
  let dragged;
  const row = ({target}) => target.closest?.("li[draggable]");
  element.addEventListener("dragstart", (event) => {
    dragged = row(event);
    if (!dragged) return;
    event.dataTransfer.setData("text/plain", dragged.dataset.id);
    event.dataTransfer.effectAllowed = "move";
  });
  const mark = (over) => element.querySelectorAll(".over").forEach((one) => one !== over && one.classList.remove("over"));
  element.addEventListener("dragover", (event) => {
    if (!dragged) return;
    event.preventDefault();
    mark(row(event));
    row(event)?.classList.add("over");
  });
  element.addEventListener("drop", (event) => {
    const over = row(event);
    event.preventDefault();
    mark();
    if (!dragged || over === dragged) return;
    trigger("click", {verb: "move", id: +dragged.dataset.id, before: over ? +over.dataset.id : 0});
  });
  element.addEventListener("change", (event) => {
    const {field} = event.target.dataset;
    if (field) trigger("click", {verb: "set", id: +row(event).dataset.id, field, value: event.target.value});
  });
  element.addEventListener("dragend", () => { dragged = undefined; mark(); });
};

// A page that is seen is told of news; one that is not asks now and then, since a browser has few connections.
window.neodragonNews = (element, trigger) => {
  const look = () => {
    trigger("click", {verb: "look", id: 0});
    dispatchEvent(new Event("news"));
  };
  let source;
  const listen = () => {
    source?.close();
    source = undefined;
    if (document.hidden) return;
    source = new EventSource("changes");
    source.onmessage = look;
    source.onerror = ({target}) => { if (target.readyState === EventSource.CLOSED) setTimeout(listen, 3000); };
  };
  document.addEventListener("visibilitychange", listen);
  addEventListener("look", look);
  setInterval(() => { if (document.hidden) look(); }, 5000);
  listen();
};

// A tab that is open is told too; some also look every few seconds.
window.neodragonHeard = (element, trigger, seconds) => {
  const look = () => element.closest("[role=tabpanel]")?.offsetParent && trigger("click", {verb: "look", id: 0});
  addEventListener("news", look);
  document.addEventListener("click", ({target}) => { if (target.closest?.("[role=tab]")) setTimeout(look, 50); });
  setTimeout(look);
  if (seconds) setInterval(look, 1000 * seconds);
};

const isOpen = () => Boolean(document.getElementById("queue")?.classList.contains("open"));
const openQueue = (open) => {
  document.getElementById("queue")?.classList.toggle("open", open);
  document.getElementById("queue-button")?.setAttribute("aria-expanded", open);
};
document.addEventListener("click", ({target}) => {
  if (target.closest?.("#queue-button")) openQueue(!isOpen());
});
document.addEventListener("keydown", (event) => {
  if (event.key.toLowerCase() !== "q" || event.altKey || event.ctrlKey || event.metaKey || wanted(event)) return;
  openQueue(!isOpen());
});

const ring = (percent, failed) => {
  const turn = 2 * Math.PI * 13 * (percent || 0) / 100;
  const colour = failed ? "%23c2473d" : "%230d857b";
  return `data:image/svg+xml,<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><circle cx="16" cy="16" r="13" fill="none"`
    + ` stroke="%23aaa" stroke-width="6"/><circle cx="16" cy="16" r="13" fill="none" stroke="${colour}" stroke-width="6"`
    + ` stroke-dasharray="${failed && percent === "" ? 99 : turn} 99" transform="rotate(-90 16 16)"/></svg>`;
};
const icon = Object.assign(document.createElement("link"), {rel: "icon"});
setInterval(() => {
  const {percent = "", waiting = "0", failed = "0"} = document.querySelector("#queue .load")?.dataset ?? {};
  const parts = [percent && `${percent} %`, +failed ? `⚠ ${failed}` : "", +waiting ? `+${waiting}` : ""].filter(Boolean);
  const title = [...parts, "Neodragon Studio"].join(" · ");
  if (document.title !== title) document.title = title;
  const href = percent || +failed ? ring(percent, +failed) : "favicon.ico";
  if (!icon.isConnected) document.head.append(icon);
  if (icon.getAttribute("href") !== href) icon.setAttribute("href", href);
  const badge = document.querySelector("#queue-button b");
  const count = +waiting + (percent ? 1 : 0);
  const told = +failed ? `${count} ⚠` : `${count}`;
  if (badge && badge.textContent !== told) badge.textContent = told;
}, 500);
