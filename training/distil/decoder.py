"""Asymmetric decoder distillation: `python -m training.distil.decoder [--native]`.

The encoder is frozen; a small streaming decoder learns to draw its latents with a pixel and a
perceptual loss (Neodragon, arXiv 2511.06055, section 3.2; no KL, no adversary). With `--native` the
large decoder that it is compared with is trained first, in the same way. The paper's perceptual
loss is LPIPS, whose weights cannot be had offline; here it is the same distance on the features of
our own image VAE's encoder. Loss weights are not published: Pyramid-Flow's 10 and 1.

`grown` turns a decoder that doubles frames less often into this one, as the paper does with
TinyAEHV.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from engine.measures import psnr
from training.models.native_decoder import NativeDecoder
from training.models.video_vae import CausalVideoVAE, fold
from training.recipes.loop import arguments, train
from training.recipes.video_vae import WINDOW, moments, window_pool

PIXEL, PERCEPTUAL = 10.0, 1.0
NATIVE = {
    "latent_channels": 12,
    "block_out_channels": [32, 64, 96, 112],
    "layers_per_block": 2,
    "norm_num_groups": 16,
}


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
                raise ValueError(f"{name} of shape {tuple(weight.shape)} cannot become {shape}")
            weight = weight.repeat(times, *[1] * (weight.ndim - 1))
        out[name] = weight.clone()
    return out


def main() -> None:
    parser = arguments(__doc__ or "", minutes=30, batch=2, lr=4e-4)
    parser.add_argument("--windows", type=int, default=800)
    parser.add_argument("--native", action="store_true", help="train the large decoder instead")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    folder = options.checkpoint / "causal_video_vae"
    native_folder = options.checkpoint / "native_video_decoder"
    vae = CausalVideoVAE.from_pretrained(folder).float().requires_grad_(False).to(options.device)
    decode: nn.Module
    if options.native:
        decode = (
            NativeDecoder.from_pretrained(native_folder).float()
            if options.warm
            else NativeDecoder(**NATIVE)
        )
    else:
        decode = nn.ModuleDict(
            {"decoder": vae.decoder.requires_grad_(), "post": vae.post_quant_conv.requires_grad_()}
        )
    image_vae = AutoencoderKL.from_pretrained(options.checkpoint / "ssd_1b_vae").float()
    perceptual = PerceptualDistance(image_vae).to(options.device)
    pool = window_pool(options.windows, options.seed)

    def drawn(latents: Tensor) -> Tensor:
        return decode(latents) if options.native else vae.decode(latents)

    def step(generator: torch.Generator) -> Tensor:
        pick = torch.randint(len(pool), (options.batch,), generator=generator)
        top = 16 * int(torch.randint(5, (1,), generator=generator))
        left = 16 * int(torch.randint(9, (1,), generator=generator))
        window = pool[pick][..., top : top + 64, left : left + 64].to(options.device)
        video = window.float().div(127.5).sub(1)
        with torch.autocast(options.device, torch.bfloat16):
            with torch.no_grad():
                latents, _ = moments(vae, video)
            out = drawn(latents).float()
            some = torch.randint(WINDOW, (3,), generator=generator)  # frames for the features
            seen = perceptual(fold(out[:, :, some]), fold(video[:, :, some]))
        return PIXEL * (out - video).square().mean() + PERCEPTUAL * seen.float()

    @torch.no_grad()
    def finish() -> None:
        rows = []
        for window in window_pool(16, options.seed + 1):
            video = window[None].to(options.device).float().div(127.5).sub(1)
            out = drawn(moments(vae, video)[0])
            images = (frames.clamp(-1, 1).cpu().numpy() for frames in (out, video))
            rows.append((psnr(*images, peak=2), ssim(fold(out), fold(video))))
        report = {
            "decoder": "native" if options.native else "streaming",
            "parameters": sum(weight.numel() for weight in decode.parameters()),
            "psnr": round(sum(row[0] for row in rows) / len(rows), 2),
            "ssim": round(sum(row[1] for row in rows) / len(rows), 4),
        }
        print(json.dumps(report))
        if isinstance(decode, NativeDecoder):
            decode.half().save_pretrained(native_folder)
        else:
            vae.half().save_pretrained(folder)

    train("native_decoder" if options.native else "decoder", decode, step, options, finish=finish)


if __name__ == "__main__":
    main()
