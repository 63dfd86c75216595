"""The training loop every stage shares: resumable, bounded by minutes, and honest about its cost.

`train` calls `step(generator)` for a loss until the minutes are spent, keeps an exponential moving
average of the weights, writes its state to `out/state.pt` every two minutes and `out/cost.json`
beside it. Started again with the same folder it goes on where it was. It knows nothing of models or
data.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SAVE_EVERY = 120.0  # seconds
FAST = 5


def arguments(
    description: str, *, minutes: float, batch: int, lr: float
) -> argparse.ArgumentParser:
    """The options all stages have, with this stage's defaults."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--run", type=Path, default=Path("runs/mini"), help="folder of this training's stages"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("checkpoints/mini"),
        help="published-layout folder to write",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=minutes,
        help="training time in all, resumed parts counted in",
    )
    parser.add_argument("--batch", type=int, default=batch, help="samples per step")
    parser.add_argument("--lr", type=float, default=lr, help="peak learning rate of AdamW")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and data")
    parser.add_argument(
        "--warm", action="store_true", help="start from the weights in --checkpoint"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def learning_rate(progress: float, peak: float) -> float:
    """Linear warm-up over the first 2 %, then a cosine down to a twentieth of the peak; progress
    0..1.
    """
    if progress < 0.02:
        return peak * (progress / 0.02 + 0.01)
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


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
    checkpoint). Weights whose name is `fast` learn at five times the rate.
    """
    out: Path = options.run / name
    out.mkdir(parents=True, exist_ok=True)
    (out / "options.json").write_text(
        json.dumps({k: str(v) for k, v in vars(options).items()}, indent=1)
    )
    model.to(options.device).train()
    weights = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {
            "params": [
                p for n, p in model.named_parameters() if p.requires_grad and fast(n) == quick
            ],
            "times": FAST if quick else 1,
        }
        for quick in (False, True)
    ]
    optimiser = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.95), weight_decay=1e-3)
    averaged = {k: v.detach().clone() for k, v in model.state_dict().items()}
    generator = torch.Generator().manual_seed(options.seed)
    done, spent = 0, 0.0
    state_file = out / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, map_location=options.device, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        averaged, done, spent = state["averaged"], state["done"], state["spent"]
        generator.set_state(state["generator"].cpu())
    losses: list[float] = []

    def save() -> None:
        state = {
            "model": model.state_dict(),
            "optimiser": optimiser.state_dict(),
            "averaged": averaged,
        }
        state |= {"done": done, "spent": spent, "generator": generator.get_state()}
        torch.save(state, state_file.with_suffix(".tmp"))
        state_file.with_suffix(".tmp").replace(state_file)
        cost = {
            "stage": name,
            "steps": done,
            "seconds": round(spent),
            "samples": done * options.batch,
            "loss": losses[-1:],
        }
        cost |= {
            "parameters": sum(p.numel() for p in weights),
            "threads": options.threads,
            "device": options.device,
        }
        (out / "cost.json").write_text(json.dumps(cost, indent=1))

    last_save = clock = time.monotonic()
    budget = options.minutes * 60
    while spent < budget:
        for group in optimiser.param_groups:
            group["lr"] = group["times"] * learning_rate(spent / budget, options.lr)
        loss = step(generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        done += 1
        keep = min(ema, (1 + done) / (10 + done))
        with torch.no_grad():
            for key, value in model.state_dict().items():
                if value.is_floating_point():
                    averaged[key].lerp_(value, 1 - keep)
        losses.append(float(loss.detach()))
        now = time.monotonic()
        spent, clock = spent + now - clock, now
        if done % 100 == 0:
            mean = sum(losses[-100:]) / len(losses[-100:])
            print(f"{name} step {done} loss {mean:.5f} {spent / 60:.1f} min", flush=True)
        if now - last_save > SAVE_EVERY:
            last_save = now
            save()
    save()
    model.load_state_dict(averaged)
    model.eval()
    if finish:
        finish()
