"""The pyramid's flow-matching schedule: one `Stage` per resolution, and the Euler step.

Stages share the noise levels 1..0; because a coarse result is upsampled and noised again between
stages, each later stage starts noisier than the one before it ended ("corrected" start sigma;
Pyramidal Flow Matching, arXiv 2410.05954, section 3.2; Neodragon, arXiv 2511.06055, eq. D5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.config import ScheduleConfig

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Stage:
    """The noise levels of one stage, 0 coarse.

    start_sigma, end_sigma: share of noise at its start (corrected) and end; original_start_sigma:
    before the correction; ratio_start, ratio_end: its part of the timestep axis, 0 to 1;
    first_timestep, last_timestep: 0..1000, at local sigma 1 and 1 / train_timesteps;
    alpha, beta: factors of the upsampled latent and of block noise on entering (1, 0 in stage 0).
    """

    start_sigma: float
    end_sigma: float
    original_start_sigma: float
    ratio_start: float
    ratio_end: float
    first_timestep: float
    last_timestep: float
    last_sigma: float
    alpha: float
    beta: float

    def timesteps(self, steps: int) -> NDArray[np.float64]:
        """Timesteps the network is given, falling: float64 [steps].

        With `steps` equal to train_timesteps it is the stage's training grid.
        """
        return np.linspace(self.first_timestep, self.last_timestep, steps)

    def sigmas(self, steps: int) -> NDArray[np.float64]:
        """Local noise levels, 1 at the stage's start and 0 at its end: float64 [steps + 1]."""
        return np.append(np.linspace(1.0, self.last_sigma, steps), 0.0)


def stage_schedule(config: ScheduleConfig) -> tuple[Stage, ...]:
    """The stages of a schedule, coarse to fine."""
    count = config.train_timesteps
    gamma = config.gamma
    borders = [int(border * count) for border in config.stage_range]
    starts = [1 - border / count for border in borders[:-1]]
    ends = [1 - border / count for border in borders[1:]]
    alphas, betas, corrected = [1.0], [0.0], [starts[0]]
    for start in starts[1:]:
        alpha = 1 / (np.sqrt(1 + 1 / gamma) * start + 1 - start)
        alphas.append(float(alpha))
        betas.append(float(alpha * start / np.sqrt(gamma)))
        corrected.append(float(1 - alpha * (1 - start)))
    spans = [start - end for start, end in zip(corrected, ends, strict=True)]
    ratios = np.concatenate([[0.0], np.cumsum(spans) / sum(spans)])
    ratios[-1] = 1.0
    stages = []
    for index, start in enumerate(starts):
        # The timestep axis is count, count - 1, .. 1, so its last border is its last entry.
        first = count - int(ratios[index] * count)
        final = max(count - int(ratios[index + 1] * count), 1)
        stages.append(
            Stage(
                start_sigma=corrected[index],
                end_sigma=ends[index],
                original_start_sigma=start,
                ratio_start=float(ratios[index]),
                ratio_end=float(ratios[index + 1]),
                first_timestep=1000.0 / count * first,
                last_timestep=1000.0 / count * _last(first, final, count),
                last_sigma=1 / count,
                alpha=alphas[index],
                beta=betas[index],
            )
        )
    return tuple(stages)


def _last(first: int, final: int, count: int) -> float:
    """The last of `count` points from `first` that would reach `final` one later.

    Rounded to float32 as the published grid is, which matters near 0.
    """
    return float(np.float32(first) + np.float32((final - first) * (count - 1) / count))


def euler_step(latent: Floats, flow: Floats, sigma: float, sigma_next: float) -> Floats:
    """One step along `flow` (start - end, `latent`'s shape) from local `sigma` to `sigma_next`."""
    return latent + np.float32(sigma_next - sigma) * flow


def renoise(upsampled: Floats, block_noise: Floats, stage: Stage) -> Floats:
    """Enter `stage`: the upsampled result of the stage before, float32, mixed with block noise."""
    return np.float32(stage.alpha) * upsampled + np.float32(stage.beta) * block_noise
