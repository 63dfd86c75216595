"""Text-encoder distillation: `python -m training.distil.text --teacher T --checkpoint S`.

First `--pretrain`: a small T5 learns captions by itself, by denoising tokens, as the published
DistilT5 was there before Neodragon (arXiv 2511.06055, section 3.1). Then it is frozen and a context
adapter learns to give, from its states, the tokens that the video transformer reads from the
teacher's text encoder; prompts are the only data and the transformer is not run. Loss: mean square
error + 0.1 cosine distance, over real tokens alone (the paper does not say; padded ones are never
read).

Modes: `replace` [RM], where the adapter gives the transformer's tokens itself; `extend` [EM], where
it gives the large encoder's states and the teacher's own context embedder follows, which is joined
to the adapter's last layer when saved; `train` [TDT5], where T5 learns too and the adapter is one
linear layer. `--random` leaves T5's pretraining out, `--cosine 0` that term: controls.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.data.worlds import scenes_of
from training.models.context_adapter import ContextAdapter
from training.models.distil_t5 import (
    T5EncoderWithProjection,
    T5ProjectionConfig,
    load_text_encoder,
)
from training.recipes.conditions import Conditions
from training.recipes.configuration import Configuration
from training.recipes.first_frame import captions
from training.recipes.loop import arguments, train

COSINE = 0.1
HIDDEN = 0.25  # share of tokens that pretraining hides
UNKNOWN = 2  # the id that stands for them
MODES = ("replace", "extend", "train")
STUDENT = "student_t5"  # folder of the pretrained encoder


def token_loss(student: Tensor, teacher: Tensor, mask: Tensor, cosine: float = COSINE) -> Tensor:
    """MSE + 0.1 (1 - cos) of context tokens [B, N, W] where mask [B, N] is 1."""
    real = mask.bool()
    own, goal = student[real].float(), teacher[real].float()
    similar = F.cosine_similarity(own, goal, -1).mean()
    return F.mse_loss(own, goal) + cosine * (1 - similar)


class TextSide(nn.Module):
    """T5 with projection and context adapter, and in extend mode a frozen embedder after them."""

    def __init__(
        self,
        text: nn.Module,
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


def extended(adapter: dict[str, Any], teacher: ContextAdapter) -> dict[str, Any]:
    """Settings of an adapter whose tokens go through the teacher's embedder.

    Raises ValueError where the teacher's is no plain embedder.
    """
    if teacher.config["layer_depths"]:
        raise ValueError("the context_adapter is not one linear layer; extend another teacher")
    return adapter | {"output_dims": teacher.config["input_dims"]}


@torch.no_grad()
def joined(adapter: ContextAdapter, embedder: ContextAdapter) -> ContextAdapter:
    """One adapter that gives what `embedder`, a linear layer, makes of `adapter`'s tokens."""
    whole = ContextAdapter(**adapter.config | {"output_dims": embedder.config["output_dims"]})
    state = adapter.state_dict()
    last = len(adapter.network_layers) - 1
    weight, bias = (state[f"network_layers.{last}.0.{name}"] for name in ("weight", "bias"))
    linear = embedder.network_layers[0][0]  # type: ignore[index]
    state[f"network_layers.{last}.0.weight"] = linear.weight @ weight
    state[f"network_layers.{last}.0.bias"] = linear.weight @ bias + linear.bias
    whole.load_state_dict(state)
    return whole


class Denoiser(nn.Module):
    """T5 with projection and a classifier of tokens after it."""

    def __init__(self, text: T5EncoderWithProjection) -> None:
        super().__init__()
        self.text = text
        self.head = nn.Linear(text.config.out_dim, text.config.vocab_size)


def hide(ids: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Ids [B, N] with a share of the real ones hidden, and which [B, N]."""
    drawn = torch.rand(ids.shape, generator=generator).to(ids.device)
    hidden = (drawn < HIDDEN) & mask.bool() & (ids != 1)  # not the end token
    return ids.masked_fill(hidden, UNKNOWN), hidden


def main() -> None:
    parser = arguments(__doc__ or "", steps=3000, batch=64, lr=1e-3)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--pretrain", action="store_true", help="teach T5 the captions by itself")
    parser.add_argument("--mode", choices=MODES, default="replace")
    parser.add_argument("--random", action="store_true", help="a T5 that was never trained")
    parser.add_argument("--cosine", type=float, default=COSINE, help="weight of that term")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    config = Configuration.read(options.config)
    sizes, conditions = config["student"], Conditions(options.teacher, options.device, config)
    vocabulary = conditions.t5_tokenizer.get_vocab_size()
    fresh = T5EncoderWithProjection(T5ProjectionConfig(vocab_size=vocabulary, **sizes["t5"]))

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        seed = int(torch.randint(2**31, (1,), generator=generator))
        scenes = scenes_of(config.world, seed, options.batch)
        return conditions.tokens(captions(config.world, scenes, generator))

    if options.pretrain:
        denoiser = Denoiser(fresh)

        def denoise(generator: torch.Generator) -> Tensor:
            ids, mask = batch(generator)
            seen, hidden = hide(ids, mask, generator)
            logits = denoiser.head(denoiser.text(seen, mask)[hidden])
            return F.cross_entropy(logits.float(), ids[hidden])

        def keep() -> None:
            denoiser.text.half().save_pretrained(options.checkpoint / STUDENT)

        return train("text_pretrain", denoiser, denoise, options, finish=keep)

    teacher = TextSide(
        load_text_encoder(options.teacher / "text_encoder_3"),
        ContextAdapter.from_pretrained(options.teacher / "context_adapter").float(),
    )
    teacher.eval().requires_grad_(False).to(options.device)
    text = fresh
    if not options.random:
        text = T5EncoderWithProjection.from_pretrained(options.checkpoint / STUDENT).float()
    text.requires_grad_(options.mode == "train")
    own, embedder = sizes["adapter"], None
    if options.mode == "extend":
        own, embedder = extended(own, teacher.adapter), teacher.adapter
    elif options.mode == "train":
        own = own | {"layer_depths": [], "skips": []}
    student = TextSide(text, ContextAdapter(**own), embedder)
    counts = [sum(w.numel() for w in model.parameters()) for model in (teacher, student)]
    print(f"teacher {counts[0]:,} parameters, student {counts[1]:,}", flush=True)

    def step(generator: torch.Generator) -> Tensor:
        ids, mask = batch(generator)
        with torch.no_grad():
            goal = teacher(ids, mask)
        return token_loss(student(ids, mask), goal, mask, options.cosine)

    def finish() -> None:
        adapter = student.adapter
        if student.embedder is not None:
            adapter = joined(adapter, student.embedder)
        text.half().save_pretrained(options.checkpoint / "text_encoder_3")
        adapter.half().save_pretrained(options.checkpoint / "context_adapter")

    name = "_".join(["text", options.mode, *(["random"] if options.random else [])])
    train(name, student, step, options, finish=finish)


if __name__ == "__main__":
    main()
