"""A judge for each world: draws held-out scenes, words them, and marks the clips made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from training.data import emoji, stage, wording, world
from training.data.drawings import NAMES
from training.evaluation import detect, theatre
from training.evaluation.measures import temporal_flickering
from training.recipes.configuration import Configuration

Z = 1.96  # of a 95 % interval


@dataclass(frozen=True)
class Verdict:
    """On one clip: what is right, by name; numbers to average; what was wrong, in words."""

    right: dict[str, bool]
    numbers: dict[str, float]
    wrong: dict[str, str] = field(default_factory=dict)


class Judge(Protocol):
    """What `training.evaluate` asks of a world."""

    def scene(self, rng: np.random.Generator, clip: int) -> tuple[Any, str]:
        """A held-out scene and its words."""

    def picture(self, scene: Any, height: int, width: int) -> np.ndarray | None:
        """A first frame to give, uint8 [H, W, 3], or None."""

    def verdict(self, scene: Any, frames: np.ndarray, clip: int) -> Verdict:
        """Of a clip uint8 [T, H, W, 3]."""


class PaperJudge:
    """Of the six cut-outs (`training.evaluation.detect`)."""

    def scene(self, rng: np.random.Generator, clip: int) -> tuple[world.Scene, str]:
        scene = world.sample_scene(rng, held_out_pairs=True)
        return scene, world.caption(scene, rng)

    def picture(self, scene: world.Scene, height: int, width: int) -> None:
        return None

    def verdict(self, scene: world.Scene, frames: np.ndarray, clip: int) -> Verdict:
        reading = detect.read(frames)
        still = detect.read(np.repeat(frames[:1], len(frames), 0))
        pairs = {name: (getattr(scene, name), getattr(reading, name)) for name in detect.ATTRIBUTES}
        right = {name: wanted == got for name, (wanted, got) in pairs.items()}
        right["backdrop"] = right["sky"] and right["ground"]
        for name in ("colour", "subject"):
            right[f"first_frame_{name}"] = getattr(scene, name) == getattr(still, name)
        judged = (reading.shapes[0], reading.shapes[4], reading.shapes[-1])
        right["keeps_shape"] = all(shape == scene.subject for shape in judged)
        numbers = {
            "flicker": temporal_flickering(frames),
            "consistency": reading.consistency,
            "travel": reading.travel,
        }
        return Verdict(right, numbers, _misses(pairs))


@dataclass(frozen=True)
class EmojiJudge:
    """Of the emoji theatre (`training.evaluation.theatre`). Every second clip is worded in an order
    never trained on; in another drawing `style` it is given its first frame, as a picture of the
    user's own.
    """

    subjects: Sequence[str]
    style: str = "fluent"

    def scene(self, rng: np.random.Generator, clip: int) -> tuple[emoji.Scene, str]:
        scene = replace(emoji.sample_scene(rng, self.subjects, test=True), style=self.style)
        return scene, wording.caption(scene, rng, test=clip % 2 == 1)

    def picture(self, scene: emoji.Scene, height: int, width: int) -> np.ndarray | None:
        if self.style == "fluent":
            return None
        return stage.render(scene, height, width, range(1))[0]

    def verdict(self, scene: emoji.Scene, frames: np.ndarray, clip: int) -> Verdict:
        reading = theatre.read(frames, scene, self.subjects)
        right = theatre.marks(scene, reading)
        named = right["subject"] and right["colour"] and right["motion"]
        right["paraphrase" if clip % 2 else "wording"] = named
        numbers = {"flicker": temporal_flickering(frames), "overlap": reading.overlap}
        if reading.sky_detail is not None:
            numbers["sky_detail"] = reading.sky_detail
        if reading.dots is not None and reading.dot_count is not None:
            numbers |= {"weather_contrast": reading.dots, "weather_count": reading.dot_count}
        expected = {
            "subjects": tuple(actor.subject for actor in scene.actors),
            "colours": tuple(actor.colour for actor in scene.actors),
            "motion": scene.motion if scene.motion != "chase" else "right",
            "sky": scene.sky,
            "ground": scene.ground,
        }
        got = asdict(reading)
        wrong = _misses({name: (wanted, got[name]) for name, wanted in expected.items()})
        if not right["strict_shape"]:
            wrong["overlap"] = f"{reading.overlap:.2f}"
        return Verdict(right, numbers, wrong)


def _misses(pairs: dict[str, tuple[Any, Any]]) -> dict[str, str]:
    return {name: f"{wanted} -> {got}" for name, (wanted, got) in pairs.items() if wanted != got}


def judge_of(config: Configuration, style: str = "fluent") -> Judge:
    """The judge of the configuration's world."""
    settings = config["world"]
    if settings["kind"] == "paper":
        return PaperJudge()
    return EmojiJudge(NAMES[: settings.get("subjects")], style)


def interval(right: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, in percent."""
    share, square = right / count, Z**2 / count
    middle = (share + square / 2) / (1 + square)
    half = Z / (1 + square) * math.sqrt(share * (1 - share) / count + square / (4 * count))
    low, high = max(middle - half, 0.0), min(middle + half, 1.0)
    return round(100 * low, 1), round(100 * high, 1)


def summary(verdicts: Sequence[Verdict]) -> dict[str, dict[str, Any]]:
    """`percent`, `intervals` and `counts` of what is right, over the clips it was asked of, and
    `means` of the numbers.
    """
    names = dict.fromkeys(name for verdict in verdicts for name in verdict.right)
    marks = {name: [v.right[name] for v in verdicts if name in v.right] for name in names}
    keys = dict.fromkeys(name for verdict in verdicts for name in verdict.numbers)
    numbers = {name: [v.numbers[name] for v in verdicts if name in v.numbers] for name in keys}
    return {
        "percent": {n: round(100 * sum(row) / len(row), 1) for n, row in marks.items()},
        "intervals": {n: interval(sum(row), len(row)) for n, row in marks.items()},
        "counts": {n: len(row) for n, row in marks.items()},
        "means": {n: round(float(np.mean(row)), 4) for n, row in numbers.items()},
    }
