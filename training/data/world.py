"""Paper theatre: the procedural world the mini model is trained on.

A scene is a sky, a ground, one coloured paper cut-out and one motion (of the cut-out or of the
camera). `render` draws it at any size from signed distances, anti-aliased by the distance itself;
everything follows from a seed. `caption` words it in varying order. Because the world is ours,
`training.evaluation.detect` can read every attribute back from frames.

It knows nothing of models, latents or packs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FRAMES = 49

COLOURS = {
    "red": (214, 32, 38),
    "orange": (245, 130, 20),
    "yellow": (250, 214, 30),
    "green": (24, 140, 60),
    "blue": (36, 84, 214),
    "purple": (130, 50, 170),
    "pink": (244, 96, 170),
    "brown": (122, 72, 36),
}
# Sky and ground: colour far from the horizon, colour at it. Paler or darker than every cut-out.
SKIES = {
    "day": ((172, 212, 240), (216, 236, 246)),
    "night": ((36, 40, 84), (66, 72, 122)),
    "sunset": ((232, 172, 158), (250, 222, 186)),
    "cloudy": ((138, 142, 152), (178, 182, 188)),
}
GROUNDS = {
    "meadow": ((140, 182, 116), (172, 206, 146)),
    "desert": ((222, 192, 140), (234, 212, 170)),
    "snow": ((226, 234, 244), (242, 246, 250)),
    "sea": ((104, 152, 186), (140, 182, 206)),
}
WHITE = (255, 253, 248)  # paper edges, clouds, stars, stems

SKY_WORDS = {
    "day": ("on a sunny day", "in daylight"),
    "night": ("at night", "under the stars"),
    "sunset": ("at sunset", "in the evening"),
    "cloudy": ("on a cloudy day", "under grey clouds"),
}
GROUND_WORDS = {
    "meadow": ("on a meadow", "on the grass"),
    "desert": ("in the desert", "on the sand"),
    "snow": ("on the snow", "in a snowy field"),
    "sea": ("on the sea", "on the water"),
}
MOTION_WORDS = {
    "right": ("slides to the right", "moves right"),
    "left": ("slides to the left", "moves left"),
    "up": ("floats up", "rises into the air"),
    "jump": ("bounces up and down", "jumps"),
    "zoom": ("waits while the camera zooms in", "stays as the camera moves closer"),
    "still": ("stands still", "does not move"),
}
FORMS = (
    "a {colour} {subject} {motion} {ground} {sky}",
    "{sky} a {colour} {subject} {motion} {ground}",
    "{ground} {sky} a {colour} {subject} {motion}",
)


def _polygon(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, dtype=np.float32)


def _star() -> np.ndarray:
    angle = np.pi / 2 + np.arange(10) * np.pi / 5
    radius = np.where(np.arange(10) % 2 == 0, 0.56, 0.25)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle) - 0.05], -1).astype(np.float32)


def _cap() -> np.ndarray:
    angle = np.linspace(0, np.pi, 17)
    return np.stack([0.55 * np.cos(angle), 0.62 * np.sin(angle) - 0.12], -1).astype(np.float32)


# Each cut-out in a box of height 1 around the origin, y up: coloured polygons, then white ones on
# top. A bare number is a disc.
SHAPES: dict[str, tuple[list[np.ndarray | float], list[np.ndarray]]] = {
    "ball": ([0.5], [_polygon((-0.46, 0.07), (0.46, 0.07), (0.46, -0.07), (-0.46, -0.07))]),
    "star": ([_star()], []),
    "house": (
        [
            _polygon((-0.42, -0.5), (0.42, -0.5), (0.42, 0.08), (-0.42, 0.08)),
            _polygon((-0.58, 0.08), (0.58, 0.08), (0, 0.5)),
        ],
        [_polygon((-0.11, -0.5), (0.11, -0.5), (0.11, -0.16), (-0.11, -0.16))],
    ),
    "boat": (
        [
            _polygon((-0.4, -0.5), (0.4, -0.5), (0.62, -0.16), (-0.62, -0.16)),
            _polygon((-0.03, -0.1), (0.5, -0.1), (-0.03, 0.5)),
            _polygon((-0.11, -0.1), (-0.42, -0.1), (-0.11, 0.3)),
        ],
        [],
    ),
    "rocket": (
        [
            _polygon((-0.17, -0.42), (0.17, -0.42), (0.19, 0.12), (0, 0.56), (-0.19, 0.12)),
            _polygon((-0.17, -0.12), (-0.38, -0.5), (-0.17, -0.4)),
            _polygon((0.17, -0.12), (0.38, -0.5), (0.17, -0.4)),
        ],
        [_polygon((-0.08, 0.02), (0.08, 0.02), (0.08, 0.18), (-0.08, 0.18))],
    ),
    "mushroom": (
        [_cap()],
        [_polygon((-0.14, -0.5), (0.14, -0.5), (0.11, -0.12), (-0.11, -0.12))],
    ),
}
SUBJECTS = tuple(SHAPES)
MOTIONS = tuple(MOTION_WORDS)


def held_out(colour: str, subject: str) -> bool:
    """Whether this pair is kept out of training (six of the forty-eight)."""
    return (list(COLOURS).index(colour) + 3 * SUBJECTS.index(subject)) % 8 == 0


@dataclass(frozen=True)
class Scene:
    """One clip's content; lengths are in frame heights, y up from the bottom, x from the left."""

    colour: str
    subject: str
    sky: str
    ground: str
    motion: str
    size: float  # height of the cut-out
    x: float  # centre at the first frame
    y: float  # foot at the first frame
    phase: float  # 0..1, shape of the horizon
    look: int  # seed of clouds, stars, moon


def sample_scene(rng: np.random.Generator, *, held_out_pairs: bool = False) -> Scene:
    """Draw a scene; cut-out pairs are only the training set's, or only the held-out ones."""
    while True:
        colour, subject = rng.choice(list(COLOURS)), rng.choice(SUBJECTS)
        if held_out(colour, subject) == held_out_pairs:
            break
    motion = str(rng.choice(MOTIONS))
    start = {"right": 0.42, "left": 1.08}.get(motion, 0.75)
    return Scene(
        colour=str(colour),
        subject=str(subject),
        sky=str(rng.choice(list(SKIES))),
        ground=str(rng.choice(list(GROUNDS))),
        motion=motion,
        size=float(rng.uniform(0.42, 0.5)),
        x=float(start + rng.uniform(-0.07, 0.07)),
        y=float(rng.uniform(0.12, 0.16)),
        phase=float(rng.uniform()),
        look=int(rng.integers(2**31)),
    )


def scenes_of(seed: int, count: int) -> list[Scene]:
    """The scenes of a training set."""
    rng = np.random.default_rng(seed)
    return [sample_scene(rng) for _ in range(count)]


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Word the scene: one of three orders, two wordings for each part."""
    return str(rng.choice(FORMS)).format(
        colour=scene.colour,
        subject=scene.subject,
        motion=rng.choice(MOTION_WORDS[scene.motion]),
        ground=rng.choice(GROUND_WORDS[scene.ground]),
        sky=rng.choice(SKY_WORDS[scene.sky]),
    )


def _distance(points: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance to a simple polygon (negative inside); x, y of any equal shape."""
    nearest = np.full(x.shape, 1e9, np.float32)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, 0), strict=True):
        ex, ey = bx - ax, by - ay
        px, py = x - ax, y - ay
        t = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, (px - t * ex) ** 2 + (py - t * ey) ** 2)
        if ay != by:
            inside ^= ((ay > y) != (by > y)) & (x < (y - ay) * (ex / ey) + ax)
    return np.sqrt(nearest) * np.where(inside, -1, 1)


def _union(
    shapes: list[np.ndarray | float] | list[np.ndarray], x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    out = np.full(x.shape, 1e9, np.float32)
    for shape in shapes:
        one = np.hypot(x, y) - shape if isinstance(shape, float) else _distance(shape, x, y)
        out = np.minimum(out, one)
    return out


def _paint(
    image: np.ndarray, distance: np.ndarray, colour: np.ndarray, pixel: float, opacity: float = 1
) -> None:
    """Lay a shape over `image` in place; coverage falls over one pixel at its edge."""
    cover = np.clip(0.5 - distance / pixel, 0, 1)[..., None] * opacity
    image += (colour - image) * cover


def _backdrop(scene: Scene, x: np.ndarray, y: np.ndarray, pixel: float) -> np.ndarray:
    """Sky, its details and the ground at the given positions, float32 RGB in 0..255."""
    far, near = (np.array(c, np.float32) for c in SKIES[scene.sky])
    image = far + (near - far) * np.clip((1 - y) / 0.6, 0, 1)[..., None]
    white = np.array(WHITE, np.float32)
    rng = np.random.default_rng(scene.look)
    if scene.sky == "night":
        for _ in range(7):
            sx, sy = rng.uniform(0.05, 1.45), rng.uniform(0.5, 0.95)
            _paint(image, np.hypot(x - sx, y - sy) - 0.012, white, pixel)
    if scene.sky in ("night", "sunset"):
        sx, sy, radius = (
            (rng.uniform(0.2, 1.3), 0.82, 0.08)
            if scene.sky == "night"
            else (rng.uniform(0.3, 1.2), 0.46, 0.17)
        )
        _paint(image, np.hypot(x - sx, y - sy) - radius, white, pixel, 0.9)
    else:
        for _ in range(2):
            sx, sy = rng.uniform(0.15, 1.35), rng.uniform(0.72, 0.9)
            puff = np.minimum(
                np.hypot(x - sx, (y - sy) * 1.3) - 0.075,
                np.hypot(x - sx - 0.1, (y - sy + 0.02) * 1.3) - 0.055,
            )
            _paint(
                image,
                np.minimum(puff, np.hypot(x - sx + 0.1, (y - sy + 0.02) * 1.3) - 0.05),
                white,
                pixel,
                0.75,
            )
    wave, height = {
        "meadow": (1.0, 0.035),
        "desert": (1.6, 0.025),
        "snow": (0.7, 0.03),
        "sea": (5.0, 0.008),
    }[scene.ground]
    horizon = 0.38 + height * np.sin(2 * np.pi * (wave * x + scene.phase))
    far, near = (np.array(c, np.float32) for c in GROUNDS[scene.ground])
    _paint(image, y - horizon, far + (near - far) * np.clip(y / 0.38, 0, 1)[..., None], pixel)
    return image


def pose(scene: Scene, frame: float) -> tuple[float, float, float]:
    """(x, y of the foot, camera zoom) of the cut-out at a frame 0..48.

    From one unit to the next (8 frames) it moves by whole eighths of the frame's height sideways,
    quarters when it jumps, sixteenths when it rises: whole or half tokens of the mini transformer,
    which can then copy what it has seen.
    """
    t = frame / (FRAMES - 1)
    x = scene.x + {"right": 0.75, "left": -0.75}.get(scene.motion, 0.0) * t
    peak = 0.25 / np.sin(np.pi / 3)
    y = scene.y + {"up": 0.375 * t, "jump": peak * abs(np.sin(2 * np.pi * t))}.get(
        scene.motion, 0.0
    )
    return x, float(y), 1 + 0.5 * t if scene.motion == "zoom" else 1.0


def render(
    scene: Scene, height: int, width: int, frames: np.ndarray | range = range(FRAMES)
) -> np.ndarray:
    """Frames of the scene, uint8 [T, H, W, 3]; the picture is 1 high and width / height wide."""
    pixel = 1 / height
    x, y = np.meshgrid((np.arange(width) + 0.5) * pixel, 1 - (np.arange(height) + 0.5) * pixel)
    x, y = x.astype(np.float32), y.astype(np.float32)
    coloured, white = SHAPES[scene.subject]
    paint = np.array(COLOURS[scene.colour], np.float32)
    out = np.empty((len(frames), height, width, 3), np.uint8)
    still = _backdrop(scene, x, y, pixel)
    for i, frame in enumerate(frames):
        foot_x, foot_y, zoom = pose(scene, float(frame))
        size = scene.size * zoom
        centre_x, centre_y = foot_x, foot_y + size / 2
        if zoom == 1:
            image = still.copy()
        else:  # the camera closes in on the foot of the cut-out
            image = _backdrop(
                scene, foot_x + (x - foot_x) / zoom, foot_y + (y - foot_y) / zoom, pixel / zoom
            )
        half = 0.78 * size
        rows = slice(
            max(0, int((1 - centre_y - half) * height)),
            max(0, int((1 - centre_y + half) * height) + 1),
        )
        cols = slice(
            max(0, int((centre_x - half) * height)), max(0, int((centre_x + half) * height) + 1)
        )
        lx, ly = (x[rows, cols] - centre_x) / size, (y[rows, cols] - centre_y) / size
        body, detail = _union(coloured, lx, ly), _union(white, lx, ly)
        region, edge = image[rows, cols], np.minimum(body, detail) - 0.045
        _paint(region, _shift(edge, size * height), np.zeros(3, np.float32), pixel / size, 0.22)
        _paint(region, edge, np.array(WHITE, np.float32), pixel / size)
        _paint(region, body, paint * (1 + 0.1 * ly[..., None]), pixel / size)
        _paint(region, detail, np.array(WHITE, np.float32), pixel / size)
        out[i] = np.clip(image + 0.5, 0, 255).astype(np.uint8)
    return out


def _shift(distance: np.ndarray, size: float) -> np.ndarray:
    """The cut-out's shadow: its distance field moved right and down by a fortieth of its height."""
    step = max(1, round(size / 40))
    return np.pad(distance, ((step, 0), (step, 0)), mode="edge")[:-step, :-step]
