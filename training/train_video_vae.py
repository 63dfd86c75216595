"""Train the causal video VAE (`causal_video_vae`): `python -m training.train_video_vae`.

Encoder and streaming decoder learn together on random crops: single frames, which are cheap and
teach space, in turn with windows of nine frames, which teach time. Many scenes per step matter more
than long windows. The encoder's earlier temporal taps start at zero, so that it begins as an image
encoder.
"""

from __future__ import annotations

import json

import numpy as np
import torch
from torch import Tensor, nn

from training.loop import arguments, train
from training.models.video_vae import CausalVideoVAE, MemBlock, TGrow
from training.world import FRAMES, render, sample_scene

CONFIG = {
    "encoder_in_channels": 3,
    "encoder_out_channels": 12,
    "encoder_layers_per_block": [1, 1, 1, 1],
    "encoder_block_out_channels": [16, 32, 48, 64],
    "encoder_norm_num_groups": 4,
    "decoder_num_features": [64, 32, 16, 16],
}
WINDOW = 17


def window_pool(count: int, seed: int, height: int = 128, width: int = 192) -> Tensor:
    """Random stretches of random clips, uint8 [count, 3, 17, H, W]."""
    rng = np.random.default_rng(seed)
    pool = torch.empty(count, 3, WINDOW, height, width, dtype=torch.uint8)
    for i in range(count):
        start = int(rng.integers(0, FRAMES - WINDOW + 1))
        frames = render(sample_scene(rng), height, width, range(start, start + WINDOW))
        pool[i] = torch.from_numpy(frames).permute(3, 0, 1, 2)
    return pool


@torch.no_grad()
def initialise(vae: CausalVideoVAE) -> None:
    """Start as an image encoder and a decoder that enlarges: earlier taps zero, memory blocks and
    growth near the identity.
    """
    for module in vae.modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size[0] > 1:
            module.weight[:, :, :-1] = 0
    vae.quant_conv.conv.bias[
        len(vae.quant_conv.conv.bias) // 2 :
    ] = -6  # little posterior noise to begin with
    for module in vae.decoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for block in vae.decoder.blocks:
        if isinstance(block, MemBlock):
            block.conv[-1].weight *= 0.1
        elif isinstance(block, TGrow):
            width = block.conv.in_channels
            block.conv.weight.copy_(torch.eye(width).repeat(block.time, 1)[:, :, None, None])


def moments(vae: CausalVideoVAE, video: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and clamped log-variance of the posterior, [B, C, T', h, w] each."""
    mean, logvar = vae.encode(video).float().chunk(2, 1)
    return mean, logvar.clamp(-30, 20)


def main() -> None:
    parser = arguments(__doc__, minutes=20, batch=4, lr=4e-4)
    parser.add_argument("--windows", type=int, default=1200)
    parser.add_argument("--images", type=float, default=0.8, help="share of steps on single frames")
    parser.add_argument(
        "--decoder-only",
        action="store_true",
        help="keep the encoder, and with it all latents, as it is",
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    folder = options.checkpoint / "causal_video_vae"
    if options.warm:
        vae = CausalVideoVAE.from_pretrained(folder).float()
    else:
        vae = CausalVideoVAE(**CONFIG)
        initialise(vae)
    if options.decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    pool = window_pool(options.windows, options.seed)

    def step(generator: torch.Generator) -> Tensor:
        image = bool(torch.rand(1, generator=generator) < options.images)
        count, rows, cols = (2 * options.batch, 64, 64) if image else (options.batch, 64, 64)
        pick = torch.randint(len(pool), (count,), generator=generator)
        top = 16 * torch.randint((128 - rows) // 16 + 1, (1,), generator=generator)
        left = 16 * torch.randint((192 - cols) // 16 + 1, (1,), generator=generator)
        frame = int(torch.randint(WINDOW, (1,), generator=generator))
        frames = slice(frame, frame + 1) if image else slice(frame % 9, frame % 9 + 9)
        video = (
            pool[pick][:, :, frames, top : top + rows, left : left + cols]
            .to(options.device)
            .float()
            .div(127.5)
            .sub(1)
        )
        with torch.autocast(options.device, torch.bfloat16):
            mean, logvar = moments(vae, video)
            latent = (
                mean + torch.randn(mean.shape, generator=generator).to(mean) * (0.5 * logvar).exp()
            )
            error = vae.decode(latent).float() - video
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum() / len(video)
        chroma = error - error.mean(
            1, keepdim=True
        )  # small areas of strong colour are learned last without it
        return (
            error.square().mean()
            + 3 * chroma.square().mean()
            + 0.2 * error.abs().mean()
            + 1e-6 * kl / mean.shape[2]
        )

    @torch.no_grad()
    def finish() -> None:
        windows = window_pool(24, options.seed + 1)
        latents, errors = [], []
        for window in windows:
            video = window[None].float().div(127.5).sub(1)
            mean, _ = moments(vae, video)
            latents.append(mean)
            errors.append((vae.decode(mean).clamp(-1, 1) - video).square().mean((0, 1, 3, 4)))
        psnr = 10 * torch.log10(4 / torch.stack(errors))
        latent = torch.cat(latents)
        first, later = latent[:, :, :1], latent[:, :, 1:]
        constants = {
            "first_scale": float(1 / first.std()),
            "first_shift": float(first.mean()),
            "scale": float(1 / later.std()),
            "shift": float(later.mean()),
        }
        print(
            f"PSNR of whole frames: first {psnr[:, 0].mean():.2f} dB, all {psnr.mean():.2f} dB;"
            f" {constants}"
        )
        vae.half().save_pretrained(folder)
        if not options.decoder_only:
            (options.run / "video_vae" / "constants.json").write_text(
                json.dumps(constants, indent=1)
            )

    train(
        "video_decoder" if options.decoder_only else "video_vae", vae, step, options, finish=finish
    )


if __name__ == "__main__":
    main()
