"""The tab *Create*: a prompt and two seeds, first frames to choose among, a clip to keep.

Every handler turns what stands in the controls into jobs or shows some; it holds nothing. Seeds:
one that was used gives way to a fresh one at the next take, unless it is locked. So *First frame*
again and again tries looks, *Animate* again and again tries motions of the same look.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from engine.config import SEED_LIMIT
from engine.errors import NeodragonError
from studio.jobs.spec import Job
from studio.language.catalogue import Speaker
from studio.library.restore import restore
from studio.page import html
from studio.page.desk import Desk
from studio.system.paths import ASSETS
from studio.system.settings import load as settings_of

Update = dict[Any, Any]  # component to new value
QUICK: dict[str, Any] = {
    "queue": False,
    "show_progress": "hidden",
    "api_visibility": "private",
}
# Clicks and keys that follow one another quickly: each is heard, in the order given.
IN_TURN: dict[str, Any] = QUICK | {
    "queue": True,
    "trigger_mode": "multiple",
    "concurrency_id": "in turn",
    "concurrency_limit": 1,
}


def next_seed(shown: int | None, used: int | None, locked: bool) -> int:
    """The seed of the next take: the one shown, or a fresh one where that was used and is free."""
    if shown is None or (shown == used and not locked):
        return fresh_seed()
    return shown


def fresh_seed() -> int:
    """Any seed."""
    return secrets.randbelow(SEED_LIMIT)


def styles() -> dict[str, str]:
    """Words that go behind a prompt, by the style's name."""
    known: dict[str, str] = json.loads((ASSETS / "styles.json").read_text(encoding="utf-8"))
    return known


class Create:
    """Lays the tab out and wires it; `watching` and `picked` are this tab's jobs on the stage."""

    def __init__(self, desk: Desk, say: Speaker) -> None:
        self.desk, self.say = desk, say
        self.watching = gr.State([])
        self.picked = gr.State([])
        self.loaded = gr.Checkbox(False, visible=False)
        self.used = gr.State({})  # prompt, look and motion of the last take
        self._desk_column()
        self._view_column()
        self._wire()

    # Layout

    def _desk_column(self) -> None:
        say = self.say
        with gr.Column(elem_id="desk", scale=0, min_width=380):
            self.prompt = gr.Textbox(
                label=say("prompt.label"),
                placeholder=say("prompt.placeholder"),
                lines=3,
                max_lines=8,
                autofocus=True,
                elem_id="prompt",
            )
            self.ruler = gr.HTML(elem_id="ruler")
            with gr.Row(elem_id="verbs"):
                self.draw = gr.Button(say("verb.draw"), elem_id="draw")
                self.cast = gr.Button(say("verb.cast"), elem_id="cast")
                self.animate = gr.Button(say("verb.animate"), variant="primary", elem_id="animate")
            self.message = gr.HTML(elem_id="message")
            self.look, self.look_dice, self.look_lock = self._seed("look")
            self.motion, self.motion_dice, self.motion_lock = self._seed("motion")
            gr.HTML(f'<p class="aside">{say("seed.hint")}</p>')
            self.upscale = gr.Checkbox(
                value=self.desk.pack.has("upscaler"),
                interactive=self.desk.pack.has("upscaler"),
                label=say("upscale.label", size=self._size()),
                container=False,
                elem_id="upscale",
            )
            suffix = self.desk.pack.prompt.suffix.strip(" ,")
            self.suffix = gr.Checkbox(
                value=True,
                label=say("suffix.label", words=suffix),
                visible=bool(suffix),
                container=False,
                elem_id="suffix",
            )
            with gr.Accordion(say("more.label"), open=False, elem_id="more"):
                self.style = gr.Radio(
                    [(say("style.none"), "")] + [(say(f"style.{name}"), name) for name in styles()],
                    value="",
                    label=say("style.label"),
                    elem_id="style",
                )
                self.mode = gr.Radio(
                    [(say(f"mode.{name}"), name) for name in self.desk.pack.schedule.modes],
                    value="hybrid",
                    label=say("mode.label"),
                    elem_id="mode",
                )
                self.negative = gr.Textbox(
                    label=say("negative.label"), visible=False, elem_id="negative"
                )
            with gr.Accordion(say("picture.label"), open=False, elem_id="begin"):
                self.upload = gr.Image(
                    type="filepath", sources=["upload", "clipboard"], show_label=False, height=200
                )
                self.zoom = gr.Slider(1, 4, 1, step=0.05, label=say("picture.zoom"))
                self.across = gr.Slider(0, 1, 0.5, step=0.01, label=say("picture.across"))
                self.down = gr.Slider(0, 1, 0.5, step=0.01, label=say("picture.down"))
                self.picture = gr.Image(
                    type="filepath",
                    interactive=False,
                    label=say("picture.first"),
                    buttons=[],
                    elem_id="picture",
                )
                self.no_picture = gr.Button(say("picture.remove"), elem_id="no-picture")
            with gr.Accordion(say("restore.label"), open=False):
                self.dropped = gr.File(
                    show_label=False,
                    file_types=[".mp4", ".png", ".json"],
                    height=110,
                    elem_id="restore",
                )
            examples = (ASSETS / "examples.txt").read_text(encoding="utf-8").splitlines()
            gr.Examples([[line] for line in examples], self.prompt, label=say("examples.label"))

    def _view_column(self) -> None:
        with gr.Column(elem_id="view", min_width=320) as self.view:
            with gr.Group(elem_id="screen"):
                self.stage = gr.HTML(html.empty(self.say), js_on_load=html.SEND, elem_id="stage")
                self.progress = gr.HTML(elem_id="progress")
            self.caption = gr.HTML(js_on_load=html.SEND, elem_id="facts")

    def _seed(self, name: str) -> tuple[gr.Number, gr.Button, gr.Checkbox]:
        say = self.say
        with gr.Row(elem_classes="seed"):
            number = gr.Number(
                fresh_seed(), label=say(f"seed.{name}"), precision=0, min_width=120, elem_id=name
            )
            dice = gr.Button(
                say("seed.roll", seed=say(f"seed.{name}")),
                elem_classes="dice",
                min_width=40,
                scale=0,
            )
            lock = gr.Checkbox(
                label=say("seed.lock"),
                container=False,
                min_width=70,
                scale=0,
                elem_id=f"{name}-lock",
            )
        return number, dice, lock

    def _size(self) -> str:
        geometry = self.desk.pack.geometry
        return f"{geometry.width * geometry.upscale} × {geometry.height * geometry.upscale}"

    # Wiring

    def _wire(self) -> None:
        for dice, seed in ((self.look_dice, self.look), (self.motion_dice, self.motion)):
            dice.click(fresh_seed, None, seed, **QUICK)
        kept: set[Any] = {
            *(self.prompt, self.negative, self.style, self.mode, self.picture),
            *(self.upscale, self.suffix),
            *(self.look, self.look_lock, self.motion, self.motion_lock),
        }
        self.controls = kept
        asked = kept | {self.watching, self.picked, self.used}
        told = [self.look, self.motion, self.watching, self.picked, self.used, self.message]
        for button, work in (
            (self.draw, self._draw),
            (self.cast, self._cast),
            (self.animate, self._animate),
        ):
            button.click(work, asked, told, **IN_TURN | {"trigger_mode": "once"})
        changes = [part.change for part in kept]
        latest = IN_TURN | {"trigger_mode": "always_last"}
        gr.on(changes, self._keep, kept | {self.loaded}, self.ruler, **latest)
        self.mode.change(
            lambda mode: gr.update(visible=self._guided(mode)), self.mode, self.negative, **QUICK
        )
        crop = [self.upload, self.zoom, self.across, self.down]
        self.upload.change(self._crop, crop, [self.picture, self.message], **QUICK)
        for slider in (self.zoom, self.across, self.down):
            slider.release(self._crop, crop, [self.picture, self.message], **QUICK)
        self.no_picture.click(lambda: (None, None), None, [self.upload, self.picture], **QUICK)
        every = [*kept, self.watching, self.picked, self.used, self.message]
        self.dropped.upload(self._restore, self.dropped, every, **QUICK)
        self.stage.click(
            self._pick, [self.picked, self.watching], [self.picked, self.watching], **IN_TURN
        )
        self.caption.click(self.act, kept, every, **IN_TURN)

    def load(self, blocks: gr.Blocks) -> None:
        """Let the page begin as it was left; `loaded`, set last, says that the controls are so."""
        out = [*self.controls, self.watching, self.used, self.ruler, self.loaded]
        blocks.load(self._load, None, out, **QUICK)

    def _guided(self, mode: str) -> bool:
        config = self.desk.pack.schedule.modes[mode]
        return config.guidance > 1 or (config.first_guidance or 1) > 1

    # Asking for jobs

    def _asked(self, asked: Update) -> dict[str, Any]:
        return {
            "prompt": asked[self.prompt] or "",
            "style": styles().get(asked[self.style], ""),
            "negative": asked[self.negative] if self._guided(asked[self.mode]) else None,
            "mode": asked[self.mode],
            "upscale": bool(asked[self.upscale]),
            "suffix": bool(asked[self.suffix]),
            "picture": asked[self.picture],
            "look": asked[self.look],
            "motion": asked[self.motion],
        }

    def _draw(self, asked: Update) -> Update:
        """Try another first frame."""
        look = next_seed(asked[self.look], asked[self.used].get("look"), asked[self.look_lock])
        return self._ask(asked, look, asked[self.motion], "frame")

    def _cast(self, asked: Update) -> Update:
        """Try nine at once."""
        look = next_seed(asked[self.look], asked[self.used].get("look"), asked[self.look_lock])
        return self._ask(asked, look, asked[self.motion], "cast")

    def _animate(self, asked: Update) -> Update:
        """Make clips of the picked first frames, else of the one on the stage or a new one."""
        used = asked[self.used]
        look = asked[self.look]
        if asked[self.prompt] != used.get("prompt") or look != used.get("look"):
            look = next_seed(look, used.get("look"), asked[self.look_lock])
        motion = next_seed(asked[self.motion], used.get("motion"), asked[self.motion_lock])
        return self._ask(asked, look, motion, "clip")

    def _ask(self, asked: Update, look: int, motion: int | None, what: str) -> Update:
        used = {
            "prompt": asked[self.prompt],
            "look": look,
            "motion": asked[self.used].get("motion"),
        }
        try:
            given = self._asked(asked) | {"look": look, "motion": 0 if motion is None else motion}
            work = self.desk.work(given, "clip" if what == "clip" else "frame")
            picks = [
                job for job in self.desk.jobs(asked[self.picked]) if job.id in asked[self.watching]
            ]
            if what == "cast":
                ids = self.desk.cast(work)
            elif what == "clip" and picks:
                works = [replace(work, look_seed=job.work.look_seed) for job in picks]
                ids = self.desk.ask(works)
            else:
                ids = self.desk.ask([work])
        except NeodragonError as error:
            return {self.message: html.failure(self.say.error(error))}
        if what == "clip":
            used["motion"] = motion
        self.desk.keep_draft(watching=ids, used=used)
        update: Update = {self.look: look, self.watching: ids, self.picked: [], self.used: used}
        return update | {self.message: ""} | ({self.motion: motion} if what == "clip" else {})

    def _pick(
        self, picked: list[int], watching: list[int], event: gr.EventData
    ) -> tuple[list[int], list[int]]:
        """A click on the wall: pick a first frame, or see one job alone."""
        number = int(event.id)
        if event.verb == "show":
            return [], [number]
        return [p for p in picked if p != number] + [number] * (number not in picked), watching

    # What was made, again

    def act(self, asked: Update, event: gr.EventData) -> Update:
        """Extend, remix or reuse the job that was clicked."""
        try:
            job = self.desk.table.job(int(event.id))
            if event.verb == "extend":
                picture = self.desk.last_frame(job)
                return {self.picture: str(picture), self.motion: fresh_seed()}
            update = self.controls_of(job)
            if event.verb == "remix":
                update |= {self.look: fresh_seed(), self.motion: fresh_seed()}
            return update
        except NeodragonError as error:
            return {self.message: html.failure(self.say.error(error))}

    def controls_of(self, job: Job) -> Update:
        """Every control as the job had it."""
        work = job.work
        return {
            self.prompt: work.prompt,
            self.style: "",
            self.mode: work.mode,
            self.negative: work.negative or "",
            self.upscale: work.upscale,
            self.suffix: work.suffix,
            self.picture: work.picture,
            self.look: work.look_seed,
            self.motion: work.motion_seed,
            self.used: {},
        }

    def _restore(self, path: str | None) -> Update:
        """Every control as the dropped file says."""
        if path is None:
            return {self.message: ""}
        try:
            origin = restore(Path(path))
            request = origin.request
            known = self.desk.table.by_key([origin.key]) if origin.key else {}
            job = known.get(origin.key or "")
            pack = self.desk.pack
            notes = [origin.pack_note(pack.name, pack.version, pack.pack_hash)]
            picture = job.work.picture if job else None
            if origin.picture and not picture:
                notes.append(self.say("restore.picture", name=origin.picture))
        except NeodragonError as error:
            return {self.message: html.failure(self.say.error(error))}
        sentence = " ".join(note for note in notes if note)
        return {
            self.prompt: request.prompt,
            self.style: "",
            self.mode: request.mode,
            self.negative: request.negative_prompt or "",
            self.upscale: request.upscale,
            self.suffix: request.suffix,
            self.picture: picture,
            self.look: request.look_seed,
            self.motion: request.motion_seed,
            self.used: {},
            self.watching: [job.id] if job else [],
            self.message: html.notice(sentence) if sentence else "",
        }

    def _crop(
        self, path: str | None, zoom: float, across: float, down: float
    ) -> tuple[str | None, str]:
        if path is None:
            return None, ""
        try:
            return str(self.desk.crop(Path(path), zoom, across, down)), ""
        except NeodragonError as error:
            return None, html.failure(self.say.error(error))

    # The draft

    def _keep(self, asked: Update) -> str:
        names = {part: part.elem_id for part in self.controls}
        if asked[self.loaded]:
            self.desk.keep_draft(controls={names[part]: asked[part] for part in self.controls})
        style = styles().get(asked[self.style], "")
        rulers = self.desk.rulers(asked[self.prompt] or "", style, bool(asked[self.suffix]))
        return html.ruler(rulers, self.say)

    def _load(self) -> Update:
        draft = self.desk.draft()
        known = draft.get("controls")
        settings, _ = settings_of(self.desk.data / "settings.json")
        own = {"mode": settings.mode, "suffix": settings.suffix}
        own["upscale"] = settings.upscale and self.desk.pack.has("upscaler")
        known = own | (known if isinstance(known, dict) else {})
        update: Update = {
            part: known[part.elem_id] for part in self.controls if part.elem_id in known
        }
        if update.get(self.picture) and not Path(update[self.picture]).is_file():
            update[self.picture] = None
        watching: Sequence[int] = draft.get("watching") or []
        prompt = update.get(self.prompt) or ""
        for seed in (self.look, self.motion):
            update.setdefault(seed, fresh_seed())
        return update | {
            self.watching: list(watching),
            self.used: draft.get("used") or {},
            self.ruler: html.ruler(self.desk.rulers(prompt), self.say),
            self.loaded: True,
        }
