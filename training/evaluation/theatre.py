"""Compare what a clip of the emoji theatre shows with what it should show.

A clip is judged strictly: its subjects are found among all there are, a subject's outline is
compared with the true drawing at the size the motion asks for, sky and ground are judged on the
last frame, and the sky's detail is what of the first frame's is still in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from training.data.drawings import drawing
from training.data.emoji import GROUNDS, SKIES, UNIT, Actor, Pose, Scene, poses
from training.data.stage import CONFETTI, backdrop
from training.evaluation.find import Found, Look, alone, find, fit

JUDGED = (0, 24, 48)  # frames whose outlines count
KEYS = range(0, 49, UNIT)
STRICT = 0.8  # overlap of outlines that keeps the shape
NEAR = 60.0  # colours that far apart are still the same, root of summed squares
FLOOR = 45.0  # error of a sticker's colours beyond which it is none
SIZES = (0.22, 0.56)  # of stickers at the first frame, a little beyond the world's own
DOTS = 20  # of the weather's particles that are looked for in a key frame
WEATHER_TONES = {
    "snow": [(255, 255, 255)],
    "rain": [(96, 150, 232)],
    "confetti": list(CONFETTI),
    "glitter": [(255, 222, 90)],
}


@dataclass(frozen=True)
class Reading:
    """What a clip shows, and how well: see `read`."""

    subjects: tuple[str | None, ...]  # from left to right; None is no sticker
    colours: tuple[str | None, ...]
    motion: str
    overlap: float  # of outlines, the least over stickers and judged frames
    sky: str
    ground: str
    sky_detail: float | None  # 0 to 1; None where the camera moves
    dots: float | None  # mean contrast of the weather's particles, 0 to 1; None without weather
    dot_count: float | None


def _expected(scene: Scene, at_first: Found, index: int, frame: int) -> Found:
    """The first frame's sticker moved, grown and turned as the scene's motion asks by `frame`."""
    first, then = (poses(scene, at)[index] for at in (0, frame))
    growth = then.size / first.size
    return replace(
        at_first,
        pose=Pose(
            at_first.pose.x + then.x - first.x,
            at_first.pose.y + then.y - first.y,
            at_first.pose.size * growth,
            at_first.pose.width * then.width / first.width,
        ),
    )


def overlap(look: Look, actor: Found) -> float:
    """Intersection over union of a sticker's outline with what the frame shows of it.

    Seen is a pixel within the outline whose colour is the sticker's there rather than the
    backdrop's, and one just outside whose colour is one of the drawing's own and no backdrop's.
    """
    height, width = look.frame.shape[:2]
    rgb, cover = alone(actor.subject, actor.colour, look.style, actor.pose, height, width)
    inside = cover > 0.5
    if not inside.any():
        return 0.0
    wanted = rgb / np.maximum(cover, 1e-3)[..., None]
    off = ((look.frame - wanted) ** 2).sum(-1)
    seen = inside & (off < NEAR**2)
    size = actor.pose.size
    wide = replace(actor.pose, size=1.3 * size, y=actor.pose.y - 0.15 * size)
    around = alone(actor.subject, actor.colour, look.style, wide, height, width)[1] > 0.5
    strange = (look.strange > NEAR**2) & around & ~inside & ~_dilated(inside)
    art = drawing(actor.subject, look.style).reshape(-1, 4)
    tones = art[art[:, 3] > 250][::37, :3].astype(np.float32)
    pixels = look.frame[strange]
    leak = 0
    if len(pixels) and len(tones):
        apart = ((pixels[:, None] - tones) ** 2).sum(-1).min(1)
        leak = int((apart < 20**2).sum())
    return float(seen.sum() / (inside.sum() + leak))


def _dilated(mask: np.ndarray) -> np.ndarray:
    """The mask and its neighbours, two pixels wide."""
    out = mask.copy()
    for _ in range(2):
        grown = out.copy()
        grown[1:] |= out[:-1]
        grown[:-1] |= out[1:]
        grown[:, 1:] |= out[:, :-1]
        grown[:, :-1] |= out[:, 1:]
        out = grown
    return out


def _shape(frames: np.ndarray, scene: Scene, firsts: Sequence[Found]) -> float:
    """The least overlap of the scene's stickers at the judged frames."""
    least = 1.0
    for index, actor in enumerate(scene.actors):
        start = firsts[index]
        if start.subject != actor.subject or not SIZES[0] < start.pose.size < SIZES[1]:
            return 0.0
        for frame in JUDGED:
            look = Look.at(frames[frame], scene.style)
            there = _expected(scene, start, index, frame)
            least = min(least, overlap(look, fit(look, there, sizes=False)))
    return least


def _shift(first: np.ndarray, second: np.ndarray, mask: np.ndarray) -> str:
    """What the camera did from one key frame to the next: nothing, a pan, or closing in."""
    height = first.shape[0]
    step = round(0.125 * height)
    panned = np.abs(second[:, :-step] - first[:, step:]).mean(-1)
    still = np.abs(second - first).mean(-1)
    clear = ~mask
    both = clear[:, :-step] & clear[:, step:]
    if not both.any():
        return "still"
    return "pan" if panned[both].mean() < 0.8 * still[:, :-step][both].mean() else "still"


def _zoomed(
    first: np.ndarray, last: np.ndarray, foot: tuple[float, float], mask: np.ndarray
) -> bool:
    """Whether the last frame's backdrop is the first's, half as large again around a foot."""
    height, width = first.shape[:2]
    x, y = np.meshgrid((np.arange(width) + 0.5) / height, 1 - (np.arange(height) + 0.5) / height)
    zoom = 1.5
    column = ((foot[0] + (x - foot[0]) / zoom) * height).astype(int).clip(0, width - 1)
    row = ((1 - foot[1] - (y - foot[1]) / zoom) * height).astype(int).clip(0, height - 1)
    clear = ~mask & ~mask[row, column]
    if not clear.any():
        return False
    grown = np.abs(last - first[row, column]).mean(-1)[clear].mean()
    return bool(grown < 0.8 * np.abs(last - first).mean(-1)[clear].mean())


def _motion(frames: np.ndarray, scene: Scene, firsts: Sequence[Found]) -> str:
    """The motion that moves the first frame's stickers to where they are, among all there are."""
    height, width = frames.shape[1:3]
    first = firsts[0]
    style = scene.style
    last = Look.at(frames[-1], style)
    tracks: list[Found] = []
    now = first
    for frame in KEYS:
        look = Look.at(frames[frame], style)
        pose = now.pose
        tries = [
            look.measured(replace(now, pose=replace(pose, x=pose.x + dx, y=pose.y + dy)))
            for dx in (-0.125, 0.0, 0.125)
            for dy in (0.0, 0.0625, 0.25, -0.25)
        ]
        now = fit(look, max(tries, key=lambda one: one.gain))
        tracks.append(now)
    x = np.array([one.pose.x for one in tracks])
    y = np.array([one.pose.y for one in tracks])
    size = np.array([one.pose.size for one in tracks])
    half = Look.at(frames[UNIT], style)
    narrow = replace(first, pose=replace(first.pose, width=first.pose.width / 2))
    if fit(half, narrow, sizes=False).gain > tracks[1].gain:
        return "spin"
    mask = np.zeros((height, width), bool)
    for frame in (0, UNIT, 48):
        for index, start in enumerate(firsts):
            there = _expected(scene, start, index, frame)
            mask |= alone(there.subject, "black", style, there.pose, height, width)[1] > 0.05
    pictures = frames[list(KEYS)].astype(np.float32)
    pans = sum(_shift(a, b, mask) == "pan" for a, b in zip(pictures, pictures[1:], strict=False))
    if size[-1] / size[0] > 1.25:
        foot = first.pose.x, first.pose.y
        return "zoom" if _zoomed(pictures[0], last.frame, foot, mask) else "closer"
    if abs(x[-1] - x[0]) > 0.25:
        return "right" if x[-1] > x[0] else "left"
    if y[-1] - y[0] > 0.2:
        return "up"
    if y.max() - max(y[0], y[-1]) > 0.12:
        return "jump"
    return "pan" if pans >= 4 else "still"


def _rows(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Median colour of each row away from stickers [H, 3], NaN where there is nothing else."""
    hidden = np.where(mask[..., None], np.nan, frame.astype(np.float64))
    few = (~mask).sum(1) <= 8
    hidden[few] = 0
    rows = np.nanmedian(hidden, 1)
    rows[few] = np.nan
    return rows


@cache
def _kinds(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of each kind of sky and of ground, [kinds, H, 3], means over some looks."""
    actor = Actor("fox", None, 0.3, 0.75, 0.1)
    clear = np.zeros((height, width), bool)
    out = []
    for skies, grounds in ((SKIES, GROUNDS[:1]), (SKIES[:1], GROUNDS)):
        kinds = []
        for sky in skies:
            for ground in grounds:
                scenes = [Scene((actor,), sky, ground, None, "still", look) for look in range(5)]
                looks = [_rows(backdrop(scene, height, width), clear) for scene in scenes]
                kinds.append(np.mean(looks, 0))
        out.append(np.stack(kinds))
    return out[0], out[1]


def _backdrop(frame: np.ndarray, mask: np.ndarray) -> tuple[str, str]:
    """Kinds of sky and ground whose rows are nearest in colour, more in hue than in light: weather
    and clouds brighten.
    """
    height, width = frame.shape[:2]
    rows, y = _rows(frame, mask), 1 - (np.arange(height) + 0.5) / height
    nearest = []
    for kinds, use in zip(_kinds(height, width), (y > 0.55, y < 0.3), strict=True):
        off = rows[use] - kinds[:, use]
        light = off.mean(-1, keepdims=True)
        apart = np.abs(off - light).mean(-1) + 0.3 * np.abs(light[..., 0])
        nearest.append(int(np.nanmean(apart, 1).argmin()))
    return SKIES[nearest[0]], GROUNDS[nearest[1]]


def _detail(first: np.ndarray, last: np.ndarray, mask: np.ndarray) -> float:
    """How much of the first frame's sky detail is still in its place, 0 to 1: the share of it that
    the last frame's detail has along it.
    """
    sky = slice(0, int(0.45 * first.shape[0]))
    parts = []
    for frame in (first, last):
        detail = frame[sky] - np.nan_to_num(_rows(frame, mask))[sky, None]
        parts.append(np.where(mask[sky][..., None], 0, detail))
    energy = float((parts[0] ** 2).sum())
    return float(np.clip((parts[0] * parts[1]).sum() / max(energy, 1.0), 0, 1))


def _dots(pictures: np.ndarray, weather: str, mask: np.ndarray) -> tuple[float, float]:
    """Mean contrast of the clearest particles of the key frames after the first, and how many have
    half of it. A particle is where one key frame differs from most others towards its colour.
    """
    usual = np.median(pictures, 0)
    contrasts, counts = [], []
    for picture in pictures[1:]:
        change, best = picture - usual, np.zeros(usual.shape[:2], np.float32)
        for tone in WEATHER_TONES[weather]:
            way = np.array(tone, np.float32) - usual
            share = (change * way).sum(-1) / np.maximum((way**2).sum(-1), 40.0**2)
            off = np.abs(change - share[..., None] * way).sum(-1)  # another colour is none
            best = np.maximum(best, np.where(off < 120, share, 0))
        best[mask] = 0
        best[:2], best[-2:], best[:, :2], best[:, -2:] = 0, 0, 0, 0
        smooth = (
            sum(np.roll(best, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)) / 9
        )  # a particle is some pixels wide
        peaks = []
        for _ in range(2 * DOTS):
            row, column = np.unravel_index(smooth.argmax(), smooth.shape)
            peaks.append(min(float(smooth[row, column]), 1.0))
            smooth[max(0, row - 4) : row + 5, max(0, column - 4) : column + 5] = 0
        contrasts.append(float(np.mean(peaks[:DOTS])))
        counts.append(float(np.sum(np.array(peaks) > 0.5)))
    return float(np.mean(contrasts)), float(np.mean(counts))


def read(frames: np.ndarray, scene: Scene, subjects: Sequence[str]) -> Reading:
    """Read a clip, uint8 [49, H, W, 3], that was to show `scene`, among these subjects.

    What is taken from the scene is only how many stickers to look for, by which motion's poses the
    outlines are compared, and which weather's contrast to measure.
    """
    height, width = frames.shape[1:3]
    firsts = find(frames[0], subjects, len(scene.actors), scene.style)
    shown = [one if one.error < FLOOR else None for one in firsts]
    mask = np.zeros((height, width), bool)
    for frame in KEYS:
        for index, start in enumerate(firsts):
            there = _expected(scene, start, index, frame)
            mask |= alone(there.subject, "black", scene.style, there.pose, height, width)[1] > 0.02
    sky, ground = _backdrop(frames[-1], mask)
    moves = scene.motion in ("pan", "zoom")
    pictures = frames[list(KEYS)].astype(np.float32)
    calm = scene.weather is None and not moves
    dots = None if scene.weather is None or moves else _dots(pictures, scene.weather, mask)
    return Reading(
        tuple(one.subject if one else None for one in shown),
        tuple(one.colour if one else None for one in shown),
        _motion(frames, scene, firsts),
        _shape(frames, scene, firsts),
        sky,
        ground,
        _detail(pictures[0], pictures[-1], mask) if calm else None,
        dots[0] if dots else None,
        dots[1] if dots else None,
    )


def marks(scene: Scene, reading: Reading) -> dict[str, bool]:
    """What is right, by name. Two stickers that chase each other move right, as two do that only
    move right. `binding` is there for two stickers alone.
    """
    subjects = tuple(actor.subject for actor in scene.actors)
    colours = tuple(actor.colour for actor in scene.actors)
    out = {
        "subject": reading.subjects == subjects,
        "colour": reading.colours == colours,
        "motion": reading.motion == ("right" if scene.motion == "chase" else scene.motion),
        "strict_shape": reading.overlap >= STRICT,
        "backdrop_last": (reading.sky, reading.ground) == (scene.sky, scene.ground),
    }
    if len(subjects) > 1:
        out["binding"] = out["subject"] and out["colour"]
    return out
