"""The bar under a clip: play, step through its frames, mark in and out, continue from a frame.

It is driven by `assets/player.js`, which writes the frame that is shown into the bar's `data-frame`
and keeps in and out for the clip's address; a click on a verb carries them.
"""

from __future__ import annotations

from html import escape

from engine.config import Geometry
from studio.language.catalogue import Speaker
from studio.page import html

VERBS = ("begin", "fork", "still", "film")


def first_of(unit: int, geometry: Geometry) -> int:
    """The first frame of a unit, frames counted from 0."""
    return 1 + (unit - 1) * geometry.temporal_stride if unit else 0


def unit_of(frame: int, geometry: Geometry) -> int:
    """The unit that a fork at a frame rolls anew first: the frame's own, but never the first."""
    last = geometry.units - 1
    return min(last, max(1, (frame - 1) // geometry.temporal_stride + 1))


def bar(
    number: int,
    geometry: Geometry,
    say: Speaker,
    verbs: tuple[str, ...] = VERBS,
    *,
    is_ready: bool = True,
) -> str:
    """The bar of a clip; number: what the page calls it, handed back by the verbs.

    is_ready: whether the clip is there; before, the bar takes its place, so that nothing moves.
    """

    def key(name: str, sign: str, keys: str) -> str:
        label = escape(say(f"player.{name}"))
        return (
            f'<button class="verb" data-play="{name}" aria-label="{label}"'
            f' title="{label} ({keys})">{sign}</button>'
        )

    label = escape(say("player.frame"))
    acts = "".join(html.button(verb, number, say(f"player.{verb}")) for verb in verbs)
    return (
        f'<div class="player" data-frames="{geometry.frames}" data-fps="{geometry.fps}"'
        f' data-stride="{geometry.temporal_stride}" data-frame="0"{"" if is_ready else " inert"}>'
        f"{key('back', '◂', ',')}{key('toggle', '▶', 'K')}{key('on', '▸', '.')}"
        f'<input type="range" min="0" max="{geometry.frames - 1}" value="0" aria-label="{label}">'
        f"<output>0</output>{key('in', '[', 'I')}{key('out', ']', 'O')}"
        f'<span class="acts">{acts}</span></div>'
    )
