"""Draw scenes of the emoji theatre: backdrop, weather behind the stickers, stickers.

Everything is anti-aliased by coverage and drawn at any size; the picture is 1 high and width /
height wide. One frame of 128x192 takes a few milliseconds.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from training.data.drawings import CELL, drawing
from training.data.emoji import COLOURS, FRAMES, UNIT, Pose, Scene, camera, poses

WHITE = (255, 253, 248)  # paper
MARGIN = 20  # pixels around a drawing for its paper and shadow
EDGE = {False: 0.045, True: 0.1}  # how far paper, white or tinted, reaches, in drawing sizes
Colour = tuple[int, int, int]

# Colour far from the horizon, colour at it.
SKY: dict[str, tuple[Colour, Colour]] = {
    "day": ((104, 176, 236), (188, 224, 246)),
    "night": ((22, 26, 66), (58, 64, 120)),
    "sunset": ((214, 108, 118), (252, 206, 142)),
    "cloudy": ((112, 118, 130), (170, 174, 182)),
    "dawn": ((178, 150, 216), (252, 210, 206)),
    "aurora": ((14, 44, 60), (40, 92, 104)),
    "rainbow": ((132, 196, 220), (214, 232, 224)),
}
# Colour at the bottom, colour at the horizon, colour of the small things on it.
GROUND: dict[str, tuple[Colour, Colour, Colour]] = {
    "meadow": ((96, 158, 74), (150, 198, 110), (62, 124, 52)),
    "desert": ((216, 178, 116), (238, 212, 160), (190, 148, 88)),
    "snow": ((214, 226, 242), (244, 248, 252), (180, 198, 226)),
    "sea": ((44, 106, 160), (104, 166, 206), (176, 216, 236)),
    "street": ((82, 84, 92), (118, 120, 128), (240, 236, 214)),
    "stage": ((150, 92, 52), (190, 128, 80), (112, 66, 36)),
    "moon": ((140, 140, 148), (186, 186, 194), (106, 106, 116)),
    "leaves": ((150, 106, 62), (186, 142, 88), (216, 96, 36)),
    "flowers": ((110, 150, 96), (158, 190, 132), (236, 128, 190)),
}
CONFETTI = ((236, 60, 80), (250, 190, 40), (60, 180, 110), (70, 120, 240), (236, 100, 210))
PARTICLES = 40  # a key frame


class Picture:
    """A float32 RGB picture [H, W, 3] in 0..255 of a part of the world; lengths in the world's."""

    def __init__(self, height: int, width: int, zoom: float, left: float, bottom: float) -> None:
        self.pixel = 1 / (height * zoom)
        self.x = (left + (np.arange(width) + 0.5) * self.pixel).astype(np.float32)
        self.y = (bottom + (height - 0.5 - np.arange(height)) * self.pixel).astype(np.float32)
        self.rgb = np.empty((height, width, 3), np.float32)

    def window(self, x: float, y: float, rx: float, ry: float) -> tuple[slice, slice]:
        """Rows and columns of the pixels within rx, ry of a point."""
        columns = np.searchsorted(self.x, (x - rx, x + rx))
        rows = len(self.y) - np.searchsorted(self.y[::-1], (y + ry, y - ry))
        return slice(*rows), slice(*columns)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, colour: Colour, opacity: float = 1.0
    ) -> None:
        """Lay a disc over the picture, its edge one pixel soft."""
        rows, columns = self.window(x, y, rx + self.pixel, ry + self.pixel)
        region = self.rgb[rows, columns]
        if region.size:
            across = (self.x[columns] - x) / rx
            along = (self.y[rows] - y) / ry
            away = np.sqrt(across**2 + along[:, None] ** 2) - 1
            self.cover(
                region, np.clip(0.5 - away * min(rx, ry) / self.pixel, 0, 1), colour, opacity
            )

    def box(
        self, x: float, y: float, rx: float, ry: float, colour: Colour, opacity: float = 1.0
    ) -> None:
        """Lay an upright rectangle over the picture."""
        rows, columns = self.window(x, y, rx + self.pixel, ry + self.pixel)
        region = self.rgb[rows, columns]
        if region.size:
            across = np.clip(0.5 + (rx - abs(self.x[columns] - x)) / self.pixel, 0, 1)
            along = np.clip(0.5 + (ry - abs(self.y[rows] - y)) / self.pixel, 0, 1)
            self.cover(region, along[:, None] * across, colour, opacity)

    def ring(
        self, x: float, y: float, radius: float, half: float, colour: Colour, opacity: float
    ) -> None:
        """Lay a ring of this radius and half width over the picture."""
        away = abs(np.hypot(self.x - x, (self.y - y)[:, None]) - radius) - half
        self.cover(self.rgb, np.clip(0.5 - away / self.pixel, 0, 1), colour, opacity)

    @staticmethod
    def cover(region: np.ndarray, share: np.ndarray, colour: Colour, opacity: float) -> None:
        """Mix a colour in by its share [h, w] of each pixel."""
        region += (np.array(colour, np.float32) - region) * (share * opacity)[..., None]


def _blend(far: Colour, near: Colour, share: np.ndarray) -> np.ndarray:
    """Rows of colours [H, 1, 3] from far (0) to near (1)."""
    first, last = (np.array(colour, np.float32) for colour in (far, near))
    return (first + (last - first) * np.clip(share, 0, 1)[:, None])[:, None]


def _cloud(picture: Picture, x: float, y: float, size: float, colour: Colour, rate: float) -> None:
    for dx, dy, r in ((-0.09, -0.015, 0.05), (0.02, 0.02, 0.075), (0.12, -0.01, 0.055)):
        picture.ellipse(x + dx * size, y + dy * size, r * size * 1.2, r * size, colour, rate)


def _spread(
    seed: int, start: float, stop: float, each: float
) -> list[tuple[float, np.random.Generator]]:
    """One place in each stretch of `each` of the world from start to stop, and what draws it: the
    same wherever the camera is.
    """
    places = range(int(np.floor(start / each)) - 1, int(np.ceil(stop / each)) + 1)
    draws = [(i, np.random.default_rng((seed, i + 1000))) for i in places]
    return [((i + rng.uniform(0.2, 0.8)) * each, rng) for i, rng in draws]


def _sky(picture: Picture, scene: Scene) -> None:
    far, near = SKY[scene.sky]
    picture.rgb[:] = _blend(far, near, (1 - picture.y) / 0.6)
    rng = np.random.default_rng((scene.look, 1))
    left, right = float(picture.x[0]), float(picture.x[-1])
    place = float(rng.uniform(0.25, 1.25))
    if scene.sky == "night":
        picture.ellipse(place, 0.84, 0.085, 0.085, (240, 236, 206))
        picture.ellipse(place + 0.035, 0.865, 0.065, 0.065, far)
        for x, own in _spread(scene.look, left, right, 0.14):
            picture.ellipse(x, own.uniform(0.5, 0.97), 0.014, 0.014, WHITE)
    elif scene.sky == "sunset":
        for i, y in enumerate(rng.uniform(0.55, 0.95, 4)):
            x = float(rng.uniform(0, 1.5))
            picture.ellipse(x, float(y), 0.4, 0.018, (250, 160, 130), 0.55 + 0.1 * (i % 2))
        picture.ellipse(place, 0.46, 0.17, 0.17, (255, 236, 170))
    elif scene.sky == "cloudy":
        for x, own in _spread(scene.look, left, right, 0.3):
            _cloud(picture, x, own.uniform(0.62, 0.93), 1.5, (206, 208, 214), 0.8)
    elif scene.sky == "dawn":
        angles = np.arctan2(picture.y[:, None] - 0.3, picture.x - place)
        rays = np.clip(0.5 + 3 * np.sin(9 * angles), 0, 1)
        picture.cover(picture.rgb, rays, (255, 226, 190), 0.4)
        picture.ellipse(place, 0.42, 0.13, 0.13, (255, 246, 214))
    elif scene.sky == "aurora":
        for i in range(3):
            phase, height = rng.uniform(0, 6.3), 0.56 + 0.14 * i
            ridge = height + 0.05 * np.sin(5 * picture.x + phase)
            band = np.clip(1 - abs(picture.y[:, None] - ridge) / 0.055, 0, 1)
            colour = ((90, 240, 170), (80, 210, 220), (190, 120, 240))[i]
            picture.cover(picture.rgb, band, colour, 0.65)
    elif scene.sky == "rainbow":
        for i, colour in enumerate(
            ((232, 80, 80), (250, 170, 60), (250, 226, 90), (90, 190, 110), (90, 120, 230))
        ):
            picture.ring(place, 0.3, 0.58 - 0.035 * i, 0.0175, colour, 0.8)
    if scene.sky in ("day", "rainbow"):
        for x, own in _spread(scene.look, left, right, 0.5):
            _cloud(picture, x, own.uniform(0.7, 0.9), 1.2, WHITE, 0.9)


def _ground(picture: Picture, scene: Scene) -> None:
    kind, seed = scene.ground, scene.look + 7
    bottom, top, thing = GROUND[kind]
    wave, height = {"meadow": (1.0, 0.03), "desert": (1.4, 0.035), "snow": (0.7, 0.03)}.get(
        kind, (0.9, 0.012 if kind in ("leaves", "flowers", "moon") else 0.0)
    )
    phase = np.random.default_rng((seed, 0)).uniform()
    horizon = 0.38 + height * np.sin(2 * np.pi * (wave * picture.x + phase))
    share = np.clip(0.5 + (horizon - picture.y[:, None]) / picture.pixel, 0, 1)
    tone = _blend(bottom, top, picture.y / 0.38)
    picture.rgb += (tone - picture.rgb) * share[..., None]
    left, right = float(picture.x[0]), float(picture.x[-1])
    if kind == "stage":
        for y in (0.31, 0.23, 0.13, 0.02):
            picture.box((left + right) / 2, y, right - left, 0.006, thing)
    elif kind == "street":
        picture.box((left + right) / 2, 0.36, right - left, 0.02, (176, 176, 178))
        for x, _ in _spread(0, left, right, 0.3):
            picture.box(round(x / 0.3) * 0.3, 0.21, 0.08, 0.014, thing)
    for x, own in _spread(seed, left, right, {"flowers": 0.07, "leaves": 0.07}.get(kind, 0.11)):
        y = float(own.uniform(0.02, 0.32))
        near = 1.3 - 1.8 * y  # things grow towards us
        if kind == "meadow":
            picture.ellipse(x, y, 0.012, 0.03 * near, thing)
            picture.ellipse(x + 0.02, y, 0.012, 0.022 * near, thing)
        elif kind == "sea":
            picture.ellipse(x, y, 0.06 * near, 0.011, thing, 0.8)
        elif kind in ("desert", "snow"):
            picture.ellipse(x, y, 0.07 * near, 0.012, thing, 0.7)
        elif kind == "moon":
            picture.ellipse(x, y, 0.055 * near, 0.026 * near, thing)
            picture.ellipse(x, y - 0.008, 0.045 * near, 0.018 * near, (150, 150, 160))
        elif kind == "leaves":
            colour = ((216, 96, 36), (236, 170, 50), (170, 50, 40))[int(own.integers(3))]
            picture.ellipse(x, y, 0.03 * near, 0.017 * near, colour)
        elif kind == "flowers":
            colour = ((236, 128, 190), (250, 240, 240), (250, 214, 80))[int(own.integers(3))]
            picture.ellipse(x, y, 0.021 * near, 0.021 * near, colour)


def particles(scene: Scene, key: int) -> np.ndarray:
    """The weather's particles around a key frame, rows (x, y, size, kind): fresh for each."""
    rng = np.random.default_rng((scene.look, 2, key))
    places = rng.uniform((0, 0.05), (1.5, 1), (PARTICLES, 2))
    kinds = rng.integers(5, size=PARTICLES)
    return np.column_stack([places, rng.uniform(0.026, 0.034, PARTICLES), kinds])


def _weather(picture: Picture, scene: Scene, frame: float) -> None:
    """Each key frame's particles appear and go within eight frames before and after it; they stay
    where they are when the camera moves.
    """
    fall = {"snow": 0.08, "rain": 0.3, "confetti": 0.12, "glitter": 0.0}[str(scene.weather)]
    for key in {int(frame // UNIT), int(-(-frame // UNIT))}:
        away = frame / UNIT - key
        opacity = 1 - abs(away)
        for x, y, size, kind in particles(scene, key):
            y = y - fall * away
            if scene.weather == "rain":
                picture.ellipse(x, y, 0.013, 0.045, (96, 150, 232), opacity)
            elif scene.weather == "snow":
                picture.ellipse(x + 0.02 * away, y, size, size, (255, 255, 255), opacity)
            elif scene.weather == "confetti":
                picture.box(x, y, size, 0.7 * size, CONFETTI[int(kind)], opacity)
            else:
                picture.ellipse(x, y, size, 0.35 * size, (255, 222, 90), opacity)
                picture.ellipse(x, y, 0.35 * size, size, (255, 222, 90), opacity)


def _distance(solid: np.ndarray) -> np.ndarray:
    """Distance in pixels of each pixel from the solid ones, up to MARGIN."""
    rows = np.where(solid, 0.0, 1e3)
    for shift in range(1, MARGIN + 1):
        rows[:-shift] = np.minimum(rows[:-shift], np.where(solid[shift:], shift, 1e3))
        rows[shift:] = np.minimum(rows[shift:], np.where(solid[:-shift], shift, 1e3))
    out = rows**2
    for shift in range(1, MARGIN + 1):
        out[:, :-shift] = np.minimum(out[:, :-shift], rows[:, shift:] ** 2 + shift**2)
        out[:, shift:] = np.minimum(out[:, shift:], rows[:, :-shift] ** 2 + shift**2)
    return np.sqrt(out)


@lru_cache(2048)
def sticker(subject: str, colour: str | None, style: str) -> tuple[np.ndarray, ...]:
    """A drawing on its paper over its shadow: premultiplied float32 RGBA 0..255 and 0..1, at full,
    half, quarter and eighth size. The cell's scale is CELL pixels to one drawing.
    """
    art = np.pad(drawing(subject, style), ((MARGIN,) * 2, (MARGIN,) * 2, (0, 0))).astype(np.float32)
    alpha = art[..., 3:] / 255
    reach = EDGE[colour is not None] * CELL
    paper = np.clip(reach + 0.5 - _distance(alpha[..., 0] > 0.5), 0, 1)[..., None]
    tone = np.array(COLOURS[colour] if colour else WHITE, np.float32)
    rgb = art[..., :3] * alpha + tone * (1 - alpha)
    shadow = 0.22 * np.roll(paper, (3, 3), (0, 1))
    whole = np.concatenate([rgb * paper, paper + shadow * (1 - paper)], -1).astype(np.float32)
    out = [whole]
    for _ in range(3):
        half = out[-1]
        out.append((half[::2, ::2] + half[1::2, ::2] + half[::2, 1::2] + half[1::2, 1::2]) / 4)
    return tuple(out)


def sample(texture: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Bilinear values [R, C, channels] of a texture at pixel-centre rows [R] and columns [C]."""
    side = len(texture)

    def around(at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at = np.clip(at - 0.5, 0, side - 1.001)
        low = at.astype(np.intp)
        return low, low + 1, (at - low).astype(np.float32)

    top, below, down = around(rows)
    left, right, along = around(columns)
    upper, lower = texture[top], texture[below]
    lines = upper + (lower - upper) * down[:, None, None]
    first, second = lines[:, left], lines[:, right]
    return first + (second - first) * along[None, :, None]


def place(
    textures: tuple[np.ndarray, ...], pose: Pose, height: int, width: int
) -> tuple[slice, slice, np.ndarray] | None:
    """Rows and columns a sticker may touch on the screen, and its pixels there; None where it is
    out of sight.
    """
    reach = (0.5 + MARGIN / CELL) * pose.size
    across = max(abs(pose.width), 0.04)
    middle = pose.y + pose.size / 2
    rows = np.arange(
        max(0, int((1 - middle - reach) * height)),
        min(height, int((1 - middle + reach) * height) + 1),
    )
    columns = np.arange(
        max(0, int((pose.x - reach * across) * height)),
        min(width, int((pose.x + reach * across) * height) + 1),
    )
    if not len(rows) or not len(columns):
        return None
    level = int(np.clip(round(np.log2(CELL / (pose.size * height))), 0, 3))
    scale = CELL / 2**level / pose.size  # texture pixels to one frame height
    side = len(textures[level])
    down = side / 2 - ((1 - (rows + 0.5) / height) - middle) * scale
    fine = max(1, round(1 / across)) if across < 0.7 else 1  # a turned one is narrow: look twice
    at = (np.arange(len(columns) * fine) + 0.5) / fine + columns[0]
    turned = scale / across * (-1 if pose.width < 0 else 1)
    pixels = sample(textures[level], down, side / 2 + (at / height - pose.x) * turned)
    pixels = pixels.reshape(len(rows), len(columns), fine, -1).mean(2)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1), pixels


def backdrop(scene: Scene, height: int, width: int, frame: float = 0) -> np.ndarray:
    """Sky and ground without weather and stickers, float32 [H, W, 3] in 0..255."""
    picture = Picture(height, width, *camera(scene, frame))
    _sky(picture, scene)
    _ground(picture, scene)
    return picture.rgb


def render(
    scene: Scene, height: int, width: int, frames: np.ndarray | range = range(FRAMES)
) -> np.ndarray:
    """Frames of the scene, uint8 [T, H, W, 3]."""
    out = np.empty((len(frames), height, width, 3), np.uint8)
    moves = scene.motion in ("pan", "zoom")
    still = None if moves else backdrop(scene, height, width)
    screen = Picture(height, width, 1.0, 0.0, 0.0)
    papers = [sticker(a.subject, a.colour, scene.style) for a in scene.actors]
    for i, frame in enumerate(frames):
        screen.rgb = backdrop(scene, height, width, frame) if still is None else still.copy()
        if scene.weather:
            _weather(screen, scene, float(frame))
        for textures, pose in zip(papers, poses(scene, float(frame)), strict=True):
            placed = place(textures, pose, height, width)
            if placed:
                rows, columns, pixels = placed
                region = screen.rgb[rows, columns]
                region *= 1 - pixels[..., 3:]
                region += pixels[..., :3]
        out[i] = np.clip(screen.rgb + 0.5, 0, 255).astype(np.uint8)
    return out
