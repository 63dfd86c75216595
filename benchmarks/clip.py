"""What a clip costs, ours beside plain PyTorch on the same weights: `python -m benchmarks.clip`.

Prints JSON: seconds a clip of both (ours with loading its graphs, PyTorch's without), the share of
ours that is neither a graph nor its loading, peak memory, and how close the frames are. Each side
runs in a process of its own, after a warm-up clip. The weights are those of a checkpoint, exported
again if they have changed; where there is none, random ones of the mini model's sizes, which cost
the same.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from typing import Any

import numpy as np

from benchmarks.figures import options
from engine.measures import psnr
from engine.pack import open_pack
from training.export.pack import export_pack
from training.random_checkpoint import save


def side(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """The figures of `engine` or `torch`, from a process of its own."""
    command = [sys.executable, "-m", f"benchmarks.{name}_clip"]
    for option in ("checkpoint", "output", "backend", "threads", "repeat"):
        command += [f"--{option}", str(getattr(given, option))]
    if not given.upscale:
        command.append("--no-upscale")
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    given = options(__doc__).parse_args()
    weights = str(given.checkpoint)
    if not (given.checkpoint / "diffusion_transformer_320p").exists():
        given.checkpoint, weights = given.output / "checkpoint", "random, the mini model's sizes"
        save(given.checkpoint)
    given.output.mkdir(parents=True, exist_ok=True)
    export_pack(given.checkpoint, given.output / "pack", emulate=False, report=lambda line: None)
    with open_pack(given.output / "pack") as pack:
        name = f"{pack.name} {pack.version}, {pack.pack_hash[:12]}"
    engine, torch = (side(name, given) for name in ("engine", "torch"))
    frames = [np.load(given.output / f"{name}.npy") for name in ("engine", "torch")]
    result = {
        "pack": name,
        "weights": weights,
        "machine": f"{platform.system()} {platform.machine()}, {given.threads} threads",
        "backend": given.backend,
        "frames": frames[0].shape,
        "engine": engine,
        "torch": torch,
        "times_faster": round(torch["seconds"] / engine["seconds"], 2),
        "psnr_db": round(psnr(*frames), 2),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
