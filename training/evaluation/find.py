"""Find stickers of the emoji theatre in a frame: matching over all subjects, sizes and papers.

Nothing learned and no hint of what should be there: every drawing, at every size, either way
around, on every paper, is compared with every place of the frame at a quarter of its size (by
Fourier transforms), and what fits best is fitted again at full size. Best is what explains most: by
how much the sticker's colours are nearer to the frame's than the backdrop's are, summed over the
sticker, so that a small plain patch does not pass for a plain animal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from training.data.emoji import COLOURS, Pose
from training.data.stage import place, sticker

COARSE = 4  # the search's frame is so much smaller
PAD = 0.25  # of the search's frame around it, in frame heights: stickers may be cut off
SIZES = tuple(float(size) for size in np.round(0.21 * 1.12 ** np.arange(11), 3))
PAPERS: tuple[str | None, ...] = (None, *COLOURS)
CANDIDATES = 3  # subjects
PLACES = 2  # where each is looked at, so far apart in frame heights:
APART = 0.15
OFF = 2.0  # how much a wrong colour counts beside an explained one
STEPS = (0.03, 0.015, 0.008, 0.004)  # of the fit at full size, in frame heights
TONES = np.array(list(COLOURS.values()), np.float32)


@dataclass(frozen=True)
class Found:
    """A sticker that fits: what, on which paper, where, how much it explains (in pixels of full
    contrast) and the root mean square error of its colours, 0 to 255.
    """

    subject: str
    colour: str | None
    pose: Pose
    gain: float = 0.0
    error: float = 0.0


def alone(
    subject: str, colour: str | None, style: str, pose: Pose, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """A sticker without its shadow on an empty frame: RGB times cover [H, W, 3], cover [H, W]."""
    rgb, cover = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32)
    placed = place(sticker(subject, colour, style), pose, height, width)
    if placed:
        rows, columns, pixels = placed
        opaque = pixels[..., 3]  # a shadow's is at most 0.22
        share = np.clip((opaque - 0.25) / 0.75, 0, 1)
        rgb[rows, columns] = pixels[..., :3] * (share / np.maximum(opaque, 1e-3))[..., None]
        cover[rows, columns] = share
    return rgb, cover


@dataclass(frozen=True)
class _Templates:
    """One drawing at all sizes and both ways around: conjugate spectra of what its errors come
    from. A sticker's colours are `inner`, plus `ring` times its paper's colour where that is
    tinted; only where it covers the frame well does it count.
    """

    poses: tuple[Pose, ...]
    white: np.ndarray  # [N, 3, h, w] colours on white paper
    white_cover: np.ndarray  # [N, h, w]
    inner: np.ndarray  # [N, 3, h, w]
    cover: np.ndarray
    ring: np.ndarray
    white_squares: np.ndarray  # [N]: sum of the colours' squares
    squares: np.ndarray  # [N, papers]: the same on each tinted paper


def _spectra(images: list[np.ndarray]) -> np.ndarray:
    return np.conj(np.fft.rfft2(np.stack(images), axes=(-2, -1))).astype(np.complex64)


def _opaque(rgb: np.ndarray, cover: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours [H, W, 3] where a sticker covers the frame well, and how far that counts [H, W]."""
    return rgb / np.maximum(cover, 1e-3)[..., None], np.clip((cover - 0.6) / 0.4, 0, 1)


@cache
def _templates(subject: str, style: str, height: int, width: int) -> _Templates:
    """Templates for a padded coarse frame of this shape, each in its middle."""
    frame = height / (1 + 2 * PAD)
    parts: list[list[np.ndarray]] = [[], [], [], [], []]
    poses, white_squares, squares = [], [], []
    black, yellow = (np.array(COLOURS[name], np.float32) for name in ("black", "yellow"))
    apart = (yellow - black) / ((yellow - black) @ (yellow - black))
    for size in SIZES:
        for turn in (1.0, -1.0):
            # In units of the padded frame's height, whose middle is the sticker's.
            scaled = size * frame / height
            pose = Pose(width / height / 2, 0.5 - scaled / 2, scaled, turn)
            white, white_cover = _opaque(*alone(subject, None, style, pose, height, width))
            dark, cover = _opaque(*alone(subject, "black", style, pose, height, width))
            light, _ = _opaque(*alone(subject, "yellow", style, pose, height, width))
            ring = np.clip((light - dark) @ apart, 0, 1)  # where papers differ there is paper
            inner = dark - ring[..., None] * black
            poses.append(replace(pose, size=size))
            images = (
                (white * white_cover[..., None]).transpose(2, 0, 1),
                white_cover,
                (inner * cover[..., None]).transpose(2, 0, 1),
                cover,
                ring * cover,
            )
            for part, image in zip(parts, images, strict=True):
                part.append(image)
            white_squares.append(((white**2).sum(-1) * white_cover).sum())
            tinted = [((inner + ring[..., None] * tone) ** 2).sum(-1) * cover for tone in TONES]
            squares.append([square.sum() for square in tinted])
    return _Templates(
        tuple(poses),
        *map(_spectra, parts),
        white_squares=np.array(white_squares, np.float32),
        squares=np.array(squares, np.float32),
    )


@dataclass(frozen=True)
class _Map:
    """For each place of the coarse frame the best fit of one subject: what it explains, and which
    template and paper that was, [h, w] each.
    """

    gain: np.ndarray
    template: np.ndarray
    paper: np.ndarray


def _search(
    small: np.ndarray,
    strange: np.ndarray,
    subjects: Iterable[str],
    style: str,
    turns: Sequence[float],
) -> dict[str, tuple[_Templates, _Map]]:
    """Best fits of each subject to a padded coarse frame [h, w, 3] whose pixels are so strange [h,
    w] to the backdrop.
    """
    height, width = small.shape[:2]
    channels = OFF * np.fft.rfft2(small.transpose(2, 0, 1)).astype(np.complex64)
    squares = np.fft.rfft2(OFF * (small**2).sum(-1) - strange).astype(np.complex64)

    def at(spectra: np.ndarray) -> np.ndarray:
        return np.fft.irfft2(spectra, (height, width)).astype(np.float32)

    out = {}
    for subject in subjects:
        all_of = _templates(subject, style, height, width)
        chosen = [i for i, pose in enumerate(all_of.poses) if pose.width in turns]
        white = at(squares * all_of.white_cover[chosen])
        white -= 2 * at((channels * all_of.white[chosen]).sum(1))
        white += OFF * all_of.white_squares[chosen][:, None, None]
        inner = at(squares * all_of.cover[chosen])
        inner -= 2 * at((channels * all_of.inner[chosen]).sum(1))
        ring = at(channels * all_of.ring[chosen][:, None])  # [N, 3, h, w]
        tones = (TONES @ ring.reshape(len(chosen), 3, -1)).reshape(len(chosen), -1, height, width)
        tinted = inner[:, None] - 2 * tones + OFF * all_of.squares[chosen][..., None, None]
        errors = np.concatenate([white[:, None], tinted], 1)  # [N, papers, h, w]
        flat = errors.reshape(-1, height, width)
        best = flat.argmin(0)
        out[subject] = (
            all_of,
            _Map(
                -np.take_along_axis(flat, best[None], 0)[0],
                np.array(chosen)[best // len(PAPERS)],
                best % len(PAPERS),
            ),
        )
    return out


def strangeness(frame: np.ndarray) -> np.ndarray:
    """Squared distance [H, W] of each pixel's colour from the backdrop's, taken to be that of most
    of its row or of the row's ends.
    """
    end = max(1, frame.shape[1] // 12)
    ends = np.concatenate([frame[:, :end], frame[:, -end:]], 1)
    rows = [np.median(part, 1, keepdims=True) for part in (frame, ends)]
    return np.minimum(*(((frame - row) ** 2).sum(-1) for row in rows)).astype(np.float32)


@dataclass(frozen=True)
class Look:
    """A frame to fit stickers to: float32 colours [H, W, 3] and their `strangeness` [H, W]."""

    frame: np.ndarray
    strange: np.ndarray
    style: str

    @classmethod
    def at(cls, frame: np.ndarray, style: str) -> Look:
        """Of a frame uint8 [H, W, 3]."""
        colours = frame.astype(np.float32)
        return cls(colours, strangeness(colours), style)

    def measured(self, candidate: Found) -> Found:
        """The same with its gain and error here."""
        textures = sticker(candidate.subject, candidate.colour, self.style)
        placed = place(textures, candidate.pose, *self.frame.shape[:2])
        seen = placed[2][..., 3] > 0.6 if placed else np.zeros(0, bool)
        if placed is None or seen.sum() < 12:
            return replace(candidate, gain=0.0, error=255.0)
        rows, columns, pixels = placed
        shown = pixels[seen]
        off = ((self.frame[rows, columns][seen] - shown[:, :3] / shown[:, 3:]) ** 2).sum(-1)
        gain = float((self.strange[rows, columns][seen] - OFF * off).sum()) / (3 * 255**2)
        return replace(candidate, gain=gain, error=float(np.sqrt(off.mean() / 3)))


def fit(look: Look, start: Found, *, sizes: bool = True) -> Found:
    """The same sticker at the place, and if `sizes` of the size, that explains most nearby."""
    best = look.measured(start)
    for step in STEPS:
        moved = True
        while moved:
            moved, pose = False, best.pose
            tries = [
                replace(pose, x=pose.x + step),
                replace(pose, x=pose.x - step),
                replace(pose, y=pose.y + step),
                replace(pose, y=pose.y - step),
            ]
            if sizes:
                tries += [
                    replace(pose, size=pose.size + grown, y=pose.y - share * grown)
                    for grown in (step, -step)
                    for share in (0.5, 0.0)  # around its middle, and on its foot
                    if 0.1 < pose.size + grown < 0.85
                ]
            for attempt in tries:
                other = look.measured(replace(best, pose=attempt))
                if other.gain > best.gain + 1e-6:
                    best, moved = other, True
    return best


def papers(look: Look, sticker: Found) -> Found:
    """The same on the paper that explains most."""
    each = [look.measured(replace(sticker, colour=paper)) for paper in PAPERS]
    return max(each, key=lambda one: one.gain)


def find(
    frame: np.ndarray,
    subjects: Sequence[str],
    count: int = 1,
    style: str = "fluent",
    turns: Sequence[float] = (1.0, -1.0),
) -> list[Found]:
    """The `count` stickers that explain most of a frame uint8 [H, W, 3], from left to right, no two
    in one place. Of the coarse search's subjects the best few are fitted at full size.
    """
    look, out = Look.at(frame, style), []
    for _ in range(count):
        best = _best(look, subjects, turns)
        out.append(best)
        cover = alone(best.subject, best.colour, style, best.pose, *frame.shape[:2])[1]
        # What is explained is as plain as the backdrop to the next.
        look = replace(look, strange=np.where(cover > 0.1, 0, look.strange))
    return sorted(out, key=lambda sticker: sticker.pose.x)


def _best(look: Look, subjects: Sequence[str], turns: Sequence[float]) -> Found:
    """The sticker that explains most."""
    height, width = (side // COARSE for side in look.strange.shape)
    small, strange = (
        part[: height * COARSE, : width * COARSE]
        .reshape(height, COARSE, width, COARSE, -1)
        .mean((1, 3))
        for part in (look.frame, look.strange[..., None])
    )
    pad = round(PAD * height)
    edges = ((pad, pad), (pad, pad))
    padded = np.pad(small, (*edges, (0, 0)), mode="edge")
    maps = _search(padded, np.pad(strange[..., 0], edges), subjects, look.style, turns)
    names = list(maps)
    # A template's place is where its middle, the padded frame's, would have moved.
    gains = np.fft.fftshift(np.stack([maps[name][1].gain for name in names]), axes=(1, 2))
    gains = gains[:, pad : pad + height, pad : pad + width]
    candidates = []
    near = round(APART * height)
    for which in np.argsort(gains.max((1, 2)))[::-1][:CANDIDATES]:
        all_of, fits = maps[names[which]]
        template_at, paper_at = (np.fft.fftshift(part) for part in (fits.template, fits.paper))
        for _ in range(PLACES):
            row, column = np.unravel_index(gains[which].argmax(), gains[which].shape)
            around = slice(max(0, row - near), row + near + 1)
            gains[which, around, max(0, column - near) : column + near + 1] = -np.inf
            shape = all_of.poses[int(template_at[row + pad, column + pad])]
            x, middle = float(column) / height, 1 - float(row) / height
            pose = replace(shape, x=x, y=middle - shape.size / 2)
            paper = PAPERS[int(paper_at[row + pad, column + pad])]
            for colour in {paper, None}:  # white paper is narrower: its fit differs
                candidates.append(papers(look, fit(look, Found(names[which], colour, pose))))
    return max(candidates, key=lambda candidate: candidate.gain)
