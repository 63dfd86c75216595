"""ContextAdapter: turns text states into the tokens that the video transformer reads.

The "SkipMLP" of Neodragon (arXiv 2511.06055), which replaces the transformer's own linear context
embedder. Names and shapes are those of the published `context_adapter`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from training.checkpoint import Checkpoint


class ContextAdapter(nn.Module, Checkpoint):
    """Linear layers with GELU, each reading its predecessor's output beside the raw input.

    Arguments are the keys of the published `config.json`, defaults its values. `layer_depths` are
    the hidden widths; where `skips` is false, the layer after that one does not read the raw input.
    Raises ValueError for a setting that the published checkpoint does not use.
    """

    def __init__(
        self,
        input_dims: int = 4096,
        output_dims: int = 1536,
        layer_depths: Sequence[int] = (4096, 4096, 4096, 4096),
        skips: Sequence[bool] = (True, True, True, True),
        use_biases: bool = True,
        pre_activation: bool = False,
        activation_fn: str = "gelu",
        out_activation_fn: str = "linear",
    ) -> None:
        settings = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        self.config = settings
        for key, value in (
            ("pre_activation", False),
            ("activation_fn", "gelu"),
            ("out_activation_fn", "linear"),
        ):
            if settings[key] != value:
                raise ValueError(f"{key} is {settings[key]}, and only {value} is supported")
        self.skips = tuple(skips)
        self.network_layers = nn.ModuleList()
        width = input_dims
        for depth, skip in zip(layer_depths, skips, strict=True):
            linear = nn.Linear(width, depth, bias=use_biases)
            self.network_layers.append(nn.Sequential(nn.Identity(), linear, nn.GELU()))
            width = depth + (input_dims if skip else 0)
        self.network_layers.append(nn.Sequential(nn.Linear(width, output_dims, bias=use_biases)))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if use_biases:
                    nn.init.zeros_(module.bias)

    def forward(self, states: Tensor) -> Tensor:
        """states [..., input_dims] -> context [..., output_dims]."""
        *hidden_layers, out = self.network_layers
        x = states
        for layer, skip in zip(hidden_layers, self.skips, strict=True):
            x = layer(x)
            if skip:
                x = torch.cat([states, x], -1)
        return cast(Tensor, out(x))
