"""Our side of the clip benchmark, in a process without torch; see `benchmarks.clip`."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.figures import finish, median, options, peak_mb, request
from engine.pack import open_pack
from engine.pipeline import Finished, StageDone, UnitFrames, generate
from engine.session import require


def main() -> None:
    given = options(__doc__).parse_args()
    runs: list[tuple[float, Finished, dict[str, float]]] = []
    with open_pack(given.output / "pack") as pack:
        for number in range(given.repeat + 1):
            wanted, backend = request(number, given.upscale), require(given.backend)
            started = time.perf_counter()
            events = list(generate(pack, wanted, backend, given.threads))
            seconds = time.perf_counter() - started
            finished = next(event for event in events if isinstance(event, Finished))
            stages = {e.stage: e.seconds for e in events if isinstance(e, StageDone)}
            runs.append((seconds, finished, stages))
            frames = [event.frames for event in events if isinstance(event, UnitFrames)]
    runs = runs[1:]
    overheads = [spent - done.graph_seconds - done.load_seconds for spent, done, _ in runs]
    shares = [overhead / run[0] for overhead, run in zip(overheads, runs, strict=True)]
    figures: dict[str, Any] = {
        "seconds": median([spent for spent, _, _ in runs]),
        "graph_seconds": median([done.graph_seconds for _, done, _ in runs]),
        "load_seconds": median([done.load_seconds for _, done, _ in runs]),
        "overhead_seconds": median(overheads),
        "overhead_share": median(shares),
        "stage_seconds": {name: median([run[2][name] for run in runs]) for name in runs[0][2]},
        "peak_mb": peak_mb(),
    }
    finish(figures, np.concatenate(frames), given.output, "engine")


if __name__ == "__main__":
    main()
