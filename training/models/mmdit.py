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

TIME_CHANNELS = 256
CONTEXT_ROWS_LAST = 2  # the last block's text only needs the scale and shift of its attention input

Shape = tuple[int, int, int, int]
KeysValues = tuple[Tensor, Tensor]


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


def scale_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """LayerNorm without affine, then AdaLN: x [..., T, W], scale and shift [..., 1, W]."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class SinusoidMLP(nn.Module):
    """Linear, SiLU, Linear: [B, inputs] -> [B, width]."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(inputs, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.linear_2(F.silu(self.linear_1(x))))


class TimeTextEmbed(nn.Module):
    """Timestep (0..1000) and pooled text to one conditioning vector [B, width]."""

    def __init__(self, pooled: int, width: int) -> None:
        super().__init__()
        self.timestep_embedder = SinusoidMLP(TIME_CHANNELS, width)
        self.text_embedder = SinusoidMLP(pooled, width)

    def forward(self, timestep: Tensor, pooled: Tensor) -> Tensor:
        half = TIME_CHANNELS // 2
        frequencies = 10000.0 ** (-np.arange(half) / half)
        row = torch.tensor(frequencies, dtype=torch.float32, device=timestep.device)
        angles = timestep.float()[:, None] * row
        return self.of_waves(torch.cat([angles.cos(), angles.sin()], -1), pooled)

    def of_waves(self, waves: Tensor, pooled: Tensor) -> Tensor:
        """The same of the timestep's sinusoids [B, TIME_CHANNELS]."""
        waves = waves.to(pooled.dtype)
        return cast(Tensor, self.timestep_embedder(waves) + self.text_embedder(pooled))


class AdaLN(nn.Module):
    """The linear layer behind shifts, scales and gates: [B, W] -> `rows` tensors [B, W]."""

    def __init__(self, width: int, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.linear: nn.Linear | nn.ModuleList = nn.Linear(width, rows * width)

    def split_(self) -> None:
        """One Linear per row, so that each keeps its own quantisation range."""
        assert isinstance(self.linear, nn.Linear)
        weights, biases = self.linear.weight.chunk(self.rows), self.linear.bias.chunk(self.rows)
        self.linear = nn.ModuleList(map(_linear, weights, biases))

    def forward(self, x: Tensor) -> list[Tensor]:
        if isinstance(self.linear, nn.ModuleList):
            return [layer(x) for layer in self.linear]
        return list(self.linear(x).chunk(self.rows, -1))


class JointAttention(nn.Module):
    """One attention over text and image tokens, each stream with its own projections."""

    def __init__(self, heads: int, head_dim: int, context_pre_only: bool) -> None:
        super().__init__()
        width = heads * head_dim
        self.heads, self.head_dim, self.half_split = heads, head_dim, False
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.add_q_proj, self.add_k_proj, self.add_v_proj = (
            nn.Linear(width, width) for _ in range(3)
        )
        self.norm_q, self.norm_k, self.norm_add_q, self.norm_add_k = (
            nn.RMSNorm(head_dim, eps=1e-5) for _ in range(4)
        )
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        self.to_add_out = None if context_pre_only else nn.Linear(width, width)

    def half_split_(self) -> None:
        """Prepare for export: rotation pairs half a head apart, attention's scale in q's norms.

        Every head's q and k rows, and their norms, are ordered even then odd.
        """
        order = torch.arange(self.head_dim).view(-1, 2).t().reshape(-1)
        rows = torch.arange(self.heads * self.head_dim).view(self.heads, -1)[:, order].reshape(-1)
        for layer in (self.to_q, self.to_k, self.add_q_proj, self.add_k_proj):
            layer.weight.data, layer.bias.data = layer.weight.data[rows], layer.bias.data[rows]
        for norm in (self.norm_q, self.norm_k, self.norm_add_q, self.norm_add_k):
            norm.weight.data = norm.weight.data[order]
        for norm in (self.norm_q, self.norm_add_q):
            norm.weight.data = norm.weight.data * self.head_dim**-0.5
        self.half_split = True

    def _heads(self, layer: nn.Linear, x: Tensor, norm: nn.RMSNorm | None = None) -> Tensor:
        """Project x [..., T, W] to heads [..., T, heads, head_dim], normalised per head."""
        x = layer(x).unflatten(-1, (self.heads, self.head_dim))
        if norm is None:
            return x
        return F.rms_norm(x, norm.normalized_shape, norm.weight.to(x.dtype), norm.eps)

    def _rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate pairs of x [..., S, heads, head_dim]; cos, sin [..., S, 1, head_dim / 2].

        Published pairs are neighbours. The result is half-split either way: a permutation shared by
        q and k leaves their product as it is.
        """
        a, b = x.chunk(2, -1) if self.half_split else (x[..., 0::2], x[..., 1::2])
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def forward(
        self,
        image: Tensor,
        text: Tensor | None,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        past: KeysValues | None = None,
        own: list[KeysValues] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """image [..., T, W], text [..., N, W] -> the same; no text where `context_pre_only`.

        past: keys and values of tokens before these, the text's among them where there is no
        `text`; the mask is then of [..., own tokens, past and own]. own: gets those of these.
        """
        q, k = (
            [self._heads(self.to_q, image, self.norm_q)],
            [self._heads(self.to_k, image, self.norm_k)],
        )
        v = [self._heads(self.to_v, image)]
        if text is not None:
            q.insert(0, self._heads(self.add_q_proj, text, self.norm_add_q))
            k.insert(0, self._heads(self.add_k_proj, text, self.norm_add_k))
            v.insert(0, self._heads(self.add_v_proj, text))
        cos, sin = cos.to(q[0].dtype).unsqueeze(-2), sin.to(q[0].dtype).unsqueeze(-2)
        queries = self._rotate(torch.cat(q, -3), cos, sin).transpose(-3, -2)
        keys = self._rotate(torch.cat(k, -3), cos, sin).transpose(-3, -2)
        values = torch.cat(v, -3).transpose(-3, -2)
        if own is not None:
            own.append((keys, values))
        if past is not None:
            keys, values = torch.cat([past[0], keys], -2), torch.cat([past[1], values], -2)
        if self.half_split:  # plain products: the fused ONNX Attention is unknown to the NPU
            scores = queries @ keys.transpose(-2, -1)
            out = (scores if mask is None else scores + mask).softmax(-1) @ values
        elif queries.device.type == "cpu":  # its backward pass takes twice as long in bfloat16
            with torch.autocast("cpu", enabled=False):
                out = F.scaled_dot_product_attention(
                    queries.float(), keys.float(), values.float(), attn_mask=mask
                ).to(values.dtype)
        else:
            out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        out = out.transpose(-3, -2).flatten(-2)
        if text is None:
            return self.to_out[0](out), None
        count = text.shape[-2]
        text_out = self.to_add_out(out[..., :count, :]) if self.to_add_out is not None else None
        return self.to_out[0](out[..., count:, :]), text_out


class GELUProjection(nn.Module):
    """Linear and tanh-approximated GELU: [..., width] -> [..., 4 * width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    """Two-layer perceptron, [..., width] -> [..., width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GELUProjection(width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.net(x))


class JointBlock(nn.Module):
    """AdaLN-Zero transformer block over both streams; the last one only reads the text."""

    def __init__(self, heads: int, head_dim: int, context_pre_only: bool) -> None:
        super().__init__()
        width = heads * head_dim
        self.norm1 = AdaLN(width, 6)
        self.norm1_context = AdaLN(width, CONTEXT_ROWS_LAST if context_pre_only else 6)
        self.attn = JointAttention(heads, head_dim, context_pre_only)
        self.ff = FeedForward(width)
        self.ff_context = None if context_pre_only else FeedForward(width)
        self.rows = self.norm1.rows + self.norm1_context.rows

    def modulate(self, x: Tensor) -> list[Tensor]:
        """Rows [B, W] of the activated conditioning [B, W]: the image's, then the text's."""
        return [*self.norm1(x), *self.norm1_context(x)]

    def forward(
        self,
        image: Tensor,
        text: Tensor | None,
        rows: Sequence[Tensor],
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        past: KeysValues | None = None,
        own: list[KeysValues] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """image [..., T, W], text [..., N, W] -> the same; rows [..., 1, W] as from `modulate`.

        past, own: see `JointAttention`.
        """
        shift, scale, gate, ff_shift, ff_scale, ff_gate = rows[:6]
        image_in = scale_shift(image, scale, shift)
        if self.ff_context is None:
            context_scale, context_shift = rows[6:]
        else:
            context_shift, context_scale, context_gate, *context_ff = rows[6:]
        text_in = None if text is None else scale_shift(text, context_scale, context_shift)
        image_out, text_out = self.attn(image_in, text_in, cos, sin, mask, past, own)
        image = image + gate * image_out
        image = image + ff_gate * self.ff(scale_shift(image, ff_scale, ff_shift))
        if self.ff_context is not None and text is not None:
            text = text + context_gate * text_out
            shift, scale, gate = context_ff
            text = text + gate * self.ff_context(scale_shift(text, scale, shift))
        return image, text


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
                raise ValueError(f"{key} is {settings[key]!r}, but only {value!r} is supported")
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
            self.proj_out = _linear(*self._proj_out())
            self.pos_embed.proj = _linear(embed.weight.flatten(1), cast(Tensor, embed.bias))
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
            given = (image, text, chosen, rope_cos, rope_sin, mask, before, own)
            image, text = (
                checkpoint(block, *given, use_reentrant=False) if i < again else block(*given)
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


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A Linear with its own copy of these weights."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight = nn.Parameter(weight.detach().clone(), weight.requires_grad)
    layer.bias = nn.Parameter(bias.detach().clone(), bias.requires_grad)
    return layer


def _ids(shapes: tuple[Shape, ...], text: int, patch_size: int) -> tokens.Ints:
    """Temporal ids [N + T] of `text` text tokens (all 0) and of latents of `shapes`."""
    return np.concatenate([np.zeros(text, np.int64), tokens.temporal_ids(shapes, patch_size)])


@lru_cache(64)
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
