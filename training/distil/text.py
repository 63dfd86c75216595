"""Text-encoder distillation: `python -m training.distil.text --teacher T --checkpoint S`.

The student's T5 and context adapter learn to give the tokens that the video transformer reads from
the teacher's text encoder; prompts are the only data and the transformer is not run (Neodragon,
arXiv 2511.06055, section 3.1). Loss: mean square error + 0.1 cosine distance, over real tokens
alone (the paper does not say; padded ones are never read). Modes: `replace` [RM], where the adapter
gives the transformer's tokens itself, and `extend` [EM], where it gives the large encoder's states
and the teacher's own context embedder follows. That embedder is the teacher's `context_adapter`,
one without hidden layers.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.data.world import sample_scene
from training.models.context_adapter import ContextAdapter
from training.models.distil_t5 import T5EncoderWithProjection, T5ProjectionConfig
from training.recipes.conditions import Conditions, captions
from training.recipes.loop import arguments, train
from training.recipes.transformer import ADAPTER, T5

COSINE = 0.1


def token_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """MSE + 0.1 (1 - cos) of context tokens [B, N, W] where mask [B, N] is 1."""
    real = mask.bool()
    own, goal = student[real].float(), teacher[real].float()
    cosine = F.cosine_similarity(own, goal, -1).mean()
    return F.mse_loss(own, goal) + COSINE * (1 - cosine)


class TextSide(nn.Module):
    """T5 with projection and context adapter, and in extend mode a frozen embedder after them."""

    def __init__(
        self,
        text: T5EncoderWithProjection,
        adapter: ContextAdapter,
        embedder: ContextAdapter | None = None,
    ) -> None:
        super().__init__()
        self.text, self.adapter = text, adapter
        self.embedder = embedder.requires_grad_(False) if embedder is not None else None

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Context tokens [B, N, W] of T5 ids and mask [B, N]."""
        states: Tensor = self.adapter(self.text(ids, mask))
        return states if self.embedder is None else self.embedder(states)


def extended(teacher: ContextAdapter) -> dict[str, Any]:
    """Settings of an adapter whose tokens go through the teacher's embedder.

    Raises ValueError where the teacher's is no plain embedder.
    """
    if teacher.config["layer_depths"]:
        raise ValueError("extend mode needs a teacher whose context_adapter is one linear layer")
    return ADAPTER | {"output_dims": teacher.config["input_dims"]}


def main() -> None:
    parser = arguments(__doc__ or "", minutes=15, batch=64, lr=1e-3)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--mode", choices=("replace", "extend"), default="replace")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    conditions = Conditions(options.teacher, options.device)
    teacher = TextSide(
        T5EncoderWithProjection.from_pretrained(options.teacher / "text_encoder_3").float(),
        ContextAdapter.from_pretrained(options.teacher / "context_adapter").float(),
    )
    teacher.eval().requires_grad_(False).to(options.device)
    vocabulary = conditions.t5_tokenizer.get_vocab_size()
    text = T5EncoderWithProjection(T5ProjectionConfig(vocab_size=vocabulary, **T5))
    if options.mode == "extend":
        adapter = ContextAdapter(**extended(teacher.adapter))
        student = TextSide(text, adapter, copy.deepcopy(teacher.adapter))
    else:
        student = TextSide(text, ContextAdapter(**ADAPTER))
    if options.warm:
        student.text = T5EncoderWithProjection.from_pretrained(
            options.checkpoint / "text_encoder_3"
        ).float()
        if student.embedder is None:
            student.adapter = ContextAdapter.from_pretrained(
                options.checkpoint / "context_adapter"
            ).float()
    size, own = (sum(w.numel() for w in model.parameters()) for model in (teacher, student))
    print(f"teacher {size:,} parameters, student {own:,}")

    def step(generator: torch.Generator) -> Tensor:
        rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        scenes = [sample_scene(rng) for _ in range(options.batch)]
        ids, mask = conditions.tokens(captions(scenes, generator))
        with torch.no_grad():
            goal = teacher(ids, mask)
        return token_loss(student(ids, mask), goal, mask)

    def finish() -> None:
        student.half().text.save_pretrained(options.checkpoint / "text_encoder_3")
        student.adapter.save_pretrained(options.checkpoint / "context_adapter")
        if student.embedder is not None:
            student.embedder.save_pretrained(options.checkpoint / "context_embedder")

    train(f"text_{options.mode}", student, step, options, finish=finish)


if __name__ == "__main__":
    main()
