"""What every tab sees of the queue: the stage of its own jobs, the filmstrip, the three stops."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine.errors import NeodragonError
from studio.jobs.spec import PENDING, RUNNING, STATES, is_finished
from studio.language.catalogue import Speaker
from studio.page import html
from studio.page.create import Create
from studio.page.desk import CALM, Desk
from studio.page.events import IN_TURN, QUICK, Update
from studio.page.player import bar

TICK = 0.4  # seconds between looks at the table
ENDED = 24  # ended jobs in the filmstrip
AHEAD = 30  # waiting ones


class QueueView:
    """Lays the filmstrip out below a `Create` and keeps both up to date."""

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
        self.timer = gr.Timer(TICK)
        self._wire()

    def _wire(self) -> None:
        create = self.create
        shown = [create.stage, create.progress, create.caption, self.banner, self.strip]
        self.timer.tick(
            self._look, [create.watching, create.picked, self.seen], [*shown, self.seen], **QUICK
        )
        table = self.desk.table
        for button, verb in (
            (self.skip, self._skip),
            (self.pause, table.pause),
            (self.stop, table.stop_all),
        ):
            button.click(self._told(verb), None, create.message, **QUICK)
        touched = create.every
        for part in (self.strip, self.banner):
            acted = part.click(self._act, None, [*touched, self.edited], **IN_TURN)
            # A job that is edited leaves the queue when its settings are on the page, not before.
            acted.success(self._take_back, self.edited, [self.edited, create.message], **IN_TURN)

    def _look(
        self, watching: list[int], picked: list[int], seen: dict[str, list[str]]
    ) -> tuple[Any, ...]:
        """What is new for this tab."""
        desk, say = self.desk, self.say
        geometry = desk.pack.geometry
        before = seen.get("html", [""] * 5)
        try:
            at = [*desk.table.version(), str(desk.trouble), watching, picked]
            if at == seen.get("at"):
                return (*[gr.skip()] * len(before), gr.skip())
            jobs = desk.jobs(watching)
            running = next(iter(desk.table.jobs(RUNNING)), None)
            calm = [running] if running else []
            calm += desk.table.jobs(PENDING, next_=AHEAD)
            ended = desk.table.jobs([s for s in STATES if s not in CALM], newest=ENDED)
            seconds = None if running is None else desk.table.seconds_left([running])
            waiting = desk.table.count(PENDING)
            alone = jobs[0] if len(jobs) == 1 else None
            strip = html.grouped([*calm, *reversed(ended)])
            is_ended = alone is not None and alone.state not in CALM
            wall = html.wall(jobs, desk.cache, geometry.temporal_stride, say, picked)
            if alone is not None and is_finished(alone) and alone.work.kind == "clip":
                wall += bar(alone.id, geometry, say)
            now = [
                wall,
                html.progress(
                    running if running and running.id in watching else None, seconds, say
                ),
                html.caption(alone, say, takes=len(desk.takes(alone)) > 1)
                if alone is not None and is_ended
                else self._hint(jobs),
                html.banner(desk.table.queue(), waiting, desk.trouble, say),
                html.strip(strip, desk.cache, watching, say),
            ]
        except NeodragonError as error:
            now, at = ["", "", "", html.failure(self.say.error(error)), ""], []
        news = [gr.skip() if a == b else a for a, b in zip(now, before, strict=True)]
        return (*news, {"html": now, "at": at})

    def _hint(self, jobs: list[Any]) -> str:
        if len(jobs) > 1 and all(job.work.kind == "frame" for job in jobs):
            return f'<p class="aside">{self.say("cast.hint")}</p>'
        return ""

    def _skip(self) -> None:
        for number in self.desk.table.ids(RUNNING):
            self.desk.table.skip(number)

    def _told(self, verb: Any) -> Any:
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
        return {create.message: self._told(verbs[event.verb])()}

    def _take_back(self, number: int | None) -> tuple[None, Any]:
        """Remove the job whose settings are on the page now."""
        if number is None:
            return None, gr.skip()
        return None, self._told(lambda: self.desk.table.remove([number]))()

    def _shift(self, number: int, by: int) -> None:
        """Move a waiting job one place."""
        others = self.desk.table.ids(PENDING)
        place = others.index(number) + by if number in others else 0
        others = [other for other in others if other != number]
        before = others[max(0, place) : max(0, place) + 1]
        self.desk.table.move([number], before[0] if before else None)
