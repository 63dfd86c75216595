"""Pyramid MMDiT: joint text and video attention that predicts the flow of one latent unit.

Blocks as in Stable Diffusion 3 (arXiv 2403.03206): two streams, one attention, AdaLN-Zero; past
units as clean context before the noisy one as in Pyramidal Flow Matching (arXiv 2410.05954). Names
and shapes are those of the published `diffusion_transformer_320p`. Positions, rotary tables and
masks come from `engine.tokens`; here is only dense arithmetic.

`modulate` and `forward_tokens` become the graphs `modulation` and `transformer`. `forward_tokens`
takes any leading batch dimensions or none, so its graph is of rank 2 outside attention;
`half_split_` prepares a module for export.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import islice, repeat
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from engine import tokens
from engine.config import TransformerConfig
from training.checkpoint import Checkpoint
from training.models.joint_blocks import (
    AdaLN,
    JointAttention,
    JointBlock,
    KeysValues,
    SinusoidMLP,
    TimeTextEmbed,
    linear_of,
    scale_shift,
)

Shape = tuple[int, int, int, int]


def patchify(latent: Tensor, patch_size: int) -> Tensor:
    """Patches [B, t * h/p * w/p, C * p * p] of [B, C, t, h, w], values in (c, ph, pw) order.

    That of `engine.tokens.patchify`, batched and differentiable.
    """
    batch, channels, frames, height, width = latent.shape
    p = patch_size
    cut = latent.reshape(batch, channels, frames, height // p, p, width // p, p)
    return cut.permute(0, 2, 3, 5, 1, 4, 6).reshape(batch, -1, channels * p * p)


def unpatchify(patches: Tensor, shape: Sequence[int], patch_size: int) -> Tensor:
    """Inverse of `patchify`; `shape` is that of the latent, (B, C, t, h, w)."""
    batch, channels, frames, height, width = shape
    p = patch_size
    cut = patches.reshape(batch, frames, height // p, width // p, channels, p, p)
    return cut.permute(0, 4, 1, 2, 5, 3, 6).reshape(batch, channels, frames, height, width)


class PatchEmbed(nn.Module):
    """Patch embedding, and the published position table, which is kept for the checkpoint only."""

    def __init__(self, channels: int, config: TransformerConfig) -> None:
        super().__init__()
        size = config.patch_size
        self.proj: nn.Conv2d | nn.Linear = nn.Conv2d(channels, config.width, size, stride=size)
        table = torch.empty(1, config.pos_embed_max_size**2, config.width)
        if not table.is_meta:
            table.copy_(torch.from_numpy(tokens.position_table(config)))
        self.register_buffer("pos_embed", table)

    def forward(self, patches: Tensor) -> Tensor:
        """patches [..., T, C * p * p] in (c, ph, pw) order -> [..., T, width]."""
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class PyramidMMDiT(nn.Module, Checkpoint):
    """The video transformer; arguments are the keys of the published `config.json`.

    Raises ValueError for a setting that the published checkpoints do not use.
    """

    def __init__(
        self,
        sample_size: int = 128,
        patch_size: int = 2,
        in_channels: int = 16,
        num_layers: int = 18,
        attention_head_dim: int = 64,
        num_attention_heads: int = 24,
        caption_projection_dim: int = 1536,
        pooled_projection_dim: int = 2048,
        pos_embed_max_size: int = 192,
        max_num_frames: int = 200,
        qk_norm: str = "rms_norm",
        pos_embed_type: str = "sincos",
        temp_pos_embed_type: str = "rope",
        joint_attention_dim: int = 4096,
        use_gradient_checkpointing: bool = False,
        use_temporal_causal: bool = True,
        use_t5_mask: bool = True,
        add_temp_pos_embed: bool = True,
        interp_condition_pos: bool = True,
        gradient_checkpointing_ratio: float = 0.6,
    ) -> None:
        settings = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        self.config: dict[str, Any] = settings
        width = num_attention_heads * attention_head_dim
        fixed = {
            "qk_norm": "rms_norm",
            "pos_embed_type": "sincos",
            "temp_pos_embed_type": "rope",
            "caption_projection_dim": width,
            "use_temporal_causal": True,
            "use_t5_mask": True,
            "add_temp_pos_embed": True,
            "interp_condition_pos": True,
        }
        for key, value in fixed.items():
            if settings[key] != value:
                raise ValueError(f"{key} is {settings[key]!r}, and only {value!r} is supported")
        self.token_config = TransformerConfig(
            width, attention_head_dim, patch_size, pos_embed_max_size, sample_size
        )
        self.pos_embed = PatchEmbed(in_channels, self.token_config)
        self.time_text_embed = TimeTextEmbed(pooled_projection_dim, width)
        self.transformer_blocks = nn.ModuleList(
            JointBlock(num_attention_heads, attention_head_dim, i == num_layers - 1)
            for i in range(num_layers)
        )
        self.norm_out = AdaLN(width, 2)
        self.proj_out = nn.Linear(width, patch_size**2 * in_channels)
        self._initialise()

    def _initialise(self) -> None:
        """Xavier; AdaLN-Zero and the output start at zero (DiT, arXiv 2212.09748)."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                nn.init.zeros_(cast(Tensor, module.bias))
        for module in self.modules():
            if isinstance(module, SinusoidMLP):
                nn.init.normal_(module.linear_1.weight, std=0.02)
                nn.init.normal_(module.linear_2.weight, std=0.02)
        adaptive = [module.linear for module in self.modules() if isinstance(module, AdaLN)]
        for layer in (*adaptive, self.proj_out):
            nn.init.zeros_(cast(Tensor, layer.weight))

    @property
    def _blocks(self) -> list[JointBlock]:
        return cast(list[JointBlock], list(self.transformer_blocks))

    @property
    def modulation_rows(self) -> int:
        """Rows M of `modulate`: 12 per block but 8 for the last, then 2."""
        return sum(block.rows for block in self._blocks) + self.norm_out.rows

    def half_split_(self) -> PyramidMMDiT:
        """Rearrange the weights in place for export; the names are no longer the published ones.

        Attention becomes half-split RoPE and plain products, each AdaLN row its own Linear, and
        both patch layers Linears over (c, ph, pw) patches. The outputs of `modulate` and
        `forward_tokens` do not change. Returns self.
        """
        for module in self.modules():
            if isinstance(module, JointAttention) and not module.half_split:
                module.half_split_()
        for adaptive in [m for m in self.modules() if isinstance(m, AdaLN)]:
            if isinstance(adaptive.linear, nn.Linear):
                adaptive.split_()
        if isinstance(self.pos_embed.proj, nn.Conv2d):
            embed = self.pos_embed.proj
            self.proj_out = linear_of(*self._proj_out())
            self.pos_embed.proj = linear_of(embed.weight.flatten(1), cast(Tensor, embed.bias))
        return self

    def _proj_out(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of `proj_out`, rows in (c, ph, pw) order; published is (ph, pw, c)."""
        weight, bias = self.proj_out.weight, self.proj_out.bias
        if isinstance(self.pos_embed.proj, nn.Linear):
            return weight, bias
        p = self.token_config.patch_size
        weight = weight.view(p, p, -1, weight.shape[1]).permute(2, 0, 1, 3).flatten(0, 2)
        return weight, bias.view(p, p, -1).permute(2, 0, 1).flatten()

    def modulate(self, timestep: Tensor, pooled: Tensor) -> Tensor:
        """All AdaLN rows for timesteps [B] (0..1000) and pooled text [B, D]: [B, M, W].

        Rows in the order of use: for each block the image's shift, scale, gate of the attention,
        shift, scale, gate of the feed-forward, then the same six for its text (the last block:
        scale, shift); finally scale, shift of `norm_out`.
        """
        return self.modulate_by(self.time_text_embed(timestep, pooled))

    def modulate_by(self, embedded: Tensor) -> Tensor:
        """The same of the embedded timestep and pooled text [B, W]."""
        x = F.silu(embedded)
        rows = [row for block in self._blocks for row in block.modulate(x)]
        return torch.stack([*rows, *self.norm_out(x)], -2).float()

    def forward_tokens(
        self,
        patches: Tensor,
        positions: Tensor,
        rope_cos: Tensor,
        rope_sin: Tensor,
        mask: Tensor | None,
        context: Tensor,
        modulation: Tensor,
    ) -> Tensor:
        """Flow [..., T, P] of patches [..., T, P], values in (c, ph, pw) order both ways.

        positions [..., T, W]; rope_cos, rope_sin [..., N + T, head_dim / 2]; mask additive, 0 or
        -100, [..., 1, N + T, N + T] ([N + T, N + T] without a batch) or None for no mask; context
        [..., N, W]; modulation [..., M, W] from `modulate`. Text comes before image in tables and
        mask. Batch dimensions are the same for all, may be 1 in tables and mask, or absent in all.
        """
        rows, last = modulation.split([modulation.shape[-2] - 2, 2], -2)
        tables = rope_cos, rope_sin, mask
        image, _ = self.blocks(self.embed(patches, positions), context, rows, *tables)
        return self.project(image, last)

    def embed(self, patches: Tensor, positions: Tensor) -> Tensor:
        """The image tokens [..., T, W] before the first block."""
        return cast(Tensor, self.pos_embed(patches) + positions)

    def blocks(
        self,
        image: Tensor,
        text: Tensor | None,
        modulation: Tensor,
        rope_cos: Tensor,
        rope_sin: Tensor,
        mask: Tensor | None,
        past: Sequence[KeysValues] | None = None,
        own: list[KeysValues] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Image and text tokens after all blocks there are; modulation: their rows, all of them.

        past: for each block, keys and values [..., heads, tokens, head_dim] of tokens that it need
        not compute again; own: gets those of the tokens given.
        """
        rows = iter(modulation.chunk(sum(block.rows for block in self._blocks), -2))
        again = 0  # blocks that keep their inputs alone and are computed again on the way back
        if self.config["use_gradient_checkpointing"] and self.training:
            again = round(self.config["gradient_checkpointing_ratio"] * len(self._blocks))
        for i, (block, before) in enumerate(zip(self._blocks, past or repeat(None), strict=False)):
            chosen = list(islice(rows, block.rows))
            inputs = (image, text, chosen, rope_cos, rope_sin, mask, before, own)
            image, text = (
                checkpoint(block, *inputs, use_reentrant=False) if i < again else block(*inputs)
            )
        return image, text

    def project(self, image: Tensor, modulation: Tensor) -> Tensor:
        """Flow [..., T, P] of the image tokens after the last block; modulation [..., 2, W]."""
        scale, shift = modulation.chunk(2, -2)
        return F.linear(scale_shift(image, scale, shift), *self._proj_out())

    def forward(
        self,
        conditions: Sequence[Tensor],
        timestep: Tensor,
        context: Tensor,
        text_mask: Tensor,
        pooled: Tensor,
    ) -> Tensor:
        """Flow (start - end) of the current unit, [B, C, 1, h, w].

        conditions: latents [B, C, t, h, w], history oldest first, the current noisy unit last;
        timestep [B], 0..1000; context [B, N, W]; text_mask [B, N], 1 for real tokens; pooled
        [B, D].
        """
        device, current = conditions[-1].device, conditions[-1]
        size = self.token_config.patch_size
        shapes = tuple(cast(Shape, tuple(part.shape[1:])) for part in conditions)
        places, cos, sin = _tables(shapes, text_mask.shape[1], self.token_config)
        flow = self.forward_tokens(
            torch.cat([patchify(part, size) for part in conditions], 1),
            places.to(device),
            cos.to(device),
            sin.to(device),
            _masks(shapes, text_mask.cpu().numpy(), size).to(device),
            context,
            self.modulate(timestep, pooled),
        )
        count = current[0, 0].numel() // size**2
        return unpatchify(flow[:, -count:], current.shape, size)


def _ids(shapes: tuple[Shape, ...], text: int, patch_size: int) -> tokens.Ints:
    """Temporal ids [N + T] of `text` text tokens (all 0) and of latents of `shapes`."""
    return np.concatenate([np.zeros(text, np.int64), tokens.temporal_ids(shapes, patch_size)])


@lru_cache(256)
def _tables(
    shapes: tuple[Shape, ...], text: int, config: TransformerConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Positions [1, T, W] and rotary cosines and sines [1, N + T, head_dim / 2]."""
    grids = tokens.frame_shapes(shapes, config.patch_size)
    places = np.concatenate([tokens.positions(grids[-1], grid, config) for grid in grids])
    cos, sin = tokens.rope(_ids(shapes, text, config.patch_size), config.head_dim)
    return torch.from_numpy(places)[None], torch.from_numpy(cos)[None], torch.from_numpy(sin)[None]


def _masks(shapes: tuple[Shape, ...], text_mask: tokens.Ints, patch_size: int) -> Tensor:
    """Additive masks [B, 1, N + T, N + T] of text masks [B, N]."""
    ids = _ids(shapes, text_mask.shape[1], patch_size)
    samples = np.ones((len(text_mask), len(ids)), np.int64)
    samples[:, : text_mask.shape[1]] = text_mask != 0
    masks = np.stack([tokens.attention_mask(ids, row) for row in samples])
    return torch.from_numpy(masks)[:, None]
