"""The tab *Library*: search all clips, cull them by keyboard, compare them in sync.

Nothing is deleted: what is rejected goes to the bin and comes back from there. The marks are in the
sidecars; the tab holds only what it shows. Actions apply to the selected items, else to the open
one.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any, get_args

import gradio as gr

from engine.errors import NeodragonError
from studio.library.family import tree
from studio.library.index import Sort
from studio.library.store import STARS, Item, Library
from studio.page import film, html, shelf
from studio.page.batch import BatchView
from studio.page.create import Create
from studio.page.desk import Desk
from studio.page.events import IN_TURN, QUICK, Update
from studio.page.exporting import Exporting
from studio.system.reveal import reveal

PAGE = 60  # items sent at a time
CULL = "neodragonCull(element, trigger)"
ONES = ("open", "choose", "range", "all", "alone", "rest")  # what they do to the view


class LibraryView:
    """Lays the tab out. `shown` are the paths it lists, `state` which is open, chosen, undone."""

    def __init__(self, desk: Desk, create: Create, batch: BatchView, tabs: Any) -> None:
        self.desk, self.say = desk, create.say
        self.create, self.batch, self.tabs = create, batch, tabs
        self.library = Library(desk.table.path, desk.clips)
        self.shown = gr.State([])
        self.state = gr.State({"at": 0, "chosen": [], "undo": [], "count": 0, "asked": None})
        self._search_row()
        self.message = gr.HTML(elem_id="library-message")
        with gr.Row(elem_classes="columns"):
            with gr.Column(scale=3, min_width=320):
                self.viewer = gr.HTML(js_on_load=CULL, elem_id="viewer")
                self.taking = Exporting(desk, self.say)
            with gr.Column(scale=2, min_width=220, elem_id="found"):
                self.counts = gr.HTML(js_on_load=CULL, elem_id="counts")
                self.grid = gr.HTML(js_on_load=CULL, elem_id="grid")
                self.more = gr.Button(
                    self.say("library.more"), size="sm", visible=False, elem_id="library-more"
                )
        self._wire()

    def _search_row(self) -> None:
        say = self.say
        with gr.Row(elem_id="search"):
            self.terms = gr.Textbox(
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
            self.sort = gr.Dropdown(
                [(say(f"library.{name}"), name) for name in get_args(Sort)],
                value="newest",
                label=say("library.sort"),
                min_width=130,
                elem_id="sort",
            )
            self.collection = gr.Dropdown(
                [], label=say("library.collection"), min_width=150, elem_id="collection"
            )
            self.stars = gr.Dropdown(
                [(say("library.all"), 0), *(("★" * n, n) for n in range(1, STARS + 1))],
                value=0,
                label=say("library.stars"),
                min_width=120,
                elem_id="stars",
            )
            self.bin = gr.Checkbox(label=say("library.bin"), container=False, elem_id="bin")

    def _wire(self) -> None:
        self.inputs: list[Any] = [
            self.terms,
            self.kind,
            self.sort,
            self.collection,
            self.stars,
            self.bin,
        ]
        self.out = [self.grid, self.viewer, self.counts, self.more, self.shown, self.state]
        self.out.append(self.message)
        held: set[Any] = {*self.inputs, self.shown, self.state}
        self.more.click(self._further, held, self.out, **IN_TURN)
        elsewhere = [self.tabs, self.batch.text, *self.create.every]
        for view in (self.grid, self.viewer, self.counts):
            out = [*self.out, *elsewhere]
            acted = view.click(self._act, held | {self.batch.text}, out, **IN_TURN)
            self.create.staged(acted)
        self.taking.wire(self._picked, [self.shown, self.state], self.message)
        collected = self.taking.collect
        collected.submit(self._collect, held | {collected}, [*self.out, collected], **IN_TURN)

    def open(self, tab: gr.Tab) -> None:
        """Search whenever the tab is opened or something else is asked for, one after the other."""
        latest = IN_TURN | {"trigger_mode": "always_last"}
        held: set[Any] = {*self.inputs, self.shown, self.state}
        gr.on(
            [tab.select, *(p.change for p in self.inputs)], self._search, held, self.out, **latest
        )
        tab.select(self._collections, None, self.collection, **QUICK)

    # Finding

    def _search(self, values: Update) -> Update:
        """Search; the open clip stays open if the same is asked for and nothing new came first."""
        before, shown = values[self.state], values[self.shown]
        asked = [values[part] for part in self.inputs]
        update = self._show(values, PAGE, before | {"at": 0, "asked": asked}, scan=True)
        paths, opened = update[self.shown], next(iter(shown[before["at"] :]), None)
        if before["asked"] != asked or paths[:1] != shown[:1] or opened not in paths[1:]:
            return update
        state = update[self.state] | {"at": paths.index(opened)}
        return self._show(values, PAGE, state, scan=False)

    def _further(self, values: Update) -> Update:
        return self._show(values, len(values[self.shown]) + PAGE, values[self.state], scan=True)

    def _collections(self) -> Any:
        names = self.library.collections()
        return gr.update(choices=[(self.say("library.all"), ""), *((n, n) for n in names)])

    def _show(
        self, values: Update, limit: int, state: dict[str, Any], *, scan: bool, message: str = ""
    ) -> Update:
        kind = values[self.kind]
        try:
            if scan:  # what is marked here is in the index already
                self.library.scan()
            items = self.library.search(
                values[self.terms] or "",
                stars=int(values[self.stars]),
                kind=kind if kind in ("clip", "frame") else None,
                verdict="reject" if values[self.bin] else None,
                collection=values[self.collection] or None,
                sort=values[self.sort] or "newest",
                limit=limit,
            )
            paths = [str(item.path) for item in items]
            chosen = [path for path in state["chosen"] if path in paths]
            state = state | {"chosen": chosen}
            state["at"] = at = min(state["at"], max(0, len(items) - 1))
            root = items[at].root if items else ""
            family = tree(self.library.search(root=root)) if root else []
            counts = self.say("library.counts", **self.library.counts())
        except NeodragonError as error:
            nothing = {self.grid: "", self.viewer: "", self.shown: []}
            state = state | {"at": 0, "chosen": []}
            return nothing | {self.state: state, self.message: html.failure(self.say.error(error))}
        geometry, say = self.desk.pack.geometry, self.say
        return {
            self.grid: shelf.grid(items, at, chosen, say),
            self.viewer: shelf.viewer(items, at, chosen, family, geometry, say, state["count"]),
            self.counts: (
                f'<div class="counts"><p>{escape(counts)}</p>'
                f"{html.button('all', 0, say('library.choose_all'))}</div>"
            ),
            self.shown: paths,
            self.state: state,
            self.message: message,
            self.more: gr.update(visible=len(items) == limit),
        }

    # Marking

    def _act(self, values: Update, event: gr.EventData) -> Update:
        """What was clicked in grid or viewer, or asked for by its key.

        The page steps to another item by itself (library.js). `event.open` is the address of the
        one that is open there; `event.count` numbers what the page tells, for `InTurn`.
        """
        shown = values[self.shown]
        before = values[self.state]
        state = before | {
            "count": event.count,
            "chosen": [*before["chosen"]],
            "undo": [*before["undo"]],
        }
        message, verb = "", event.verb
        opened = str(html.path_of(event.open))
        if opened in shown:
            state["at"] = shown.index(opened)
        elif event.open and not state["chosen"] and verb not in (*ONES, "undo"):
            verb = "rest"  # it has just left the list: nothing else is meant
        try:
            if verb == "open" and event.many:
                verb = event.many
            if verb in ONES:
                self._turn(verb, int(event.id), shown, state)
            elif verb == "undo":
                self._undo(state)
            elif verb in (*shelf.VERBS, "folder", "join"):
                return self._send(verb, event, values | {self.state: state}) | {self.state: state}
            else:
                for path in self._picked(shown, state):
                    self._mark(path, verb, int(event.id), state)
                if verb == "keep" and not state["chosen"]:
                    state["at"] += 1  # as the page has done
        except NeodragonError as error:
            message = html.failure(self.say.error(error))
        limit = max(PAGE, len(shown))
        update = self._show(values, limit, state, scan=False, message=message)
        if verb == "rest" and update[self.shown] == shown:
            del update[self.grid]
        return update

    def _turn(self, verb: str, number: int, shown: list[str], state: dict[str, Any]) -> None:
        """Open another item or choose some."""
        chosen = state["chosen"]
        if verb == "open":
            state |= {"at": number, "chosen": []}
        elif verb == "choose" and number < len(shown):
            (chosen.remove if shown[number] in chosen else chosen.append)(shown[number])
        elif verb == "range":
            low, high = sorted((state["at"], number))
            chosen += [path for path in shown[low : high + 1] if path not in chosen]
        elif verb in ("all", "alone"):
            state["chosen"] = [*shown] if verb == "all" else []

    def _mark(self, path: Path, verb: str, number: int, state: dict[str, Any]) -> None:
        item = self.library.item(path)
        if verb == "star":
            alone = not state["chosen"]
            self.library.mark(path, stars=0 if item.stars == number and alone else number)
            state["undo"].append(("stars", str(path), item.stars))
        elif verb == "keep":
            self.library.mark(path, keep=True)
            state["undo"].append(("keep", str(path), item.verdict == "keep"))
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

    def _collect(self, values: Update) -> Update:
        """Put what is chosen into the collection of that name, or out of any."""
        message, name = "", (values[self.taking.collect] or "").strip()
        try:
            for path in self._picked(values[self.shown], values[self.state]):
                self.library.mark(path, collection=name)
        except NeodragonError as error:
            message = html.failure(self.say.error(error))
        limit = max(PAGE, len(values[self.shown]))
        shown = self._show(values, limit, values[self.state], scan=False, message=message)
        return shown | {self.taking.collect: ""}

    # Exporting along

    def _picked(self, shown: list[str], state: dict[str, Any]) -> list[Path]:
        return [Path(p) for p in state["chosen"] or shown[state["at"] : state["at"] + 1]]

    def _send(self, verb: str, event: gr.EventData, values: Update) -> Update:
        """Hand what is picked to another tab or program; raises NeodragonError."""
        paths = self._picked(values[self.shown], values[self.state])
        if verb == "join":
            return {self.message: self.taking.join(paths)}
        item: Item = self.library.item(paths[0])
        if verb == "folder":
            reveal(item.path)
            return {self.message: ""}
        if verb == "film":
            edges = (int(event.start), int(event.end)) if len(paths) == 1 else (0, -1)
            count = [film.add(self.desk, path, *edges) for path in paths][-1]
            return {self.message: html.notice(self.say("film.added", count=count))}
        if verb == "batch":
            lines = [(values[self.batch.text] or "").rstrip(), item.prompt]
            return {self.tabs: gr.Tabs(selected="batch"), self.batch.text: "\n".join(lines).strip()}
        if verb == "still":
            return {self.message: self.taking.still(item.path, int(event.frame))}
        update = self.create.sent(item.path, verb, int(event.frame))
        return update | {self.tabs: gr.Tabs(selected="create")}
