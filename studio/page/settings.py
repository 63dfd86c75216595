"""The tab *Settings*: preferences, saved at once; a note says which need a restart."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, get_args

import gradio as gr

from engine.config import MODES
from engine.errors import NeodragonError, reason_of
from studio.language.catalogue import Speaker
from studio.page import html
from studio.page.desk import Desk
from studio.page.events import QUICK
from studio.system import paths
from studio.system.files import partial
from studio.system.settings import Language, Settings, SettingsError, Theme, change, load

LATER = ("language", "clips", "threads")  # are looked at when the studio starts


class SettingsView:
    """Lays the tab out: a control for each setting, written whenever it changes."""

    def __init__(self, desk: Desk, say: Speaker) -> None:
        self.desk, self.say = desk, say
        self.file = desk.data / "settings.json"
        with gr.Row(elem_classes="columns"):
            with gr.Column(min_width=320):
                gr.HTML(f"<h2>{say('settings.making')}</h2>")
                modes = [(say(f"mode.{name}"), name) for name in MODES]
                parts: dict[str, Any] = {"mode": self._radio("mode", modes)}
                parts["upscale"] = self._check("upscale")
                parts["suffix"] = self._check("suffix")
                parts["safety"] = self._check("safety")
                parts["clips"] = gr.Textbox(
                    label=say("settings.clips"), placeholder=str(paths.clips_folder())
                )
                gr.HTML(f"<h2>{say('settings.machine')}</h2>")
                parts["awake"] = self._check("awake")
                parts["notify"] = self._check("notify")
                parts["battery"] = gr.Slider(0, 100, 20, step=5, label=say("settings.battery"))
                parts["threads"] = gr.Number(label=say("settings.threads"), precision=0, minimum=0)
            with gr.Column(min_width=320):
                gr.HTML(f"<h2>{say('settings.page')}</h2>")
                for name, values in (("language", get_args(Language)), ("theme", get_args(Theme))):
                    choices = [(say(f"settings.{name}.{value}"), value) for value in values]
                    parts[name] = self._radio(name, choices)
                self.message = gr.HTML(elem_id="settings-message")
                quit_ = gr.Button(say("settings.quit"), elem_id="quit", size="sm")
        self.parts = parts
        quit_.click(self._quit, None, self.message, **QUICK)
        parts["theme"].input(
            None, parts["theme"], js="choice => window.neodragonColours(choice)", **QUICK
        )
        for name, part in parts.items():
            event = part.blur if isinstance(part, gr.Textbox | gr.Number) else part.input
            event(self._changed(name), part, self.message, **QUICK)

    def load(self, blocks: gr.Blocks) -> None:
        """Show what is in the file."""
        blocks.load(self._load, None, [*self.parts.values(), self.message], **QUICK)

    def _radio(self, name: str, choices: list[tuple[str, str]]) -> gr.Radio:
        return gr.Radio(
            choices, value=choices[0][1], label=self.say(f"settings.{name}"), elem_id=f"set-{name}"
        )

    def _check(self, name: str) -> gr.Checkbox:
        return gr.Checkbox(
            value=True,
            label=self.say(f"settings.{name}"),
            container=False,
            elem_id=f"set-{name}",
        )

    def _load(self) -> tuple[Any, ...]:
        settings, problem = load(self.file)
        shown = [_shown(name, settings) for name in self.parts]
        return (*shown, html.notice(self.say.message(problem)) if problem else "")

    def _quit(self) -> str:
        """Close the studio; what is being made waits until the next start."""
        threading.Timer(1.0, self.desk.quit.set).start()  # after the answer
        return html.notice(self.say("settings.closed"))

    def _changed(self, name: str) -> Any:
        """What writes this setting and says whether it counts at once."""

        def write(value: Any) -> str:
            try:
                before, _ = load(self.file)
                change(self.file, **{name: _kept(name, value)})
                if load(self.file)[0] == before:
                    return ""
            except NeodragonError as error:
                return html.failure(self.say.error(error))
            return html.notice(self.say("settings.later" if name in LATER else "settings.kept"))

        return write


def _shown(name: str, settings: Settings) -> Any:
    value = getattr(settings, name)
    return {None: ""}.get(value, value) if name == "clips" else value


def _kept(name: str, value: Any) -> Any:
    """A control's value as the file has it; raises SettingsError."""
    if name == "threads":
        return int(value) if value else None
    if name != "clips":
        return int(value) if name == "battery" else value
    text = (value or "").strip()
    if not text:
        return None
    folder = Path(text).expanduser()
    try:
        if not folder.is_absolute():
            raise OSError("it is not a whole path")
        folder.mkdir(parents=True, exist_ok=True)
        trial = partial(folder / "trial")
        trial.touch()
        trial.unlink()
    except (OSError, ValueError) as error:
        raise SettingsError(
            "The folder {text} takes no files ({reason}); choose another for clips.",
            text=text,
            reason=reason_of(error),
        ) from error
    return str(folder)
