"""What differs on purpose from the published pipeline, and by how much: docs/differences.md.

`python -m benchmarks.differences` prints JSON, with the mini pack and the full-size model's sizes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine import Request, UnitFrames, generate, open_pack
from engine.config import TransformerConfig
from engine.measures import psnr, snr_db
from engine.tokens import position_table
from engine.vae import fit
from training.data.world import render, sample_scene

MINI = Path(__file__).parents[1] / "assets" / "mini"
PUBLISHED = TransformerConfig(  # diffusion_transformer_320p
    width=1536, head_dim=64, patch_size=2, pos_embed_max_size=192, sample_size=128
)
SHAPES = {"4:3": (480, 640), "16:9": (540, 960), "1:1": (512, 512), "8:5": (400, 640)}


def rounding() -> float:
    """dB between a clip whose values are rounded to bytes and the same one truncated."""
    floats: list[NDArray[np.float32]] = []

    def watch(component: str, name: str, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        if component == "video_decoder":
            floats.append(outputs["frames"])

    with open_pack(MINI) as pack:
        request = Request("a red ball rolls over a green meadow", 1, 2, upscale=False)
        for event in generate(pack, request, threads=1, watch=watch):
            assert not isinstance(event, UnitFrames) or event.frames.dtype == np.uint8
    scaled = np.clip(np.concatenate(floats) * 127.5 + 127.5, 0, 255)
    return psnr(np.round(scaled).astype(np.uint8), scaled.astype(np.uint8))


def tables() -> dict[str, float]:
    """dB of positions stored in 16 bits beside those that are computed, per stored form."""
    table = position_table(PUBLISHED)
    stored = {"float16": table.astype(np.float16).astype(np.float32)}
    bits = table.view(np.uint32)
    halves = ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
    return {name: snr_db(table, got) for name, got in {**stored, "bfloat16": halves}.items()}


def crop() -> dict[str, float]:
    """dB between a picture cut to the frame's shape and the same one squashed, by its shape."""
    scene = sample_scene(np.random.default_rng(0))
    found = {}
    for name, (height, width) in SHAPES.items():
        picture = render(scene, height, width, (0,))[0]
        squashed = np.asarray(Image.fromarray(picture).resize((512, 320), Image.Resampling.LANCZOS))
        found[name] = psnr(fit(picture, 320, 512), squashed)
    return found


def main() -> None:
    figures = {
        "rounded_beside_truncated_db": round(rounding(), 1),
        "positions_beside_stored_db": {k: round(v, 1) for k, v in tables().items()},
        "cropped_beside_squashed_db": {k: round(v, 1) for k, v in crop().items()},
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
