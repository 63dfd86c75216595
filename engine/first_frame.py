"""A prompt's embeddings to the first frame: the latent diffusion of SSD-1B with few steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.config import FirstFrameConfig, Geometry
from engine.first_frame_steps import ddim_step, lcm_step
from engine.noise import normal, stream
from engine.session import Session
from engine.vae import to_bytes

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ClipEmbeds:
    """What CLIP's encoders make of a prompt.

    hidden: penultimate states of L and G side by side, float32 [1, L, D_l + D_g];
    pooled_l, pooled_g: projected embeddings, float32 [1, D_l] and [1, D_g].
    """

    hidden: Floats
    pooled_l: Floats
    pooled_g: Floats


def embed(encoder: Session, ids: Ints) -> tuple[Floats, Floats]:
    """`hidden` and `pooled` of one of CLIP's encoders for token ids [1, L]."""
    outputs = encoder.run(ids=ids)
    return outputs["hidden"], outputs["pooled"]


def sample(
    unet: Session,
    config: FirstFrameConfig,
    geometry: Geometry,
    prompt: ClipEmbeds,
    negative: ClipEmbeds,
    look_seed: int,
) -> Iterator[Floats]:
    """Denoise, yielding the latent float32 [1, C, h, w] after each step; the last one is clean.

    `negative` is only used where the guidance is not 1.
    """
    height, width = geometry.first_frame_height, geometry.first_frame_width
    stride = geometry.first_frame_stride
    shape = (1, geometry.first_frame_channels, height // stride, width // stride)
    time_ids = np.array([[height, width, 0, 0, height, width]], np.float32)
    latent = normal(stream(look_seed, "first_frame"), shape)
    for step, timestep in enumerate(config.timesteps):

        def predict(
            embeds: ClipEmbeds, latent: Floats = latent, timestep: int = timestep
        ) -> Floats:
            return unet.run(
                sample=latent,
                timestep=np.array([timestep], np.float32),
                hidden=embeds.hidden,
                pooled=embeds.pooled_g,
                time_ids=time_ids,
            )["prediction"]

        prediction = predict(prompt)
        if config.guidance != 1:
            away = predict(negative)
            prediction = away + np.float32(config.guidance) * (prediction - away)
        if config.sampler == "lcm":
            noise = normal(stream(look_seed, "first_frame_step", stage=step), shape)
            latent = lcm_step(config, step, latent, prediction, noise)
        else:
            latent = ddim_step(config, step, latent, prediction)
        yield latent


def decode(decoder: Session, latent: Floats, config: FirstFrameConfig) -> Bytes:
    """The picture of a clean latent float32 [1, C, h, w]: uint8 [H, W, 3]."""
    image = decoder.run(latent=latent / np.float32(config.latent_scale))["image"]
    return to_bytes(image[0])
