"""Latent consistency distillation on known answers; its boundary is the engine's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from engine.config import FirstFrameConfig
from engine.first_frame_steps import alphas_cumprod, lcm_step
from training.distil.first_frame import (
    TIMESTEPS,
    StudentAndTarget,
    boundary,
    clean_and_noise,
    consistency,
)
from training.recipes.first_frame import alpha_bars


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_true_prediction_gives_clean_and_noise_back(kind: str) -> None:
    clean, noise = torch.randn(2, 3, 4, 5, 5).unbind()
    alpha = torch.tensor([0.9, 0.5, 0.01]).view(-1, 1, 1, 1)
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    v = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
    found = clean_and_noise(noisy, noise if kind == "epsilon" else v, alpha, kind)
    torch.testing.assert_close(found[0], clean, atol=1e-4, rtol=0)
    torch.testing.assert_close(found[1], noise, atol=1e-4, rtol=0)


def test_without_noise_the_input_is_kept() -> None:
    skip, out = boundary(torch.tensor([0, 999]))
    assert skip.flatten().tolist() == pytest.approx([1, 0], abs=1e-6)
    assert out.flatten().tolist() == pytest.approx([0, 1], abs=1e-6)


def test_the_last_step_is_the_engines() -> None:
    config = FirstFrameConfig("lcm", TIMESTEPS, 1.0, "v_prediction", 1000, 0.00085, 0.012, 1.0)
    np.testing.assert_allclose(alpha_bars().numpy(), alphas_cumprod(config), rtol=1e-5)
    noisy, prediction = torch.randn(2, 1, 4, 6, 6).unbind()
    expected = lcm_step(config, 3, noisy.numpy(), prediction.numpy(), None)
    timestep = torch.tensor([TIMESTEPS[3]])
    alpha = alpha_bars()[timestep].view(-1, 1, 1, 1)
    found = consistency(noisy, clean_and_noise(noisy, prediction, alpha)[0], timestep)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_the_target_follows_slowly() -> None:
    model = StudentAndTarget(nn.Linear(2, 2))
    start = model.target.weight.clone()
    with torch.no_grad():
        model.student.weight += 1
    model.follow()
    torch.testing.assert_close(model.target.weight, start + 0.02)
    assert not model.target.weight.requires_grad
