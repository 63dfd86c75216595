"""The events of one generation, in the order a caller may see them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Progress:
    """`done` of `total` graph runs of a stage: clip, first_frame, text, transformer."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class StageDone:
    """A stage has taken this long, loading its graphs included.

    clip, first_frame, safety, video_encoder, text, transformer, video_decoder, upscaler; the last
    three take turns and are reported together at the end, the upscaler's of both its threads.
    """

    stage: str
    seconds: float


@dataclass(frozen=True)
class Truncated:
    """An encoder, CLIP or T5, could not read the end of the prompt: `text`."""

    encoder: str
    text: str


@dataclass(frozen=True, eq=False)
class FirstFrame:
    """The first frame, uint8 [H, W, 3], at the size it was made (a given picture: the frame's).

    Given as `Request.image` with the same seeds, it leads to the same clip.
    """

    image: Bytes


@dataclass(frozen=True, eq=False)
class UnitFrames:
    """The frames of a unit, uint8 [T, H, W, 3]: T is 1 for the first unit, then 8.

    plain: the same before they were upscaled; `frames` itself where they were not.
    """

    unit: int
    frames: Bytes
    plain: Bytes


@dataclass(frozen=True)
class Finished:
    """The clip is complete: seconds of work, of them inside graphs, and loading and freeing them.

    Where two graphs run at once, or a graph beside other work, such a second counts once.
    """

    seconds: float
    graph_seconds: float
    load_seconds: float


Event = Progress | StageDone | Truncated | FirstFrame | UnitFrames | Finished
