"""The controls of the tab *Create*: what a request can ask for, and the stage beside them."""

from __future__ import annotations

import json
import secrets
from typing import Any

import gradio as gr

from engine.config import SEED_LIMIT
from studio.language.catalogue import Speaker
from studio.page import html
from studio.page.desk import Desk
from studio.page.presets import PresetView
from studio.page.upload import upload
from studio.system.paths import ASSETS


def fresh_seed() -> int:
    """A random seed."""
    return secrets.randbelow(SEED_LIMIT)


def styles() -> dict[str, str]:
    """Words that go behind a prompt, by the style's name."""
    known: dict[str, str] = json.loads((ASSETS / "styles.json").read_text(encoding="utf-8"))
    return known


class Controls:
    """Lays the tab out. `watching` and `picked` are the jobs that this tab shows on its stage.

    used: prompt and seeds of the last take; forked: which clip the next ones begin as, and up to
    which unit (`ForkPoint`); loaded: whether the draft is in the controls; fields: the control that
    shows each field of a request.
    """

    def __init__(self, desk: Desk, say: Speaker) -> None:
        self.desk, self.say = desk, say
        self.watching = gr.State([])
        self.picked = gr.State([])
        self.loaded = gr.Checkbox(False, visible=False)
        self.used: Any = gr.State({})
        self.forked: Any = gr.State(None)
        self._desk_column()
        self._view_column()
        self.fields: dict[str, Any] = {
            "prompt": self.prompt,
            "negative_prompt": self.negative,
            "mode": self.mode,
            "upscale": self.upscale,
            "suffix": self.suffix,
            "image": self.picture,
            "look_seed": self.look,
            "motion_seed": self.motion,
        }

    def _desk_column(self) -> None:
        say = self.say
        with gr.Column(elem_id="desk", scale=0, min_width=380):
            with gr.Column(elem_id="ask"):
                gr.HTML(html.history(say), elem_id="history")
                self.prompt = gr.Textbox(
                    label=say("prompt.label"),
                    placeholder=say("prompt.placeholder"),
                    lines=3,
                    max_lines=8,
                    autofocus=True,
                    elem_id="prompt",
                )
            self.ruler = gr.HTML(elem_id="ruler")
            self.chip = gr.HTML(js_on_load=html.SEND, elem_id="chip")
            self.branch = gr.HTML(js_on_load=html.SEND, elem_id="branch")
            with gr.Row(elem_id="verbs"):
                self.draw = gr.Button(say("verb.draw"), elem_id="draw")
                self.cast = gr.Button(say("verb.cast"), elem_id="cast")
                self.animate = gr.Button(say("verb.animate"), variant="primary", elem_id="animate")
            self.message = gr.HTML(elem_id="message")
            with gr.Column(elem_id="further"):
                self._further()

    def _further(self) -> None:
        """What a narrow page shows below the stage."""
        say = self.say
        self.look, self.look_dice, self.look_lock = self._seed("look")
        self.motion, self.motion_dice, self.motion_lock = self._seed("motion")
        gr.HTML(f'<p class="aside">{say("seed.hint")}</p>')
        self._choices()
        self._beginnings()
        self.recent = gr.Dropdown(
            self.desk.prompts(),
            value=None,
            label=say("prompt.recent"),
            elem_id="recent",
        )
        self.presets = PresetView(self.desk.data / "presets.json", say)
        self._known()

    def _known(self) -> None:
        """Prompts to begin with and the words of the pack, where it says any."""
        pack, say = self.desk.pack, self.say
        self.examples = None
        if pack.examples:
            self.examples = gr.HTML(
                html.examples(pack.examples, say), js_on_load=html.SEND, elem_id="examples"
            )
        if pack.knows:
            with gr.Accordion(say("knows.label"), open=False, elem_id="knows"):
                gr.HTML(html.vocabulary(pack.knows, say))

    def _choices(self) -> None:
        """Upscaler, style and mode."""
        say = self.say
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

    def _beginnings(self) -> None:
        """What a clip may begin with: a picture of the user's, or the settings of another clip."""
        say = self.say
        with gr.Accordion(say("picture.label"), open=False, elem_id="begin"):
            self.upload = upload(sources=["upload", "clipboard"], show_label=False, height=200)
            self.crop = gr.HTML(js_on_load="neodragonCrop(element, trigger)", elem_id="crop")
            self.picture = upload(
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

    def _view_column(self) -> None:
        with gr.Column(elem_id="view", min_width=320) as self.view:
            with gr.Column(elem_id="screen"):
                self.stage = gr.HTML(
                    html.empty(self.say, self.desk.pack.examples),
                    js_on_load=html.SEND,
                    elem_id="stage",
                )
                self.progress = gr.HTML(elem_id="progress")
            self.caption = gr.HTML(js_on_load=html.SEND, elem_id="facts")

    def _seed(self, name: str) -> tuple[gr.Textbox, gr.Button, gr.Checkbox]:
        say = self.say
        with gr.Row(elem_classes="seed"):
            number = gr.Textbox(
                str(fresh_seed()),
                label=say(f"seed.{name}"),
                lines=1,
                max_lines=1,
                min_width=120,
                elem_id=name,
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
