"""Random streams and block noise."""

import numpy as np
import pytest
from reference import load

from engine.noise import SeededNoise, block_noise, normal, stream

RAW = [15192977511021042498, 186182400493407644]
NORMAL = [-1.0107263326644897, 1.3323230743408203, -0.24920931458473206]


def blocks(noise: np.ndarray) -> np.ndarray:
    """The four values of every 2x2 block, [n, 4]."""
    channels, frames, height, width = noise.shape
    cut = noise.reshape(channels, frames, height // 2, 2, width // 2, 2)
    return cut.transpose(0, 1, 2, 4, 3, 5).reshape(-1, 4)


@pytest.mark.parametrize("gamma", [0.0, 0.2, 1 / 3])
def test_block_noise_covariance(gamma: float) -> None:
    noise = block_noise(stream(1, "test"), (8, 1, 256, 256), gamma)
    assert noise.dtype == np.float32
    expected = (1 + gamma) * np.eye(4) - gamma * np.ones((4, 4))
    np.testing.assert_allclose(np.cov(blocks(noise).T), expected, atol=0.01)


def test_block_noise_covariance_is_the_published_one() -> None:
    expected = load("pyramid")[0]["block_noise_cov_theory"]
    noise = block_noise(stream(2, "test"), (8, 1, 256, 256), -float(expected[0, 1]))
    np.testing.assert_allclose(np.cov(blocks(noise).T), expected, atol=0.01)


def test_blocks_sum_to_zero_at_one_third() -> None:
    noise = block_noise(stream(3, "test"), (4, 1, 8, 8), 1 / 3)
    np.testing.assert_allclose(blocks(noise).sum(1), 0, atol=1e-6)


def test_block_noise_needs_even_sides() -> None:
    with pytest.raises(ValueError, match="even"):
        block_noise(stream(0, "test"), (1, 1, 3, 4), 0.1)


def test_streams_are_repeatable_and_apart() -> None:
    keys = [
        (0, "a", 0, 0),
        (1, "a", 0, 0),
        (0, "b", 0, 0),
        (0, "a", 1, 0),
        (0, "a", 0, 1),
        (2**32 - 1, "a", 0, 0),
    ]
    draws = [normal(stream(*key), (16,)).tobytes() for key in keys]
    assert len(set(draws)) == len(keys)
    assert draws == [normal(stream(*key), (16,)).tobytes() for key in keys]


def test_streams_never_change() -> None:
    """A seed of an old clip must keep meaning the same noise, on every platform and version."""
    assert stream(7, "block", 3, 2).bit_generator.random_raw(2).tolist() == RAW
    drawn = normal(stream(7, "block", 3, 2), (3,))
    np.testing.assert_allclose(drawn, NORMAL, rtol=1e-6)


def test_look_and_motion_seeds_draw_apart() -> None:
    shape = (2, 1, 4, 4)
    one, other = SeededNoise(1, 2, shape, 1 / 3), SeededNoise(1, 3, shape, 1 / 3)
    np.testing.assert_array_equal(one.initial(0), other.initial(0))
    np.testing.assert_array_equal(one.block(0, 1, shape), other.block(0, 1, shape))
    np.testing.assert_array_equal(one.posterior(), other.posterior())
    assert not np.array_equal(one.initial(1), other.initial(1))
    assert not np.array_equal(one.block(1, 1, shape), other.block(1, 1, shape))
    assert not np.array_equal(one.initial(1), one.initial(2))
