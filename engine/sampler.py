"""The sampling loop: units x stages x steps, from noise to the latents of a clip.

Each unit is generated coarse to fine, conditioned on the finished units before it (Pyramidal Flow
Matching, arXiv 2410.05954, section 3; modes of Neodragon, arXiv 2511.06055).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.config import ModeConfig
from engine.latents import downsample_noise, history, image_pyramid, upsample
from engine.scheduler import Stage, euler_step, renoise

Floats = NDArray[np.float32]


class Flow(Protocol):
    """The network: the flow (start - end) of `current`, float32 of its shape [C, 1, h, w]."""

    def __call__(
        self,
        history: Sequence[Floats],
        current: Floats,
        timestep: float,
        *,
        unit: int,
        stage: int,
        negative: bool,
    ) -> Floats:
        """history: [C, t, h, w] each, oldest first; timestep: 0..1000; negative: which prompt."""
        ...


class NoiseSource(Protocol):
    """Where the loop's noise comes from; `engine.noise.SeededNoise` in production."""

    def initial(self, unit: int) -> Floats:
        """Standard normal noise of one unit at the finest stage, float32 [C, 1, H, W]."""
        ...

    def block(self, unit: int, stage: int, shape: tuple[int, int, int, int]) -> Floats:
        """Block noise of `shape` for entering `stage`."""
        ...


@dataclass(frozen=True)
class Evaluated:
    """The network was evaluated once; `done` of `total` evaluations, step counted from 0."""

    unit: int
    stage: int
    step: int
    done: int
    total: int


@dataclass(frozen=True, eq=False)
class UnitLatent:
    """A finished unit: its normalised latent, float32 [C, 1, H, W]."""

    unit: int
    latent: Floats


def evaluations(mode: ModeConfig, units: int, first_given: bool) -> int:
    """How often `sample_latents` will call the network for `units` units."""
    total = sum(mode.steps) * _passes(mode.guidance) * (units - 1)
    if not first_given:
        first_steps, first_guidance = _first(mode)
        total += sum(first_steps) * _passes(first_guidance)
    return total


def sample_latents(
    flow: Flow,
    noise: NoiseSource,
    stages: Sequence[Stage],
    mode: ModeConfig,
    units: int,
    first_latent: Floats | None = None,
) -> Generator[Evaluated | UnitLatent, None, None]:
    """Generate `units` units, yielding after every network evaluation and every finished unit.

    first_latent: normalised latent of unit 0, float32 [C, 1, H, W]; with it unit 0 is yielded as it
    is and the rest continues it, without it the network generates unit 0 with `mode.first_steps`.
    With a guidance other than 1 the network is evaluated twice a step, negative prompt first.
    Raises ValueError where the mode cannot generate unit 0 and none is given, or where its steps
    are not one per stage.
    """
    if len(mode.steps) != len(stages):
        raise ValueError(f"{len(mode.steps)} steps are given for {len(stages)} stages")
    total = evaluations(mode, units, first_latent is not None)
    done = 0
    finished: list[Floats] = []
    for unit in range(units):
        if unit == 0 and first_latent is not None:
            finished.append(first_latent)
            yield UnitLatent(0, first_latent)
            continue
        steps, guidance = (mode.steps, mode.guidance) if unit else _first(mode)
        past = image_pyramid(np.concatenate(finished, axis=1), len(stages)) if unit else []
        latent = downsample_noise(noise.initial(unit), len(stages) - 1)
        for index, stage in enumerate(stages):
            if index > 0:
                latent = upsample(latent)
                channels, frames, height, width = latent.shape
                shape = (channels, frames, height, width)
                latent = renoise(latent, noise.block(unit, index, shape), stage)
            conditions = history(past, unit, index)
            sigmas = stage.sigmas(steps[index])
            for step, timestep in enumerate(stage.timesteps(steps[index])):
                predicted: Floats | None = None
                for negative in (True, False) if _passes(guidance) == 2 else (False,):
                    output = flow(
                        conditions,
                        latent,
                        float(timestep),
                        unit=unit,
                        stage=index,
                        negative=negative,
                    )
                    if predicted is None:
                        predicted = output
                    else:
                        predicted = predicted + np.float32(guidance) * (output - predicted)
                    done += 1
                    yield Evaluated(unit, index, step, done, total)
                assert predicted is not None
                latent = euler_step(latent, predicted, sigmas[step], sigmas[step + 1])
        finished.append(latent)
        yield UnitLatent(unit, latent)


def _passes(guidance: float) -> int:
    """Network evaluations per step."""
    return 1 if guidance == 1.0 else 2


def _first(mode: ModeConfig) -> tuple[tuple[int, ...], float]:
    """Steps and guidance of unit 0."""
    if mode.first_steps is None or mode.first_guidance is None:
        raise ValueError("this mode does not generate the first unit: give its latent")
    return mode.first_steps, mode.first_guidance
