"""The controls below the library's viewer: export, verify, collections."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from engine.errors import NeodragonError
from studio.export import formats as exports
from studio.export.cuts import ASPECTS, FADE, PRESETS, Cut
from studio.export.timeline import Take, film
from studio.language.catalogue import Speaker
from studio.library.store import EXPORTS
from studio.library.verify import verify
from studio.page import html
from studio.page.desk import Desk
from studio.page.events import IN_TURN, QUICK, Update
from studio.system.files import fitted

MARKS = "(...given) => [...given.slice(0, -1), neodragonMarks()]"


class Exporting:
    """Lays the controls out; `wire` says of which clips they speak."""

    def __init__(self, desk: Desk, say: Speaker) -> None:
        self.desk, self.say = desk, say
        self.folder = desk.clips / EXPORTS
        self.place: Any = gr.State({})  # of the part that is shown
        self.marks = gr.Textbox(visible=False)
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
        with gr.Accordion(say("export.more"), open=False, elem_id="cut"):
            self.preset = gr.Radio(
                [(say(f"export.{name}"), name) for name in PRESETS],
                label=say("export.presets"),
                elem_id="preset",
            )
            self.crop = gr.Radio(
                [(say("export.whole"), ""), *((name, name) for name in ASPECTS)],
                value="",
                label=say("export.crop"),
                elem_id="aspect",
            )
            self.frame = gr.HTML(js_on_load="neodragonCrop(element, trigger)", elem_id="part")
            self.how = gr.CheckboxGroup(
                [(say(f"export.how.{name}"), name) for name in ("rate", "slow", "fade", "turn")],
                label=say("export.how"),
                elem_id="how",
            )
            gr.HTML(f'<p class="aside">{say("export.marks")}</p>')
        self.collect = gr.Textbox(
            label=say("library.collect"), max_lines=1, submit_btn=False, elem_id="collect"
        )

    def wire(
        self, picked: Callable[..., list[Path]], chosen: Sequence[Any], message: gr.HTML
    ) -> None:
        """Let the buttons act on what is picked; chosen: what `picked` is called with."""
        self.picked = picked
        settings = [self.format, self.crop, self.place, self.how, self.marks]
        # An event in turn first, behind the steps: so the clip that is open is the one meant.
        self.export.click(lambda: None, **IN_TURN).then(
            self._export, [*chosen, *settings], message, js=MARKS, **QUICK
        )
        self.verify.click(lambda: None, **IN_TURN).then(
            self._verify, list(chosen), message, queue=True, api_visibility="private"
        )
        self.preset.input(self._preset, self.preset, [self.format, self.crop, self.how], **QUICK)
        self.crop.change(self._framed, [*chosen, self.crop], [self.frame, self.place], **IN_TURN)
        self.frame.click(_placed, None, self.place, **QUICK)

    def _preset(self, name: str) -> tuple[str, str, list[str]]:
        format, cut = PRESETS[name]
        how = [
            n for n, on in (("rate", cut.rate > 1), ("slow", cut.slow), ("fade", cut.fade)) if on
        ]
        return format, cut.crop or "", how

    def _framed(self, shown: list[str], state: dict[str, Any], crop: str) -> tuple[str, Any]:
        """The frame to drag over the first of the clips."""
        clips = self.picked(shown, state)
        if not crop or not clips:
            return "", {}
        stat = clips[0].stat() if clips[0].is_file() else None
        source = html.thumbnail(clips[0], 0 if stat is None else stat.st_mtime)
        return html.crop(source, ASPECTS[crop], self.say), {}

    def _export(
        self,
        shown: list[str],
        state: dict[str, Any],
        format: exports.Format,
        crop: str,
        place: dict[str, Any],
        how: list[str],
        marks: str,
    ) -> str:
        edges = json.loads(marks or "{}") if len(state["chosen"]) < 2 else {}
        try:
            cut = Cut(
                crop=crop or None,
                rate=2 if "rate" in how else 1,
                slow="slow" in how,
                fade=FADE if "fade" in how else 0,
                ping_pong="turn" in how,
                **place,
                **{name: int(edges[key]) for name, key in EDGES.items() if key in edges},
            )
            written = [
                exports.export(clip, exports.target_of(clip, self.folder, format, cut), format, cut)
                for clip in self.picked(shown, state)
            ]
        except NeodragonError as error:
            return html.failure(self.say.error(error))
        return self._saved(written)

    def join(self, clips: Sequence[Path]) -> str:
        """The clips in a row as one file; a sentence."""
        target = fitted(self.folder / clips[0].stem, "_joined.mp4")
        return self._saved([film([Take(clip) for clip in clips], target)])

    def still(self, clip: Path, frame: int) -> str:
        """A frame of a clip as a picture; a sentence."""
        return self._saved([exports.still(clip, self.folder, frame)])

    def _saved(self, written: Sequence[Path]) -> str:
        names = ", ".join(path.name for path in written)
        return html.notice(self.say("library.exported", names=names, folder=self.folder))

    def _verify(self, shown: list[str], state: dict[str, Any]) -> str:
        try:
            sentences = [
                f"{clip.name}: {verify(clip, self.desk.pack)}" for clip in self.picked(shown, state)
            ]
        except NeodragonError as error:
            return html.failure(self.say.error(error))
        return html.notice(" ".join(sentences))


EDGES = {"start": "in", "end": "out"}  # of a cut, as the bar under a clip has them


def _placed(event: gr.EventData) -> Update:
    return {"across": float(event.across), "down": float(event.down), "zoom": float(event.zoom)}
