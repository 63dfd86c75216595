"""A clip's time and memory beside plain PyTorch on the same weights: `python -m benchmarks.clip`.

Prints JSON, medians of clips that take turns: seconds, and the processor's seconds of all threads,
of PyTorch with everything loaded, of ours with loading its graphs, and of ours in a queue, where
graphs and the look of the clip before are there; the share of ours that is neither a graph nor its
loading; peak memory; how close the frames are. Each side is a process of its own and makes a clip
to warm up. The weights are those of a checkpoint, exported again if they have changed; where there
is none, random ones of the mini model's sizes, which cost the same.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from contextlib import ExitStack

import numpy as np

from benchmarks.figures import median, options
from engine.measures import psnr
from engine.pack import open_pack
from training.export.pack import export_pack
from training.random_checkpoint import save

SIDES = {
    "engine": ["benchmarks.engine_clip"],
    "queue": ["benchmarks.engine_clip", "--queue"],
    "torch": ["benchmarks.torch_clip"],
}


def measured(given: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Medians of each side's figures."""
    shared = [] if given.upscale else ["--no-upscale"]
    for option in ("checkpoint", "pack", "output", "backend", "threads"):
        shared += [f"--{option}", str(getattr(given, option))]
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
    with ExitStack() as stack:
        sides = {
            name: stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", *command, *shared],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    encoding="utf-8",
                )
            )
            for name, command in SIDES.items()
        }
        for number in range(given.repeat + 1):
            for name, process in sides.items():
                assert process.stdin and process.stdout
                print(number, file=process.stdin, flush=True)
                line = process.stdout.readline()
                if not line:
                    sys.exit(f"{name} ended with {process.wait()}")
                runs[name].append(json.loads(line))
    return {
        name: {key: median([run[key] for run in figures[1:]]) for key in figures[0]}
        for name, figures in runs.items()
    }


def main() -> None:
    given = options(__doc__).parse_args()
    weights = str(given.checkpoint)
    given.output.mkdir(parents=True, exist_ok=True)
    if given.pack is None:
        if not (given.checkpoint / "diffusion_transformer_320p").exists():
            given.checkpoint, weights = given.output / "checkpoint", "random, the mini's sizes"
            save(given.checkpoint)
        given.pack = given.output / "pack"
        export_pack(given.checkpoint, given.pack, emulate=False, report=lambda line: None)
    with open_pack(given.pack) as pack:
        name, pack_hash = f"{pack.name} {pack.version}", pack.pack_hash[:12]
    sides = measured(given)
    engine, torch = (sides[name] for name in ("engine", "torch"))
    frames = [np.load(given.output / f"{name}.npy") for name in ("engine", "torch")]
    result = {
        "pack": name,
        "pack_hash": pack_hash,
        "weights": weights,
        "machine": f"{platform.system()} {platform.machine()}, {given.threads} threads",
        "backend": given.backend,
        "frames": frames[0].shape,
        **sides,
        "times_faster": round(torch["seconds"] / engine["seconds"], 2),
        "times_less_processor": round(torch["processor_seconds"] / engine["processor_seconds"], 2),
        "queue_times_faster": round(engine["seconds"] / sides["queue"]["seconds"], 2),
        "psnr_db": round(psnr(*frames), 2),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
