"""How far numbers are from what they should be, in dB: the only definitions here.

Both end at +-LIMIT_DB: equal numbers would have infinitely many, which JSON cannot hold.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

LIMIT_DB = 200.0


def snr_db(reference: NDArray[Any], got: NDArray[Any]) -> float:
    """Signal-to-noise ratio of `got` in dB; -LIMIT_DB where it has NaN or infinity in it."""
    signal = float(np.square(reference, dtype=np.float64).sum())
    noise = float(np.square(reference.astype(np.float64) - got).sum())
    return _decibels(signal, noise)


def psnr(one: NDArray[Any], other: NDArray[Any], peak: float = 255) -> float:
    """Peak signal-to-noise ratio in dB of arrays of one shape; peak: the range of the values.

    The squared error is averaged over everything, one item of the first axis at a time.
    """
    pairs = zip(one, other, strict=True)  # floats take eight times the memory of bytes
    errors = [np.square(np.subtract(a, b, dtype=np.float64)).mean() for a, b in pairs]
    return _decibels(peak**2, float(np.mean(errors)))


def _decibels(signal: float, noise: float) -> float:
    if not math.isfinite(noise):
        return -LIMIT_DB
    if signal == 0 or noise == 0:
        return LIMIT_DB if noise == 0 else -LIMIT_DB
    return min(max(10 * math.log10(signal / noise), -LIMIT_DB), LIMIT_DB)
