"""Latent arithmetic against the published pyramid and history."""

import re

import numpy as np
import pytest
from reference import load

from engine.config import VaeConfig
from engine.latents import (
    denormalise,
    downsample,
    downsample_noise,
    history,
    image_pyramid,
    normalise,
    sample_posterior,
    upsample,
)


def test_image_pyramid() -> None:
    arrays, _ = load("pyramid")
    levels = sorted(name for name in arrays if re.fullmatch(r"pyr\d+", name))
    for got, name in zip(image_pyramid(arrays["full"][0], len(levels)), levels, strict=True):
        np.testing.assert_allclose(got, arrays[name][0], atol=1e-6)


def test_noise_downsampling() -> None:
    arrays, _ = load("pyramid")
    got = downsample_noise(arrays["full"][0], 2)
    np.testing.assert_allclose(got, arrays["noise_down2"][0], atol=1e-6)


def test_history_of_every_unit_and_stage() -> None:
    arrays, _ = load("history")
    stages = 1 + max(int(re.findall(r"\d+", name)[1]) for name in arrays)
    pyramid = image_pyramid(load("pyramid")[0]["full"][0], stages)
    expected: dict[tuple[int, int], list[str]] = {}
    for name in sorted(arrays):
        unit, stage, _ = map(int, re.findall(r"\d+", name))
        expected.setdefault((unit, stage), []).append(name)
    assert expected
    for (unit, stage), names in expected.items():
        got = history(pyramid, unit, stage)
        assert len(got) == len(names)
        for part, name in zip(got, names, strict=True):
            np.testing.assert_allclose(part, arrays[name][0], atol=1e-6)


def test_first_unit_has_no_history() -> None:
    assert history([], 0, 2) == []


def test_statistics_of_first_and_later_units() -> None:
    vae = VaeConfig(0.5, 0.25, 2.0, -1.0)
    latent = np.random.default_rng(0).standard_normal((4, 3, 2, 2)).astype(np.float32)
    got = normalise(latent, vae)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got[:, :1], (latent[:, :1] - 0.25) * 0.5, atol=1e-6)
    np.testing.assert_allclose(got[:, 1:], (latent[:, 1:] + 1) * 2, atol=1e-6)
    np.testing.assert_allclose(denormalise(got, vae), latent, atol=1e-6)
    np.testing.assert_array_equal(normalise(latent[:, 1:], vae, first_unit=1), got[:, 1:])


def test_upsampling_then_downsampling_changes_nothing() -> None:
    latent = np.random.default_rng(0).standard_normal((2, 1, 3, 4)).astype(np.float32)
    np.testing.assert_allclose(downsample(upsample(latent)), latent, atol=1e-6)
    with pytest.raises(ValueError, match="odd"):
        downsample(latent)


def test_posterior_clamps_the_log_variance() -> None:
    mean = np.full((2, 1, 1, 1), 3, np.float32)
    noise = np.ones((2, 1, 1, 1), np.float32)
    for log_variance, deviation in ((0.0, 1.0), (-100.0, np.exp(-15.0)), (50.0, np.exp(10.0))):
        moments = np.concatenate([mean, np.full_like(mean, log_variance)])
        np.testing.assert_allclose(sample_posterior(moments, noise), 3 + deviation, rtol=1e-6)
