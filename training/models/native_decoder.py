"""The large causal decoder that the streaming one is distilled from.

The mirror of the video VAE's encoder, as in Pyramidal Flow Matching (arXiv 2410.05954): causal 3-D
convolutions with norms frame by frame. It plays the native decoder's part in the asymmetric decoder
distillation of Neodragon (arXiv 2511.06055, section 3.2) and is not in any pack; its names are
ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.checkpoint import Checkpoint
from training.models.video_vae import NORM_EPS, CausalConv, MidBlock, ResnetBlock, fold, unfold


class UpBlock(nn.Module):
    """Residual blocks, then twice the width and height, then twice the frames less the first."""

    def __init__(
        self, channels: int, out: int, layers: int, groups: int, space: bool, time: bool
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResnetBlock(channels if i == 0 else out, out, groups) for i in range(layers)
        )
        self.space = CausalConv(out, 4 * out) if space else None
        self.time = CausalConv(out, 2 * out) if time else None

    def forward(self, x: Tensor, count: int) -> tuple[Tensor, int]:
        """The folded frames and how many a video has now."""
        for block in self.resnets:
            x = block(x, count)
        if self.space is not None:
            x = F.pixel_shuffle(self.space(x, count), 2)
        if self.time is not None:
            grown = torch.unflatten(self.time(x, count), 1, (2, -1)).flatten(0, 1)
            x = torch.unflatten(grown, 0, (-1, 2 * count))[:, 1:].flatten(0, 1)
            count = 2 * count - 1
        return x, count


class NativeDecoder(nn.Module, Checkpoint):
    """Latents [B, C, T, h, w] to video [B, 3, 8 T - 7, 8 h, 8 w], about [-1, 1]; defaults are the
    published encoder's sizes.
    """

    def __init__(
        self,
        latent_channels: int = 16,
        channels: int = 3,
        block_out_channels: Sequence[int] = (128, 256, 512, 512),
        layers_per_block: int = 3,
        norm_num_groups: int = 32,
        spatial_up_sample: Sequence[bool] = (True, True, True, False),
        temporal_up_sample: Sequence[bool] = (True, True, True, False),
    ) -> None:
        settings = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        self.config = settings
        widths = tuple(reversed(tuple(block_out_channels)))
        self.conv_in = CausalConv(latent_channels, widths[0])
        self.mid_block = MidBlock(widths[0], norm_num_groups)
        before = (widths[0], *widths[:-1])
        spaces, times = spatial_up_sample[::-1], temporal_up_sample[::-1]
        self.up_blocks = nn.ModuleList(
            UpBlock(channels_in, width, layers_per_block, norm_num_groups, space, time)
            for channels_in, width, space, time in zip(before, widths, spaces, times, strict=True)
        )
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, widths[-1], NORM_EPS)
        self.conv_out = CausalConv(widths[-1], channels)

    def forward(self, latents: Tensor) -> Tensor:
        """Decode whole latents at once."""
        count = latents.shape[2]
        x = self.mid_block(self.conv_in(fold(latents), count), count)
        for block in self.up_blocks:
            x, count = block(x, count)
        return unfold(self.conv_out(F.silu(self.conv_norm_out(x)), count), count)
