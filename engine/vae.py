"""The video autoencoder's two ends: a picture to the first latent, latents to frames in order.

Latents are float32 [C, 1, h, w], normalised on this side; pictures are uint8 [H, W, 3].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.config import VaeConfig
from engine.errors import BackendError
from engine.latents import denormalise, normalise, sample_posterior
from engine.session import Session

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def to_bytes(images: Floats) -> Bytes:
    """float32 [..., 3, H, W] in [-1, 1] to uint8 [..., H, W, 3]."""
    scaled = images * np.float32(127.5)
    scaled += np.float32(127.5)
    return rounded(scaled)


def rounded(images: Floats) -> Bytes:
    """float32 [..., 3, H, W] in [0, 255] to uint8 [..., H, W, 3]; the input is overwritten.

    Raises BackendError where values are no numbers, as those of a network that overflowed.
    """
    if not np.isfinite(images).all():
        raise BackendError(
            "The model gave pictures of values that are no numbers; try another backend, or get"
            " the pack again."
        )
    np.rint(images, out=images)
    np.clip(images, 0, 255, out=images)
    planes = images.astype(np.uint8)
    frames = np.empty((*images.shape[:-3], *images.shape[-2:], 3), np.uint8)
    for colour in range(3):  # four times as fast as a copy of the whole
        frames[..., colour] = planes[..., colour, :, :]
    return frames


def to_floats(image: Bytes) -> Floats:
    """uint8 [H, W, 3] to float32 [1, 3, H, W] in [-1, 1]."""
    chw = np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32)
    floats: Floats = chw / np.float32(127.5) - np.float32(1)
    return floats


def fit(image: Bytes, height: int, width: int) -> Bytes:
    """The centre of a picture in the shape of the frame, resized to it: uint8 [height, width, 3].

    Lanczos as Pillow has it, which the published pipeline uses too.
    """
    rows, columns = image.shape[:2]
    if (rows, columns) == (height, width):
        return image
    scale = min(rows / height, columns / width)
    left, top = (columns - width * scale) / 2, (rows - height * scale) / 2
    box = (left, top, left + width * scale, top + height * scale)
    picture = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS, box=box)
    return np.asarray(picture)


def moments(encoder: Session, image: Bytes) -> tuple[Floats]:
    """What the encoder makes of a picture of the frame's size: mean, log variance [1, 2C, h, w]."""
    return (encoder.run(image=to_floats(image))["moments"],)


def draw(moments: Floats, noise: Floats, config: VaeConfig) -> Floats:
    """The normalised latent of the first frame, drawn with standard normal `noise` [C, 1, h, w]."""
    return normalise(sample_posterior(moments[0][:, None], noise), config)


class VideoDecoder:
    """Decodes the units of one clip in order, carrying the graph's memory from one to the next."""

    def __init__(self, decoder: Session, config: VaeConfig) -> None:
        self.config = config
        self.unit = 0
        self.stream = decoder.stream()

    def decode(self, latent: Floats) -> Floats:
        """The frames of the next unit, float32 [T, 3, H, W] in [-1, 1]: T is 1 for the first unit,
        then 8.

        The first unit's other frames only fill the decoder's memory.
        """
        latent = denormalise(latent, self.config, self.unit)[:, 0][None]
        frames = self.stream.step(latent=latent)["frames"]
        self.unit += 1
        return frames[-1:] if self.unit == 1 else frames
