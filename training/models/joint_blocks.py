"""The blocks of the pyramid MMDiT: joint attention of text and image tokens, AdaLN, feed-forward.

As in Stable Diffusion 3 (arXiv 2403.03206): two streams, one attention, AdaLN-Zero. Module names
are those of the published `diffusion_transformer_320p`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

TIME_CHANNELS = 256
CONTEXT_ROWS_LAST = 2  # the last block's text only needs the scale and shift of its attention input

KeysValues = tuple[Tensor, Tensor]


def scale_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """LayerNorm without affine, then AdaLN: x [..., T, W], scale and shift [..., 1, W]."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def linear_of(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A Linear with its own copy of these weights."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight = nn.Parameter(weight.detach().clone(), weight.requires_grad)
    layer.bias = nn.Parameter(bias.detach().clone(), bias.requires_grad)
    return layer


@torch.compiler.disable  # Inductor of PyTorch 2.13 cannot compile it for sizes that vary
def attention_in_single(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
) -> Tensor:
    """Attention [..., heads, S, D] in float32, whatever its inputs are: on a CPU the backward pass
    takes twice as long in bfloat16.
    """
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(
            queries.float(), keys.float(), values.float(), attn_mask=mask
        ).to(values.dtype)


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
        self.linear = nn.ModuleList(map(linear_of, weights, biases))

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
        elif queries.device.type == "cpu":
            out = attention_in_single(queries, keys, values, mask)
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
