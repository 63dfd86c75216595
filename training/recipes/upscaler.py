"""Train the 2x upscaler on renders at both sizes: `python -m training.recipes.upscaler`.

One input in two has been through the video autoencoder, so that it does not sharpen what the
decoder leaves behind.
"""

from __future__ import annotations

import json

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine.measures import psnr
from training.data.worlds import World
from training.models.quicksrnet import QuickSRNet
from training.models.video_vae import CausalVideoVAE
from training.recipes.configuration import Configuration
from training.recipes.loop import arguments, train

SCALE = 2


def pairs(world: World, count: int, seed: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The same random frames at this and at twice this size, uint8 [count, 3, H, W] each."""
    rng = np.random.default_rng(seed)
    small, large = [], []
    for _ in range(count):
        scene, frame = world.scene(rng), rng.integers(0, 49, 1)
        small.append(world.render(scene, height, width, frame)[0])
        large.append(world.render(scene, SCALE * height, SCALE * width, frame)[0])
    return tuple(
        torch.from_numpy(np.stack(x)).permute(0, 3, 1, 2).contiguous() for x in (small, large)
    )  # type: ignore[return-value]


@torch.no_grad()
def decoded(vae: CausalVideoVAE, images: Tensor) -> Tensor:
    """Images uint8 [N, 3, H, W] as the streaming decoder draws them, each a video of one frame."""
    out = []
    for image in images.split(16):
        mean = vae.encode_image(image.float().div(127.5).sub(1)).chunk(2, 1)[0]
        drawn = vae.decode(mean[:, :, None])[:, :, 0]
        out.append(drawn.clamp(-1, 1).add(1).mul(127.5).round().byte())
    return torch.cat(out)


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
    parser = arguments(__doc__, steps=2200, batch=8, lr=2e-3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    config = Configuration.read(options.config)
    model = QuickSRNet(**config["upscaler"])
    vae = CausalVideoVAE.from_pretrained(options.checkpoint / "causal_video_vae").float().eval()
    size = config.height, config.width
    small, large = pairs(config.world, 800, options.seed, *size)
    small[::2] = decoded(vae, small[::2])

    def step(generator: torch.Generator) -> Tensor:
        pick = torch.randint(len(small), (options.batch,), generator=generator)
        top, left = (
            int(torch.randint(n, (1,), generator=generator)) for n in (size[0] - 47, size[1] - 63)
        )
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
        x, y = (part.float() / 255 for part in pairs(config.world, 48, options.seed + 1, *size))
        report = {"upscaler": fidelity(model(x), y)}
        for name in ("BICUBIC", "LANCZOS"):
            report[name.lower()] = fidelity(resized(x, Image.Resampling[name]), y)
        print(json.dumps({"psnr": {name: round(value, 2) for name, value in report.items()}}))
        model.half().save_pretrained(options.checkpoint / "upscaler")

    train("upscaler", model, step, options, finish=finish)


if __name__ == "__main__":
    main()
