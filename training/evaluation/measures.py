"""Video measures that need no weights: flicker as VBench has it, consistency and motion of the
cut-out.
"""

from __future__ import annotations

import numpy as np


def temporal_flickering(frames: np.ndarray) -> float:
    """1 less the mean absolute difference of neighbouring frames, of 255; 1 is perfectly still.

    frames: uint8 [T, H, W, 3]. VBench (arXiv 2311.17982) computes the same and leaves out clips
    that move much; what moves lowers it here too, so compare like with like.
    """
    now = frames.astype(np.int16)
    return float(1 - np.abs(np.diff(now, axis=0)).mean() / 255)


def outline_consistency(outlines: np.ndarray) -> float:
    """How well a cut-out keeps its outline, 0 to 1: mean overlap (intersection over union) of each
    outline with the one before and with the first, as VBench pairs its features.

    outlines: bool [T, S, S], each normalised by position and area (`detect`).
    """

    def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        union = (a | b).sum((-2, -1))
        return (a & b).sum((-2, -1)) / np.maximum(union, 1)

    before, first = overlap(outlines[1:], outlines[:-1]), overlap(outlines[1:], outlines[:1])
    return float((before + first).mean() / 2)


def travel(track: np.ndarray, height: int) -> float:
    """Length of the cut-out's path in frame heights; moments where it was not found are left out.

    track: rows (x, y, side) in pixels.
    """
    centres = track[np.isfinite(track[:, 0]) & (track[:, 2] > 0), :2]
    return float(np.hypot(*np.diff(centres, axis=0).T).sum() / height) if len(centres) > 1 else 0.0
