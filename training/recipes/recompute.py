"""Gradient checkpointing: activations are computed again in the backward pass."""

from __future__ import annotations

from diffusers import UNet2DConditionModel
from torch import nn
from transformers import PreTrainedModel

from training.models.mmdit import PyramidMMDiT


def recompute(model: nn.Module) -> None:
    """Let every network in `model` that can keep only its blocks' inputs."""
    for part in model.modules():
        if isinstance(part, PyramidMMDiT):
            part.config["use_gradient_checkpointing"] = True
        elif isinstance(part, UNet2DConditionModel):
            part.enable_gradient_checkpointing()
        elif isinstance(part, PreTrainedModel) and part.supports_gradient_checkpointing:
            part.gradient_checkpointing_enable()
