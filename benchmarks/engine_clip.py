"""Our side of the clip benchmark, in a process without torch; see `benchmarks.clip`."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import clips, options, request
from engine.events import Finished, UnitFrames
from engine.graph_cache import GraphCache
from engine.pack import open_pack
from engine.pipeline import generate
from engine.session import require

KEPT = 2**30  # bytes of graphs between the clips of a queue


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--queue", action="store_true", help="the next motion of one look")
    given = parser.parse_args()
    cache = GraphCache(KEPT if given.queue else 0, given.output / "graphs")

    def clip(number: int) -> tuple[dict[str, float], NDArray[np.uint8]]:
        wanted, backend = request(number, given.upscale), require(given.backend)
        if given.queue:
            wanted = replace(wanted, look_seed=request(0, True).look_seed)
        started = time.perf_counter()
        events = list(generate(pack, wanted, backend, given.threads, cache=cache))
        seconds = time.perf_counter() - started
        done = next(event for event in events if isinstance(event, Finished))
        figures = {
            "seconds": seconds,
            "graph_seconds": done.graph_seconds,
            "load_seconds": done.load_seconds,
            "overhead_share": 1 - (done.graph_seconds + done.load_seconds) / seconds,
        }
        frames = [event.frames for event in events if isinstance(event, UnitFrames)]
        return figures, np.concatenate(frames)

    with open_pack(given.pack) as pack:
        clips(clip, given.output / ("queue.npy" if given.queue else "engine.npy"))


if __name__ == "__main__":
    main()
