"""What one look of a tab costs with 10,000 rows waiting: `python -m benchmarks.queue_look`.

Prints processor milliseconds as JSON: a look at a table that changed (median and worst of 20), and
one at a table that did not.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from engine.pack import open_pack
from studio.jobs.spec import Entry, Work
from studio.language.catalogue import Speaker
from studio.page.create import Create
from studio.page.desk import Desk
from studio.page.queue import QueueView
from studio.system.paths import default_pack

WAITING, DONE = 10_000, 300


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


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name, open_pack(default_pack()) as pack:
        folder = Path(name)
        with Desk(pack, "cpu", folder, folder / "data", folder / "cache", 1) as desk:
            stage = filled(desk, folder)
            say = Speaker("en")
            with gr.Blocks():
                view = QueueView(desk, Create(desk, say), say)
            print(json.dumps(measure(view, [stage])))


if __name__ == "__main__":
    main()
