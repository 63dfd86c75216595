"""Memory over a long queue: `python -m benchmarks.many_clips`.

Makes clips in one process as the worker does, graphs kept, every fourth of a new look, and prints
JSON: what the process holds after each tenth of them, in MB, and seconds of the first clip and the
median of the others.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.engine_clip import KEPT
from benchmarks.figures import PROMPT, median
from engine.config import Request
from engine.graph_cache import GraphCache
from engine.pack import open_pack
from engine.pipeline import generate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pack", type=Path, default=Path("assets/mini"))
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    process = psutil.Process()
    seconds, held = [], []
    with open_pack(given.pack) as pack, tempfile.TemporaryDirectory() as folder:
        cache = GraphCache(KEPT, Path(folder))
        for number in range(given.clips):
            request = Request(PROMPT, look_seed=number // 4, motion_seed=number)
            started = time.perf_counter()
            for _ in generate(pack, request, threads=given.threads, cache=cache):
                pass
            seconds.append(time.perf_counter() - started)
            if (number + 1) % max(given.clips // 10, 1) == 0:
                held.append(round(process.memory_info().rss / 1e6, 1))
        pack_hash = pack.pack_hash[:12]
    figures = {"pack_hash": pack_hash, "clips": given.clips, "held_mb": held}
    figures |= {"first_seconds": round(seconds[0], 3), "next_seconds": median(seconds[1:])}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
