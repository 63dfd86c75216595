"""Read a paper-theatre clip back: which colour, subject, sky, ground and motion do its frames show?

Analytic, nothing learned: each pixel goes to the nearest of the world's colours; the cut-out's
colour is the one with most pixels; its outline, normalised by centroid and area, is compared with
the world's own shapes; its track gives the motion.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from training.data.world import COLOURS, GROUNDS, MOTIONS, SKIES, SUBJECTS, WHITE, Scene, render
from training.evaluation.measures import outline_consistency, travel

GRID = 40  # side of a normalised outline
SAMPLED = (0, 6, 12, 18, 24, 30, 36, 42, 48)


@dataclass(frozen=True)
class Reading:
    """What a clip shows.

    shapes: the best-matching subject of each sampled frame; consistency: how well the cut-out keeps
    its outline, 0 to 1; travel: how far it goes, in frame heights.
    """

    colour: str
    subject: str
    sky: str
    ground: str
    motion: str
    shapes: tuple[str, ...]
    consistency: float
    travel: float


def _palette() -> tuple[np.ndarray, int]:
    """Cut-out colours first, then everything a pixel may be besides; the count of the former."""
    others = [WHITE, (200, 200, 200), (150, 150, 150)]
    others += [tone for tones in (*SKIES.values(), *GROUNDS.values()) for tone in tones]
    others += [
        tuple((np.array(a) + np.array(b)) / 2) for a, b in (*SKIES.values(), *GROUNDS.values())
    ]
    return np.array([*COLOURS.values(), *others], np.float32), len(COLOURS)


def _nearest(frame: np.ndarray) -> np.ndarray:
    """Index of the nearest cut-out colour per pixel, -1 where something else is nearer; frame uint8
    [H, W, 3].
    """
    palette, count = _palette()
    distance = ((frame[..., None, :].astype(np.float32) - palette) ** 2).sum(-1)
    index = distance.argmin(-1)
    return np.where((index < count) & (distance.min(-1) < 70**2), index, -1)


def _outline(mask: np.ndarray) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Mask [H, W] resampled around its centroid at unit area [GRID, GRID], and (x, y, sqrt(area))
    in pixels.
    """
    rows, cols = np.nonzero(mask)
    if len(rows) < 12:
        return np.zeros((GRID, GRID), bool), (np.nan, np.nan, 0.0)
    for _ in range(2):  # drop stray pixels far from the body
        y, x, side = np.median(rows), np.median(cols), np.sqrt(len(rows))
        near = (np.abs(rows - y) < 1.3 * side) & (np.abs(cols - x) < 1.3 * side)
        rows, cols = rows[near], cols[near]
    y, x, side = rows.mean(), cols.mean(), np.sqrt(len(rows))
    at = (np.arange(GRID) + 0.5) / GRID * 2.8 - 1.4
    source_y = np.clip(np.round(y + at * side).astype(int), -1, mask.shape[0])
    source_x = np.clip(np.round(x + at * side).astype(int), -1, mask.shape[1])
    padded = np.pad(mask, 1)
    return padded[np.ix_(source_y + 1, source_x + 1)], (float(x), float(y), float(side))


@cache
def _templates() -> np.ndarray:
    """Mean outlines of the six subjects, [6, GRID, GRID] in 0..1, from the world's own renders."""
    out = []
    for subject in SUBJECTS:
        views = []
        for size in (0.42, 0.46, 0.5, 0.6, 0.7):
            scene = Scene("red", subject, "day", "snow", "still", size, 0.75, 0.14, 0.0, 0)
            views.append(_outline(_nearest(render(scene, 128, 192, range(1))[0]) == 0)[0])
        out.append(np.mean(views, 0))
    return np.stack(out)


def _motion(track: np.ndarray, height: int) -> str:
    """Motion from (x, y, side) rows over time in pixels; rows of NaN where the cut-out was not
    found.
    """
    track = track[np.isfinite(track[:, 0]) & (track[:, 2] > 0)]
    if len(track) < 3:
        return "lost"
    x, y, side = track[:, 0] / height, track[:, 1] / height, track[:, 2]
    growth, across, rise = side[-1] / side[0], x[-1] - x[0], y[0] - y[-1]
    hop = min(y[0], y[-1]) - y.min()
    if growth > 1.2:
        return "zoom"
    if abs(across) > 0.2:
        return "right" if across > 0 else "left"
    if rise > 0.15:
        return "up"
    return "jump" if hop > 0.08 else "still"


def read(frames: np.ndarray) -> Reading:
    """Read a clip, uint8 [T, H, W, 3] with T > 40."""
    indices = np.stack([_nearest(frames[i]) for i in SAMPLED])
    height = frames.shape[1]
    middle = indices[:, height // 10 :]
    colour = (
        int(np.bincount(middle[middle >= 0], minlength=len(COLOURS)).argmax())
        if (middle >= 0).any()
        else 0
    )
    scores, track, outlines = [], [], []
    for index in indices:
        outline, position = _outline(index == colour)
        templates = _templates()
        overlap = np.minimum(outline, templates).sum((1, 2)) / np.maximum(outline, templates).sum(
            (1, 2)
        )
        scores.append(overlap)
        outlines.append(outline)
        track.append(position)
    sky, ground = _backdrop(frames[0])
    return Reading(
        colour=list(COLOURS)[colour],
        subject=SUBJECTS[int(np.mean(scores, 0).argmax())],
        sky=sky,
        ground=ground,
        motion=_motion(np.array(track), height),
        shapes=tuple(SUBJECTS[int(s.argmax())] for s in scores),
        consistency=outline_consistency(np.stack(outlines)),
        travel=travel(np.array(track), height),
    )


def _backdrop(frame: np.ndarray) -> tuple[str, str]:
    """Sky from the top rows and ground from the bottom ones, by the median colour."""
    height = frame.shape[0]
    top = np.median(frame[: height // 12].reshape(-1, 3), 0)
    bottom = np.median(frame[-height // 16 :].reshape(-1, 3), 0)

    def closest(
        tones: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]], colour: np.ndarray
    ) -> str:
        return min(tones, key=lambda name: float(((np.array(tones[name][0]) - colour) ** 2).sum()))

    return closest(SKIES, top), closest(GROUNDS, bottom)


ATTRIBUTES = ("colour", "subject", "sky", "ground", "motion")
assert set(MOTIONS) == {"right", "left", "up", "jump", "zoom", "still"}
