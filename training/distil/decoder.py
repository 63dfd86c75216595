"""Asymmetric decoder distillation: `python -m training.distil.decoder [--donor | --start HOW]`.

The encoder is frozen; the small streaming decoder of *another* autoencoder learns to draw its
latents with a pixel and a perceptual loss (Neodragon, arXiv 2511.06055, section 3.2; no KL, no
adversary). `--donor` trains that other autoencoder, whose decoder doubles frames less often, as
TinyAEHV's does; `grown` turns its decoder into ours, `--start donor` goes on from there, `--start
scratch` is the control, and `--steps 0` the surgery alone. The paper's perceptual loss is LPIPS,
whose weights cannot be had offline; here it is the same distance on the features of our own image
VAE's encoder. Loss weights are not published: Pyramid-Flow's 10 and 1.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from engine.measures import psnr
from training.models.video_vae import CausalVideoVAE, fold
from training.recipes.configuration import Configuration
from training.recipes.loop import arguments, train
from training.recipes.precision import autocast
from training.recipes.video_vae import (
    WINDOW,
    initialise,
    moments,
    reads_key_frames,
    window_pool,
)

PIXEL, PERCEPTUAL = 10.0, 1.0
DONOR = {  # what its autoencoder has in place of ours
    "encoder_temporal_down_sample": (False, True, True, False),
    "decoder_time_upscale": (False, True, True),
    "temporal_downsample_scale": 4,
}
STARTS = ("donor", "scratch", "checkpoint")


class PerceptualDistance(nn.Module):
    """LPIPS' distance on a frozen encoder: features of each level, normalised per position."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.encoder = vae.encoder.requires_grad_(False)

    def features(self, image: Tensor) -> list[Tensor]:
        """Unit vectors at each position after each level, of images [B, 3, H, W] in [-1, 1]."""
        x, levels = self.encoder.conv_in(image), []
        for block in self.encoder.down_blocks:
            x = block(x)
            levels.append(F.normalize(x, dim=1, eps=1e-3))
        return levels

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Mean squared distance, summed over levels."""
        pairs = zip(self.features(image), self.features(target), strict=True)
        return torch.stack([(a - b).square().sum(1).mean() for a, b in pairs]).sum()


def ssim(image: Tensor, target: Tensor) -> float:
    """Structural similarity (Wang et al. 2004) of images [B, 3, H, W] in [-1, 1], 8x8 windows of
    even weight.
    """
    x, y = ((part.clamp(-1, 1) + 1) / 2 for part in (image, target))
    mean_x, mean_y = F.avg_pool2d(x, 8, 1), F.avg_pool2d(y, 8, 1)
    var_x = F.avg_pool2d(x * x, 8, 1) - mean_x**2
    var_y = F.avg_pool2d(y * y, 8, 1) - mean_y**2
    both = F.avg_pool2d(x * y, 8, 1) - mean_x * mean_y
    light, contrast = 0.01**2, 0.03**2
    top = (2 * mean_x * mean_y + light) * (2 * both + contrast)
    return float((top / ((mean_x**2 + mean_y**2 + light) * (var_x + var_y + contrast))).mean())


def grown(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights for larger `shapes`: where a growth layer is to make more frames, its rows repeat."""
    out = {}
    for name, shape in shapes.items():
        weight = state[name]
        if tuple(weight.shape) != shape:
            times, rest = divmod(shape[0], weight.shape[0])
            if rest or tuple(weight.shape[1:]) != shape[1:]:
                raise ValueError(
                    f"{name} of shape {tuple(weight.shape)} cannot become {shape};"
                    " use the published decoder"
                )
            weight = weight.repeat(times, *[1] * (weight.ndim - 1))
        out[name] = weight.clone()
    return out


def surgery(donor: CausalVideoVAE, vae: CausalVideoVAE) -> None:
    """Give `vae` the donor's decoder, grown to as many frames as it must draw."""
    for own, other in ((vae.decoder, donor.decoder), (vae.post_quant_conv, donor.post_quant_conv)):
        shapes = {name: tuple(tensor.shape) for name, tensor in own.state_dict().items()}
        own.load_state_dict(grown(other.state_dict(), shapes))


def train_donor(options: argparse.Namespace, config: Configuration) -> None:
    """Train the other autoencoder, encoder and all, and save it as `donor_video_vae`."""
    vae = CausalVideoVAE(**config["video_vae"] | DONOR)
    initialise(vae)
    keys = reads_key_frames(vae)
    pool = window_pool(
        config.world, options.windows, options.seed + 3, config.height, config.width, config.frames
    )

    def step(generator: torch.Generator) -> Tensor:
        video = crop(pool, options.batch, generator).to(options.device)
        with autocast(options.device):
            mean, logvar = moments(vae, video, keys)
            noise = torch.randn(mean.shape, generator=generator).to(mean)
            error = vae.decode(mean + noise * (0.5 * logvar).exp()).float() - video
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return error.square().mean() + 0.2 * error.abs().mean() + 1e-4 * kl

    def finish() -> None:
        vae.half().save_pretrained(options.checkpoint / "donor_video_vae")

    train("donor_video_vae", vae, step, options, finish=finish)


def crop(pool: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Windows in [-1, 1], cut to half the height and a third of the width, whole latents."""
    rows, columns = pool.shape[3] // 16 * 8, pool.shape[4] // 24 * 8
    pick = torch.randint(len(pool), (count,), generator=generator)
    top, left = (
        8 * int(torch.randint((side - own) // 8 + 1, (1,), generator=generator))
        for side, own in ((pool.shape[3], rows), (pool.shape[4], columns))
    )
    return pool[pick][..., top : top + rows, left : left + columns].float().div(127.5).sub(1)


def main() -> None:
    parser = arguments(__doc__ or "", steps=6000, batch=2, lr=4e-4)
    parser.add_argument("--windows", type=int, default=800)
    parser.add_argument("--donor", action="store_true", help="train the other autoencoder")
    parser.add_argument("--start", choices=STARTS, default="donor")
    parser.add_argument("--perceptual", type=float, default=PERCEPTUAL, help="weight of that loss")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    config = Configuration.read(options.config)
    if options.donor:
        return train_donor(options, config)
    folder = options.checkpoint / "causal_video_vae"
    vae = CausalVideoVAE.from_pretrained(folder).float().requires_grad_(False)
    if options.start == "donor":
        surgery(CausalVideoVAE.from_pretrained(options.checkpoint / "donor_video_vae").float(), vae)
    elif options.start == "scratch":
        fresh = CausalVideoVAE(**vae.config)
        vae.decoder, vae.post_quant_conv = fresh.decoder, fresh.post_quant_conv
    vae.to(options.device)
    decode = nn.ModuleDict(
        {"decoder": vae.decoder.requires_grad_(), "post": vae.post_quant_conv.requires_grad_()}
    )
    image_vae = AutoencoderKL.from_pretrained(options.checkpoint / "ssd_1b_vae").float()
    perceptual = PerceptualDistance(image_vae).to(options.device)
    size, keys = (config.height, config.width), reads_key_frames(vae)
    pool = window_pool(config.world, options.windows, options.seed, *size, config.frames)

    def step(generator: torch.Generator) -> Tensor:
        video = crop(pool, options.batch, generator).to(options.device)
        with autocast(options.device):
            with torch.no_grad():
                latents, _ = moments(vae, video, keys)
            out = vae.decode(latents).float()
            some = torch.randint(WINDOW, (3,), generator=generator)  # frames for the features
            seen = perceptual(fold(out[:, :, some]), fold(video[:, :, some]))
        return PIXEL * (out - video).square().mean() + options.perceptual * seen.float()

    @torch.no_grad()
    def finish() -> None:
        rows = []
        for window in window_pool(config.world, 16, options.seed + 1, *size, config.frames):
            video = window[None].to(options.device).float().div(127.5).sub(1)
            out = vae.decode(moments(vae, video, keys)[0])
            images = (frames.clamp(-1, 1).cpu().numpy() for frames in (out, video))
            rows.append((psnr(*images, peak=2), ssim(fold(out), fold(video))))
        report = {
            "start": options.start,
            "steps": options.steps,
            "parameters": sum(weight.numel() for weight in decode.parameters()),
            "psnr": round(sum(row[0] for row in rows) / len(rows), 2),
            "ssim": round(sum(row[1] for row in rows) / len(rows), 4),
        }
        print(json.dumps(report))
        vae.half().save_pretrained(folder)

    train(f"decoder_{options.start}", decode, step, options, finish=finish)


if __name__ == "__main__":
    main()
