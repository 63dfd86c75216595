"""Pyramidal DMD on known answers, and its teacher samples against the engine's sampler."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.config import ModeConfig
from engine.sampler import UnitLatent, sample_latents
from engine.scheduler import stage_schedule
from training.distil.steps import (
    StudentAndFake,
    cauchy_loss,
    clean_estimate,
    dmd_gradient,
    dmd_loss,
    renoised,
    step_loss,
)
from training.recipes.pyramid import double_size, half_size, history, levels, stage_line
from training.recipes.sample import block_noise, sample_clips
from training.recipes.settings import SCHEDULE

STAGES = stage_schedule(SCHEDULE)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clips(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 7, 16, 24, generator=generator(1))


@pytest.mark.parametrize("index", range(3))
def test_clean_estimate_of_the_true_flow(index: int) -> None:
    pyramid = levels(clips(), 3)
    path = stage_line(pyramid, 2, index, STAGES, generator())
    clean, stage = pyramid[index][:, :, 2:3], STAGES[index]
    expected = clean
    if index == 1:  # the line's direction mixes the coarse latent in: slightly sharpened
        start, end = stage.start_sigma, stage.end_sigma
        excess = end * (1 - start) / (start - end)
        assert excess == pytest.approx(0.143, abs=1e-3)
        expected = clean + excess * (clean - double_size(half_size(clean)))
    for sigma in (1.0, 0.4):
        level = torch.full((2, 1, 1, 1, 1), sigma)
        found = clean_estimate(stage, path.at(level), path.flow, level)
        if index != 1 or sigma == 1.0:
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_lines_start_at_the_corrected_sigma() -> None:
    pyramid = levels(torch.zeros(1, 3, 7, 64, 64), 3)
    for index, sigma in enumerate((1.0, 0.80024, 0.50075)):
        path = stage_line(pyramid, 0, index, STAGES, generator())
        assert float(path.start.std()) == pytest.approx(sigma, rel=0.05)
        assert STAGES[index].start_sigma == pytest.approx(sigma, abs=1e-5)


def test_no_gradient_where_teacher_and_fake_agree() -> None:
    flow, target = clips(), clips() + 1
    assert not dmd_gradient(flow, flow, target).any()
    assert torch.isfinite(dmd_gradient(target, flow, target)).all()  # a perfect teacher


def test_gradient_is_normalised_per_sample_and_reaches_the_estimate() -> None:
    teacher, fake, flow = torch.zeros(2, 1, 1, 2, 2), torch.ones(2, 1, 1, 2, 2), clips(2)
    flow = torch.stack([torch.full((1, 1, 2, 2), 2.0), torch.full((1, 1, 2, 2), 4.0)])
    gradient = dmd_gradient(teacher, fake, flow)
    torch.testing.assert_close(gradient[:, 0, 0, 0, 0], torch.tensor([-0.5, -0.25]))
    estimate = torch.randn(2, 1, 1, 2, 2, generator=generator(), requires_grad=True)
    dmd_loss(estimate, gradient).backward()
    torch.testing.assert_close(estimate.grad, gradient / 8)


def test_cauchy_loss() -> None:
    estimate = torch.zeros(2, 1, 1, 2, 2)
    assert cauchy_loss(estimate, estimate) == 0
    clean = torch.stack([torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)])
    assert float(cauchy_loss(estimate, clean)) == pytest.approx(np.log(2) / 2)


class Toy(torch.nn.Module):
    """A flow with one weight."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(weight))

    def flow(self, inputs: list[Tensor], timestep: Tensor, negative: bool) -> Tensor:
        past = sum((part.mean() for part in inputs[:-1]), torch.zeros(()))
        return (self.weight - 0.1 * negative) * inputs[-1] + 0.1 * past


def test_two_fake_updates_for_each_of_the_student() -> None:
    model = StudentAndFake(Toy(0.5), Toy(0.5))  # type: ignore[arg-type]
    teacher = Toy(0.7)
    order = []
    for _ in range(6):
        model.zero_grad(set_to_none=True)
        flows = (teacher.flow, model.student.flow, model.fake.flow)
        step_loss(model, flows, clips(), 3, 1, STAGES, 1, 5.0, generator()).backward()
        learnt = [name for name, weight in model.named_parameters() if weight.grad is not None]
        order.append(learnt[0].split(".")[0])
        assert len(learnt) == 1
        model.updates += 1
    assert order == ["fake", "fake", "student"] * 2
    assert teacher.weight.grad is None


def test_the_history_is_the_students_own_where_it_is_given() -> None:
    model, seen = StudentAndFake(Toy(0.5), Toy(0.5)), list[list[Tensor]]()  # type: ignore[arg-type]
    own = clips() + 5

    def watched(inputs: list[Tensor], timestep: Tensor, negative: bool) -> Tensor:
        seen.append(inputs[:-1])
        return model.student.flow(inputs, timestep, negative)

    flows = (model.fake.flow, watched, model.fake.flow)
    step_loss(model, flows, clips(), 3, 2, STAGES, 1, 1.0, generator(), own)
    for found, expected in zip(seen[0], history(levels(own, 3), 3, 2), strict=True):
        torch.testing.assert_close(found, expected, atol=0, rtol=0)


@pytest.mark.parametrize("index", range(3))
def test_the_fake_model_learns_the_students_samples(index: int) -> None:
    model = StudentAndFake(Toy(0.9), Toy(-1.0))  # type: ignore[arg-type]
    optimiser = torch.optim.SGD([model.fake.weight], 0.1)
    losses = []
    for _ in range(12):
        flows = (model.fake.flow, model.student.flow, model.fake.flow)
        loss = step_loss(model, flows, clips(), 3, index, STAGES, 1, 1.0, generator())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.98 * losses[0]


def test_renoising_ends_at_the_estimate_with_the_stages_noise() -> None:
    clean = clips()[:, :, :1]
    path = renoised(STAGES[2], 2, clean, generator())
    torch.testing.assert_close(path.end, clean)  # the last stage ends without noise
    early = renoised(STAGES[0], 0, torch.zeros(1, 3, 1, 64, 64), generator())
    assert float(early.end.std()) == pytest.approx(STAGES[0].end_sigma, rel=0.05)


def test_batched_samples_are_the_engines() -> None:
    mode = ModeConfig((2, 1, 2), (1, 2, 1), 3.0, 2.0)

    def flow(inputs: Sequence[Tensor], timestep: Tensor, negative: bool) -> Tensor:
        past = sum(part.mean() for part in inputs[:-1])
        scale = 0.3 - 0.2 * negative + timestep.view(-1, 1, 1, 1, 1) / 2000
        return scale * inputs[-1] + 0.1 * past

    shape = (1, 3, 3, 16, 24)
    found = sample_clips(flow, STAGES, mode, shape, generator(5))
    draws = generator(5)

    class Replay:
        def initial(self, unit: int) -> np.ndarray:
            return torch.randn(1, 3, 1, 16, 24, generator=draws)[0].numpy()

        def block(self, unit: int, stage: int, shape: tuple[int, int, int, int]) -> np.ndarray:
            return block_noise(torch.empty(1, *shape), draws)[0].numpy()

    def network(history, current, timestep, *, unit, stage, negative):  # type: ignore[no-untyped-def]
        inputs = [torch.from_numpy(part)[None] for part in (*history, current)]
        return flow(inputs, torch.tensor([timestep]), negative)[0].numpy()

    events = sample_latents(network, Replay(), STAGES, mode, 3)
    expected = [event.latent for event in events if isinstance(event, UnitLatent)]
    np.testing.assert_allclose(found[0].numpy(), np.concatenate(expected, 1), atol=1e-5)
