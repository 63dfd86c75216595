"""DistilT5: a small T5 encoder whose projection stands in for a much larger one's states.

The student of the text-encoder distillation in Neodragon (arXiv 2511.06055). Names are those of the
published `text_encoder_3`; `save_pretrained` and `from_pretrained` are those of transformers
(`config.json`, `model.safetensors`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from torch import Tensor, nn
from transformers import PreTrainedModel, T5Config, T5EncoderModel
from transformers import initialization as init


class T5ProjectionConfig(T5Config):  # type: ignore[no-untyped-call]
    """T5 configuration with the sides of the projection.

    project_in_dim is d_model; out_dim, `project_out_dim` in older checkpoints of ours, is the width
    of the states that are imitated.
    """

    attribute_map = {**T5Config.attribute_map, "project_out_dim": "out_dim"}

    project_in_dim: int = 768
    out_dim: int = 4096


class T5EncoderWithProjection(PreTrainedModel):  # type: ignore[no-untyped-call]
    """T5 encoder, then Linear, ReLU, dropout, Linear without biases."""

    config_class = T5ProjectionConfig
    config: T5ProjectionConfig

    def __init__(self, config: T5ProjectionConfig) -> None:
        super().__init__(config)
        self.encoder = T5EncoderModel(config)
        self.final_projection = nn.Sequential(
            nn.Linear(config.project_in_dim, config.out_dim, bias=False),
            nn.ReLU(),
            nn.Dropout(config.dropout_rate),
            nn.Linear(config.out_dim, config.out_dim, bias=False),
        )
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """Xavier for the projection (T5's own layers initialise themselves)."""
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Token states [B, N, out_dim] of ids [B, N]; mask [B, N], 1 for real tokens."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return cast(Tensor, self.final_projection(states))


class PlainT5(nn.Module):
    """A T5 encoder as it is published, such as T5-XXL: its last states are what is read."""

    def __init__(self, encoder: T5EncoderModel) -> None:
        super().__init__()
        self.encoder, self.config = encoder, encoder.config

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Token states [B, N, d_model] of ids [B, N]; mask [B, N], 1 for real tokens."""
        out = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        return cast(Tensor, out.last_hidden_state)


def load_text_encoder(folder: Path) -> T5EncoderWithProjection | PlainT5:
    """The T5 of a checkpoint, float32: with a projection or, as any T5 of transformers, without.

    Raises OSError for a folder without one.
    """
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "project_in_dim" in settings:
        return T5EncoderWithProjection.from_pretrained(folder).float()  # type: ignore[no-any-return]
    return PlainT5(T5EncoderModel.from_pretrained(folder).float())
