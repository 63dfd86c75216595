"""The page's queries with a large queue and library: `python -m benchmarks.looks`, as JSON.

A tab's look at a queue of 10,000 waiting rows, at a table that changed (median and worst of 20) and
at one that did not, in processor milliseconds; and a library of 20,000 clips (real files, hard
links of one clip, each with a sidecar) read and searched, best of five, in seconds by the clock and
of the processor.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from engine.pack import Pack, open_pack
from studio.jobs.spec import Entry, Work
from studio.language.catalogue import Speaker
from studio.library.store import Library
from studio.media.video import write_mp4
from studio.page.create import Create
from studio.page.desk import Desk
from studio.page.queue import QueueView
from studio.system.paths import default_pack

WAITING, DONE = 10_000, 300
CLIPS = 20_000
WORDS = "a red ball bounces over the green meadow while small birds fly in the evening sky".split()


def filled(desk: Desk, folder: Path) -> int:
    """Fill the table; a job on the stage, whose takes are looked for."""
    work = Work("a red ball", 0, 0, pack=str(desk.pack.path), backend="cpu", kind="frame")
    desk.table.pause()
    made = desk.table.add(Entry(replace(work, look_seed=n), f"made {n}") for n in range(DONE))
    with desk.table.lease():
        desk.table.resume()
        for number in made:
            desk.table.claim()
            file = folder / f"{number}.png"
            file.touch()
            desk.table.finish(number, file, {"clip": 0.1})
        desk.table.pause()
    desk.table.add(
        Entry(replace(work, kind="clip", look_seed=n), f"waits {n}") for n in range(WAITING)
    )
    return made[-1]


def measure(view: QueueView, watching: list[int]) -> dict[str, Any]:
    """Processor milliseconds of a look."""

    def look(seen: dict[str, Any]) -> tuple[float, Any]:
        begun = time.thread_time()
        *_, state = view._look(watching, [], seen)
        return 1000 * (time.thread_time() - begun), state

    changed, state = [], {}
    for number in range(20):
        view.desk.table.move(view.desk.table.ids(("waiting",))[-1:])
        spent, state = look(state)
        changed.append(spent)
        assert isinstance(state, dict) and "html" in state, number
    unchanged = [look(state)[0] for _ in range(20)]
    return {
        "waiting": view.desk.table.count(("waiting",)),
        "changed_ms": round(statistics.median(changed), 2),
        "changed_worst_ms": round(max(changed), 2),
        "unchanged_ms": round(statistics.median(unchanged), 3),
    }


def clips(folder: Path, count: int) -> None:
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


def timed(call: Callable[[], object]) -> dict[str, float]:
    """The best of five calls."""
    times = []
    for _ in range(5):
        begun = time.perf_counter(), time.process_time()
        call()
        times.append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
    wall, processor = map(min, zip(*times, strict=True))
    return {"seconds": round(wall, 3), "processor_seconds": round(processor, 3)}


def library(root: Path) -> dict[str, Any]:
    """A library's first scan, one with nothing new, and searches of many kinds."""
    clips(root / "clips", CLIPS)
    with Library(root / "library.sqlite", root / "clips") as found:
        begun = time.perf_counter()
        found.scan()
        first = round(time.perf_counter() - begun, 3)
        assert len(found.search()) == CLIPS
        searches: dict[str, Callable[[], object]] = {
            "nothing in particular": found.search,
            "a word in most prompts": lambda: found.search("ball"),
            "three words": lambda: found.search("ball birds sky"),
            "a word that is nowhere": lambda: found.search("submarine"),
            "one seed": lambda: found.search(seed=777),
            "kept with four stars": lambda: found.search(stars=4, verdict="keep"),
            "60 from the middle": lambda: found.search(limit=60, offset=10_000),
        }
        return {
            "clips": CLIPS,
            "first_scan_seconds": first,
            "scan": timed(found.scan),
            "searches": {words: timed(search) for words, search in searches.items()},
        }


def queue(root: Path, pack: Pack) -> dict[str, Any]:
    """A tab's looks at the queue."""
    with Desk(pack, "cpu", root, root / "data", root / "cache", 1) as desk:
        stage = filled(desk, root)
        say = Speaker("en")
        with gr.Blocks():
            view = QueueView(desk, Create(desk, say), say)
        return measure(view, [stage])


def main() -> None:
    """Measure and print."""
    with open_pack(default_pack()) as pack:
        figures: dict[str, Any] = {"pack": pack.pack_hash}
        for name, do in {"queue": lambda root: queue(root, pack), "library": library}.items():
            with tempfile.TemporaryDirectory(prefix="neodragon-") as root:
                figures[name] = do(Path(root))
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
