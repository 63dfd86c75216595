"""Emoji theatre: the world the mini model is trained on.

A scene is a sky, a ground, perhaps weather, one or two paper stickers and one motion, of the
stickers or of the camera. The stickers are the drawings of `training.data.drawings`, each on white
paper or, where a colour is named, on paper of that colour. Everything follows from a seed;
`training.data.stage` draws a scene and `training.data.wording` words it.

Given its first frame and its caption a clip is known but for the weather, whose particles live
around one key frame and are drawn afresh for each: that is what a distribution has to be matched
for.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

FRAMES = 49
UNIT = 8  # frames from one latent frame to the next

COLOURS = {
    "red": (222, 36, 44),
    "orange": (250, 134, 24),
    "yellow": (252, 220, 40),
    "green": (24, 160, 70),
    "blue": (40, 96, 226),
    "purple": (140, 60, 190),
    "pink": (250, 110, 180),
    "black": (40, 40, 46),
}
SKIES = ("day", "night", "sunset", "cloudy", "dawn", "aurora", "rainbow")
GROUNDS = ("meadow", "desert", "snow", "sea", "street", "stage", "moon", "leaves", "flowers")
WEATHERS = ("snow", "rain", "confetti", "glitter")
MOTIONS = ("still", "left", "right", "up", "jump", "closer", "spin", "pan", "zoom", "chase")
ALONE = MOTIONS[:-1]  # what one sticker does, and what two do
TOGETHER = ("still", "left", "right", "jump", "chase")
RIGHTWARDS = ("right", "pan", "chase")
# Drawings that look to one side. They look where they go; all others look at us.
LOOK_LEFT = frozenset(
    "cat elephant rabbit dragon unicorn t-rex turtle snail tropical-fish automobile dog "
    "spouting-whale honeybee duck horse pig tiger helicopter cow ewe mouse hedgehog giraffe zebra "
    "snake shark dolphin seal swan flamingo parrot eagle camel deer chipmunk".split()
)
LOOK_RIGHT = frozenset(("rocket", "airplane"))

LATENT = 1 / 16  # of the mini, in frame heights
SPEED = 0.125  # of a sticker or the camera in frame heights a unit: one token of the mini
PEAK = 0.25 / np.sin(np.pi / 3)  # of a jump: a quarter of the height at the key frames beside it


@dataclass(frozen=True)
class Actor:
    """One sticker; lengths are in frame heights, y up from the bottom, x from the left."""

    subject: str
    colour: str | None  # of its paper; None is white and unnamed
    size: float  # longer side of the drawing
    x: float  # centre at the first frame
    y: float  # foot at the first frame
    mirrored: bool = False


@dataclass(frozen=True)
class Scene:
    """One clip's content; `look` is the seed of all that is small in it, the weather too."""

    actors: tuple[Actor, ...]
    sky: str
    ground: str
    weather: str | None
    motion: str
    look: int
    style: str = "fluent"


@dataclass(frozen=True)
class Pose:
    """A sticker at a moment: foot, size, and its width as a share of the true one (negative: seen
    from behind).
    """

    x: float
    y: float
    size: float
    width: float


def poses(scene: Scene, frame: float) -> list[Pose]:
    """Each sticker on the screen at a frame 0..48.

    From one unit to the next it moves by whole tokens of the mini transformer, which can then copy
    what it has seen.
    """
    time = frame / UNIT
    rise = {"up": time / 16, "jump": PEAK * abs(np.sin(np.pi * time / 3))}.get(scene.motion, 0.0)
    across = {"right": 1.0, "chase": 1.0, "left": -1.0}.get(scene.motion, 0.0) * SPEED * time
    growth = 1 + time / 12 if scene.motion in ("closer", "zoom") else 1.0
    width = float(np.cos(np.pi * time / 3)) if scene.motion == "spin" else 1.0
    out = []
    for actor in scene.actors:
        sink = 0.04 * (growth - 1) if scene.motion == "closer" else 0.0
        facing = -width if actor.mirrored else width
        out.append(
            Pose(actor.x + across, actor.y + float(rise) - sink, actor.size * growth, facing)
        )
    return out


def camera(scene: Scene, frame: float) -> tuple[float, float, float]:
    """(zoom, x and y of the world's point at the screen's lower left corner) at a frame 0..48."""
    time, actor = frame / UNIT, scene.actors[0]
    if scene.motion == "zoom":  # closes in on the sticker's foot
        zoom = 1 + time / 12
        return zoom, actor.x * (1 - 1 / zoom), actor.y * (1 - 1 / zoom)
    return 1.0, SPEED * time if scene.motion == "pan" else 0.0, 0.0


def _one_in(count: int, *parts: str) -> bool:
    """Whether this combination is among one in `count`, by its words alone."""
    return zlib.crc32(" ".join(parts).encode()) % count == 0


def held_out(scene: Scene) -> bool:
    """Whether it has a combination that training never sees: a subject with a paper colour, with
    another subject, or with a motion.
    """
    names = sorted(actor.subject for actor in scene.actors)
    return (
        any(_one_in(8, a.subject, a.colour) for a in scene.actors if a.colour)
        or (len(names) > 1 and _one_in(8, *names))
        or any(_one_in(9, name, scene.motion) for name in names if scene.motion != "still")
    )


def mirrored(subject: str, motion: str) -> bool:
    """Whether the drawing must be turned around to look where it goes."""
    return subject in (
        LOOK_LEFT if motion in RIGHTWARDS else LOOK_RIGHT if motion == "left" else ()
    )


def draw_scene(rng: np.random.Generator, subjects: Sequence[str]) -> Scene:
    """Any scene of these subjects."""
    count = 2 if rng.random() < 0.25 else 1
    motion = str(rng.choice(ALONE if count == 1 else TOGETHER))
    names = rng.choice(list(subjects), count, replace=False)
    most = {"closer": 0.38, "zoom": 0.38, "up": 0.44}.get(motion, 0.5 if count == 1 else 0.38)
    sizes = rng.uniform(0.25 if count == 2 else 0.3, most, count)
    middle = {"left": 1.1, "right": 0.4}.get(motion, 0.75) + rng.uniform(-0.1, 0.1)
    places = [middle]
    if count == 2:
        gap = sizes.mean() + rng.uniform(0.1, 0.16)
        middle = {"left": 1.08, "right": 0.42, "chase": 0.42}.get(motion, 0.75)
        places = [middle - gap / 2, middle + gap / 2]
    ground = float(rng.uniform(0.08, 0.18))
    colours = [str(rng.choice(list(COLOURS))) if rng.random() < 0.45 else None for _ in names]
    actors = tuple(
        Actor(
            str(name),
            colour,
            float(size),
            float(x),
            float(np.clip(ground + rng.uniform(-0.02, 0.02), 0.07, 0.2)),
            mirrored(str(name), motion),
        )
        for name, colour, size, x in zip(names, colours, sizes, places, strict=True)
    )
    return Scene(
        actors,
        str(rng.choice(SKIES)),
        str(rng.choice(GROUNDS)),
        str(rng.choice(WEATHERS)) if rng.random() < 0.45 else None,
        motion,
        int(rng.integers(2**31)),
    )


def settled(scene: Scene) -> Scene:
    """The same with its stickers on whole latents of the mini, in sizes of whole latents.

    A network that draws first frames then has each drawing to learn in five sizes, and at no
    fraction of a latent.
    """
    return replace(
        scene,
        actors=tuple(
            replace(
                actor,
                size=max(round(actor.size / LATENT), 4) * LATENT,
                x=round(actor.x / LATENT) * LATENT,
                y=round(actor.y / LATENT) * LATENT,
            )
            for actor in scene.actors
        ),
    )


def sample_scene(rng: np.random.Generator, subjects: Sequence[str], *, test: bool = False) -> Scene:
    """A scene without, or for a test with, a combination that training never sees."""
    while True:
        scene = draw_scene(rng, subjects)
        if held_out(scene) == test:
            return scene
