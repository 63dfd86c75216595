"""The tab *Create*: a prompt and two seeds, first frames to choose among, a clip to keep.

Every handler makes jobs from the controls or shows jobs; it keeps no state. Unlocked seeds change
after each use. So pressing *First frame* again tries other looks, and pressing *Animate* again
tries other motions of the same look.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from engine.config import SEED_LIMIT
from engine.errors import Message, NeodragonError, RequestError
from studio.jobs.spec import is_finished
from studio.language.catalogue import Speaker
from studio.page import html
from studio.page.again import Again
from studio.page.controls import fresh_seed, styles
from studio.page.desk import Desk
from studio.page.events import IN_TURN, QUICK, Update
from studio.page.fork_point import ForkPoint
from studio.page.player import VERBS
from studio.system.settings import load as settings_of


def seed_of(text: str | None, name: str) -> int | None:
    """The seed that a control shows, None where it is empty; raises RequestError."""
    text = (text or "").strip()
    if not text:
        return None
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) >= SEED_LIMIT:
        raise RequestError(
            "The {name} is {got}. Use a whole number from 0 to {limit}.",
            name=Message(f"{name} seed"),
            got=text[:40],
            limit=SEED_LIMIT - 1,
        )
    return int(text)


def next_seed(shown: int | None, used: int | None, locked: bool) -> int:
    """The seed of the next take: the one shown, or a fresh one where that was used and is free."""
    if shown is None or (shown == used and not locked):
        return fresh_seed()
    return shown


class Create(Again):
    """Wires the controls: asks for jobs, shows jobs, keeps the draft."""

    def __init__(self, desk: Desk, say: Speaker) -> None:
        super().__init__(desk, say)
        self._wire()
        self.presets.wire(self.controls, self._takes)

    # Wiring

    def _wire(self) -> None:
        for dice, seed in ((self.look_dice, self.look), (self.motion_dice, self.motion)):
            dice.click(lambda: str(fresh_seed()), None, seed, **QUICK)
        kept: set[Any] = {*self.fields.values(), self.style, self.look_lock, self.motion_lock}
        self.controls = kept
        inputs = kept | {self.watching, self.picked, self.used, self.forked}
        outputs = [self.look, self.motion, self.watching, self.picked, self.used]
        outputs += [self.forked, self.branch, self.message]
        for button, work in (
            (self.draw, self._draw),
            (self.cast, self._cast),
            (self.animate, self._animate),
        ):
            self.staged(button.click(work, inputs, outputs, **IN_TURN | {"trigger_mode": "once"}))
        changes = [part.change for part in kept]
        latest = IN_TURN | {"trigger_mode": "always_last"}
        held = kept | {self.loaded, self.message}
        gr.on(changes, self._keep, held, [self.ruler, self.message], **latest)
        self.mode.change(
            lambda mode: gr.update(visible=self._guided(mode)), self.mode, self.negative, **QUICK
        )
        cropped = [self.picture, self.message]
        self.upload.change(self._chosen, self.upload, [self.crop, *cropped], **QUICK)
        self.crop.click(self._crop, self.upload, cropped, **IN_TURN)
        self.no_picture.click(lambda: (None, None), None, [self.upload, self.picture], **QUICK)
        every = [*kept, self.watching, self.picked, self.used]
        every += [self.forked, self.branch, self.message]
        self.every = every
        self.staged(self.dropped.upload(self._restore, self.dropped, every, **QUICK))
        self.staged(self.stage.click(self._pick, {self.picked}, every, **IN_TURN))
        if self.examples:
            self.examples.click(self._example, None, self.prompt, **QUICK)
        self.recent.input(lambda prompt: prompt or gr.skip(), self.recent, self.prompt, **QUICK)
        self.recent.focus(
            lambda: gr.update(choices=self.desk.prompts()), None, self.recent, **QUICK
        )
        self.picture.change(self._begins, self.picture, self.chip, **QUICK)
        self.chip.click(lambda: (None, None), None, [self.upload, self.picture], **QUICK)
        self.branch.click(lambda: self.forking(None), None, [self.forked, self.branch], **QUICK)
        self.staged(self.caption.click(self.act, kept, every, **IN_TURN))

    def staged(self, event: Any) -> None:
        """Let the stage be drawn anew after an event that may have put something else on it."""
        event.then(None, js="() => { dispatchEvent(new Event('look')); }")

    def load(self, blocks: gr.Blocks) -> None:
        """Let the page begin as it was left; `loaded`, set last, says that the controls are so."""
        out = [*self.controls, self.watching, self.used, self.forked, self.branch]
        out += [self.presets.list, self.ruler, self.loaded]
        self.staged(blocks.load(self._load, None, out, **QUICK))

    def _takes(self, name: str, value: Any) -> bool:
        """Whether a control takes a value that was saved, perhaps with another pack."""
        pack = self.desk.pack
        taken = {"mode": pack.schedule.modes, "style": ("", *styles())}
        return value in taken[name] if name in taken else name != "upscale" or pack.has("upscaler")

    def _guided(self, mode: str) -> bool:
        config = self.desk.pack.schedule.modes[mode]
        return config.guidance > 1 or (config.first_guidance or 1) > 1

    # Asking for jobs

    def _settings(self, values: Update) -> dict[str, Any]:
        if not self._guided(values[self.mode]):
            values = values | {self.negative: None}
        settings = {name: values[control] or None for name, control in self.fields.items()}
        for name, control in self.fields.items():
            if isinstance(control, gr.Checkbox):
                settings[name] = bool(values[control])
        return settings | {"style": styles().get(values[self.style], "")}

    def _draw(self, values: Update) -> Update:
        """Try another first frame."""
        return self._try(values, "frame")

    def _cast(self, values: Update) -> Update:
        """Try nine at once."""
        return self._try(values, "cast")

    def _animate(self, values: Update) -> Update:
        """Make clips of the picked first frames, else of the one on the stage or a new one."""
        return self._try(values, "clip")

    def _try(self, values: Update, what: str) -> Update:
        """Choose the seeds of the next take, then ask for it."""
        used = values[self.used]
        try:
            look = seed_of(values[self.look], "look")
            motion = seed_of(values[self.motion], "motion")
        except RequestError as error:
            return {self.message: html.mistake(self.say.error(error))}
        same = values[self.prompt] == used.get("prompt") and look == used.get("look")
        if what != "clip" or look is None or not same:
            look = next_seed(look, used.get("look"), values[self.look_lock])
        if what == "clip" or (what == "cast" and values[self.forked]):
            motion = next_seed(motion, used.get("motion"), values[self.motion_lock])
        return self._ask(values, look, motion, what)

    def _ask(self, values: Update, look: int, motion: int | None, what: str) -> Update:
        used = {
            "prompt": values[self.prompt],
            "look": look,
            "motion": values[self.used].get("motion"),
        }
        try:
            settings = self._settings(values)
            settings |= {"look_seed": look, "motion_seed": 0 if motion is None else motion}
            forked = None if what == "frame" else values[self.forked]
            work = self.desk.work(settings, "clip" if what == "clip" else "frame")
            if forked:
                work = ForkPoint.from_dict(forked).grown(work.prompt, work.motion_seed)
            picks = [
                job
                for job in self.desk.jobs(values[self.picked])
                if job.id in values[self.watching]
            ] * (not forked)
            made = {job.id for job in self.desk.jobs(values[self.watching]) if is_finished(job)}
            if what == "cast":
                ids = self.desk.cast(work)
            elif what == "clip" and picks:
                works = [replace(work, look_seed=job.work.look_seed) for job in picks]
                ids = self.desk.ask(works)
            else:
                ids = self.desk.ask([work])
        except RequestError as error:
            return {self.message: html.mistake(self.say.error(error))}
        except NeodragonError as error:
            return {self.message: html.failure(self.say.error(error))}
        if what == "clip":
            used["motion"] = motion
            if len(picks) == 1:
                look = used["look"] = picks[0].work.look_seed
        self.desk.keep_draft(watching=ids, used=used)
        self.desk.remember(values[self.prompt])
        update: Update = {self.look: str(look), self.watching: ids, self.picked: []}
        update |= {self.used: used} | self.forking(forked)
        same = html.notice(self.say("seed.same")) if ids and set(ids) <= made else ""
        return (
            update | {self.message: same} | ({self.motion: str(motion)} if what == "clip" else {})
        )

    def _pick(self, values: Update, event: gr.EventData) -> Update:
        """A click on the wall: pick a first frame, or show one job alone."""
        number = int(event.id)
        if event.verb == "show":
            return self.show(number)
        if event.verb == "example":
            return {self.prompt: self._example(event)}
        if event.verb in VERBS:
            return self.act(values, event)
        picked = values[self.picked]
        others = [other for other in picked if other != number]
        return {self.picked: others + [number] * (number not in picked)}

    def _example(self, event: gr.EventData) -> str:
        return self.desk.pack.examples[int(event.id)]

    def _begins(self, picture: str | None) -> str:
        """What says that the next clips begin with a picture."""
        return html.chip(Path(picture), self.say) if picture else ""

    def _chosen(self, path: str | None) -> tuple[str, str | None, str]:
        """A start picture was chosen or removed: the frame to drag over it, and its middle."""
        if path is None:
            return "", None, ""
        try:
            part = str(self.desk.crop(Path(path)))
        except NeodragonError as error:
            return "", None, html.failure(self.say.error(error))
        geometry = self.desk.pack.geometry
        return (
            html.crop(html.address(Path(path)), geometry.width / geometry.height, self.say),
            part,
            "",
        )

    def _crop(self, path: str | None, event: gr.EventData) -> tuple[str | None, str]:
        """The frame was moved: that part of the picture begins the clip."""
        if path is None:
            return None, ""
        try:
            part = self.desk.crop(Path(path), event.zoom, event.across, event.down)
        except NeodragonError as error:
            return None, html.failure(self.say.error(error))
        return str(part), ""

    # The draft

    def _mended(self, values: Update) -> Any:
        """What is left of a mistake in the controls."""
        if html.MISTAKE not in (values[self.message] or ""):
            return gr.skip()
        try:
            seeds = seed_of(values[self.look], "look"), seed_of(values[self.motion], "motion")
            look, motion = (0 if seed is None else seed for seed in seeds)
            settings = self._settings(values) | {"look_seed": look, "motion_seed": motion}
            self.desk.work(settings, "frame")
        except RequestError as error:
            return html.mistake(self.say.error(error))
        return ""

    def _keep(self, values: Update) -> tuple[str, Any]:
        """Keep the draft; what the ruler says of it, and what is left of a mistake."""
        names = {part: part.elem_id for part in self.controls}
        if values[self.loaded]:
            self.desk.keep_draft(controls={names[part]: values[part] for part in self.controls})
        style = styles().get(values[self.style], "")
        rulers = self.desk.rulers(values[self.prompt] or "", style, bool(values[self.suffix]))
        shown = html.ruler(rulers, self.desk.unknown(values[self.prompt] or ""), self.say)
        return shown, self._mended(values)

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
            update[seed] = str(update.get(seed) or fresh_seed())
        update |= self.forking(ForkPoint.kept(draft.get("fork")))
        return update | {
            self.watching: list(watching),
            self.used: draft.get("used") or {},
            self.presets.list: self.presets.listed(),
            self.ruler: html.ruler(self.desk.rulers(prompt), self.desk.unknown(prompt), self.say),
            self.loaded: True,
        }
