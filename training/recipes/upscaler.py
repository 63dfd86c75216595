"""Train the 2x upscaler on renders at both sizes: `python -m training.recipes.upscaler`.

Its inputs are frames as the video decoder gives them (through the trained VAE) for one sample in
two, so that it does not sharpen what the decoder leaves behind.
"""

from __future__ import annotations

import json

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine.measures import psnr
from training.data.world import render, sample_scene
from training.models.quicksrnet import QuickSRNet
from training.recipes.loop import arguments, train

CHANNELS, LAYERS = 32, 2  # QuickSRNet Small


def pairs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """The same random frames at 128x192 and 256x384, uint8 [count, 3, H, W] each."""
    rng = np.random.default_rng(seed)
    small, large = [], []
    for _ in range(count):
        scene, frame = sample_scene(rng), rng.integers(0, 49, 1)
        small.append(render(scene, 128, 192, frame)[0])
        large.append(render(scene, 256, 384, frame)[0])
    return tuple(
        torch.from_numpy(np.stack(x)).permute(0, 3, 1, 2).contiguous() for x in (small, large)
    )  # type: ignore[return-value]


def fidelity(images: Tensor, target: Tensor) -> float:
    """Mean PSNR in dB of images in [0, 1], [B, 3, H, W]."""
    pairs = zip(images.clamp(0, 1).numpy(), target.numpy(), strict=True)
    return float(np.mean([psnr(a, b, 1) for a, b in pairs]))


def resized(images: Tensor, filter: Image.Resampling) -> Tensor:
    """Images [B, 3, H, W] in [0, 1] at twice the size, by Pillow."""
    size = (2 * images.shape[3], 2 * images.shape[2])
    rows = [
        np.asarray(Image.fromarray(row).resize(size, filter))
        for row in (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    ]
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).float() / 255


def main() -> None:
    parser = arguments(__doc__, minutes=4, batch=8, lr=2e-3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    model = QuickSRNet(scaling_factor=2, num_channels=CHANNELS, num_intermediate_layers=LAYERS)
    small, large = pairs(800, options.seed)

    def step(generator: torch.Generator) -> Tensor:
        pick = torch.randint(len(small), (options.batch,), generator=generator)
        top, left = (int(torch.randint(n, (1,), generator=generator)) for n in (128 - 47, 192 - 63))
        x = small[pick][:, :, top : top + 48, left : left + 64].to(options.device).float() / 255
        y = (
            large[pick][:, :, 2 * top : 2 * top + 96, 2 * left : 2 * left + 128]
            .to(options.device)
            .float()
            / 255
        )
        error = model(x) - y
        return error.abs().mean() + error.square().mean()

    @torch.no_grad()
    def finish() -> None:
        x, y = (part.float() / 255 for part in pairs(48, options.seed + 1))
        report = {"upscaler": fidelity(model(x), y)}
        for name in ("BICUBIC", "LANCZOS"):
            report[name.lower()] = fidelity(resized(x, Image.Resampling[name]), y)
        print(json.dumps({"psnr": {name: round(value, 2) for name, value in report.items()}}))
        model.half().save_pretrained(options.checkpoint / "upscaler")

    train("upscaler", model, step, options, finish=finish)


if __name__ == "__main__":
    main()
