"""Pyramidal flow matching on batches (arXiv 2410.05954): levels, history, lines and samples.

The differentiable counterpart of `engine.latents`; latents are float [B, C, T, h, w], a pyramid is
a list of them, coarse to fine, and `stages` are those of `engine.scheduler`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.scheduler import Stage

GRID = 1000  # points of a stage's timestep axis that training draws from
CORRUPTION = 1 / 3  # of the history, at most


def half_size(latent: Tensor) -> Tensor:
    """Bilinear /2 of [B, C, T, h, w]: at exactly half size, the mean of each 2x2 block."""
    return F.avg_pool3d(latent, (1, 2, 2))


def double_size(latent: Tensor) -> Tensor:
    """Nearest x2 of [B, C, T, h, w]."""
    return latent.repeat_interleave(2, -2).repeat_interleave(2, -1)


def levels(latent: Tensor, count: int) -> list[Tensor]:
    """`latent` at `count` sizes, coarse to fine."""
    pyramid = [latent]
    while len(pyramid) < count:
        pyramid.insert(0, half_size(pyramid[0]))
    return pyramid


def normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise of this shape, from a generator on the CPU."""
    return torch.randn(like.shape, generator=generator).to(like)


def uniform(batch: Tensor, generator: torch.Generator) -> Tensor:
    """One number in [0, 1) for each sample, [B, 1, 1, 1, 1]."""
    return torch.rand(len(batch), generator=generator).to(batch).view(-1, 1, 1, 1, 1)


def history(pyramid: Sequence[Tensor], unit: int, stage: int) -> list[Tensor]:
    """Past units 0..unit-1 as the sampler conditions on them, oldest first (engine.latents.history,
    batched).
    """
    past: list[Tensor] = []
    level, end = stage, unit
    if stage == 0 and unit:
        past, end = [pyramid[0][:, :, unit - 1 : unit]], unit - 1
    while level > 0 and end:
        past.insert(0, pyramid[level][:, :, end - 1 : end])
        level, end = level - 1, end - 1
    if end:
        past.insert(0, pyramid[0][:, :, :end])
    return past


def corrupt(past: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """The history with noise of one strength in [0, 1/3] for each sample."""
    if not past:
        return []
    strength = CORRUPTION * uniform(past[0], generator)
    return [strength * normal(part, generator) + (1 - strength) * part for part in past]


@dataclass(frozen=True)
class Line:
    """The straight path of one stage, [B, C, T, h, w] both; the network's target is their
    difference.
    """

    start: Tensor
    end: Tensor

    @property
    def flow(self) -> Tensor:
        """start - end, what the network predicts anywhere on the line."""
        return self.start - self.end

    def at(self, sigma: Tensor) -> Tensor:
        """The point at local noise level `sigma`, 1 at the start."""
        return sigma * self.start + (1 - sigma) * self.end


def line(stage: Stage, clean: Tensor, coarse: Tensor | None, noise: Tensor) -> Line:
    """The line of a stage: from the coarser clean latent, enlarged and noised, to the stage's own.

    coarse: `clean` one level down, None in stage 0, which starts from noise. Uses the corrected
    start sigma (arXiv 2511.06055, eq. D5).
    """
    start = noise
    if coarse is not None:
        start = stage.start_sigma * noise + (1 - stage.start_sigma) * double_size(coarse)
    return Line(start, stage.end_sigma * noise + (1 - stage.end_sigma) * clean)


def stage_line(
    pyramid: Sequence[Tensor],
    unit: int,
    index: int,
    stages: Sequence[Stage],
    generator: torch.Generator,
) -> Line:
    """The line of `unit` at stage `index`, with noise drawn at full size and halved at unit
    variance.
    """
    target = [level[:, :, unit : unit + 1] for level in pyramid]
    noise = normal(target[-1], generator)
    for _ in range(len(pyramid) - 1 - index):
        noise = 2 * half_size(noise)
    return line(stages[index], target[index], target[index - 1] if index else None, noise)


def grid_point(stage: Stage, index: Tensor) -> tuple[Tensor, Tensor]:
    """Local sigma [B, 1, 1, 1, 1] and timestep [B] of points 0..999 of a stage's grid."""
    sigmas = torch.from_numpy(stage.sigmas(GRID)[:-1]).float()[index.cpu()]
    timesteps = torch.from_numpy(stage.timesteps(GRID)).float()[index.cpu()]
    return sigmas.to(index.device).view(-1, 1, 1, 1, 1), timesteps.to(index.device)


def stage_sample(
    pyramid: Sequence[Tensor],
    unit: int,
    index: int,
    stages: Sequence[Stage],
    generator: torch.Generator,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Draw one flow-matching sample of `unit` at stage `index` for a batch (arXiv 2410.05954, eq.
    9).

    Returns the network's inputs (corrupted history, then the noisy latent), its timesteps [B] and
    the target flow [B, C, 1, h, w].
    """
    path = stage_line(pyramid, unit, index, stages, generator)
    point = torch.randint(GRID, (len(path.start),), generator=generator).to(path.start.device)
    sigma, timestep = grid_point(stages[index], point)
    past = corrupt(history(pyramid, unit, index), generator)
    return [*past, path.at(sigma)], timestep, path.flow
