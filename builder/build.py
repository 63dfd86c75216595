"""A pack from published weights, for one target: filled, put into 8 bits, compiled.

Intermediate files are in `<pack>.build` beside the pack, and finished steps are not repeated: a
build that was stopped, killed or paused continues with the same graph. The pack appears, complete,
at the end.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from builder.chips import chip_for
from builder.contexts.pack import compile_pack
from builder.contexts.work import PATIENCE
from builder.errors import BuildError
from builder.layout import Layout
from builder.plans import plans
from builder.portable import Portable, choose
from builder.quantise.cpu import quantise_pack
from engine.errors import Message
from engine.pack import MANIFEST, open_pack

STAGED = ".build"
PAUSE = "pause"  # in the folder of a build: its request to stop at the next graph
Step = Literal["fill", "quantise", "compile", "done"]
# Bytes of free memory from which on the transformer is compiled in graphs of so many blocks: six
# graphs of 6 blocks that share their weights took 9.4 GB at full size, and it grows with blocks.
MEMORY_OF_BLOCKS = {6: 11e9, 3: 6e9, 2: 0.0}
# A build's files for each byte of weights that are used, as measured at full size.
DISK = {"portable": 1.05, "cpu": 1.7, "compiled": 4.5}
FILLING = 1.5e9  # bytes of memory that filling takes at full size


@dataclass(frozen=True)
class Progress:
    """Where a build is: its step, the graph that was just done, how many are, and seconds left.

    left: None where nothing is known yet; line: what became of the graph, for a log.
    """

    step: Step
    graph: str
    done: int
    total: int
    left: float | None
    line: str


Report = Callable[[Progress], None]


class Paused(BuildError):
    """A build stopped where it was asked to; it goes on when it is started again."""


@dataclass
class Build:
    """A pack to be made of the weights in `root`, at `pack`, for `target`.

    templates: sets to choose from; prompts: to calibrate with; multistep: with the monolithic
    mode's own weights; blocks: of the transformer in a graph, None to choose by free memory;
    unshared: keep graphs with weights of their own, too, which emulation needs; patience: seconds
    that one graph may take in emulation, which is measured on the CPU otherwise.
    """

    root: Path
    pack: Path
    target: str
    templates: Sequence[Path]
    prompts: Sequence[str]
    report: Report
    multistep: bool = False
    blocks: int | None = None
    unshared: bool = False
    patience: float = PATIENCE
    _worked: list[tuple[float, float]] = field(default_factory=list)

    @property
    def work(self) -> Path:
        """Where everything is until the pack is whole."""
        return self.pack.with_name(self.pack.name + STAGED)

    def run(self) -> None:
        """Make the pack; raises BuildError with one sentence, Paused where it was asked to."""
        chip = chip_for(self.target)
        if self.pack.exists():
            raise BuildError(
                "{pack} exists already; choose another name or remove it.",
                pack=self.pack,
            )
        layout = self._layout()
        templates = choose(layout, self.templates)
        self._check_room(layout, chip is not None)
        (self.work / PAUSE).unlink(missing_ok=True)
        filled = self.work / "portable"
        filled.mkdir(parents=True, exist_ok=True)
        self._fill(Portable(layout, templates, filled, remember=chip is not None))
        made = filled
        if self.target == "cpu":
            made = self.work / "cpu"
            quantise_pack(filled, made, self._graph("quantise", self._count(filled)))
        elif chip is not None:
            made = self.work / "compiled"
            compile_pack(
                filled,
                made,
                self.prompts,
                chip=chip,
                unshared=self.unshared,
                patience=self.patience,
                report=self._graph("compile", self._count(filled, "htp")),
            )
        with open_pack(made):
            pass
        (made / "filled.json").unlink(missing_ok=True)
        made.replace(self.pack)
        shutil.rmtree(self.work, ignore_errors=True)
        self.report(Progress("done", "", 1, 1, 0.0, f"{self.pack}: done"))

    def _layout(self) -> Layout:
        """The weights; the number of blocks is kept from the first run of a build to the last."""
        noted = self.work / "blocks.json"
        blocks = self.blocks or blocks_for(psutil.virtual_memory().available)
        if noted.exists():
            blocks = json.loads(noted.read_text(encoding="utf-8"))
        layout = Layout(self.root, self.multistep, blocks)
        self.work.mkdir(parents=True, exist_ok=True)
        noted.write_text(json.dumps(blocks), encoding="utf-8")
        return layout

    def _fill(self, portable: Portable) -> None:
        fillings = portable.fillings()
        todo = sum(f.weights for f in fillings if not portable.is_done(f))
        done, started = 0, time.monotonic()
        for number, filling in enumerate(fillings, 1):
            kept, begun = portable.is_done(filling), time.monotonic()
            entry = portable.fill(filling)
            done += 0 if kept else filling.weights
            spent = time.monotonic() - started
            left = spent * (todo - done) / done if done else None
            size = (entry["size"] + sum(file["size"] for file in entry.get("data", []))) / 1e6
            took = "kept" if kept else f"{size:.1f} MB in {time.monotonic() - begun:.1f} s"
            line = f"{filling.key}: {took}"
            self._tell(Progress("fill", filling.key, number, len(fillings), left, line))
        portable.finish()

    def _graph(self, step: Step, total: int) -> Callable[[str], None]:
        """What takes the lines of a step, one for each graph."""
        done = 0

        def report(line: str) -> None:
            nonlocal done
            key, _, _ = line.partition(":")
            is_graph = "/" in key and not key.startswith("/")
            done = min(total, done + is_graph)
            left = None
            if "; about " in line:
                left = 60.0 * float(line.split("; about ")[1].split(" ")[0])
            self._tell(Progress(step, key if is_graph else "", done, total, left, line))

        return report

    def _tell(self, progress: Progress) -> None:
        self.report(progress)
        if (self.work / PAUSE).exists():
            raise Paused(
                "The build of {pack} is paused; start it again to go on.", pack=self.pack.name
            )

    def _count(self, pack: Path, variant: str = "portable") -> int:
        """Graphs of a variant."""
        manifest = json.loads((pack / MANIFEST).read_text(encoding="utf-8"))
        parts = manifest["components"].values()
        return sum(len(part["variants"].get(variant, {"graphs": ()})["graphs"]) for part in parts)

    def _check_room(self, layout: Layout, compiled: bool) -> None:
        """Raise BuildError where disk or memory will not do."""
        used = {folder for plan in plans(layout) for folder in plan.sources}
        weights = sum(layout.weights(folder) for folder in used)
        home = next(path for path in self.pack.absolute().parents if path.exists())
        there = sum(file.stat().st_size for file in self.work.rglob("*") if file.is_file())
        kind = "compiled" if compiled else "cpu" if self.target == "cpu" else "portable"
        largest = max(layout.weights(folder) for folder in used)
        memory = min(FILLING, 2e8 + largest) if not compiled else min(6e9, 3e8 + 2.5 * largest)
        room = {
            "disk": (DISK[kind] * weights - there, shutil.disk_usage(home).free),
            "memory": (memory, psutil.virtual_memory().available),
        }
        for what, (wanted, free) in room.items():
            if free < wanted:
                raise BuildError(
                    "The build of {pack} needs {needed:.1f} GB of {what}, and {free:.1f} GB are "
                    "there; free some, or use another machine.",
                    pack=self.pack.name,
                    needed=wanted / 1e9,
                    what=Message(what),
                    free=free / 1e9,
                )


def blocks_for(free: float) -> int:
    """Blocks of the transformer in one graph that bytes of free memory are enough to compile."""
    return next(blocks for blocks, wanted in MEMORY_OF_BLOCKS.items() if free >= wanted)


def ceil_minutes(seconds: float) -> int:
    """Seconds as minutes, at least one."""
    return max(1, math.ceil(seconds / 60))


def lines(path: Path) -> Iterator[str]:
    """Prompts of a file, one a line."""
    yield from (line for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
