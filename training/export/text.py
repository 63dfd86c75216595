"""The graphs of text: CLIP's encoders, and T5 with the context adapter behind it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from training.export.source import Source, Traced, clip_outputs
from training.models.context_adapter import ContextAdapter
from training.models.distil_t5 import T5EncoderWithProjection

T5_SCALE = 16.0  # a power of two: dividing by it is exact
MASKED = -100.0  # leaks exp(-100); -1e9 would be minus infinity in half precision


def _clip_kind(folder: str) -> Any:
    """The class of a CLIP folder: the first frame's CLIP-L comes without a projection."""
    return CLIPTextModel if folder == "ssd_1b_text_encoder" else CLIPTextModelWithProjection


def clip(source: Source, folder: str) -> Traced:
    """One of the CLIP encoders."""
    model = source.load(_clip_kind(folder), folder)
    ids = source.clip_ids(folder.removeprefix("ssd_1b_"))
    return Traced(model, clip_outputs, {"ids": ids}, ("hidden", "pooled"))


class RMSNorm(nn.Module):
    """T5's norm as one operator, which half precision does not overflow."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon / T5_SCALE**2

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.rms_norm(x, x.shape[-1:], self.weight, self.eps)


def rescale_(t5: T5EncoderWithProjection) -> T5EncoderWithProjection:
    """Divide T5's residual stream by T5_SCALE, in place, which no norm notices; returns `t5`.

    The full-size encoder's peaks at 329,510, five times what half precision holds.
    """
    stack = t5.encoder.encoder
    stack.embed_tokens.weight.data /= T5_SCALE
    for block in stack.block:
        attention, feed_forward = block.layer[0], block.layer[-1]
        attention.SelfAttention.o.weight.data /= T5_SCALE
        feed_forward.DenseReluDense.wo.weight.data /= T5_SCALE
        for layer in (attention, feed_forward):
            layer.layer_norm = RMSNorm(layer.layer_norm)
    stack.final_layer_norm = RMSNorm(stack.final_layer_norm)
    return t5


class TextEncoder(nn.Module):
    """T5 with projection, then the context adapter."""

    def __init__(self, source: Source, suffix: str = "") -> None:
        super().__init__()
        self.t5 = source.load(T5EncoderWithProjection, "text_encoder_3")
        self.adapter = source.load(ContextAdapter, f"context_adapter{suffix}")

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask [1, N] to context tokens [N, W]."""
        context: Tensor = self.adapter(self.t5(ids, mask))[0]
        return context


def text_encoder(source: Source, suffix: str) -> Traced:
    ids, mask = source.t5_ids()
    plain, scaled = TextEncoder(source, suffix), TextEncoder(source, suffix)
    rescale_(scaled.t5)

    def run(net: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
        bias = (1 - mask[:, None, None, :].float()) * MASKED
        states = net.t5.encoder(input_ids=ids, attention_mask=bias).last_hidden_state  # type: ignore[operator, union-attr]
        context: Tensor = net.adapter(net.t5.final_projection(states))[0]  # type: ignore[operator, union-attr]
        return context

    return Traced(
        scaled,
        run,
        {"ids": ids, "mask": mask},
        ("context",),
        lambda: plain(ids, mask),
        opset=23,
    )
