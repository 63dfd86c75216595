"""The tab *Library*: everything ever made, found by a word, culled by keyboard, compared in step.

Nothing is deleted: what is rejected goes to the bin and comes back from there. The marks are in the
sidecars; the tab holds only what it shows.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from engine.errors import NeodragonError
from studio.export import formats as exports
from studio.language.catalogue import Speaker
from studio.library.store import EXPORTS, Item, Library
from studio.library.verify import verify
from studio.page import html
from studio.page.desk import Desk
from studio.page.events import IN_TURN, QUICK

PAGE = 60  # items sent at a time
MOST = 9  # compared at once


class LibraryView:
    """Lays the tab out. `shown` are the paths it lists, `state` which is open, chosen, undone."""

    def __init__(self, desk: Desk, say: Speaker) -> None:
        self.desk, self.say = desk, say
        self.library = Library(desk.table.path, desk.clips)
        self.shown = gr.State([])
        self.state = gr.State({"at": 0, "chosen": [], "undo": []})
        with gr.Row(elem_id="search"):
            self.words = gr.Textbox(
                label=say("library.search"),
                show_label=False,
                placeholder=say("library.search"),
                elem_id="words",
                scale=3,
            )
            self.kind = gr.Radio(
                [(say(f"library.{name}"), name) for name in ("all", "clip", "frame")],
                value="all",
                label=say("library.kind"),
                show_label=False,
                container=False,
                elem_id="kind",
            )
            self.stars = gr.Slider(
                0, 5, 0, step=1, label=say("library.stars"), min_width=120, elem_id="stars"
            )
            self.bin = gr.Checkbox(label=say("library.bin"), container=False, elem_id="bin")
        self.message = gr.HTML(elem_id="library-message")
        with gr.Row(elem_classes="columns"):
            with gr.Column(scale=3, min_width=320):
                self.viewer = gr.HTML(js_on_load=html.SEND, elem_id="viewer")
                with gr.Row(elem_id="taking"):
                    self.format = gr.Radio(
                        list(exports.FORMATS),
                        value="gif",
                        label=say("library.format"),
                        show_label=False,
                        container=False,
                    )
                    self.export = gr.Button(say("library.export"), size="sm", elem_id="export")
                    self.verify = gr.Button(say("library.verify"), size="sm", elem_id="verify")
            with gr.Column(scale=2, min_width=220, elem_id="found"):
                self.grid = gr.HTML(js_on_load=html.SEND, elem_id="grid")
                self.more = gr.Button(say("library.more"), size="sm", elem_id="library-more")
        self._wire()

    def _wire(self) -> None:
        asked: list[Any] = [self.words, self.kind, self.stars, self.bin]
        out = [self.grid, self.viewer, self.shown, self.state, self.message]
        self.more.click(self._further, [*asked, self.shown, self.state], out, **IN_TURN)
        for view in (self.grid, self.viewer):
            view.click(self._act, [*asked, self.shown, self.state], out, **IN_TURN)
        chosen = [self.shown, self.state]
        self.export.click(self._export, [*chosen, self.format], self.message, **QUICK)
        self.verify.click(self._verify, chosen, self.message, queue=True, api_visibility="private")

    def open(self, tab: gr.Tab) -> None:
        """Search whenever the tab is opened or something else is asked for, one after the other."""
        asked: list[Any] = [self.words, self.kind, self.stars, self.bin]
        out = [self.grid, self.viewer, self.shown, self.state, self.message]
        triggers = [tab.select, *(part.change for part in asked)]
        latest = IN_TURN | {"trigger_mode": "always_last"}
        gr.on(triggers, self._search, [*asked, self.state], out, **latest)

    # Finding

    def _found(self, words: str, kind: str, stars: int, bin_: bool, limit: int) -> list[Item]:
        self.library.scan()
        return self.library.search(
            words or "",
            stars=int(stars),
            kind=kind if kind in ("clip", "frame") else None,  # type: ignore[arg-type]
            verdict="reject" if bin_ else None,
            limit=limit,
        )

    def _search(
        self, words: str, kind: str, stars: int, bin_: bool, state: dict[str, Any]
    ) -> tuple[Any, ...]:
        return self._show(words, kind, stars, bin_, PAGE, state | {"at": 0}, "")

    def _further(
        self, words: str, kind: str, stars: int, bin_: bool, shown: list[str], state: dict[str, Any]
    ) -> tuple[Any, ...]:
        return self._show(words, kind, stars, bin_, len(shown) + PAGE, state, "")

    def _show(
        self,
        words: str,
        kind: str,
        stars: int,
        bin_: bool,
        limit: int,
        state: dict[str, Any],
        message: str,
    ) -> tuple[Any, ...]:
        try:
            items = self._found(words, kind, stars, bin_, limit)
        except NeodragonError as error:
            return "", "", [], state | {"at": 0, "chosen": []}, html.failure(self.say.error(error))
        paths = [str(item.path) for item in items]
        state = state | {"chosen": [p for p in state["chosen"] if p in paths]}
        state["at"] = min(state["at"], max(0, len(items) - 1))
        return self._grid(items, state), self._viewer(items, state), paths, state, message

    def _grid(self, items: list[Item], state: dict[str, Any]) -> str:
        if not items:
            return f'<p class="aside">{escape(self.say("library.none"))}</p>'
        tiles, compare = [], escape(self.say("library.compare"))
        for number, item in enumerate(items):
            chosen = str(item.path) in state["chosen"]
            kept = " kept" if item.verdict == "keep" else ""
            tiles.append(
                f'<li class="{"shown" if number == state["at"] else ""}{kept}">'
                f'<button class="film" data-do="open" data-id="{number}"'
                f' title="{escape(item.prompt)}">{_thumbnail(item)}'
                f"<span>{escape(self.say.moment(item.created))} {'★' * item.stars}</span></button>"
                f'<button class="verb" data-do="choose" data-id="{number}"'
                f' aria-pressed="{str(chosen).lower()}">{compare}</button></li>'
            )
        return f'<ul class="strip">{"".join(tiles)}</ul>'

    def _viewer(self, items: list[Item], state: dict[str, Any]) -> str:
        if not items:
            return ""
        chosen = [item for item in items if str(item.path) in state["chosen"]][:MOST]
        if len(chosen) > 1:
            cells = "".join(f'<div class="cell">{_player(item)}</div>' for item in chosen)
            columns = 2 if len(chosen) < 5 else 3
            wall = f'<div class="stage wall sync" style="--columns: {columns}">{cells}</div>'
            return wall + _button("alone", self.say("library.alone"), "Escape")
        item = items[state["at"]]
        rejected = item.verdict == "reject"
        verbs = [
            ("back" if rejected else "keep", "p"),
            *([] if rejected else [("reject", "x")]),
            ("undo", "z"),
            ("previous", "ArrowLeft"),
            ("next", " "),
        ]
        buttons = "".join(_button(verb, self.say(f"library.{verb}"), key) for verb, key in verbs)
        stars = "".join(
            f'<button class="verb star" data-do="star" data-id="{n}" data-key="{n}"'
            f' aria-label="{n}">{"★" if n <= item.stars else "☆"}</button>'
            for n in range(1, 6)
        )
        ahead = items[state["at"] + 1 : state["at"] + 2]
        loaded = "".join(
            f'<video src="{html.address(other.path)}" preload="auto" muted hidden></video>'
            for other in ahead
            if other.kind == "clip"
        )
        facts = f"{item.path.name} · {item.look_seed} · {item.motion_seed}"
        return (
            f'<div class="cull"><div class="stage">{_player(item)}</div>'
            f'<div class="caption">{buttons}<span class="stars">{stars}</span>'
            f"<p>{escape(item.prompt)}</p><p>{escape(facts)}</p></div></div>{loaded}"
        )

    # Marking

    def _act(
        self,
        words: str,
        kind: str,
        stars: int,
        bin_: bool,
        shown: list[str],
        state: dict[str, Any],
        event: gr.EventData,
    ) -> tuple[Any, ...]:
        """What was clicked in grid or viewer, or asked for by its key."""
        number = int(event.id)
        state = state | {"chosen": list(state["chosen"]), "undo": list(state["undo"])}
        message = ""
        try:
            if event.verb == "open":
                state |= {"at": number, "chosen": []}
            elif event.verb == "choose" and number < len(shown):
                path = shown[number]
                (state["chosen"].remove if path in state["chosen"] else state["chosen"].append)(
                    path
                )
            elif event.verb == "alone":
                state["chosen"] = []
            elif event.verb in ("next", "previous"):
                state["at"] = max(0, state["at"] + (1 if event.verb == "next" else -1))
            elif event.verb == "undo":
                self._undo(state)
            elif state["at"] < len(shown):
                self._mark(Path(shown[state["at"]]), event.verb, number, state)
        except NeodragonError as error:
            message = html.failure(self.say.error(error))
        return self._show(words, kind, stars, bin_, max(PAGE, len(shown)), state, message)

    def _mark(self, path: Path, verb: str, number: int, state: dict[str, Any]) -> None:
        item = self.library.item(path)
        if verb == "star":
            self.library.mark(path, stars=0 if item.stars == number else number)
            state["undo"].append(("stars", str(path), item.stars))
            return
        if verb == "keep":
            self.library.mark(path, keep=True)
            state["undo"].append(("keep", str(path), item.verdict == "keep"))
            state["at"] += 1
        elif verb == "reject":
            gone = self.library.reject(path)
            state["undo"].append(("back", str(gone.path), state["at"]))
        elif verb == "back":
            here = self.library.bring_back(path)
            state["undo"].append(("reject", str(here.path), state["at"]))

    def _undo(self, state: dict[str, Any]) -> None:
        if not state["undo"]:
            return
        what, name, before = state["undo"].pop()
        path = Path(name)
        if what == "back":
            self.library.bring_back(path)
            state["at"] = before
        elif what == "reject":
            self.library.reject(path)
        else:
            self.library.mark(path, **{what: before})

    # Taking along

    def _picked(self, shown: list[str], state: dict[str, Any]) -> list[Path]:
        return [Path(p) for p in state["chosen"] or shown[state["at"] : state["at"] + 1]]

    def _export(self, shown: list[str], state: dict[str, Any], format: exports.Format) -> str:
        folder = self.desk.clips / EXPORTS
        try:
            written = [
                exports.export(clip, exports.target_of(clip, folder, format), format)
                for clip in self._picked(shown, state)
            ]
        except NeodragonError as error:
            return html.failure(self.say.error(error))
        names = ", ".join(path.name for path in written)
        return html.notice(self.say("library.exported", names=names, folder=folder))

    def _verify(self, shown: list[str], state: dict[str, Any]) -> str:
        try:
            sentences = [
                f"{clip.name}: {verify(clip, self.desk.pack)}"
                for clip in self._picked(shown, state)
            ]
        except NeodragonError as error:
            return html.failure(self.say.error(error))
        return html.notice(" ".join(sentences))


def _thumbnail(item: Item) -> str:
    """A small picture; a clip's plays while it is pointed at (page.js)."""
    film = f' data-film="{html.address(item.path)}"' if item.kind == "clip" else ""
    source = html.thumbnail(item.path, item.created)
    return f'<img src="{source}" alt="{escape(item.prompt)}" loading="lazy"{film}>'


def _player(item: Item) -> str:
    source, words = html.address(item.path), escape(item.prompt)
    if item.kind == "frame":
        return f'<img src="{source}" alt="{words}">'
    flags = "autoplay controls muted loop playsinline"
    return f'<video src="{source}" aria-label="{words}" {flags}></video>'


def _button(verb: str, label: str, key: str) -> str:
    return (
        f'<button class="verb" data-do="{verb}" data-id="0" data-key="{escape(key)}">'
        f"{escape(label)}</button>"
    )
