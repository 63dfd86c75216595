"""Train the causal video VAE (`causal_video_vae`): `python -m training.recipes.video_vae`.

Encoder and streaming decoder learn together on random crops: single frames, which are cheap and
teach space, in turn with windows of seventeen frames, which teach time. Many scenes per step matter
more than long windows. The mini's encoder reads key frames alone, the last of each eight: its
earlier temporal taps stay zero, so that what it says of a frame never depends on how far into the
clip that is, and the decoder draws the frames between.
"""

from __future__ import annotations

import json

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.measures import psnr
from training.data.world import FRAMES, render, sample_scene
from training.models.video_vae import CausalVideoVAE, MemBlock, TGrow, fold, unfold
from training.recipes.loop import arguments, train
from training.recipes.plain_latents import GAIN, carry, clear, present, read, steady

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


def thumbnail(video: Tensor) -> Tensor:
    """What the latents are anchored to, [B, 12, T', h, w]: frames 0, 8, 16... of a video [B, 3, T,
    H, W] at a quarter of the size, each 2x2 of its pixels in one position (channel = colour x row x
    column).
    """
    frames = video[:, :, ::8].transpose(1, 2)
    small = F.pixel_unshuffle(F.avg_pool2d(frames.flatten(0, 1), 4), 2)
    return GAIN * torch.unflatten(small, 0, frames.shape[:2]).transpose(1, 2)


@torch.no_grad()
def initialise(vae: CausalVideoVAE) -> None:
    """Start with latents that are `thumbnail` (see `plain_latents`) and a decoder that enlarges
    their mean colour.
    """
    encoder, decoder = vae.encoder, vae.decoder
    for module in encoder.modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size[0] > 1:
            module.weight[:, :, :-1] = 0
    carry(encoder.conv_in.conv, 3)
    carried = 3
    for block in encoder.down_blocks:
        for resnet in block.resnets:
            clear(resnet.conv2.conv)
            if resnet.conv_shortcut is not None:
                carry(resnet.conv_shortcut.conv, carried)
        for down in block.downsamplers:
            clear(down.conv.conv, slice(12 if block is encoder.down_blocks[2] else 3))
            for i in range(3):
                if block is not encoder.down_blocks[2]:
                    present(down.conv.conv)[i, i, 1:, 1:] = 0.25
                    continue
                for k in range(4):
                    present(down.conv.conv)[4 * i + k, i, 1 + k // 2, 1 + k % 2] = 1
                carried = 12
        for down in block.temporal_downsamplers:
            carry(down.conv.conv, carried)
    for resnet in encoder.mid_block.resnets:
        clear(resnet.conv2.conv)
    clear(encoder.mid_block.attentions[0].to_out[0])
    shortcut = encoder.down_blocks[3].resnets[0].conv_shortcut.conv
    places = steady(shortcut, encoder.conv_norm_out, 12)
    for i, place in enumerate(places):
        shortcut.weight[place, i] = 1
    read(encoder.conv_out.conv, places)
    for conv in (vae.quant_conv.conv, vae.post_quant_conv.conv):
        nn.init.dirac_(conv.weight), nn.init.zeros_(conv.bias)
    encoder.conv_out.conv.bias[12:] = -6  # little posterior noise to begin with
    for module in decoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    convs = [block for block in decoder.blocks if isinstance(block, nn.Conv2d)]
    for block in decoder.blocks:
        if isinstance(block, MemBlock):
            block.conv[-1].weight *= 0.1
        elif isinstance(block, TGrow):
            width = block.conv.in_channels
            block.conv.weight.copy_(torch.eye(width).repeat(block.time, 1)[:, :, None, None])
    convs[-1].weight *= 0.1
    for conv in convs:
        conv.weight[:3] = 0
        for i in range(3):
            if conv is convs[0]:  # lifted above zero, because of the ReLUs
                conv.weight[i, 4 * i : 4 * i + 4, 1, 1] = 0.25 / GAIN
                conv.bias[i] = 2
            else:
                conv.weight[i, i, 1, 1] = 1
    convs[-1].bias.fill_(-2)


def moments(vae: CausalVideoVAE, video: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and clamped log-variance of the posterior, [B, C, T', h, w] each, by key frames: what
    `encode` gives while earlier taps are zero, for an eighth of the work.
    """
    keys = video[:, :, ::8]
    mean, logvar = unfold(vae.encode_image(fold(keys)), keys.shape[2]).float().chunk(2, 1)
    return mean, logvar.clamp(-30, 20)


def main() -> None:
    parser = arguments(__doc__, minutes=20, batch=4, lr=8e-4)
    parser.add_argument("--windows", type=int, default=1200)
    parser.add_argument("--images", type=float, default=0.8, help="share of steps on single frames")
    parser.add_argument(
        "--decoder-only",
        action="store_true",
        help="keep the encoder, and with it all latents, as it is",
    )
    parser.add_argument(
        "--anchor", type=float, default=0.1, help="weight of the pull of latents to thumbnails"
    )
    parser.add_argument(
        "--chroma",
        type=float,
        default=3,
        help="extra weight of colour: small areas of it are learned last without",
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
    vae.decoder.to(memory_format=torch.channels_last)  # a fifth faster
    pool = window_pool(options.windows, options.seed)

    def step(generator: torch.Generator) -> Tensor:
        image = bool(torch.rand(1, generator=generator) < options.images)
        count, rows, cols = (2 * options.batch, 64, 64) if image else (options.batch, 64, 64)
        pick = torch.randint(len(pool), (count,), generator=generator)
        top = 16 * torch.randint((128 - rows) // 16 + 1, (1,), generator=generator)
        left = 16 * torch.randint((192 - cols) // 16 + 1, (1,), generator=generator)
        frame = int(torch.randint(WINDOW, (1,), generator=generator))
        frames = slice(frame, frame + 1) if image else slice(WINDOW)
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
        chroma = error - error.mean(1, keepdim=True)
        return (
            error.square().mean()
            + options.chroma * chroma.square().mean()
            + 0.2 * error.abs().mean()
            + 1e-6 * kl / mean.shape[2]
            + options.anchor * (mean - thumbnail(video)).square().mean()
        )

    @torch.no_grad()
    def finish() -> None:
        windows = window_pool(24, options.seed + 1)
        latents, fidelity = [], []
        for window in windows:
            video = window[None].float().div(127.5).sub(1)
            mean, _ = moments(vae, video)
            latents.append(mean)
            drawn = vae.decode(mean).clamp(-1, 1)
            frames = (x[0].transpose(0, 1).cpu().numpy() for x in (drawn, video))
            fidelity.append([psnr(a, b, 2) for a, b in zip(*frames, strict=True)])
        latent = torch.cat(latents)
        first, later = latent[:, :, :1], latent[:, :, 1:]
        constants = {
            "first_scale": float(1 / first.std()),
            "first_shift": float(first.mean()),
            "scale": float(1 / later.std()),
            "shift": float(later.mean()),
        }
        print(
            f"PSNR of whole frames: first {np.mean([f[0] for f in fidelity]):.2f} dB,"
            f" all {np.mean(fidelity):.2f} dB;"
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
