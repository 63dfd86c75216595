"""Frames to frames of twice the size, one at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.session import Session
from engine.vae import rounded

Bytes = NDArray[np.uint8]


def upscale(upscaler: Session, frames: Bytes) -> Bytes:
    """uint8 [T, H, W, 3] to uint8 [T, 2H, 2W, 3] (QuickSRNet reads and writes [0, 1])."""
    larger = []
    for frame in frames:
        image = np.ascontiguousarray(frame.transpose(2, 0, 1)[None], np.float32)
        image /= np.float32(255)
        larger.append(rounded(upscaler.run(image=image)["image_2x"][0] * np.float32(255)))
    return np.stack(larger)
