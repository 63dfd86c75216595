"""The causal video autoencoder: 8x8 pixels and 8 frames to one latent position.

The encoder is that of Pyramidal Flow Matching (arXiv 2410.05954), causal 3-D convolutions and norms
frame by frame; the decoder is the small streaming one of TAEHV (github.com/madebyollin/taehv) as
Neodragon distilled it (arXiv 2511.06055), whose only memory is one past input of each `MemBlock`.
Names and shapes are those of the published `causal_video_vae`. 8 T' - 7 frames make T' latent ones.

Inside, time is folded into the batch, [B * T, C, H, W], except in `step`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.checkpoint import Checkpoint

NORM_EPS = 1e-6
LATENT_BOUND = 3.0  # the decoder reads 3 tanh(x / 3)


def fold(video: Tensor) -> Tensor:
    """[B, C, T, H, W] to [B * T, C, H, W]."""
    return video.transpose(1, 2).flatten(0, 1)


def unfold(frames: Tensor, count: int) -> Tensor:
    """Inverse of `fold` for `count` frames a video."""
    return torch.unflatten(frames, 0, (-1, count)).transpose(1, 2)


class CausalConv(nn.Module):
    """A 3-D convolution that sees no later frame: zeros stand before the first one."""

    def __init__(
        self, channels: int, out: int, kernel: int = 3, stride: tuple[int, int] = (1, 1)
    ) -> None:
        """`stride` is that of time and of space."""
        super().__init__()
        time, space = stride
        self.conv = nn.Conv3d(channels, out, kernel, (time, space, space))

    def forward(self, x: Tensor, count: int) -> Tensor:
        """x [B * T, C, H, W] with `count` = T -> [B * T', C', H', W']."""
        weight, stride = self.conv.weight, self.conv.stride
        taps, edge = weight.shape[2], weight.shape[3] // 2
        if count == 1:  # only the last tap sees a frame
            return F.conv2d(x, weight[:, :, -1], self.conv.bias, stride[1:], edge)
        video = F.pad(unfold(x, count), (0, 0, 0, 0, taps - 1, 0))
        return fold(F.conv3d(video, weight, self.conv.bias, stride, (0, edge, edge)))


class ResnetBlock(nn.Module):
    """Norm, SiLU, convolution, twice, beside a shortcut."""

    def __init__(self, channels: int, out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels, NORM_EPS)
        self.conv1 = CausalConv(channels, out)
        self.norm2 = nn.GroupNorm(groups, out, NORM_EPS)
        self.conv2 = CausalConv(out, out)
        self.conv_shortcut = CausalConv(channels, out, kernel=1) if channels != out else None

    def forward(self, x: Tensor, count: int) -> Tensor:
        hidden: Tensor = self.conv1(F.silu(self.norm1(x)), count)
        hidden = self.conv2(F.silu(self.norm2(hidden)), count)
        return hidden + (x if self.conv_shortcut is None else self.conv_shortcut(x, count))


class DownBlock(nn.Module):
    """Residual blocks, then half the width and height, then half the frames, rounded up."""

    def __init__(
        self, channels: int, out: int, layers: int, groups: int, halve_space: bool, halve_time: bool
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResnetBlock(channels if i == 0 else out, out, groups) for i in range(layers)
        )
        self.downsamplers = nn.ModuleList()
        self.temporal_downsamplers = nn.ModuleList()
        if halve_space:
            self.downsamplers.append(Downsampler(out, (1, 2)))
        if halve_time:
            self.temporal_downsamplers.append(Downsampler(out, (2, 1)))

    def forward(self, x: Tensor, count: int) -> tuple[Tensor, int]:
        """The folded frames and how many a video has now."""
        for block in (*self.resnets, *self.downsamplers):
            x = block(x, count)
        for block in self.temporal_downsamplers:
            x, count = block(x, count), (count + 1) // 2
        return x, count


class Downsampler(nn.Module):
    """A strided causal convolution."""

    def __init__(self, channels: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.conv = CausalConv(channels, channels, stride=stride)

    def forward(self, x: Tensor, count: int) -> Tensor:
        return cast(Tensor, self.conv(x, count))


class SpatialAttention(nn.Module):
    """One head of self-attention over the positions of each frame."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, NORM_EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.group_norm(x).flatten(2).transpose(1, 2).unsqueeze(1)
        query, key, value = self.to_q(tokens), self.to_k(tokens), self.to_v(tokens)
        attended: Tensor = self.to_out[0](F.scaled_dot_product_attention(query, key, value))
        return x + attended.squeeze(1).transpose(1, 2).reshape(x.shape)


class MidBlock(nn.Module):
    """Residual block, attention, residual block."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([SpatialAttention(channels, groups)])
        self.resnets = nn.ModuleList(ResnetBlock(channels, channels, groups) for _ in range(2))

    def forward(self, x: Tensor, count: int) -> Tensor:
        x = self.attentions[0](self.resnets[0](x, count))
        return cast(Tensor, self.resnets[1](x, count))


class Encoder(nn.Module):
    """Frames to the moments of their latents, folded."""

    def __init__(
        self,
        channels: int,
        latent_channels: int,
        widths: Sequence[int],
        layers: Sequence[int],
        groups: int,
        halve_space: Sequence[bool],
        halve_time: Sequence[bool],
    ) -> None:
        super().__init__()
        self.conv_in = CausalConv(channels, widths[0])
        before = (widths[0], *widths[:-1])
        blocks = zip(before, widths, layers, halve_space, halve_time, strict=True)
        self.down_blocks = nn.ModuleList(
            DownBlock(channels, width, depth, groups, space, time)
            for channels, width, depth, space, time in blocks
        )
        self.mid_block = MidBlock(widths[-1], groups)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], NORM_EPS)
        self.conv_out = CausalConv(widths[-1], 2 * latent_channels)

    def forward(self, x: Tensor, count: int) -> tuple[Tensor, int]:
        """x [B * T, 3, H, W] with `count` = T -> [B * T', 2C, h, w] and T'."""
        x = self.conv_in(x, count)
        for block in self.down_blocks:
            x, count = block(x, count)
        x = self.mid_block(x, count)
        return self.conv_out(F.silu(self.conv_norm_out(x)), count), count


class LatentBound(nn.Module):
    """Soft clamp to (-3, 3)."""

    def forward(self, x: Tensor) -> Tensor:
        return LATENT_BOUND * torch.tanh(x / LATENT_BOUND)


class MemBlock(nn.Module):
    """Residual block that also reads what it read one frame earlier."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv = nn.Sequential(
            conv3x3(2 * channels, channels),
            nn.ReLU(),
            conv3x3(channels, channels),
            nn.ReLU(),
            conv3x3(channels, channels),
        )

    def forward(self, x: Tensor, past: Tensor) -> Tensor:
        """x and past [N, C, h, w] -> [N, C, h, w]."""
        return F.relu(self.conv(torch.cat([x, past], 1)) + x)


class TGrow(nn.Module):
    """Each frame becomes `time` frames, `space` times as wide and high (nearest).

    The published decoder enlarges first; a 1x1 convolution before it gives the same for less.
    """

    def __init__(self, channels: int, time: int, space: int) -> None:
        super().__init__()
        self.time, self.space = time, space
        self.conv = nn.Conv2d(channels, channels * time, 1, bias=False)

    def enlarge(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=float(self.space)) if self.space > 1 else x

    def forward(self, x: Tensor) -> list[Tensor]:
        """x [N, C, h, w] -> the frames in its place, in order."""
        return [self.enlarge(frame) for frame in self.conv(x).chunk(self.time, 1)]

    def folded(self, x: Tensor, count: int, drop: int) -> Tensor:
        """x [B * T, C, h, w] with `count` = T -> the last T * time - drop frames, folded."""
        grown = torch.unflatten(self.conv(x), 1, (self.time, -1)).flatten(0, 1)
        frames = torch.unflatten(grown, 0, (-1, count * self.time))
        return self.enlarge(frames[:, drop:].flatten(0, 1))


def conv3x3(channels: int, out: int, bias: bool = True) -> nn.Conv2d:
    """A 2-D convolution that keeps the size."""
    return nn.Conv2d(channels, out, 3, padding=1, bias=bias)


class Decoder(nn.Module):
    """Latents to frames with 2-D convolutions."""

    def __init__(
        self,
        latent_channels: int,
        channels: int,
        features: Sequence[int],
        grow_time: Sequence[bool],
        grow_space: Sequence[bool],
    ) -> None:
        super().__init__()
        blocks: list[nn.Module] = [LatentBound(), conv3x3(latent_channels, features[0]), nn.ReLU()]
        for width, after, time, space in zip(
            features[:-1], features[1:], grow_time, grow_space, strict=True
        ):
            blocks += [MemBlock(width) for _ in range(3)]
            # The published list has an upsampler where Identity stands; here it is part of TGrow.
            blocks += [
                nn.Identity(),
                TGrow(width, 1 + time, 1 + space),
                conv3x3(width, after, bias=False),
            ]
        self.blocks = nn.Sequential(*blocks, nn.ReLU(), conv3x3(features[-1], channels))
        self.frames = 2 ** sum(grow_time)

    def forward(self, x: Tensor, count: int) -> Tensor:
        """x [B * T, C, h, w] with `count` = T -> [B * (frames * (T - 1) + 1), 3, H, W].

        Of the first latent's frames only the last exists; the others only fill the memory and are
        dropped where the memory ends, before the full-size convolutions.
        """
        grows = [block for block in self.blocks if isinstance(block, TGrow)]
        for block in self.blocks:
            if isinstance(block, MemBlock):
                video = torch.unflatten(x, 0, (-1, count))
                past = F.pad(video[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))
                x = block(x, past.flatten(0, 1))
            elif isinstance(block, TGrow):
                drop = self.frames - 1 if block is grows[-1] else 0
                x, count = block.folded(x, count, drop), count * block.time - drop
            else:
                x = block(x)
        return x

    def step(self, latent: Tensor, states: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """One latent frame [B, C, h, w] -> its frames [B, 3, H, W] in order, and the new states."""
        frames, past, next_states = [latent], iter(states), []
        for block in self.blocks:
            if isinstance(block, MemBlock):
                before = [next(past), *frames]
                next_states.append(before.pop())
                frames = [block(x, memory) for x, memory in zip(frames, before, strict=True)]
            elif isinstance(block, TGrow):
                frames = [grown for x in frames for grown in block(x)]
            else:
                frames = [block(x) for x in frames]
        return frames, next_states


class CausalVideoVAE(nn.Module, Checkpoint):
    """The video autoencoder.

    Arguments are the keys of the published `config.json`, defaults its values.
    Latents are as the network has them, neither scaled nor shifted.
    Raises ValueError for a setting that the published checkpoint does not use.
    """

    def __init__(
        self,
        encoder_in_channels: int = 3,
        encoder_out_channels: int = 16,
        encoder_layers_per_block: Sequence[int] = (2, 2, 2, 2),
        encoder_down_block_types: Sequence[str] = ("DownEncoderBlockCausal3D",) * 4,
        encoder_block_out_channels: Sequence[int] = (128, 256, 512, 512),
        encoder_spatial_down_sample: Sequence[bool] = (True, True, True, False),
        encoder_temporal_down_sample: Sequence[bool] = (True, True, True, False),
        encoder_block_dropout: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
        encoder_act_fn: str = "silu",
        encoder_norm_num_groups: int = 32,
        decoder_num_features: Sequence[int] = (256, 128, 64, 64),
        decoder_time_upscale: Sequence[bool] = (True, True, True),
        decoder_space_upscale: Sequence[bool] = (True, True, True),
        sample_size: int = 256,
        temporal_downsample_scale: int = 8,
        spatial_downsample_scale: int = 8,
    ) -> None:
        settings = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        self.config = settings
        if set(encoder_down_block_types) != {"DownEncoderBlockCausal3D"}:
            raise ValueError(
                f"encoder_down_block_types is {encoder_down_block_types}, and only"
                " DownEncoderBlockCausal3D is supported"
            )
        if encoder_act_fn != "silu":
            raise ValueError(f"encoder_act_fn is {encoder_act_fn}, and only silu is supported")
        if any(encoder_block_dropout):
            raise ValueError(
                f"encoder_block_dropout is {encoder_block_dropout}, and only 0 is supported"
            )
        latent = encoder_out_channels
        self.encoder = Encoder(
            encoder_in_channels,
            latent,
            encoder_block_out_channels,
            encoder_layers_per_block,
            encoder_norm_num_groups,
            encoder_spatial_down_sample,
            encoder_temporal_down_sample,
        )
        self.decoder = Decoder(
            latent,
            encoder_in_channels,
            decoder_num_features,
            decoder_time_upscale,
            decoder_space_upscale,
        )
        self.quant_conv = CausalConv(2 * latent, 2 * latent, kernel=1)
        self.post_quant_conv = CausalConv(latent, latent, kernel=1)

    def encode(self, video: Tensor) -> Tensor:
        """Moments [B, 2C, T', h, w] (mean, log-variance) of a video [B, 3, T, H, W] in [-1, 1]."""
        moments, count = self.encoder(fold(video), video.shape[2])
        return unfold(self.quant_conv(moments, count), count)

    def encode_image(self, image: Tensor) -> Tensor:
        """Moments [B, 2C, h, w] of images [B, 3, H, W] in [-1, 1], each a video of one frame.

        There every causal convolution is exactly a 2-D one with the last temporal tap.
        """
        return cast(Tensor, self.quant_conv(self.encoder(image, 1)[0], 1))

    def decode(self, latents: Tensor) -> Tensor:
        """Video [B, 3, 8 T - 7, H, W], about [-1, 1], of latents [B, C, T, h, w], all at once."""
        count = latents.shape[2]
        frames = self.decoder(self.post_quant_conv(fold(latents), count), count)
        return unfold(frames, self.decoder.frames * (count - 1) + 1)

    def zero_states(self, latent: Tensor) -> list[Tensor]:
        """The memory before the first frame of a clip for latents like `latent` [B, C, h, w]."""
        batch, _, height, width = latent.shape
        states, scale = [], 1
        for block in self.decoder.blocks:
            if isinstance(block, MemBlock):
                states.append(
                    latent.new_zeros(batch, block.channels, height * scale, width * scale)
                )
            elif isinstance(block, TGrow):
                scale *= block.space
        return states

    def step(self, latent: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Decode one latent frame [B, C, h, w]: its frames [B, 8, 3, H, W] and the next states.

        Start a clip with `zero_states`; of its first latent only the last frame is in the clip.
        """
        frames, next_states = self.decoder.step(self.post_quant_conv(latent, 1), states)
        return torch.stack(frames, 1), next_states
