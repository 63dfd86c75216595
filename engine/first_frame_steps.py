"""The denoising steps of the first frame: LCM (arXiv 2310.04378) and deterministic DDIM.

Arrays are float32 of any shape; `step` counts `config.timesteps` from 0. SSD-1B in the published
pipeline takes four LCM steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.config import FirstFrameConfig

Floats = NDArray[np.float32]

TIMESTEP_SCALING = 10.0
SIGMA_DATA = 0.5


def alphas_cumprod(config: FirstFrameConfig) -> NDArray[np.float64]:
    """Signal share (squared) at every training timestep: float64 [train_timesteps], falling."""
    roots = np.linspace(config.beta_start**0.5, config.beta_end**0.5, config.train_timesteps)
    return np.cumprod(1 - roots**2)


def _clean_and_noise(
    config: FirstFrameConfig, step: int, sample: Floats, prediction: Floats
) -> tuple[Floats, Floats]:
    """The clean sample and the noise that `prediction` stands for at this step."""
    alpha = alphas_cumprod(config)[config.timesteps[step]]
    signal, noise = np.float32(np.sqrt(alpha)), np.float32(np.sqrt(1 - alpha))
    if config.prediction == "epsilon":
        return (sample - noise * prediction) * np.float32(1 / signal), prediction
    return signal * sample - noise * prediction, signal * prediction + noise * sample


def _noised(config: FirstFrameConfig, step: int, clean: Floats, noise: Floats) -> Floats:
    """`clean` with the noise level of timestep number `step`."""
    alpha = alphas_cumprod(config)[config.timesteps[step]]
    return np.float32(np.sqrt(alpha)) * clean + np.float32(np.sqrt(1 - alpha)) * noise


def lcm_step(
    config: FirstFrameConfig, step: int, sample: Floats, prediction: Floats, noise: Floats | None
) -> Floats:
    """One latent-consistency step: predict the clean sample, then noise it for the next timestep.

    The last step returns the clean sample and needs no `noise`. Raises ValueError where an earlier
    one gets none.
    """
    clean, _ = _clean_and_noise(config, step, sample, prediction)
    time = config.timesteps[step] * TIMESTEP_SCALING
    skip = SIGMA_DATA**2 / (time**2 + SIGMA_DATA**2)
    out = time / np.sqrt(time**2 + SIGMA_DATA**2)
    denoised = np.float32(out) * clean + np.float32(skip) * sample
    if step == len(config.timesteps) - 1:
        return denoised
    if noise is None:
        raise ValueError(f"LCM step {step} is not the last and needs noise")
    return _noised(config, step + 1, denoised, noise)


def ddim_step(config: FirstFrameConfig, step: int, sample: Floats, prediction: Floats) -> Floats:
    """One DDIM step without fresh noise (eta 0); the last one returns the clean sample."""
    clean, noise = _clean_and_noise(config, step, sample, prediction)
    if step == len(config.timesteps) - 1:
        return clean
    return _noised(config, step + 1, clean, noise)
