"""The tab *Film*: clips in a row, each trimmed and titled, joined to one film with sound.

The list is in the draft, so that every tab may add to it. The film, and timelines for editors, go
to the folder of exports; nothing there is overwritten.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from engine.errors import NeodragonError, RequestError
from studio.export.timeline import SOUNDS, Take, edl, film, timeline
from studio.language.catalogue import Speaker
from studio.library.store import EXPORTS
from studio.page import html
from studio.page.desk import Desk
from studio.page.events import IN_TURN, QUICK
from studio.page.panel import SORT
from studio.system.files import fitted

FIELDS = ("title", "start", "end")


class FilmView:
    """Lays the tab out; what it shows is read from the draft each time."""

    def __init__(self, desk: Desk, say: Speaker) -> None:
        self.desk, self.say = desk, say
        with gr.Row(elem_classes="columns"):
            with gr.Column(scale=2, min_width=320, elem_id="film"):
                self.rows = gr.HTML(js_on_load=SORT, elem_id="shots")
                self.sound = gr.File(
                    label=say("film.sound"), file_types=[*SOUNDS], height=130, elem_id="sound"
                )
                self.make = gr.Button(say("film.make"), variant="primary", elem_id="make-film")
                self.message = gr.HTML(elem_id="film-message")
            with gr.Column(scale=3, min_width=320):
                self.reel = gr.HTML(elem_id="reel")
        shown = [self.rows, self.reel, self.message]
        self.rows.click(self._act, None, shown, **IN_TURN)
        self.make.click(self._make, self.sound, shown, queue=True, api_visibility="private")

    def open(self, tab: gr.Tab) -> None:
        """Show the list whenever the tab is opened."""
        tab.select(self._show, None, [self.rows, self.reel, self.message], **QUICK)

    def _show(self, message: str = "", made: Path | None = None) -> tuple[str, str, str]:
        shots = kept(self.desk)
        rows = "".join(self._row(number, shot) for number, shot in enumerate(shots, 1))
        if not rows:
            return f'<p class="aside">{escape(self.say("film.empty"))}</p>', "", message
        return f'<ol class="shots">{rows}</ol>', self._reel(shots, made), message

    def _row(self, number: int, shot: Take) -> str:
        say, last = self.say, self.desk.pack.geometry.frames - 1
        values = {"title": shot.title, "start": shot.start or 0}
        values["end"] = last if shot.end is None else shot.end
        inputs = "".join(
            f'<label>{escape(say(f"film.{name}"))}<input data-field="{name}" value="'
            f'{escape(str(values[name]))}"'
            + (' maxlength="80">' if name == "title" else f' type="number" min="0" max="{last}">')
            + "</label>"
            for name in FIELDS
        )
        buttons = "".join(
            f'<button class="verb" data-do="{verb}" data-id="{number}" title="{escape(label)}"'
            f' aria-label="{escape(f"{number}: {label}")}">{sign}</button>'
            for verb, sign in (("earlier", "↑"), ("later", "↓"), ("remove", "✕"))
            if (label := say(f"verb.{verb}"))
        )
        picture = html.thumbnail(shot.clip, 0)
        return (
            f'<li draggable="true" data-id="{number}"><img src="{picture}" alt="{number}">'
            f'<div class="fields">{inputs}</div>{buttons}</li>'
        )

    def _reel(self, shots: Sequence[Take], made: Path | None) -> str:
        """The film that was made, else a player of the shots one after another (player.js)."""
        if made is not None:
            link = html.download(made, self.say("caption.download"))
            return (
                f'<div class="stage"><video src="{html.address(made)}" controls playsinline'
                f' aria-label="{escape(made.name)}"></video></div>'
                f'<div class="caption">{link}</div>'
            )
        geometry = self.desk.pack.geometry
        spans = [
            {
                "source": html.address(shot.clip),
                "from": (shot.start or 0) / geometry.fps,
                "to": (geometry.frames if shot.end is None else shot.end + 1) / geometry.fps,
            }
            for shot in shots
        ]
        seconds = sum(shot["to"] - shot["from"] for shot in spans)  # type: ignore[operator]
        label = self.say("film.preview", seconds=self.say.number(seconds, 1))
        return (
            f'<div class="reel" data-shots="{escape(json.dumps(spans))}"><div class="stage">'
            f'<video src="{spans[0]["source"]}" muted playsinline aria-label="{escape(label)}">'
            f'</video></div><button class="verb" data-reel>▶ {escape(label)}</button></div>'
        )

    def _act(self, event: gr.EventData) -> tuple[str, str, str]:
        shots = kept(self.desk)
        at, message = int(event.id) - 1, ""
        try:
            if 0 <= at < len(shots):
                keep(self.desk, _changed(shots, at, event))
        except NeodragonError as error:
            message = html.failure(self.say.error(error))
        return self._show(message)

    def _make(self, sound: str | None) -> tuple[str, str, str]:
        """Write the film and its timelines."""
        shots, folder = kept(self.desk), self.desk.clips / EXPORTS
        try:
            if not shots:
                raise RequestError("The film has no shots; add some with “To film”.")
            target = fitted(folder / shots[0].clip.stem, "_film.mp4")
            made = film(shots, target, sound=None if sound is None else Path(sound))
            others = [
                write(shots, fitted(made.with_suffix(""), ending))
                for write, ending in ((timeline, ".fcpxml"), (edl, ".edl"))
            ]
        except NeodragonError as error:
            return self._show(html.failure(self.say.error(error)))
        names = ", ".join(path.name for path in (made, *others))
        notice = self.say("library.exported", names=names, folder=folder)
        return self._show(html.notice(notice), made)


def kept(desk: Desk) -> list[Take]:
    """The shots of the film whose clips are still there."""
    takes = []
    for shot in desk.draft().get("shots") or []:
        try:
            take = Take(Path(shot["clip"]), shot["start"], shot["end"], str(shot["title"]))
            if take.clip.is_file():
                takes.append(take)
        except (TypeError, LookupError, ValueError, OSError):  # a draft by another version
            continue
    return takes


def keep(desk: Desk, shots: Sequence[Take]) -> None:
    """Remember them as the film."""
    rows = [
        {"clip": str(one.clip), "start": one.start, "end": one.end, "title": one.title}
        for one in shots
    ]
    desk.keep_draft(shots=rows)


def add(desk: Desk, clip: Path, start: int, end: int) -> int:
    """Put a clip behind the other shots; how many there are now. end: -1 for the last frame."""
    shots = [*kept(desk), Take(clip, start or None, None if end < 0 else end)]
    keep(desk, shots)
    return len(shots)


def _changed(shots: list[Take], at: int, event: Any) -> list[Take]:
    """The shots after something was done to the one at that place."""
    shot = shots.pop(at)
    if event.verb == "remove":
        return shots
    place = at
    if event.verb in ("earlier", "later"):
        place = max(0, at + (1 if event.verb == "later" else -1))
    elif event.verb == "move":
        before = int(event.before) - 1
        place = len(shots) if before < 0 else before - (before > at)
    elif event.verb == "set" and event.field in FIELDS:
        text = str(event.value)[:80]
        number = int(text) if re.fullmatch("[0-9]{1,6}", text) else None
        changed: dict[str, Any] = {event.field: text if event.field == "title" else number}
        shot = replace(shot, **changed)
    shots.insert(place, shot)
    return shots
