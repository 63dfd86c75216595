"""The queue on every tab: the stage, the filmstrip, the stop buttons, the panel."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from engine.errors import NeodragonError
from studio.jobs.spec import PENDING, RUNNING, STATES, is_finished
from studio.language.catalogue import Speaker
from studio.page import html, panel
from studio.page.create import Create
from studio.page.desk import CALM, Desk
from studio.page.events import IN_TURN, QUICK, Update
from studio.page.player import bar

ENDED = 24  # ended jobs in the filmstrip
AHEAD = 30  # waiting ones
SHOWN = 10  # components that are kept up to date


class QueueView:
    """Lays the filmstrip out below a `Create`, then the panel, and keeps all up to date."""

    def __init__(self, desk: Desk, create: Create, say: Speaker) -> None:
        self.desk, self.create, self.say = desk, create, say
        self.edited = gr.State(None)  # a waiting job whose settings are being shown
        self.seen = gr.State({})  # what this tab shows, so that only news is sent
        self.banner = gr.HTML(js_on_load=html.SEND, elem_id="banner")
        with gr.Row(elem_id="stops"):
            self.skip = gr.Button(say("stop.skip"), elem_id="skip", size="sm")
            self.pause = gr.Button(say("stop.after"), elem_id="pause", size="sm")
            self.stop = gr.Button(say("stop.all"), elem_id="stop", size="sm")
        self.strip = gr.HTML(js_on_load=html.SEND, elem_id="strip")

    def lay_panel(self) -> None:
        """Lay out the panel, which every tab shows, and let everything be told of news."""
        label = escape(self.say("panel.title"))
        with gr.Column(elem_id="queue"):
            gr.HTML(f"<h2>{label}</h2>")
            self.now = gr.HTML(js_on_load=html.SEND, elem_id="queue-now")
            self.rows = gr.HTML(js_on_load=panel.SORT, elem_id="queue-rows")
        self.changed = gr.HTML(js_on_load="neodragonNews(element, trigger)", elem_id="news")
        self._wire()

    def _wire(self) -> None:
        create = self.create
        shown: list[Any] = [create.stage, create.progress, create.caption, self.banner, self.strip]
        shown += [self.now, self.rows, self.skip, self.pause, self.stop]
        self.changed.click(
            self._look,
            [create.watching, create.picked, self.seen],
            [*shown, self.seen],
            **QUICK | {"trigger_mode": "always_last"},
        )
        table = self.desk.table
        for button, verb in (
            (self.skip, self._skip),
            (self.pause, table.pause),
            (self.stop, table.stop_all),
        ):
            button.click(self._attempt(verb), None, create.message, **QUICK)
        touched = create.every
        for part in (self.strip, self.banner, self.now, self.rows):
            acted = part.click(self._act, None, [*touched, self.edited], **IN_TURN)
            create.staged(acted)
            # A job that is edited leaves the queue when its settings are on the page, not before.
            acted.success(self._take_back, self.edited, [self.edited, create.message], **IN_TURN)

    def _look(
        self, watching: list[int], picked: list[int], seen: dict[str, list[str]]
    ) -> tuple[Any, ...]:
        """What is new for this tab."""
        desk, say = self.desk, self.say
        geometry = desk.pack.geometry
        before = seen.get("html", [None] * SHOWN)
        try:
            at = [*desk.table.version(), str(desk.trouble), watching, picked, desk.dismissed]
            if at == seen.get("at"):
                return (*[gr.skip()] * len(before), gr.skip())
            jobs = desk.jobs(watching)
            load = panel.load(desk)
            running = load.running
            calm = [running] if running else []
            calm += load.waiting[:AHEAD]
            ended = desk.table.jobs([s for s in STATES if s not in CALM], newest=ENDED)
            seconds = None if running is None else desk.table.seconds_left([running])
            alone = jobs[0] if len(jobs) == 1 else None
            strip = html.grouped([*calm, *reversed(ended)])
            is_ended = alone is not None and alone.state not in CALM
            wall = html.wall(jobs, desk.cache, geometry.temporal_stride, say, picked)
            wall = wall or html.empty(say, desk.pack.examples)
            if alone is not None and alone.work.kind == "clip":
                ready = is_finished(alone)
                wall += (
                    bar(alone.id, geometry, say, is_ready=ready) if ready or not is_ended else ""
                )
            now = [
                wall,
                html.progress(
                    running if running and running.id in watching else None, seconds, say
                ),
                html.caption(alone, say, takes=len(desk.takes(alone)) > 1)
                if alone is not None and is_ended
                else self._hint(jobs),
                html.banner(desk.table.queue(), load.count, desk.trouble, say),
                html.strip(strip, desk.cache, watching, say),
                panel.now(load, seconds, desk.cache, say),
                panel.rows(load, say),
                *[running is not None, bool(running or load.count), running is not None],
            ]
        except NeodragonError as error:
            now, at = ["", "", "", html.failure(self.say.error(error)), *[""] * 3, *[True] * 3], []
        updates = [
            gr.skip() if a == b else gr.update(interactive=a) if isinstance(a, bool) else a
            for a, b in zip(now, before, strict=True)
        ]
        return (*updates, {"html": now, "at": at})

    def _hint(self, jobs: list[Any]) -> str:
        if len(jobs) > 1 and all(job.work.kind == "frame" for job in jobs):
            return f'<p class="aside">{self.say("cast.hint")}</p>'
        return ""

    def _skip(self) -> None:
        for number in self.desk.table.ids(RUNNING):
            self.desk.table.skip(number)

    def _attempt(self, verb: Any) -> Any:
        """The verb, whose failure becomes the message."""

        def run() -> str:
            try:
                verb()
            except NeodragonError as error:
                return html.failure(self.say.error(error))
            return ""

        return run

    def _act(self, event: gr.EventData) -> Update:
        """What was clicked in the filmstrip or the banner."""
        table, number, create = self.desk.table, int(event.id), self.create
        verbs: dict[str, Any] = {
            "resume": table.resume,
            "skip": lambda: table.skip(number),
            "retry": lambda: table.retry([number]),
            "again": lambda: table.duplicate(number),
            "remove": lambda: table.remove([number]),
            "move": lambda: table.move([number], int(event.before) or None),
            "dismiss": lambda: self.desk.dismiss(number),
            "earlier": lambda: self._shift(number, -1),
            "later": lambda: self._shift(number, 1),
        }
        if event.verb == "edit":
            try:
                update = create.controls_of(table.job(number).work)
            except NeodragonError as error:
                return {create.message: html.failure(self.say.error(error))}
            return update | {self.edited: number, create.message: ""}
        if event.verb == "show":
            return create.show(number)
        if event.verb == "takes":
            return create.show_takes(number)
        return {create.message: self._attempt(verbs[event.verb])()}

    def _take_back(self, number: int | None) -> tuple[None, Any]:
        """Remove the job whose settings are on the page now."""
        if number is None:
            return None, gr.skip()
        return None, self._attempt(lambda: self.desk.table.remove([number]))()

    def _shift(self, number: int, by: int) -> None:
        """Move a waiting job one place."""
        others = self.desk.table.ids(PENDING)
        place = others.index(number) + by if number in others else 0
        others = [other for other in others if other != number]
        before = others[max(0, place) : max(0, place) + 1]
        self.desk.table.move([number], before[0] if before else None)
