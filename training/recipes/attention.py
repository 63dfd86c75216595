"""Attention of diffusers' networks as plain products, for training on a CPU.

The fused one's backward pass takes several times as long there; the products are bfloat16 under
autocast, which AMX multiplies.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor


class PlainAttention:
    """A processor for diffusers' `Attention` without masks, norms and added projections."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
    ) -> Tensor:
        """hidden_states [B, T, W], encoder_hidden_states [B, N, D] -> [B, T, W]."""
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            layer(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, x in (
                (attn.to_q, hidden_states),
                (attn.to_k, source),
                (attn.to_v, source),
            )
        )
        scores = (query * attn.scale) @ key.transpose(-2, -1)
        out = torch.softmax(scores.float(), -1).to(value.dtype) @ value
        return attn.to_out[0](out.transpose(1, 2).flatten(-2))  # type: ignore[no-any-return]


def plain_on_cpu(unet: UNet2DConditionModel, device: str) -> None:
    """Give the network plain attention where it trains on a CPU."""
    if device == "cpu":
        unet.set_attn_processor(PlainAttention())
