"""A pack built from weights by the program itself, killed on the way: `python -m benchmarks.build`.

`python -m benchmarks.build WEIGHTS WORK --target cpu --program FOLDER/nds -o docs/built.json` runs
`nds model build` to its end, killed three times after some graphs and started again, and puts into
the file, by target: seconds (of all starts together), the most memory of one process and of all,
GB on disk, and what the program said of each graph.
Full-size weights without Qualcomm's: `python -m training.random_checkpoint WEIGHTS --full`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from engine.pack import open_pack

EVERY = 0.2  # seconds between looks at the memory


class Memory(threading.Thread):
    """The most that a process and its children have held, each and together, in GB."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__(daemon=True)
        self.process, self.one, self.all = process, 0.0, 0.0
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(EVERY):
            with suppress(psutil.Error):
                held = [
                    one.memory_info().rss / 1e9
                    for one in (self.process, *self.process.children(recursive=True))
                ]
                self.one, self.all = max(self.one, *held), max(self.all, sum(held))


def run(command: list[str], kill_after: int | None = None) -> tuple[list[str], Memory, float]:
    """What it says, its memory and its seconds; killed with its children after so many lines."""
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8")
    memory = Memory(psutil.Process(child.pid))
    memory.start()
    said: list[str] = []
    assert child.stdout is not None
    for line in child.stdout:
        print(line, end="", file=sys.stderr)
        said.append(line.strip())
        if len(said) == kill_after:
            for one in (*memory.process.children(recursive=True), memory.process):
                with suppress(psutil.Error):
                    one.kill()
            break
    code = child.wait()
    memory.ended.set()
    if code and kill_after is None:
        sys.exit(f"{command} ended with {code}")
    return said, memory, time.perf_counter() - started


def built(
    program: list[str], weights: Path, pack: Path, target: str, kills: int, lines: int
) -> dict[str, Any]:
    """Build it, killed so often, so many lines apart; nothing is emulated, as on a laptop."""
    command = [*program, "model", "build", str(weights), "-o", str(pack), "--target", target]
    command += ["--patience", "0"]
    runs = []
    while not pack.exists():  # a build may be done before it would have been killed
        killed = len(runs) < kills
        runs.append(run(command, kill_after=lines * (len(runs) + 1) if killed else None))
    files = [path.stat().st_size for path in pack.rglob("*") if path.is_file()]
    with open_pack(pack) as opened:
        pack_hash = opened.pack_hash[:12]
    return {
        "pack_hash_built": pack_hash,
        "seconds": round(sum(seconds for *_, seconds in runs), 1),
        "kills": len(runs) - 1,
        "peak_gb_of_a_process": round(max(memory.one for _, memory, _ in runs), 2),
        "peak_gb_together": round(max(memory.all for _, memory, _ in runs), 2),
        "disk_gb": round(sum(files) / 1e9, 3),
        "lines": [
            line
            for said, *_ in runs
            for line in said
            if not line.endswith(": kept") and str(pack.parent) not in line
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--target", default="portable")
    parser.add_argument("--program", type=Path, help="nds of a frozen folder; default: the source")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--lines", type=int, default=4, help="it says from one kill to the next")
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    os.environ["NEODRAGON_DATA"] = str(given.work.absolute() / "data")
    program = [str(given.program)] if given.program else [sys.executable, "-m", "studio.cli"]
    pack = given.work.absolute() / f"pack-{given.target}"
    shutil.rmtree(pack, ignore_errors=True)
    figures = built(program, given.weights, pack, given.target, given.kills, given.lines)
    figures |= {
        "program": "frozen" if given.program else "source",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, "
        f"{psutil.virtual_memory().total / 1e9:.0f} GB",
    }
    if given.output:
        kept = json.loads(given.output.read_text("utf-8")) if given.output.exists() else {}
        text = json.dumps(kept | {given.target: figures}, indent=1)
        given.output.write_text(text + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
