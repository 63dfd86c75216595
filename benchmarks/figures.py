"""What both sides of the clip benchmark share: the requests, memory, medians, how results leave."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.config import Request

PROMPT = "a red kite drifts slowly over a green meadow"
STATUS = Path("/proc/self/status")


def options(description: str | None) -> argparse.ArgumentParser:
    """The options of the benchmark and of its two sides."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/mini"))
    parser.add_argument("--pack", type=Path, help="of the same weights; made of them when absent")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--backend", default="cpu", help="of our side")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of both sides")
    parser.add_argument("--repeat", type=int, default=5, help="clips whose median is taken")
    parser.add_argument("--no-upscale", dest="upscale", action="store_false")
    return parser


def request(number: int, upscale: bool) -> Request:
    """The clip of a repetition: other seeds each time."""
    return Request(PROMPT, 1000 + number, 2000 + number, upscale=upscale)


def peak_mb() -> float | None:
    """Most memory this process has held in MB; None where the system does not say (Linux does)."""
    if not STATUS.exists():
        return None
    lines = dict(line.split(":", 1) for line in STATUS.read_text("utf-8").splitlines())
    return round(int(lines["VmHWM"].split()[0]) / 1024, 1)


def median(values: list[float]) -> float:
    """The median, to a tenth of a millisecond."""
    return round(statistics.median(values), 4)


def clips(make: Callable[[int], tuple[dict[str, float], NDArray[np.uint8]]], path: Path) -> None:
    """Make a clip for each number that comes on stdin and print its figures, until stdin ends.

    The processor's seconds and the peak of memory are added; the last clip's frames are left in
    `path`.
    """
    for line in sys.stdin:
        processor = time.process_time()
        figures, frames = make(int(line))
        figures["processor_seconds"] = time.process_time() - processor
        np.save(path, frames)
        print(json.dumps(figures | {"peak_mb": peak_mb()}), flush=True)
