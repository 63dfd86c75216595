"""A little training for `test_parallel`, run by torchrun: `parallel_training.py FOLDER KIND N`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from training.models.mmdit import PyramidMMDiT
from training.recipes import loop

TINY = {
    "sample_size": 16,
    "in_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 8,
    "pos_embed_max_size": 16,
    "joint_attention_dim": 16,
}


class Whole(nn.Module):
    """A transformer as one part of what is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.mmdit = PyramidMMDiT(**TINY)


def main(folder: Path, kind: str, accumulate: int, steps: int) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Whole()
    with torch.no_grad():  # blocks that start closed would have no gradients to compare
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape))

    def step(generator: torch.Generator) -> Tensor:
        latent = torch.randn(2, 4, 1, 8, 8, generator=generator)
        context = torch.randn(2, 5, 16, generator=generator)
        pooled = torch.randn(2, 8, generator=generator)
        mask = torch.ones(2, 5, dtype=torch.long)
        flow = model.mmdit([latent], torch.tensor([900.0, 10.0]), context, mask, pooled)
        return (flow - latent).square().mean()

    options = argparse.Namespace(
        name=None,
        run=folder,
        steps=steps,
        begun=0,
        spent=0.0,
        hours=1.0,
        batch=2,
        accumulate=accumulate,
        lr=1e-2,
        seed=3,
        threads=1,
        device="cpu",
        parallel=kind,
        recompute=kind == "fsdp",
        muon=0.0,
    )
    loop.learning_rate = lambda done, steps, peak: peak  # type: ignore[assignment]
    loop.train("tiny", model, step, options)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
