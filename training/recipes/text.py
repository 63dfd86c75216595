"""Train the text encoders on captions alone: `python -m training.recipes.text`.

The published CLIP and T5 were trained on text and pictures of the whole world before any video
model read them; ours learn their little world's captions first, to tell what a scene is from its
words: each fact of the scene is predicted from the end token (CLIP) or the mean token (T5). What a
caption leaves out it cannot tell, and learns the odds of. Then the CLIP encoders are frozen, as
the published ones are; T5 goes on learning with its transformer (`training.recipes.transformer`).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection

from training.models.distil_t5 import T5EncoderWithProjection, T5ProjectionConfig
from training.recipes.configuration import Configuration
from training.recipes.first_frame import clip, clip_ids, save_without_projection
from training.recipes.loop import arguments, train
from training.recipes.precision import autocast


def t5_ids(tokenizer: Tokenizer, prompts: list[str], length: int) -> tuple[Tensor, Tensor]:
    """T5 ids and mask [B, length], 1 for real tokens."""
    rows = [tokenizer.encode(prompt).ids[:length] for prompt in prompts]
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    return ids, (torch.arange(length) < torch.tensor([[len(row)] for row in rows])).long()


class TextTowers(nn.Module):
    """The three encoders and a classifier of all facts for each kind of state they give."""

    def __init__(
        self,
        clip_l: CLIPTextModelWithProjection,
        clip_g: CLIPTextModelWithProjection,
        t5: T5EncoderWithProjection,
        facts: int,
    ) -> None:
        super().__init__()
        self.clip_l, self.clip_g, self.t5 = clip_l, clip_g, t5
        hidden, pooled = clip_l.config.hidden_size, clip_l.config.projection_dim
        widths = (hidden, pooled, hidden, pooled, t5.config.out_dim)
        self.heads = nn.ModuleList(nn.Linear(width, facts) for width in widths)

    def forward(self, ids_l: Tensor, ids_g: Tensor, ids_t5: Tensor, mask: Tensor) -> list[Tensor]:
        """Logits [B, facts] from the states before the last layer and the pooled ones of both CLIP
        encoders, and from T5's.
        """
        seen = []
        for tower, ids in ((self.clip_l, ids_l), (self.clip_g, ids_g)):
            out = tower(ids, output_hidden_states=True)
            end = (ids == tower.config.eos_token_id).int().argmax(1)
            seen += [out.hidden_states[-2][torch.arange(len(ids)), end], out.text_embeds]
        share = mask[..., None] / mask.sum(1)[:, None, None]
        seen.append((self.t5(ids_t5, mask) * share).sum(1))
        return [head(state) for head, state in zip(self.heads, seen, strict=True)]


def main() -> None:
    parser = arguments(__doc__ or "", steps=3000, batch=64, lr=1e-3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    config, checkpoint = Configuration.read(options.config), options.checkpoint
    world, lengths = config.world, config["text"]
    clip_tokenizer, t5_tokenizer = (
        Tokenizer.from_file(str(checkpoint / folder / "tokenizer.json"))
        for folder in ("tokenizer", "tokenizer_3")
    )
    ends = (clip_tokenizer.token_to_id("<|endoftext|>"), 0)
    towers = [clip(config["clip"], clip_tokenizer, lengths["clip_length"], pad) for pad in ends]
    vocabulary = t5_tokenizer.get_vocab_size()
    t5 = T5EncoderWithProjection(T5ProjectionConfig(vocab_size=vocabulary, **config["t5"]))
    sizes = list(world.fact_sizes)
    model = TextTowers(towers[0], towers[1], t5, sum(sizes))

    def batch(seed: int, test: bool = False) -> tuple[list[Tensor], Tensor]:
        rng = np.random.default_rng(seed)
        scenes = [world.scene(rng, test=test) for _ in range(options.batch)]
        prompts = [world.caption(scene, rng, test=test) for scene in scenes]
        ids = [
            *clip_ids(clip_tokenizer, prompts, lengths["clip_length"]),
            *t5_ids(t5_tokenizer, prompts, lengths["t5_length"]),
        ]
        facts = torch.tensor([world.facts(scene) for scene in scenes])
        return [part.to(options.device) for part in ids], facts.to(options.device)

    def step(generator: torch.Generator) -> Tensor:
        ids, facts = batch(int(torch.randint(2**31, (1,), generator=generator)))
        with autocast(options.device):
            rows = model(*ids)
        losses = [
            F.cross_entropy(part.float(), facts[:, i])
            for logits in rows
            for i, part in enumerate(logits.split(sizes, 1))
        ]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def finish() -> None:
        right = []
        for seed in range(8):
            ids, facts = batch(seed, test=True)
            right.append(
                [
                    [float((part.argmax(1) == facts[:, i]).float().mean()) for i, part in parts]
                    for parts in (enumerate(out.split(sizes, 1)) for out in model(*ids))
                ]
            )
        print("right on held-out scenes and orders, %, a row each for CLIP-L, CLIP-G and T5:")
        print(np.round(100 * np.mean(right, 0)[[1, 3, 4]], 1))
        model.half()
        for tower, folders in (
            (model.clip_l, ("text_encoder",)),
            (model.clip_g, ("text_encoder_2", "ssd_1b_text_encoder_2")),
        ):
            for folder in folders:
                tower.save_pretrained(checkpoint / folder)
        save_without_projection(model.clip_l, checkpoint / "ssd_1b_text_encoder")
        model.t5.save_pretrained(checkpoint / "text_encoder_3")

    train("text", model, step, options, finish=finish)


if __name__ == "__main__":
    main()
