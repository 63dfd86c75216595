"""Tune a pruned transformer under its teacher: `python -m training.distil.pruned --teacher T
--checkpoint PRUNED`.

Stage 2 of block pruning (Neodragon, arXiv 2511.06055, section 3.3), after stage 1's flow matching
on data: block outputs like the teacher's (mean square error of visual tokens, cosine distance of
text tokens), the teacher's flow, and the data's. `--map simple`, which the paper ships, compares
with the same block of the teacher; `next` with what the teacher's next retained block reads, so
that a block takes over its removed neighbours. Weights and rate are not published: 1 each, and
stage 1's rate.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.scheduler import stage_schedule
from training.distil.prune_blocks import KEEP, BlockTokens, watched
from training.recipes.clips import open_clips
from training.recipes.conditions import Conditions
from training.recipes.configuration import Configuration
from training.recipes.loop import arguments, train
from training.recipes.precision import autocast
from training.recipes.pyramid import levels, stage_sample
from training.recipes.transformer import TextConditioned

MAPS = ("simple", "next")


def teacher_blocks(keep: Sequence[int], which: str) -> list[int]:
    """The teacher's block whose output each block of the student is compared with."""
    if which == "simple":
        return list(keep)
    return [after - 1 for after in keep[1:]] + [keep[-1]]


def feature_loss(
    student: Sequence[BlockTokens], teacher: Sequence[BlockTokens], targets: Sequence[int]
) -> Tensor:
    """Mean over blocks; the last one has no text of its own."""
    losses = []
    for block, (own, target) in enumerate(zip(student, targets, strict=True)):
        goal = teacher[target]
        loss = F.mse_loss(own.image_out.float(), goal.image_out.float())
        if block < len(student) - 1:
            loss = loss + 1 - own.text_similarity(own.text_out, goal.text_out)
        losses.append(loss)
    return torch.stack(losses).mean()


def main() -> None:
    parser = arguments(__doc__ or "", steps=1500, batch=8, lr=3e-5)
    parser.add_argument("--teacher", type=Path, required=True, help="the unpruned checkpoint")
    parser.add_argument("--shards", type=Path, help="learn from these latent shards")
    parser.add_argument("--subject", type=float, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--map", choices=MAPS, default="simple")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = options.checkpoint / "diffusion_transformer_320p"
    targets = teacher_blocks(json.loads((folder / KEEP).read_text("utf-8")), options.map)
    config = Configuration.read(options.config)
    clips = open_clips(options, config)
    conditions = Conditions(options.checkpoint, options.device, config)
    stages = stage_schedule(config.schedule)
    teacher = TextConditioned.from_pretrained(options.teacher).eval().requires_grad_(False)
    teacher.to(options.device)
    student = TextConditioned.from_pretrained(options.checkpoint)
    student.text.requires_grad_(False)
    student.adapter.requires_grad_(False)

    def step(generator: torch.Generator) -> Tensor:
        latents, prompts, _ = clips.draw(options.batch, generator)
        clean = levels(latents.to(options.device), len(stages))
        ids, mask, pooled = conditions(prompts)
        losses = []
        with autocast(options.device):
            context = teacher(ids, mask)
            for stage in range(len(stages)):
                unit = int(torch.randint(config.units, (1,), generator=generator))
                inputs, timestep, target = stage_sample(clean, unit, stage, stages, generator)
                seen: tuple[list[BlockTokens], list[BlockTokens]] = ([], [])
                flows = []
                for model, tokens in zip((teacher, student), seen, strict=True):
                    keep = tokens  # bound now, for the callback
                    with watched(model.mmdit, lambda _, block, keep=keep: keep.append(block)):
                        flows.append(model.mmdit(inputs, timestep, context, mask, pooled).float())
                losses.append(feature_loss(seen[1], seen[0], targets))
                losses += [F.mse_loss(flows[1], flows[0]), F.mse_loss(flows[1], target)]
        return torch.stack(losses).sum() / len(stages)

    def finish() -> None:
        student.half().mmdit.save_pretrained(folder)

    train(f"pruned_{options.map}", student, step, options, finish=finish)


if __name__ == "__main__":
    main()
