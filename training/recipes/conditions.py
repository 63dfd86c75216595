"""What a caption gives the video transformer: T5 ids and mask, and CLIP's pooled embedding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import CLIPTextModelWithProjection

from training.recipes.configuration import Configuration
from training.recipes.first_frame import clip_ids

PARTS = 8  # of tokens: batches are cut to their longest prompt, rounded up to whole ones


class Conditions:
    """The tokenizers and the frozen CLIP text encoders of a checkpoint."""

    def __init__(self, checkpoint: Path, device: str, config: Configuration) -> None:
        self.device = device
        self.clip_length = config["text"]["clip_length"]
        self.t5_length = config["text"]["t5_length"]
        self.clip_tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer" / "tokenizer.json"))
        self.t5_tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer_3" / "tokenizer.json"))
        self.clips = [
            CLIPTextModelWithProjection.from_pretrained(checkpoint / folder)
            .float()
            .eval()
            .to(device)
            for folder in ("text_encoder", "text_encoder_2")
        ]

    def tokens(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """T5 ids and mask [B, N], 1 for real tokens; padding that no prompt needs is left out, for
        nothing reads it.
        """
        rows = [self.t5_tokenizer.encode(prompt).ids[: self.t5_length] for prompt in prompts]
        longest = -(-max(map(len, rows)) // PARTS) * PARTS
        gaps = [min(longest, self.t5_length) - len(row) for row in rows]
        ids = torch.tensor([row + [0] * gap for row, gap in zip(rows, gaps, strict=True)])
        mask = torch.tensor(
            [[1] * len(row) + [0] * gap for row, gap in zip(rows, gaps, strict=True)]
        )
        return ids.to(self.device), mask.to(self.device)

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """T5 ids and mask [B, N], pooled CLIP [B, D]."""
        pairs = zip(
            self.clips, clip_ids(self.clip_tokenizer, list(prompts), self.clip_length), strict=True
        )
        pooled = [clip(ids.to(self.device)).text_embeds for clip, ids in pairs]
        return *self.tokens(prompts), torch.cat(pooled, -1)
