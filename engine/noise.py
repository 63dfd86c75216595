"""Every random draw: streams keyed by what they are for, so that parts of a clip re-roll apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Shape = tuple[int, int, int, int]


def stream(seed: int, purpose: str, unit: int = 0, stage: int = 0) -> np.random.Generator:
    """An independent Philox generator for each (seed, purpose, unit, stage).

    The key is a hash of the four, so the stream is the same on every platform.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{unit}/{stage}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def normal(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Standard normal noise, float32 of `shape`."""
    return generator.standard_normal(shape, dtype=np.float32)


def block_noise(generator: np.random.Generator, shape: Shape, gamma: float) -> Floats:
    """Noise that undoes the blockiness of nearest upsampling: float32 of `shape` [C, T, H, W].

    Each 2x2 block has variance 1 and covariance -gamma between its cells; at gamma = 1/3 it sums
    to zero (arXiv 2410.05954, section 3.2). gamma is in [0, 1/3]. Raises ValueError on odd sides.
    """
    channels, frames, height, width = shape
    if height % 2 or width % 2:
        raise ValueError(f"block noise needs even sides, not {height}x{width}")
    draw = normal(generator, (channels, frames, height // 2, 2, width // 2, 2))
    mean = draw.mean(axis=(3, 5), keepdims=True)
    deviation = np.float32(np.sqrt(1 + gamma)) * (draw - mean)
    common = np.float32(np.sqrt(max(1 - 3 * gamma, 0.0))) * mean
    noise: Floats = (deviation + common).reshape(shape)
    return noise


class SeededNoise:
    """The noise of one clip: `look_seed` draws unit 0, `motion_seed` the units after it.

    shape: of one unit's latent at the finest stage, [C, 1, H, W]; forks: units from which on
    another motion seed draws, each with that seed, in order.
    """

    def __init__(
        self,
        look_seed: int,
        motion_seed: int,
        shape: Shape,
        gamma: float,
        forks: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.look_seed = look_seed
        self.motion_seed = motion_seed
        self.forks = forks
        self.shape = shape
        self.gamma = gamma

    def _seed(self, unit: int) -> int:
        if unit == 0:
            return self.look_seed
        return next((s for first, s in reversed(self.forks) if first <= unit), self.motion_seed)

    def initial(self, unit: int) -> Floats:
        """Standard normal noise at the finest stage, float32 [C, 1, H, W]."""
        return normal(stream(self._seed(unit), "initial", unit), self.shape)

    def block(self, unit: int, stage: int, shape: Shape) -> Floats:
        """Block noise for entering `stage`, float32 of `shape`."""
        return block_noise(stream(self._seed(unit), "block", unit, stage), shape, self.gamma)

    def posterior(self) -> Floats:
        """Standard normal noise for sampling the first frame's latent, float32 [C, 1, H, W]."""
        return normal(stream(self.look_seed, "posterior"), self.shape)
