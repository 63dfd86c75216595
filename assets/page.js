// Ctrl+Enter animates, Ctrl+Shift+Enter makes a first frame, Esc stops; the tab's title shows how far it is.
document.addEventListener("keydown", (event) => {
  const enter = event.key === "Enter" && (event.ctrlKey || event.metaKey);
  const id = event.key === "Escape" ? "stop" : enter && (event.shiftKey ? "draw" : "animate");
  const button = id && document.getElementById(id);
  if (button && !button.disabled) {
    event.preventDefault();
    event.stopPropagation();
    button.click();
  }
}, true);

setInterval(() => {
  const percent = document.querySelector("#progress [aria-valuenow]")?.getAttribute("aria-valuenow");
  document.title = (percent ? `${percent} % · ` : "") + "Neodragon Studio";
}, 500);
