"""Remove blocks: `python -m training.distil.prune_blocks CHECKPOINT --out PRUNED --remove 2`.

A block's importance is how much it turns its tokens: 1 - cos(input, output), for visual and text
tokens apart, averaged over everything the sampler does (Neodragon, arXiv 2511.06055, section 3.3;
the idea is SANA-1.5's). Prints both curves as JSON. The paper looked at videos to choose and does
not name its blocks; here the two scores, each divided by its mean, are added, and the lowest go.
Tune afterwards: stage 1 is `training.recipes.transformer --warm`, stage 2
`training.distil.pruned`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.distil.steps import teacher_samples
from training.models.mmdit import PyramidMMDiT
from training.recipes.clips import cached_clips
from training.recipes.conditions import Conditions
from training.recipes.configuration import DEFAULT, Configuration
from training.recipes.transformer import TextConditioned

KEEP = "kept_blocks.json"  # beside the pruned transformer: the teacher's block behind each of its


@dataclass(frozen=True)
class BlockTokens:
    """Visual and text tokens, [B, T, W] and [B, N, W], that went into a block and came out, and the
    text's mask [B, N], 1 for real ones: padded tokens are nobody's business.
    """

    image_in: Tensor
    text_in: Tensor
    image_out: Tensor
    text_out: Tensor
    text_mask: Tensor

    def text_similarity(self, other: Tensor, tokens: Tensor) -> Tensor:
        """Mean cosine of real tokens of both, [B, N, W]."""
        real = self.text_mask.bool()
        return F.cosine_similarity(other[real].float(), tokens[real].float(), -1).mean()


@contextmanager
def watched(model: PyramidMMDiT, see: Callable[[int, BlockTokens], None]) -> Iterator[None]:
    """Call `see(block, tokens)` for each block that runs."""

    def hook(index: int) -> Callable[[nn.Module, tuple[Any, ...], tuple[Tensor, Tensor]], None]:
        return lambda block, inputs, outputs: see(
            index, BlockTokens(*inputs[:2], *outputs, masks[-1])
        )

    masks: list[Tensor] = []
    handles = [model.register_forward_pre_hook(lambda module, inputs: masks.append(inputs[3]))]
    handles += [
        block.register_forward_hook(hook(index))
        for index, block in enumerate(model.transformer_blocks)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def importance(model: PyramidMMDiT, sample: Callable[[], object]) -> dict[str, list[float]]:
    """Visual and text importance of each block while `sample` runs the model; 0 is no effect.

    The last block's text goes nowhere, so its importance is 0.
    """
    count = len(model.transformer_blocks)
    sums, calls = np.zeros((2, count)), np.zeros(count)

    def see(index: int, tokens: BlockTokens) -> None:
        image = F.cosine_similarity(tokens.image_in, tokens.image_out, -1).mean()
        text = tokens.text_similarity(tokens.text_in, tokens.text_out)
        sums[:, index] += 1 - float(image), 1 - float(text)
        calls[index] += 1

    with torch.no_grad(), watched(model, see):
        sample()
    return dict(zip(("visual", "text"), (sums / np.maximum(calls, 1)).tolist(), strict=True))


def choose(scores: dict[str, list[float]], remove: int) -> list[int]:
    """The blocks to keep, in order; the last one always stays, as the checkpoint's form needs it.

    Raises ValueError where too few would be left.
    """
    visual, text = (np.array(scores[name]) for name in ("visual", "text"))
    if not 0 <= remove < len(visual):
        raise ValueError(
            f"{remove} of {len(visual)} blocks cannot go; remove 0 to {len(visual) - 1}"
        )
    total = visual / visual.mean() + text / max(text.mean(), 1e-12)
    gone = np.argsort(total[:-1], kind="stable")[:remove]
    return [block for block in range(len(visual)) if block not in gone]


def drawn(count: int, remove: int, seed: int) -> list[int]:
    """Blocks to keep, in order, where chance alone removes some; the last one stays."""
    gone = np.random.default_rng(seed).choice(count - 1, remove, replace=False)
    return [block for block in range(count) if block not in gone]


def pruned(model: PyramidMMDiT, keep: Sequence[int]) -> PyramidMMDiT:
    """A copy with only the blocks in `keep`. Raises ValueError where the last is not among them."""
    last = len(model.transformer_blocks) - 1
    if not keep or keep[-1] != last:
        raise ValueError(f"the last block, {last}, is not among {list(keep)}; keep it")
    smaller = PyramidMMDiT(**(model.config | {"num_layers": len(keep)}))
    blocks = {old: new for new, old in enumerate(keep)}
    state = {}
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        if parts[0] == "transformer_blocks":
            if int(parts[1]) not in blocks:
                continue
            parts[1] = str(blocks[int(parts[1])])
        state[".".join(parts)] = tensor.clone()
    smaller.load_state_dict(state)
    return smaller


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, help="checkpoint to write")
    parser.add_argument("--remove", type=int, default=2, help="how many blocks go")
    parser.add_argument(
        "--random", action="store_true", help="--seed draws which blocks go: the control"
    )
    parser.add_argument("--samples", type=int, default=16, help="clips to measure on")
    parser.add_argument("--config", type=Path, default=DEFAULT, help="world and sizes, JSON")
    parser.add_argument("--mode", default="monolithic", choices=("hybrid", "monolithic"))
    parser.add_argument(
        "--run",
        type=Path,
        default=Path("runs/mini"),
        help="whose clips' first frames hybrid mode goes on from",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--curve",
        action="store_true",
        help="print the error of clips for every number of removed blocks; hybrid mode only",
    )
    options = parser.parse_args()
    if not options.out and not options.curve:
        parser.error("--out is missing; name the checkpoint to write.")
    config = Configuration.read(options.config)
    conditions = Conditions(options.checkpoint, "cpu", config)
    model = TextConditioned.from_pretrained(options.checkpoint).eval()
    mode = config.schedule.modes[options.mode]
    first = None if mode.first_steps else cached_clips(options.run, config.world)
    scores = importance(
        model.mmdit,
        lambda: teacher_samples(
            model, conditions, config, mode, options.samples, options.seed, first
        ),
    )
    if options.curve:
        if first is None:
            parser.error("--curve compares with clips of the hybrid mode; add --mode hybrid.")
        truth = first[1][: options.samples].float()
        whole, curve = model.mmdit, []
        for remove in range(len(whole.transformer_blocks)):
            keep = choose(scores, remove)
            model.mmdit = pruned(whole, keep).eval()
            _, made = teacher_samples(
                model, conditions, config, mode, options.samples, options.seed, first
            )
            errors = (made.float() - truth).square().mean((0, 1, 3, 4)).sqrt()
            curve.append({"kept": keep, "error": [round(float(e), 4) for e in errors]})
        print(json.dumps({"importance": scores, "rms_by_unit": curve}, indent=1))
        return
    keep = choose(scores, options.remove)
    if options.random:
        keep = drawn(len(scores["visual"]), options.remove, options.seed)
    shutil.copytree(options.checkpoint, options.out, dirs_exist_ok=True)
    folder = options.out / "diffusion_transformer_320p"
    pruned(model.mmdit, keep).half().save_pretrained(folder)
    (folder / KEEP).write_text(json.dumps(keep))
    print(json.dumps({"importance": scores, "kept": keep}, indent=1))


if __name__ == "__main__":
    main()
