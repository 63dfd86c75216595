"""How long a library of 20,000 clips takes to be read, looked at and searched.

`python benchmarks/library_search.py [N]`: real files, hard links of one clip, each with a sidecar.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from studio.library.store import Library
from studio.media.video import write_mp4

WORDS = "a red ball bounces over the green meadow while small birds fly in the evening sky".split()


def fill(folder: Path, count: int) -> None:
    """Clips and sidecars as the worker leaves them."""
    first = write_mp4(folder / "0.mp4", np.zeros((2, 16, 16, 3), np.uint8), 24, {})
    random = np.random.default_rng(1)
    for number in range(1, count + 1):
        path = folder / f"{number // 500}" / f"clip-{number}.mp4"
        path.parent.mkdir(exist_ok=True)
        os.link(first, path)
        content = {
            "software": "Neodragon Studio 0.2.0",
            "prompt": " ".join(random.choice(WORDS, 20)),
            "negative_prompt": "low quality, worst quality, deformed, blurred, low resolution",
            "look_seed": number,
            "motion_seed": number + 1,
            "mode": "hybrid",
            "steps": [1, 1, 1],
            "pack": {"name": "neodragon-mini", "version": "0.2.0", "hash": "ab" * 32},
            "backend": "cpu",
            "file": path.name,
            "created": f"2026-11-{1 + number % 28:02}T12:{number % 60:02}:00+01:00",
            "kind": "clip",
            "marks": {"stars": number % 6, "keep": number % 2 == 0},
        }
        path.with_suffix(".json").write_text(json.dumps(content), encoding="utf-8")
    first.unlink()


def timed(words: str, call: Callable[[], object]) -> None:
    """Print the best of five calls: by the clock, and of the processor alone."""
    times = []
    for _ in range(5):
        begun = time.perf_counter(), time.process_time()
        result = call()
        times.append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
    size = len(result) if isinstance(result, list) else result
    wall, processor = map(min, zip(*times, strict=True))
    print(f"{words:40} {wall:7.3f} s {processor:7.3f} s of processor   ({size})")


def main() -> None:
    """Print the table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    with tempfile.TemporaryDirectory(prefix="neodragon-") as root:
        folder = Path(root) / "clips"
        fill(folder, count)
        with Library(Path(root) / "jobs.sqlite", folder) as library:
            begun = time.perf_counter()
            library.scan()
            print(f"{'first scan':40} {time.perf_counter() - begun:7.3f} s")
            timed("scan with nothing new", library.scan)
            timed("search for nothing in particular", library.search)
            timed("search for one word in most prompts", lambda: library.search("ball"))
            timed("search for three words", lambda: library.search("ball birds sky"))
            timed("search for a word that is nowhere", lambda: library.search("submarine"))
            timed("search for one seed", lambda: library.search(seed=777))
            timed("kept with four stars", lambda: library.search(stars=4, verdict="keep"))
            timed("a page of 60 from the middle", lambda: library.search(limit=60, offset=10_000))


if __name__ == "__main__":
    main()
