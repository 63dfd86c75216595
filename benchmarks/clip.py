"""What a clip costs, ours beside plain PyTorch on the same weights: `python -m benchmarks.clip`.

Prints JSON: seconds per clip of both, the share of ours that is neither a graph nor its loading,
peak memory, and how close the frames are. Each side runs in a process of its own, one warm-up clip
first. The weights are those of a checkpoint, exported anew if it has changed; where there is none,
random ones of the mini model's sizes, which cost the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from engine.config import Request
from engine.pack import open_pack
from engine.pipeline import Finished, StageDone, UnitFrames, generate

PROMPT = "a red kite drifts slowly over a green meadow"


def request(number: int, upscale: bool) -> Request:
    """The clip of a repetition: other seeds each time."""
    return Request(PROMPT, 1000 + number, 2000 + number, upscale=upscale)


def peak_mb() -> float:
    """Most memory this process has held, in MB."""
    if sys.platform == "win32":
        return float("nan")
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(used / (2**20 if sys.platform == "darwin" else 2**10), 1)


def ours(options: argparse.Namespace) -> dict[str, Any]:
    """The engine's figures, and the frames of the last clip beside the pack."""
    runs, frames = [], []
    with open_pack(options.pack) as pack:
        for number in range(options.repeat + 1):
            started = time.perf_counter()
            events = list(
                generate(pack, request(number, options.upscale), options.backend, options.threads)
            )
            seconds = time.perf_counter() - started
            finished = next(event for event in events if isinstance(event, Finished))
            stages = {
                event.stage: event.seconds for event in events if isinstance(event, StageDone)
            }
            runs.append((seconds, finished, stages))
            frames = [event.frames for event in events if isinstance(event, UnitFrames)]
    np.save(options.output / "ours.npy", np.concatenate(frames))
    runs = runs[1:]
    overheads = [s - done.graph_seconds - done.load_seconds for s, done, _ in runs]
    return {
        "seconds": median([seconds for seconds, _, _ in runs]),
        "graph_seconds": median([done.graph_seconds for _, done, _ in runs]),
        "load_seconds": median([done.load_seconds for _, done, _ in runs]),
        "overhead_seconds": median(overheads),
        "overhead_share": median([o / s for o, (s, _, _) in zip(overheads, runs, strict=True)]),
        "stage_seconds": {
            stage: median([stages[stage] for _, _, stages in runs]) for stage in runs[0][2]
        },
        "peak_mb": peak_mb(),
    }


def plain_torch(options: argparse.Namespace) -> dict[str, Any]:
    """PyTorch's figures, and the frames of the last clip."""
    import torch

    from benchmarks.torch_clip import TorchClip

    torch.set_num_threads(options.threads)
    imported_mb = peak_mb()
    with open_pack(options.pack) as pack:
        started = time.perf_counter()
        clip = TorchClip(options.checkpoint, pack)
        load_seconds = time.perf_counter() - started
        spent = []
        for number in range(options.repeat + 1):
            started = time.perf_counter()
            frames = clip(request(number, options.upscale))
            spent.append(time.perf_counter() - started)
    np.save(options.output / "torch.npy", frames)
    return {
        "seconds": median(spent[1:]),
        "load_seconds": round(load_seconds, 3),
        "peak_mb": peak_mb(),
        "peak_mb_of_imports": imported_mb,
    }


def median(values: list[float]) -> float:
    """The median, to a tenth of a millisecond."""
    return round(statistics.median(values), 4)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two clips, uint8 [T, H, W, 3], in dB; 100 where equal."""
    error = np.square(a.astype(np.float64) - b).mean()
    return round(min(100.0, 10 * np.log10(255**2 / max(error, 1e-9))), 2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/mini"))
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of both sides")
    parser.add_argument("--repeat", type=int, default=5, help="clips whose median is taken")
    parser.add_argument("--no-upscale", dest="upscale", action="store_false")
    parser.add_argument("--side", choices=("ours", "torch"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.pack = options.output / "pack"
    if options.side:
        print(json.dumps((ours if options.side == "ours" else plain_torch)(options)))
        return
    from training.export import export_pack
    from training.random_checkpoint import save

    weights = str(options.checkpoint)
    if not (options.checkpoint / "neodragon.json").exists():
        options.checkpoint, weights = (
            options.output / "checkpoint",
            "random, the mini model's sizes",
        )
        save(options.checkpoint)
    options.output.mkdir(parents=True, exist_ok=True)
    export_pack(options.checkpoint, options.pack, emulate=False, report=lambda line: None)
    sides = {side: child(options, side) for side in ("ours", "torch")}
    frames = [np.load(options.output / f"{side}.npy") for side in sides]
    result = {
        "weights": weights,
        "pack": hashlib.sha256((options.pack / "pack.json").read_bytes()).hexdigest()[:12],
        "machine": f"{platform.system()} {platform.machine()}, {options.threads} threads",
        "backend": options.backend,
        "frames": list(frames[0].shape),
        **sides,
        "faster": round(sides["torch"]["seconds"] / sides["ours"]["seconds"], 2),
        "psnr_db": psnr(*frames),
    }
    print(json.dumps(result, indent=1))


def child(options: argparse.Namespace, side: str) -> dict[str, Any]:
    """Run one side in a process of its own and return its figures."""
    command = [sys.executable, "-m", "benchmarks.clip", "--side", side]
    for name in ("checkpoint", "output", "backend", "threads", "repeat"):
        command += [f"--{name}", str(getattr(options, name))]
    if not options.upscale:
        command.append("--no-upscale")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
