"""The training loop of every stage: resumable, bounded by steps and hours, its cost recorded.

`train` calls `step(generator)` for a loss until the steps are done or the hours of this call are
over, keeps an exponential moving average of the weights, writes its state to `out/state.pt` every
few minutes and `out/cost.json` beside it. Started again with the same folder it goes on where it
was. The learning rate follows the steps alone, so that the speed of the machine changes nothing. It
knows nothing of models or data.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from training.recipes import parallel
from training.recipes.configuration import DEFAULT
from training.recipes.muon import Muon
from training.recipes.recompute import recompute

SAVE_EVERY = 180.0  # seconds
FAST = 5
WARM_UP = 0.02  # of all steps, at most 500 of them
FALL = 0.25  # of all steps, the last ones
LAST = 0.05  # of the peak rate, at the end
SEEDS = 1_000_003  # apart are the losses of two seeds


def arguments(description: str, *, steps: int, batch: int, lr: float) -> argparse.ArgumentParser:
    """The options all stages have, with this stage's defaults."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=DEFAULT, help="world and sizes, JSON")
    parser.add_argument(
        "--run", type=Path, default=Path("runs/mini"), help="folder of this training's stages"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("checkpoints/mini"),
        help="published-layout folder to write",
    )
    parser.add_argument("--name", help="folder of this stage's state in --run, not its usual one")
    parser.add_argument("--steps", type=int, default=steps, help="updates in all")
    parser.add_argument(
        "--hours", type=float, default=float("inf"), help="stop this call after these, and save"
    )
    parser.add_argument("--batch", type=int, default=batch, help="samples per loss")
    parser.add_argument(
        "--accumulate", type=int, default=1, help="losses whose gradients make one update"
    )
    parser.add_argument("--lr", type=float, default=lr, help="peak learning rate of AdamW")
    parser.add_argument(
        "--muon",
        type=float,
        default=0.0,
        help="Muon instead for matrices and convolutions, at this many times the rate",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and data")
    parser.add_argument(
        "--warm", action="store_true", help="start from the weights in --checkpoint"
    )
    parser.add_argument(
        "--begun", type=int, default=0, help="of --steps, those that --warm's weights have had"
    )
    parser.add_argument(
        "--spent", type=float, default=0.0, help="seconds that those took, for the account of cost"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--parallel", choices=parallel.KINDS, default="ddp", help="how torchrun's processes share"
    )
    parser.add_argument(
        "--recompute", action="store_true", help="gradient checkpointing: less memory, more work"
    )
    return parser


class Optimiser:
    """AdamW, or Muon (github.com/KellerJordan/Muon; its step has the size of AdamW's as in arXiv
    2502.16982) for the weights inside a network that map one width to another, those of
    convolutions laid flat.

    `groups` are those of all parameters, to set rates in.
    """

    def __init__(
        self, model: nn.Module, options: argparse.Namespace, fast: Callable[[str], bool]
    ) -> None:
        """`fast`: the names of weights that learn at five times the rate.

        Raises ValueError for Muon on weights that are in parts.
        """
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        matrices = [p for n, p in named if options.muon and is_matrix(n, p) and not fast(n)]
        if any(isinstance(weight, DTensor) for weight in matrices):
            raise ValueError("--muon needs whole weights; use --parallel ddp")
        self.matrices = [(p, nn.Parameter(p.data.view(len(p), -1))) for p in matrices]
        chosen = {id(p) for p in matrices}
        groups = [
            {
                "params": [p for n, p in named if id(p) not in chosen and fast(n) == quick],
                "times": FAST if quick else 1,
            }
            for quick in (False, True)
        ]
        decay = {"lr": options.lr, "weight_decay": 1e-3}
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, betas=(0.9, 0.95), **decay)
        ]
        if matrices:
            flat: list[dict[str, Any]] = [
                {"params": [flat for _, flat in self.matrices], "times": options.muon}
            ]
            self.parts.append(Muon(flat, **decay))

    @property
    def groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        """Move the weights by their gradients, and forget these."""
        for weight, flat in self.matrices:
            flat.grad = None if weight.grad is None else weight.grad.reshape(flat.shape)
        for part in self.parts:
            part.step()
            part.zero_grad(set_to_none=True)
        for weight, _ in self.matrices:
            weight.grad = None

    def state(self) -> list[dict[str, Any]]:
        """What `restore` takes, whole."""
        return [parallel.whole_optimiser(part) for part in self.parts]

    def restore(self, states: list[dict[str, Any]]) -> None:
        """Go on from a `state`, at the rates of these options.

        Raises ValueError where one was begun with Muon and the other was not.
        """
        if len(states) != len(self.parts):
            raise ValueError(
                "this run was begun with another --muon, 0 or not; use that or a new run"
            )
        times = [group["times"] for group in self.groups]
        for part, state in zip(self.parts, states, strict=True):
            parallel.restore_optimiser(part, state)
        for group, own in zip(self.groups, times, strict=True):
            group["times"] = own


def is_matrix(name: str, weight: Tensor) -> bool:
    """Whether this weight maps one width inside a network to another; tables and a network's first
    and last layer, which are in none of its blocks, do not.
    """
    return "block" in name and "relative" not in name and weight.ndim >= 2


def learning_rate(done: int, steps: int, peak: float) -> float:
    """The rate of update `done` of `steps`: a linear warm-up, the peak, and a linear fall over the
    last quarter to a twentieth of it.
    """
    warm = min(WARM_UP * steps, 500.0)
    rising = (done + 1) / (warm + 1)
    falling = LAST + (1 - LAST) * (steps - done) / max(FALL * steps, 1.0)
    return peak * min(1.0, rising, falling)


@torch.no_grad()
def average_(averaged: Mapping[str, Tensor], model: nn.Module, keep: float) -> None:
    """Move averaged weights towards the model's, in place; keep: the share that stays, 0 to 1."""
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            averaged[key].lerp_(value, 1 - keep)


def prepare(
    out: Path, model: nn.Module, options: argparse.Namespace, group: parallel.Group
) -> dict[str, Any] | None:
    """Put the model where it is trained, with the weights of an earlier run in `out`, if any.

    Returns the state of that run.
    """
    out.mkdir(parents=True, exist_ok=True)
    if group.first:
        (out / "options.json").write_text(
            json.dumps({k: str(v) for k, v in vars(options).items()}, indent=1)
        )
    model.to(options.device).train()
    if options.recompute:
        recompute(model)
    state: dict[str, Any] | None = None
    if (out / "state.pt").exists():
        state = torch.load(out / "state.pt", map_location=options.device, weights_only=True)
        model.load_state_dict(state["model"])
    if group.sharded:
        parallel.shard(model)
    return state


def add_gradients(
    step: Callable[[torch.Generator], Tensor],
    options: argparse.Namespace,
    group: parallel.Group,
    done: int,
    generator: torch.Generator,
) -> float:
    """Add the gradients of update `done`'s losses in this process; their mean."""
    total = 0.0
    for part in range(options.accumulate):
        # Numbered over all losses there ever are, whichever process has which.
        number = (done * options.accumulate + part) * group.count + group.rank
        loss = step(generator.manual_seed(SEEDS * options.seed + number)) / options.accumulate
        loss.backward()
        total += float(loss.detach())
    return total


def train(
    name: str,
    model: nn.Module,
    step: Callable[[torch.Generator], Tensor],
    options: argparse.Namespace,
    *,
    ema: float = 0.999,
    fast: Callable[[str], bool] = lambda name: False,
    finish: Callable[[], None] | None = None,
) -> None:
    """Train `model` in place, then load its averaged weights and call `finish` (which saves a
    checkpoint), in the first of several processes (`training.recipes.parallel`) and not where the
    model is in parts. Weights whose name is `fast` learn at five times the rate.
    """
    group = parallel.join(options.parallel, options.device)
    out: Path = options.run / (options.name or name)
    state_file = out / "state.pt"
    state = prepare(out, model, options, group)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimiser = Optimiser(model, options, fast)
    averaged = {k: v.detach().clone() for k, v in model.state_dict().items()}
    done, spent = options.begun, options.spent
    if state is not None:
        averaged = {k: parallel.like(state["averaged"][k], v) for k, v in averaged.items()}
        optimiser.restore(state["optimiser"])
        done, spent = state["done"], state["spent"]
    generator = torch.Generator()
    losses: list[float] = []
    before, begun = spent, done

    def save() -> None:
        state = {
            "model": {k: parallel.whole(v) for k, v in model.state_dict().items()},
            "optimiser": optimiser.state(),
            "averaged": {k: parallel.whole(v) for k, v in averaged.items()},
            "done": done,
            "spent": spent,
        }
        if not group.first:
            return
        torch.save(state, state_file.with_suffix(".tmp"))
        state_file.with_suffix(".tmp").replace(state_file)
        cost = {
            "stage": out.name,
            "steps": done,
            "of": options.steps,
            "seconds": round(spent),
            "samples": done * options.batch * options.accumulate * group.count,
            "loss": round(sum(losses[-100:]) / max(len(losses[-100:]), 1), 6),
            "parameters": sum(p.numel() for p in weights),
            "threads": options.threads,
            "device": options.device,
            "processes": group.count,
        }
        (out / "cost.json").write_text(json.dumps(cost, indent=1))

    last_save = clock = time.monotonic()
    while done < options.steps and group.mean(spent - before) < options.hours * 3600:
        for settings in optimiser.groups:
            settings["lr"] = settings["times"] * learning_rate(done, options.steps, options.lr)
        total = add_gradients(step, options, group, done, generator)
        group.average(weights)
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        done += 1
        average_(averaged, model, min(ema, (1 + done) / (10 + done)))
        losses.append(group.mean(total))
        now = time.monotonic()
        spent, clock = spent + now - clock, now
        if done % 100 == 0 and group.first:
            mean = sum(losses[-100:]) / len(losses[-100:])
            print(f"{out.name} step {done} loss {mean:.5f} {spent / 60:.1f} min", flush=True)
        if group.mean(now - last_save) > SAVE_EVERY:
            last_save = now
            save()
    if done > begun:  # with `--hours 0` a running training can be looked at, unharmed
        save()
    if group.sharded:  # no process has the whole model: `--hours 0` in one writes its checkpoint
        return
    model.load_state_dict(averaged)
    model.eval()
    if finish and group.first:
        finish()
