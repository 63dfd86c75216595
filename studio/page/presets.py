"""Settings of the tab *Create* under names of the user's: kept, set again, deleted.

They are in a file of their own, `presets.json`: by number, each a name, values by control, and
whether it is deleted; what was deleted can be brought back until the next one is saved.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from engine.errors import NeodragonError
from studio.language.catalogue import Speaker
from studio.page import html
from studio.page.events import IN_TURN, Update
from studio.system.files import writing

LONG = 60  # characters of a name
SET = ("style", "mode", "negative", "upscale", "suffix")  # controls that each preset sets
SEEDS = ("look", "motion")  # set where they were locked


class Presets:
    """Those of a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def all(self) -> dict[str, dict[str, Any]]:
        """By their number; none where the file cannot be read."""
        with suppress(OSError, ValueError):
            known = json.loads(self.file.read_text(encoding="utf-8"))
            if isinstance(known, dict):
                return {k: one for k, one in known.items() if isinstance(one, dict)}
        return {}

    def shown(self) -> dict[str, str]:
        """The names of those that are not deleted, by number, in the order of the names."""
        kept = {k: str(one.get("name")) for k, one in self.all().items() if not one.get("deleted")}
        return dict(sorted(kept.items(), key=lambda item: item[1].casefold()))

    def save(self, name: str, values: Mapping[str, Any]) -> None:
        """Keep values under a name, in place of what had it; raises OutputError."""
        known = {k: one for k, one in self.all().items() if not one.get("deleted")}
        same = [number for number, one in known.items() if one.get("name") == name]
        number = same[0] if same else str(max(map(int, known), default=0) + 1)
        self._write(known | {number: {"name": name, "values": dict(values)}})

    def delete(self, number: str, deleted: bool = True) -> None:
        """Delete one or bring it back; raises OutputError."""
        known = self.all()
        if number in known:
            self._write(known | {number: known[number] | {"deleted": deleted}})

    def _write(self, known: Mapping[str, Any]) -> None:
        with writing(self.file) as part:
            part.write_text(json.dumps(known, ensure_ascii=False), encoding="utf-8")
            part.replace(self.file)


class PresetView:
    """Lays them out, and fills the controls that it is told of."""

    def __init__(self, file: Path, say: Speaker) -> None:
        self.presets, self.say = Presets(file), say
        with gr.Accordion(say("preset.label"), open=False, elem_id="presets"):
            self.list = gr.HTML(self.listed(), js_on_load=html.SEND, elem_id="preset-list")
            self.message = gr.HTML(js_on_load=html.SEND, elem_id="preset-message")
            with gr.Row(elem_id="preset-new"):
                self.name = gr.Textbox(
                    label=say("preset.name"), max_length=LONG, min_width=120, elem_id="preset-name"
                )
                self.save = gr.Button(say("preset.save"), scale=0, min_width=80, elem_id="keep")
            self.worded = gr.Checkbox(
                label=say("preset.prompt"), container=False, elem_id="preset-prompt"
            )
            gr.HTML(f'<p class="aside">{escape(say("preset.hint"))}</p>')

    def wire(self, controls: set[Any], known: Callable[[str, Any], bool]) -> None:
        """Let the buttons work on controls; known: whether one of an id takes a value."""
        self.parts, self.known = {part.elem_id: part for part in controls}, known
        note = [self.list, self.message]
        fields = controls | {self.name, self.worded}
        gr.on([self.save.click, self.name.submit], self._save, fields, note, **IN_TURN)
        self.name.change(None, None, self.message, js="() => ''")
        self.list.click(self._act, None, [*controls, self.list, self.message], **IN_TURN)
        self.message.click(self._act, None, [self.list, self.message], **IN_TURN)

    def listed(self) -> str:
        """What can be set or deleted."""
        rows = ""
        for number, name in self.presets.shown().items():
            label = escape(self.say("preset.delete", name=name))
            rows += (
                f"<li>{html.button('set', int(number), name)}"
                f'<button class="verb" data-do="delete" data-id="{number}" aria-label="{label}"'
                f' title="{label}">✕</button></li>'
            )
        return f'<ul class="presets">{rows}</ul>' if rows else ""

    def _save(self, fields: Update) -> Update:
        name = (fields[self.name] or "").strip()[:LONG]
        if not name:
            return {self.message: html.mistake(self.say("preset.no_name"))}
        values = {part: fields[self.parts[part]] for part in SET}
        for seed in SEEDS:
            lock = fields[self.parts[f"{seed}-lock"]]
            values |= {f"{seed}-lock": lock} | ({seed: fields[self.parts[seed]]} if lock else {})
        if fields[self.worded]:
            values["prompt"] = fields[self.parts["prompt"]]
        try:
            self.presets.save(name, values)
        except NeodragonError as error:
            return {self.message: html.failure(self.say.error(error))}
        note = html.notice(self.say("preset.saved", name=name))
        return {self.list: self.listed(), self.message: note}

    def _act(self, event: gr.EventData) -> Update:
        number = str(int(event.id))
        one = self.presets.all().get(number)
        if one is None:
            return {self.list: self.listed(), self.message: ""}
        name = str(one.get("name"))
        if event.verb == "set":
            note = html.notice(self.say("preset.used", name=name))
            return self._values(one.get("values")) | {self.message: note}
        deleted = event.verb == "delete"
        try:
            self.presets.delete(number, deleted)
        except NeodragonError as error:
            return {self.message: html.failure(self.say.error(error))}
        back = html.button("bring", int(number), self.say("preset.restore"))
        text = escape(self.say("preset.deleted", name=name))
        note = f'<div class="notice banner" role="status"><p>{text}</p>{back}</div>'
        return {self.list: self.listed(), self.message: note if deleted else ""}

    def _values(self, values: Any) -> Update:
        """What a preset sets of what this page and its pack know."""
        return {
            self.parts[name]: value
            for name, value in (values if isinstance(values, dict) else {}).items()
            if name in self.parts and self.known(name, value)
        }
