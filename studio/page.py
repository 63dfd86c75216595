"""The studio's page: a prompt, two seeds, a first frame to choose and a clip to keep.

`build` lays it out; its handlers turn what is on it into a `Request` and show the engine's events.
Seeds: one that was used gives way to a fresh one at the next take, unless it is locked. So *First
frame* again and again tries looks, *Animate* again and again tries motions of the same look.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from engine.config import SEED_LIMIT, Request
from engine.errors import NeodragonError
from engine.pack import Pack
from engine.pipeline import FirstFrame, Truncated, UnitFrames, generate
from engine.session import Backend
from studio import stage as html
from studio.places import ASSETS, clip_name
from studio.render import Meter, record, unread
from studio.video import write_mp4

FONTS = ["Segoe UI Variable", "Segoe UI", "system-ui", "sans-serif"]
MONO = ["Cascadia Mono", "Consolas", "ui-monospace", "monospace"]
BACKENDS = {"cpu": "CPU", "npu": "NPU", "npu-emulated": "NPU, emulated"}

Update = dict[Any, Any]  # component to new value


@dataclass(frozen=True, eq=False)
class Take:
    """What a tab has made last: the first frame, uint8 [H, W, 3], and the seeds that were used."""

    prompt: str = ""
    look_seed: int | None = None
    motion_seed: int | None = None
    first_frame: NDArray[np.uint8] | None = None


def next_seed(shown: int | None, used: int | None, locked: bool) -> int:
    """The seed of the next take: the one shown, or a fresh one where that was used and is free."""
    if shown is None or (shown == used and not locked):
        return fresh_seed()
    return shown


def fresh_seed() -> int:
    """Any seed."""
    return secrets.randbelow(SEED_LIMIT)


def theme() -> gr.themes.Base:
    """Jade on paper, jade on slate; only fonts of this machine."""
    return gr.themes.Base(
        primary_hue="teal", neutral_hue="zinc", radius_size="md", font=FONTS, font_mono=MONO
    )


def build(pack: Pack, backend: Backend, clips: Path) -> gr.Blocks:
    """The page for one pack and backend; finished clips go to the folder `clips`."""
    return _Page(pack, backend, clips).blocks


class _Page:
    def __init__(self, pack: Pack, backend: Backend, clips: Path) -> None:
        self.pack = pack
        self.backend = backend
        self.clips = clips
        self.blocks = gr.Blocks(title="Neodragon Studio", analytics_enabled=False, fill_width=True)
        with self.blocks:
            self._layout()
            self._wire()

    def _layout(self) -> None:
        self.take = gr.State(Take())
        self.stop_flag = gr.State(None)
        gr.HTML(html.header(f"{self.pack.name} · {BACKENDS[self.backend]}"))
        with gr.Row(elem_id="studio"):
            with gr.Column(elem_id="desk", scale=0, min_width=380):
                self.prompt = gr.Textbox(
                    label="Prompt",
                    placeholder="a red ball bounces on a meadow",
                    lines=3,
                    max_lines=8,
                    autofocus=True,
                    elem_id="prompt",
                )
                with gr.Row(elem_id="verbs"):
                    self.draw = gr.Button("First frame", elem_id="draw")
                    self.animate = gr.Button("Animate", variant="primary", elem_id="animate")
                    self.stop = gr.Button("Stop", variant="stop", visible=False, elem_id="stop")
                self.message = gr.HTML(elem_id="message")
                self.look, self.look_dice, self.look_lock = self._seed("Look seed", "look")
                self.motion, self.motion_dice, self.motion_lock = self._seed(
                    "Motion seed", "motion"
                )
                gr.HTML('<p class="aside">An unlocked seed changes once it was used.</p>')
                self.upscale = gr.Checkbox(
                    value=self.pack.has("upscaler"),
                    interactive=self.pack.has("upscaler"),
                    label=f"Upscale to {self._size()}",
                    container=False,
                    elem_id="upscale",
                )
                examples = (ASSETS / "examples.txt").read_text(encoding="utf-8").splitlines()
                gr.Examples([[line] for line in examples], self.prompt, label="Try")
            with gr.Column(elem_id="view", min_width=320):
                with gr.Group(elem_id="screen"):
                    self.stage = gr.HTML(html.empty())
                    self.progress = gr.HTML(elem_id="progress")
                self.caption = gr.HTML(
                    html.caption({}, f"Clips are saved in {self.clips}.", None), elem_id="facts"
                )

    def _seed(self, label: str, name: str) -> tuple[gr.Number, gr.Button, gr.Checkbox]:
        with gr.Row(elem_classes="seed"):
            number = gr.Number(fresh_seed, label=label, precision=0, min_width=120, elem_id=name)
            dice = gr.Button(
                f"Roll the {label.lower()}", elem_classes="dice", min_width=40, scale=0
            )
            lock = gr.Checkbox(
                label="Lock", container=False, min_width=70, scale=0, elem_id=f"{name}-lock"
            )
        return number, dice, lock

    def _size(self) -> str:
        geometry = self.pack.geometry
        return f"{geometry.width * geometry.upscale} × {geometry.height * geometry.upscale}"

    def _wire(self) -> None:
        for dice, seed in ((self.look_dice, self.look), (self.motion_dice, self.motion)):
            dice.click(fresh_seed, None, seed, queue=False, api_visibility="private")
        asked = {
            *(self.prompt, self.look, self.look_lock, self.motion, self.motion_lock, self.upscale),
            *(self.take, self.stop_flag),
        }
        shown = [
            *(self.look, self.motion, self.take),
            *(self.stage, self.progress, self.caption, self.message),
        ]
        buttons = [self.draw, self.animate, self.stop]
        quick: dict[str, Any] = {
            "queue": False,
            "show_progress": "hidden",
            "api_visibility": "private",
        }
        started = [*buttons, self.stop_flag, self.progress, self.message]
        for button, work in ((self.draw, self._draw), (self.animate, self._animate)):
            button.click(self._begin, None, started, **quick).then(
                work,
                asked,
                shown,
                concurrency_limit=1,  # one engine, however many tabs
                concurrency_id="engine",
                show_progress="hidden",
                api_visibility="private",
            ).then(self._end, None, [*buttons, self.progress], **quick)
        self.stop.click(
            self._stop, self.stop_flag, self.stop, queue=False, api_visibility="private"
        )

    def _begin(self) -> Update:
        return {
            self.draw: gr.update(visible=False),
            self.animate: gr.update(interactive=False),
            self.stop: gr.update(visible=True, interactive=True),
            self.stop_flag: threading.Event(),
            self.progress: html.waiting(),
            self.message: "",
        }

    def _end(self) -> Update:
        return {
            self.draw: gr.update(visible=True),
            self.animate: gr.update(interactive=True),
            self.stop: gr.update(visible=False),
            self.progress: "",
        }

    def _stop(self, flag: threading.Event | None) -> Update:
        if flag is not None:
            flag.set()
        return {self.stop: gr.update(interactive=False)}

    def _draw(self, asked: Update) -> Iterator[Update]:
        """Make a first frame."""
        yield from self._take(asked, animate=False)

    def _animate(self, asked: Update) -> Iterator[Update]:
        """Make a clip, of the first frame on the stage where its prompt and seed still stand."""
        yield from self._take(asked, animate=True)

    def _take(self, asked: Update, *, animate: bool) -> Iterator[Update]:
        try:
            yield from self._work(asked, animate=animate)
        except NeodragonError as error:
            yield {self.message: html.failure(str(error))}

    def _work(self, asked: Update, *, animate: bool) -> Iterator[Update]:
        take: Take = asked[self.take]
        stop: threading.Event = asked[self.stop_flag]
        prompt, look, motion = asked[self.prompt], asked[self.look], asked[self.motion]
        kept = animate and (prompt, look) == (take.prompt, take.look_seed)
        if not kept:
            look = next_seed(look, take.look_seed, asked[self.look_lock])
        if animate:
            motion = next_seed(motion, take.motion_seed, asked[self.motion_lock])
        image = take.first_frame if kept else None
        request = Request(prompt, look, motion or 0, image=image, upscale=asked[self.upscale])
        yield {self.look: look, self.motion: motion}

        started = time.perf_counter()
        meter = Meter("transformer" if animate else "first_frame")
        sentences: list[str] = []
        frames: list[NDArray[np.uint8]] = []
        with closing(generate(self.pack, request, self.backend)) as events:
            for event in events:
                update: Update = {}
                if meter.update(event):
                    update[self.progress] = html.progress(meter)
                if isinstance(event, Truncated):
                    sentences.append(unread(event))
                    update[self.message] = html.notice(" ".join(sentences))
                elif isinstance(event, FirstFrame) and not kept:
                    take = Take(prompt, look, take.motion_seed, event.image)
                    update |= self._first_frame(take)
                elif isinstance(event, UnitFrames):
                    frames.append(event.frames)
                    update[self.stage] = html.picture(event.frames[-1], "The clip so far")
                if update:
                    yield update
                if isinstance(event, FirstFrame) and not animate:
                    return
                if stop.is_set():
                    yield {self.message: html.notice("Stopped.")}
                    if frames:
                        yield self._first_frame(take)  # instead of the clip so far
                    return
        clip = np.concatenate(frames)
        path = write_mp4(
            self.clips / clip_name(prompt, look, request.motion_seed, datetime.now()),
            clip,
            self.pack.geometry.fps,
            record(self.pack, request, self.backend),
        )
        yield self._clip(
            replace(take, motion_seed=motion), path, clip, time.perf_counter() - started
        )

    def _first_frame(self, take: Take) -> Update:
        assert take.first_frame is not None
        words = "Animate continues this frame; First frame tries another."
        return {
            self.take: take,
            self.stage: html.picture(take.first_frame, f"First frame: {take.prompt}"),
            self.caption: html.caption({"look seed": str(take.look_seed)}, words),
        }

    def _clip(self, take: Take, path: Path, clip: NDArray[np.uint8], seconds: float) -> Update:
        height, width = clip.shape[1:3]
        chips = {
            "look seed": str(take.look_seed),
            "motion seed": str(take.motion_seed),
            "size": f"{width} × {height}",
            "made in": f"{seconds:.1f} s",
        }
        return {
            self.take: take,
            self.stage: html.clip(path, take.prompt),
            self.caption: html.caption(chips, f"Saved as {path.name} in {path.parent}", path),
        }
