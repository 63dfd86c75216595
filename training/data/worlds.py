"""The worlds a training can learn, by the `world` part of its configuration.

`paper` is the theatre of six cut-outs (`training.data.world`), `emoji` that of the drawings
(`training.data.emoji`). Both give scenes from a seed, frames and captions of a scene, and where its
subjects are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from training.data import emoji, stage, wording, world
from training.data.drawings import NAMES

Box = tuple[float, float, float, float]  # left, right, bottom, top in frame heights


class World(Protocol):
    """What the recipes ask of a world; a scene is a value that only the world looks into."""

    def scene(self, rng: np.random.Generator, *, test: bool = False) -> Any:
        """Draw a scene; `test` draws one that training never sees."""

    def settled(self, scene: Any) -> Any:
        """The same with its subjects where a first frame is drawn with them."""

    def caption(self, scene: Any, rng: np.random.Generator, *, test: bool = False) -> str:
        """Word it."""

    def render(self, scene: Any, height: int, width: int, frames: np.ndarray | range) -> np.ndarray:
        """Frames of it, uint8 [T, H, W, 3]."""

    def boxes(self, scene: Any, frame: float) -> list[Box]:
        """Where its subjects are."""

    @property
    def knows(self) -> dict[str, list[str]]:
        """Every phrase that captions are worded with, by kind, for a pack's `knows`."""

    @property
    def fact_sizes(self) -> tuple[int, ...]:
        """How many values each of `facts` may have."""

    def facts(self, scene: Any) -> tuple[int, ...]:
        """What a caption may say of it, each as a number."""


@dataclass(frozen=True)
class PaperWorld:
    """Six cut-outs in eight colours."""

    def scene(self, rng: np.random.Generator, *, test: bool = False) -> world.Scene:
        return world.sample_scene(rng, held_out_pairs=test)

    def settled(self, scene: world.Scene) -> world.Scene:
        return scene

    def caption(self, scene: world.Scene, rng: np.random.Generator, *, test: bool = False) -> str:
        return world.caption(scene, rng)

    def render(
        self, scene: world.Scene, height: int, width: int, frames: np.ndarray | range
    ) -> np.ndarray:
        return world.render(scene, height, width, frames)

    def boxes(self, scene: world.Scene, frame: float) -> list[Box]:
        x, y, zoom = world.pose(scene, frame)
        size = scene.size * zoom
        return [(x - 0.62 * size, x + 0.62 * size, y, y + 1.05 * size)]

    @property
    def knows(self) -> dict[str, list[str]]:
        return {
            "subjects": list(world.SUBJECTS),
            "colours": list(world.COLOURS),
            "motions": _phrases(world.MOTION_WORDS.values()),
            "grounds": _phrases(world.GROUND_WORDS.values()),
            "skies": _phrases(world.SKY_WORDS.values()),
            "other": _between([*world.FORMS, "an the"]),
        }

    @property
    def fact_sizes(self) -> tuple[int, ...]:
        parts = (world.COLOURS, world.SUBJECTS, world.SKIES, world.GROUNDS, world.MOTIONS)
        return tuple(map(len, parts))

    def facts(self, scene: world.Scene) -> tuple[int, ...]:
        return (
            list(world.COLOURS).index(scene.colour),
            world.SUBJECTS.index(scene.subject),
            list(world.SKIES).index(scene.sky),
            list(world.GROUNDS).index(scene.ground),
            world.MOTIONS.index(scene.motion),
        )


@dataclass(frozen=True)
class EmojiWorld:
    """The first `subjects` of the drawings, all for None."""

    subjects: int | None = 24

    def scene(self, rng: np.random.Generator, *, test: bool = False) -> emoji.Scene:
        return emoji.sample_scene(rng, NAMES[: self.subjects], test=test)

    def settled(self, scene: emoji.Scene) -> emoji.Scene:
        return emoji.settled(scene)

    def caption(self, scene: emoji.Scene, rng: np.random.Generator, *, test: bool = False) -> str:
        return wording.caption(scene, rng, test=test)

    def render(
        self, scene: emoji.Scene, height: int, width: int, frames: np.ndarray | range
    ) -> np.ndarray:
        return stage.render(scene, height, width, frames)

    def boxes(self, scene: emoji.Scene, frame: float) -> list[Box]:
        edge = stage.EDGE[True]
        return [
            (
                pose.x - (abs(pose.width) / 2 + edge) * pose.size,
                pose.x + (abs(pose.width) / 2 + edge) * pose.size,
                pose.y - edge * pose.size,
                pose.y + (1 + edge) * pose.size,
            )
            for pose in emoji.poses(scene, frame)
        ]

    @property
    def knows(self) -> dict[str, list[str]]:
        subjects = (wording.nouns(name) for name in NAMES[: self.subjects])
        motions = (phrase for both in wording.MOTION_WORDS.values() for phrase in both)
        return {
            "subjects": _phrases(subjects),
            "colours": list(emoji.COLOURS),
            "motions": _phrases(motions),
            "grounds": _phrases(wording.GROUND_WORDS.values()),
            "skies": _phrases(wording.SKY_WORDS.values()),
            "weathers": _phrases(wording.WEATHER_WORDS.values()),
            "other": _between([*wording.FORMS, *wording.NOUN_FORMS, "an the and"]),
        }

    @property
    def fact_sizes(self) -> tuple[int, ...]:
        each = len(NAMES) + 1, len(emoji.COLOURS) + 1
        parts = (emoji.MOTIONS, emoji.SKIES, emoji.GROUNDS)
        return *each, *each, *map(len, parts), len(emoji.WEATHERS) + 1

    def facts(self, scene: emoji.Scene) -> tuple[int, ...]:
        """Subject and paper of the left and the right sticker (0 is none), then the rest."""
        actors: list[int] = []
        for actor in scene.actors:
            colour = 1 + list(emoji.COLOURS).index(actor.colour) if actor.colour else 0
            actors += [1 + NAMES.index(actor.subject), colour]
        return (
            *(actors + [0, 0])[:4],
            emoji.MOTIONS.index(scene.motion),
            emoji.SKIES.index(scene.sky),
            emoji.GROUNDS.index(scene.ground),
            1 + emoji.WEATHERS.index(scene.weather) if scene.weather else 0,
        )


def _phrases(groups: Iterable[Iterable[str]]) -> list[str]:
    """All phrases of the groups, each once."""
    return list(dict.fromkeys(phrase for group in groups for phrase in group))


def _between(forms: Iterable[str]) -> list[str]:
    """The words that stand between what is filled into forms."""
    texts = (re.sub(r"\{\w+\}|[,:]", " ", form) for form in forms)
    return _phrases(text.split() for text in texts)


KINDS: dict[str, type[PaperWorld] | type[EmojiWorld]] = {"paper": PaperWorld, "emoji": EmojiWorld}


def open_world(kind: str, **settings: Any) -> World:
    """The world of this kind. Raises ValueError for a kind there is not."""
    if kind not in KINDS:
        raise ValueError(f"the world is {kind}; choose one of {', '.join(KINDS)}")
    return KINDS[kind](**settings)


def scenes_of(world: World, seed: int, count: int) -> list[Any]:
    """The scenes of a training set."""
    rng = np.random.default_rng(seed)
    return [world.scene(rng) for _ in range(count)]


def box_weights(
    world: World, scenes: Sequence[Any], frame: int, rows: int, columns: int, times: float
) -> np.ndarray:
    """Loss weights float32 [N, rows, columns]: `times` where a subject is at the frame, else 1."""
    weights = np.ones((len(scenes), rows, columns), np.float32)
    for weight, scene in zip(weights, scenes, strict=True):
        for left, right, bottom, top in world.boxes(scene, frame):
            down = slice(max(0, int((1 - top) * rows)), max(0, int((1 - bottom) * rows) + 1))
            across = slice(max(0, int(left * rows)), max(0, int(right * rows) + 1))
            weight[down, across] = times
    return weights
