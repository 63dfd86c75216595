"""Training on own rollouts: the sampler's inputs, its target, and a network that learns from it."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.config import ModeConfig
from engine.scheduler import stage_schedule
from training.distil.self_forcing import rollout_losses
from training.distil.steps import clean_estimate, true_estimate
from training.recipes.pyramid import levels, stage_line
from training.recipes.sample import sample_clips
from training.recipes.settings import SCHEDULE

STAGES = stage_schedule(SCHEDULE)
STEPS = (1, 2, 1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clips() -> Tensor:
    return torch.randn(2, 3, 4, 16, 24, generator=generator(1))


def test_the_target_is_the_estimate_of_the_true_flow() -> None:
    pyramid = levels(clips(), 3)
    for index, stage in enumerate(STAGES):
        path = stage_line(pyramid, 2, index, STAGES, generator())
        found = clean_estimate(stage, path.start, path.flow, torch.ones(2, 1, 1, 1, 1))
        wanted = true_estimate(stage, index, [level[:, :, 2:3] for level in pyramid])
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)


def test_the_network_sees_what_it_sees_when_sampling() -> None:
    seen: list[list[list[Tensor]]] = [[], []]

    def flow(run: int, inputs: list[Tensor], timestep: Tensor) -> Tensor:
        seen[run].append([*inputs, timestep])
        return 0.3 * inputs[-1] + inputs[-2].mean()

    mode = ModeConfig(first_steps=None, steps=STEPS, first_guidance=None, guidance=1.0)
    sample_clips(
        lambda x, t, _: flow(0, x, t),
        STAGES,
        mode,
        (2, 3, 4, 16, 24),
        generator(),
        clips()[:, :, :1],
    )
    weights = torch.ones(2, 1, 4, 16, 24)
    losses = rollout_losses(
        lambda x, t, _: flow(1, x, t), STAGES, STEPS, clips(), weights, generator()
    )
    assert len(losses) == len(seen[0]) == 3 * sum(STEPS)
    for wanted, found in zip(*seen, strict=True):
        for a, b in zip(wanted, found, strict=True):
            torch.testing.assert_close(a, b)


def test_a_few_steps_lower_the_loss() -> None:
    """A flow with two numbers to learn: how much of the noise and of the last unit it names."""
    torch.manual_seed(0)
    mix = torch.zeros(2, requires_grad=True)
    still = clips()[:, :, :1].repeat(1, 1, 4, 1, 1)
    weights = torch.ones(2, 1, 4, 16, 24)
    optimiser = torch.optim.Adam([mix], lr=0.05)

    def flow(inputs: list[Tensor], timestep: Tensor, negative: bool) -> Tensor:
        now = inputs[-1]
        before = torch.nn.functional.interpolate(inputs[-2], now.shape[2:])
        return mix[0] * now + mix[1] * before

    losses = []
    for _ in range(40):
        loss = torch.stack(
            rollout_losses(flow, STAGES, (1, 1, 1), still, weights, generator())
        ).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
