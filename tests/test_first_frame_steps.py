"""LCM steps against the published scheduler; DDIM against its own inversion."""

import numpy as np
import pytest
from reference import load

from engine.config import FirstFrameConfig
from engine.first_frame_steps import alphas_cumprod, ddim_step, lcm_step

PREDICTIONS = ("epsilon", "v_prediction")


def config(sampler: str, prediction: str) -> FirstFrameConfig:
    meta = load(f"lcm_{prediction}")[1]
    betas = meta["beta_start"], meta["beta_end"]
    count = meta.get("num_train_timesteps", 1000)
    return FirstFrameConfig(sampler, meta["timesteps"], 1.0, prediction, count, *betas, 1.0)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_lcm_steps(prediction: str) -> None:
    arrays, _ = load(f"lcm_{prediction}")
    outputs, noise = arrays["model_outputs"], [*arrays["noise"], None]
    for step, (output, fresh) in enumerate(zip(outputs, noise, strict=True)):
        got = lcm_step(config("lcm", prediction), step, arrays["samples"][step], output, fresh)
        assert got.dtype == np.float32
        expected = arrays["samples"][step + 1]
        np.testing.assert_allclose(got, expected, atol=1e-6 * np.abs(expected).max())


def test_lcm_step_asks_for_noise() -> None:
    sample = np.zeros((1, 2, 2), np.float32)
    with pytest.raises(ValueError, match="noise"):
        lcm_step(config("lcm", "epsilon"), 0, sample, sample, None)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddim_with_the_true_prediction_follows_the_noise_levels(prediction: str) -> None:
    settings = config("ddim", prediction)
    rng = np.random.default_rng(0)
    clean, noise = rng.standard_normal((2, 4, 6, 10)).astype(np.float32)
    alphas = alphas_cumprod(settings)[list(settings.timesteps)]
    noised = [(np.sqrt(a) * clean + np.sqrt(1 - a) * noise).astype(np.float32) for a in alphas]
    for step, alpha in enumerate(alphas):
        velocity = np.sqrt(alpha) * noise - np.sqrt(1 - alpha) * clean
        output = noise if prediction == "epsilon" else velocity.astype(np.float32)
        got = ddim_step(settings, step, noised[step], output)
        expected = noised[step + 1] if step + 1 < len(alphas) else clean
        np.testing.assert_allclose(got, expected, atol=2e-5)
