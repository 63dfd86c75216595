"""Generate latents in batches with the torch transformer: data for step distillation.

The same loop as `engine.sampler`, for many prompts at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from engine.config import ModeConfig
from engine.scheduler import Stage
from training.recipes.pyramid import double_size, half_size, history, levels

# (history and current, timestep [B], negative) -> flow of the current unit
Flow = Callable[[list[Tensor], Tensor, bool], Tensor]


def block_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Noise of unit variance whose 2x2 blocks sum to zero (engine.noise; gamma 1/3)."""
    noise = torch.randn(like.shape, generator=generator).to(like)
    return (4 / 3) ** 0.5 * (noise - double_size(half_size(noise)))


def guided(flow: Flow, inputs: list[Tensor], timestep: Tensor, guidance: float) -> Tensor:
    """Flow with classifier-free guidance; one evaluation where it is 1."""
    if guidance == 1:
        return flow(inputs, timestep, False)
    negative = flow(inputs, timestep, True)
    return negative + guidance * (flow(inputs, timestep, False) - negative)


@torch.no_grad()
def sample_clips(
    flow: Flow,
    stages: Sequence[Stage],
    mode: ModeConfig,
    shape: tuple[int, ...],
    generator: torch.Generator,
    first: Tensor | None = None,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Normalised latents of `shape` [B, C, T, h, w]; `first` [B, C, 1, h, w] is unit 0 if given.

    Raises ValueError where the mode cannot generate unit 0 and none is given.
    """
    batch, channels, units, height, width = shape
    done = [] if first is None else [first.to(device)]
    for unit in range(len(done), units):
        steps, guidance = (
            (mode.steps, mode.guidance) if unit else (mode.first_steps, mode.first_guidance)
        )
        if steps is None or guidance is None:
            raise ValueError("this mode does not generate the first unit; give its latent")
        past = levels(torch.cat(done, 2), len(stages)) if done else []
        latent = torch.randn(batch, channels, 1, height, width, generator=generator).to(device)
        for _ in stages[1:]:
            latent = 2 * half_size(latent)
        for index, stage in enumerate(stages):
            if index:
                latent = double_size(latent)
                latent = stage.alpha * latent + stage.beta * block_noise(latent, generator)
            before = history(past, unit, index) if past else []
            sigmas = stage.sigmas(steps[index])
            for step, timestep in enumerate(stage.timesteps(steps[index])):
                times = torch.full((batch,), float(timestep), device=device)
                prediction = guided(flow, [*before, latent], times, guidance)
                latent = latent + float(sigmas[step + 1] - sigmas[step]) * prediction.float()
        done.append(latent)
    return torch.cat(done, 2)
