"""Train the first frame's image VAE (the published `ssd_1b_vae`): `python -m
training.recipes.image_vae`.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from engine.measures import psnr
from training.data.worlds import World
from training.recipes.configuration import Configuration
from training.recipes.loop import arguments, train
from training.recipes.plain_latents import GAIN, carry, clear, read, steady
from training.recipes.precision import autocast


def frame_pool(world: World, count: int, seed: int, height: int, width: int) -> Tensor:
    """Random frames of random scenes, uint8 [count, 3, H, W]."""
    rng = np.random.default_rng(seed)
    frames = [
        world.render(world.scene(rng), height, width, rng.integers(0, 49, 1))[0]
        for _ in range(count)
    ]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def initialise(vae: AutoencoderKL) -> None:
    """Start with three latents that are the mean colour of their 8x8 pixels; see
    `plain_latents`.
    """
    encoder = vae.encoder
    carry(encoder.conv_in, 3)
    for block in encoder.down_blocks:
        for resnet in block.resnets:
            clear(resnet.conv2)
            if resnet.conv_shortcut is not None:
                carry(resnet.conv_shortcut, 3)
        for down in block.downsamplers or []:
            last = block is encoder.down_blocks[2]
            clear(down.conv, slice(3))
            places = steady(down.conv, encoder.conv_norm_out, 3) if last else range(3)
            for i, place in enumerate(places):
                down.conv.weight[place, i, :2, :2] = 0.25
    for resnet in encoder.mid_block.resnets:
        clear(resnet.conv2)
    read(encoder.conv_out, places)
    encoder.conv_out.bias[encoder.conv_out.out_channels // 2 :] = -6  # little noise at first
    for conv in (vae.quant_conv, vae.post_quant_conv):
        nn.init.dirac_(conv.weight), nn.init.zeros_(conv.bias)


def main() -> None:
    parser = arguments(__doc__ or "", steps=4000, batch=8, lr=1e-3)
    parser.add_argument("--frames", type=int, default=4000, help="to render and learn from")
    options = parser.parse_args()
    config = Configuration.read(options.config)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    folder = options.checkpoint / "ssd_1b_vae"
    vae = (
        AutoencoderKL.from_pretrained(folder).float()
        if options.warm
        else AutoencoderKL(**config["image_vae"])
    )
    if not options.warm:
        initialise(vae)
    size = config.height, config.width
    pool = frame_pool(config.world, options.frames, options.seed, *size)
    rows, columns = size[0] // 2, size[1] // 2

    def step(generator: torch.Generator) -> Tensor:
        pick = torch.randint(len(pool), (options.batch,), generator=generator)
        top, left = (
            8 * int(torch.randint(side // 8 + 1, (1,), generator=generator))
            for side in (rows, columns)
        )
        crop = pool[pick][:, :, top : top + rows, left : left + columns].to(options.device)
        image = crop.float().div(127.5).sub(1)
        with autocast(options.device):
            posterior = vae.encode(image).latent_dist
            error = vae.decode(posterior.sample()).sample.float() - image
        chroma = error - error.mean(1, keepdim=True)
        return (
            error.square().mean()
            + 3 * chroma.square().mean()
            + 0.2 * error.abs().mean()
            + 1e-6 * posterior.kl().mean()
            + 0.1 * (posterior.mean[:, :3].float() - GAIN * F.avg_pool2d(image, 8)).square().mean()
        )

    def finish() -> None:
        with torch.no_grad():
            frames = frame_pool(config.world, 64, options.seed + 1, *size)
            image = frames.to(options.device).float().div(127.5).sub(1)
            latent = vae.encode(image).latent_dist.mode()
            drawn = vae.decode(latent).sample.clamp(-1, 1)
            pairs = zip(*(x.cpu().numpy() for x in (drawn, image)), strict=True)
        fidelity = float(np.mean([psnr(a, b, 2) for a, b in pairs]))
        vae.register_to_config(scaling_factor=float(1 / latent.std()))
        print(f"PSNR {fidelity:.2f} dB, scaling factor {vae.config.scaling_factor:.4f}")
        vae.half().save_pretrained(folder)

    train("image_vae", vae, step, options, finish=finish)


if __name__ == "__main__":
    main()
