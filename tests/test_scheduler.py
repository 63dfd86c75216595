"""The schedule against the published one, and its own identities."""

from itertools import pairwise

import numpy as np
import pytest
from reference import load

from engine.config import ModeConfig, ScheduleConfig
from engine.scheduler import Stage, euler_step, renoise, stage_schedule


def published() -> tuple[Stage, ...]:
    meta = load("scheduler")[1]
    borders = tuple(i / meta["stages"] for i in range(meta["stages"] + 1))
    mode = ModeConfig(None, (1,) * meta["stages"], None, 1.0)
    config = ScheduleConfig(meta["num_train_timesteps"], meta["gamma"], borders, {"hybrid": mode})
    return stage_schedule(config)


def test_sigmas_and_ratios() -> None:
    arrays, _ = load("scheduler")
    stages = published()
    for index, stage in enumerate(stages):
        got = [stage.start_sigma, stage.end_sigma, stage.original_start_sigma]
        names = ("start_sigmas", "end_sigmas", "orig_start_sigmas")
        np.testing.assert_allclose(got, [arrays[name][index] for name in names], atol=1e-6)
        ratios = [stage.ratio_start, stage.ratio_end]
        np.testing.assert_allclose(ratios, arrays["timestep_ratios"][index], atol=1e-6)


def test_timesteps_and_sigmas_of_every_step_count() -> None:
    arrays, _ = load("scheduler")
    stages = published()
    names = [name for name in arrays if name.startswith("timesteps_stage")]
    assert names
    for name in names:
        stage, steps = map(int, name.removeprefix("timesteps_stage").split("_n"))
        got = stages[stage]
        np.testing.assert_allclose(got.timesteps(steps), arrays[name], rtol=1e-6)
        sigmas = arrays[name.replace("timesteps", "sigmas")]
        np.testing.assert_allclose(got.sigmas(steps), sigmas, atol=1e-6)


def test_euler_step() -> None:
    arrays, _ = load("scheduler")
    sigmas = float(arrays["step_sigma"]), float(arrays["step_sigma_next"])
    got = euler_step(arrays["step_sample"], arrays["step_model_output"], *sigmas)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, arrays["step_out"], atol=1e-6)


def test_upsampled_stages() -> None:
    arrays, _ = load("pyramid")
    upsampled = arrays["latent"].repeat(2, -1).repeat(2, -2)
    for index, stage in enumerate(published()):
        if index > 0:
            got = renoise(upsampled, arrays["block_noise"], stage)
            np.testing.assert_allclose(got, arrays[f"upsampled_stage{index}"], atol=1e-6)


def test_renoised_latent_has_the_corrected_sigma() -> None:
    """Entering a stage, signal is 1 - s and noise has deviation s (arXiv 2410.05954)."""
    stages = published()
    gamma = load("scheduler")[1]["gamma"]
    for before, stage in pairwise(stages):
        assert before.end_sigma == pytest.approx(stage.original_start_sigma)
        signal = stage.alpha * (1 - before.end_sigma)
        assert signal == pytest.approx(1 - stage.start_sigma)
        variance = (stage.alpha * before.end_sigma) ** 2 + stage.beta**2
        assert variance == pytest.approx(stage.start_sigma**2)
        covariance = (stage.alpha * before.end_sigma) ** 2 - gamma * stage.beta**2
        assert covariance == pytest.approx(0, abs=1e-12)
