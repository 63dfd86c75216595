"""Latent arithmetic: statistics, resizing, pyramid and history; float32 [C, T, H, W] throughout."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.config import VaeConfig

Floats = NDArray[np.float32]


def _statistics(frames: int, vae: VaeConfig, first_unit: int) -> tuple[Floats, Floats]:
    """Scale and shift of each of `frames` units, float32 [T, 1, 1]."""
    first = np.arange(first_unit, first_unit + frames) == 0
    scale = np.where(first, vae.first_scale, vae.scale)[:, None, None].astype(np.float32)
    shift = np.where(first, vae.first_shift, vae.shift)[:, None, None].astype(np.float32)
    return scale, shift


def normalise(latent: Floats, vae: VaeConfig, first_unit: int = 0) -> Floats:
    """Encoder latents to about unit variance, `(latent - shift) * scale`: float32 [C, T, H, W].

    `first_unit` is the unit of the first of the T frames; unit 0 has its own statistics.
    """
    scale, shift = _statistics(latent.shape[1], vae, first_unit)
    return (latent - shift) * scale


def denormalise(latent: Floats, vae: VaeConfig, first_unit: int = 0) -> Floats:
    """Inverse of `normalise`: what the decoder reads."""
    scale, shift = _statistics(latent.shape[1], vae, first_unit)
    return latent / scale + shift


def sample_posterior(moments: Floats, noise: Floats) -> Floats:
    """Draw a latent [C, T, h, w] from the encoder's moments [2C, T, h, w], mean then log variance.

    `noise` is standard normal, [C, T, h, w]. The result is not normalised.
    """
    mean, log_variance = np.split(moments, 2)
    deviation: Floats = np.exp(np.float32(0.5) * np.clip(log_variance, -30, 20))
    return mean + deviation * noise


def upsample(latent: Floats) -> Floats:
    """Nearest-neighbour, twice the rows and columns."""
    return latent.repeat(2, axis=2).repeat(2, axis=3)


def downsample(latent: Floats) -> Floats:
    """Bilinear, half the rows and columns, which for even sides is the mean of each 2x2 block.

    Raises ValueError where a side is odd.
    """
    channels, frames, height, width = latent.shape
    if height % 2 or width % 2:
        raise ValueError(f"latent {height}x{width} has an odd side and cannot be halved")
    blocks = latent.reshape(channels, frames, height // 2, 2, width // 2, 2)
    halved: Floats = blocks.mean(axis=(3, 5), dtype=np.float32)
    return halved


def downsample_noise(noise: Floats, times: int) -> Floats:
    """Noise halved `times` times: `downsample`, then x2, which keeps its variance at 1."""
    for _ in range(times):
        noise = downsample(noise) * np.float32(2)
    return noise


def image_pyramid(latent: Floats, stages: int) -> list[Floats]:
    """`latent` at every stage's size, coarse to fine; the last is `latent` itself."""
    levels = [latent]
    for _ in range(stages - 1):
        levels.insert(0, downsample(levels[0]))
    return levels


def history(pyramid: Sequence[Floats], unit: int, stage: int) -> list[Floats]:
    """The past that `unit` is conditioned on at `stage`, oldest first, newest finest.

    `pyramid`: `image_pyramid` of at least `unit` finished units. The newest unit comes at the
    current stage's size, each one before it a stage coarser, all older ones at the coarsest
    (arXiv 2410.05954, section 3.3). Empty for unit 0.
    """
    conditions: list[Floats] = []
    end = unit
    for level in range(stage, 0, -1):
        if end > 0:
            conditions.insert(0, pyramid[level][:, end - 1 : end])
            end -= 1
    if stage == 0 and end > 0:
        conditions.insert(0, pyramid[0][:, end - 1 : end])
        end -= 1
    if end > 0:
        conditions.insert(0, pyramid[0][:, :end])
    return conditions
