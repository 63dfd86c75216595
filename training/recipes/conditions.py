"""What a caption gives the video transformer: T5 ids and mask, and CLIP's pooled embedding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import CLIPTextModelWithProjection

from training.data.tokenizers import CLIP_LENGTH, T5_LENGTH
from training.data.world import Scene, caption
from training.recipes.first_frame import clip_ids

DROPPED = 0.1  # share of captions left out, for guidance


class Conditions:
    """The tokenizers and the frozen CLIP text encoders of a checkpoint."""

    def __init__(self, checkpoint: Path, device: str) -> None:
        self.device = device
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
        """T5 ids and mask [B, N], 1 for real tokens."""
        rows = [self.t5_tokenizer.encode(prompt).ids[:T5_LENGTH] for prompt in prompts]
        ids = torch.tensor([row + [0] * (T5_LENGTH - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (T5_LENGTH - len(row)) for row in rows])
        return ids.to(self.device), mask.to(self.device)

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """T5 ids and mask [B, N], pooled CLIP [B, D]."""
        pairs = zip(
            self.clips, clip_ids(self.clip_tokenizer, list(prompts), CLIP_LENGTH), strict=True
        )
        pooled = [clip(ids.to(self.device)).text_embeds for clip, ids in pairs]
        return *self.tokens(prompts), torch.cat(pooled, -1)


def captions(
    scenes: Sequence[Scene], generator: torch.Generator, dropped: float = DROPPED
) -> list[str]:
    """A fresh wording of each scene, empty for a share of them."""
    rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
    return ["" if rng.random() < dropped else caption(scene, rng) for scene in scenes]
