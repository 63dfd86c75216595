"""Train the causal video VAE (`causal_video_vae`): `python -m training.recipes.video_vae`.

Encoder and large native decoder learn together on random crops: single frames, which are cheap and
teach space (`--images 1`), in turn with windows of seventeen frames, which teach time. The small
streaming decoder comes later, by distillation (`training.distil.decoder`). The mini's encoder reads
key frames alone, the last of each eight: its earlier temporal taps stay zero, so that what it says
of a frame never depends on how far into the clip that is, and the decoder draws the frames between.
"""

from __future__ import annotations

import json

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.measures import psnr
from training.data.worlds import World
from training.models.native_decoder import NativeDecoder
from training.models.video_vae import CausalVideoVAE, MemBlock, TGrow, fold, unfold
from training.recipes.configuration import CONSTANTS, STRIDE, Configuration
from training.recipes.image_vae import frame_pool
from training.recipes.loop import arguments, train
from training.recipes.plain_latents import GAIN, carry, clear, present, read, steady
from training.recipes.precision import autocast

WINDOW = 17


def window_pool(
    world: World, count: int, seed: int, height: int, width: int, frames: int = 49
) -> Tensor:
    """Random stretches of random clips, uint8 [count, 3, 17, H, W]."""
    rng = np.random.default_rng(seed)
    pool = torch.empty(count, 3, WINDOW, height, width, dtype=torch.uint8)
    for i in range(count):
        start = STRIDE * int(rng.integers((frames - WINDOW) // STRIDE + 1))
        drawn = world.render(world.scene(rng), height, width, range(start, start + WINDOW))
        pool[i] = torch.from_numpy(drawn).permute(3, 0, 1, 2)
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


def reads_key_frames(vae: CausalVideoVAE) -> bool:
    """Whether the encoder's earlier temporal taps are all zero, so that a latent frame is that of
    the last of its eight frames alone.
    """
    return not any(
        module.weight[:, :, :-1].any()
        for part in (vae.encoder, vae.quant_conv)
        for module in part.modules()
        if isinstance(module, nn.Conv3d) and module.kernel_size[0] > 1
    )


def moments(vae: CausalVideoVAE, video: Tensor, key_frames: bool) -> tuple[Tensor, Tensor]:
    """Mean and clamped log-variance of the posterior, [B, C, T', h, w] each, of a video [B, 3, T,
    H, W]; with `key_frames` (see `reads_key_frames`) for a fraction of the work.
    """
    if key_frames:
        keys = video[:, :, :: 2 ** sum(vae.config["encoder_temporal_down_sample"])]
        encoded = unfold(vae.encode_image(fold(keys)), keys.shape[2])
    else:
        encoded = vae.encode(video)
    mean, logvar = encoded.float().chunk(2, 1)
    return mean, logvar.clamp(-30, 20)


class NativeVAE(nn.Module):
    """The encoder of a `CausalVideoVAE` and a large decoder; the small one is not used."""

    def __init__(self, vae: CausalVideoVAE, decoder: NativeDecoder) -> None:
        super().__init__()
        self.encoder, self.quant_conv, self.decoder = vae.encoder, vae.quant_conv, decoder


def main() -> None:
    parser = arguments(__doc__ or "", steps=12000, batch=4, lr=8e-4)
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
    config = Configuration.read(options.config)
    folder = options.checkpoint / "causal_video_vae"
    native_folder = options.checkpoint / "native_video_decoder"
    if options.warm:
        vae = CausalVideoVAE.from_pretrained(folder).float()
        native = NativeDecoder.from_pretrained(native_folder).float()
    else:
        vae, native = (
            CausalVideoVAE(**config["video_vae"]),
            NativeDecoder(**config["native_decoder"]),
        )
        initialise(vae)
    model = NativeVAE(vae, native)
    if options.decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    key_frames = reads_key_frames(vae)
    size = config.height, config.width
    if options.images == 1:
        pool = frame_pool(config.world, 4 * options.windows, options.seed, *size)[:, :, None]
    else:
        pool = window_pool(config.world, options.windows, options.seed, *size, config.frames)
    rows, columns = size[0] // 2, size[1] // 2

    def step(generator: torch.Generator) -> Tensor:
        image = bool(torch.rand(1, generator=generator) < options.images)
        count = 4 * options.batch if image else options.batch
        pick = torch.randint(len(pool), (count,), generator=generator)
        top, left = (
            8 * int(torch.randint(side // 8 + 1, (1,), generator=generator))
            for side in (rows, columns)
        )
        frame = int(torch.randint(pool.shape[2], (1,), generator=generator))
        frames = slice(frame, frame + 1) if image else slice(WINDOW)
        crop = pool[pick][:, :, frames, top : top + rows, left : left + columns]
        video = crop.to(options.device).float().div(127.5).sub(1)
        with autocast(options.device):
            with torch.set_grad_enabled(not options.decoder_only):
                mean, logvar = moments(vae, video, key_frames)
            noise = torch.randn(mean.shape, generator=generator).to(mean)
            error = native(mean + noise * (0.5 * logvar).exp()).float() - video
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
        latents, fidelity = [], []
        for window in window_pool(config.world, 24, options.seed + 1, *size, config.frames):
            video = window[None].to(options.device).float().div(127.5).sub(1)
            mean, _ = moments(vae, video, key_frames)
            latents.append(mean)
            drawn = native(mean if options.images < 1 else mean[:, :, :1]).clamp(-1, 1)
            frames = (x[0].transpose(0, 1).cpu().numpy() for x in (drawn, video))
            fidelity.append([psnr(a, b, 2) for a, b in zip(*frames, strict=False)])
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
        native.half().save_pretrained(native_folder)
        if not options.decoder_only:
            vae.half().save_pretrained(folder)
            (options.checkpoint / CONSTANTS).write_text(json.dumps(constants, indent=1) + "\n")

    name = "native_decoder" if options.decoder_only else "video_vae"
    train(name, model, step, options, finish=finish)


if __name__ == "__main__":
    main()
