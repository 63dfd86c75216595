"""The compilation of one pack for one Hexagon, graph by graph; what is done is noted.

Weights of linear layers and convolutions become 8 bits per output channel, with activations of 16,
where the graph stays close enough; where it does not, only those layers that leave it close enough
together; those of CLIP-G 8 bits in blocks, with activations as they are. The rest stays in half
precision, text encoders whole. Ranges are those of the pipeline's own activations on a list of
prompts; what is reported is measured on a prompt that is not in it, in the NPU's emulation, beside
the portable graph; where that would take too long, on the CPU, which tells what 8 bits cost but not
half precision.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from builder import quantise
from builder.contexts.calls import Calls, loaded, observe
from builder.contexts.compiler import Compiled, compile_graphs
from builder.contexts.measure import measured, measured_on_cpu, with_half_precision
from builder.errors import BuildError
from builder.quantise.quantiser import Quantiser, cheapest
from builder.storage import file_entry, graph_of
from engine.pack import Graph, Pack, TensorSpec
from engine.session import CHIPS, QNN_OPTIONS, Chip, available, qnn_sdk

Precision = Literal["w8a16", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
# What quantisation must leave, in dB: the paper's Table 9. What has no row there stays in fp16.
FLOORS = {
    "video_encoder": 40.0,
    "video_decoder": 35.0,
    "unet": 33.0,
    "first_frame_decoder": 31.0,
    "transformer_0": 29.0,
    "transformer_1": 22.0,
    "transformer_2": 24.0,
    "upscaler": 48.0,
    "modulation": 35.0,  # in the paper a part of the transformer, of which less is asked
}
# Weights alone in 8 bits, for the largest file, and what they must leave; with no row in Table 9.
WEIGHTS_ALONE = {"clip_g": 30.0}
FP16_FLOOR = 35.0
MARGIN = 2.0  # dB above its floor that a graph has on the CPU where only some layers get 8 bits
SEARCH = 3600.0  # seconds that may be spent to find those
PATIENCE = 600.0  # seconds that a graph may take in emulation
EMULATED = 100.0  # of them for one on the CPU: 26 to 250 were measured

Report = Callable[[str], None]


@dataclass
class Work:
    """The compilation of one pack: `pack` to `folder`.

    todo: graphs not compiled yet; worked: seconds spent on those that are, and what was expected.
    """

    pack: Pack
    folder: Path
    prompts: tuple[str, ...]
    precision: Precision
    report: Report
    unshared: bool
    patience: float
    todo: set[tuple[str, str]]
    chip: Chip = CHIPS[0]
    worked: list[tuple[float, float]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        """What is gone when all is done: calls and quantised graphs, as large as the pack."""
        return self.pack.path / "work"

    @cached_property
    def calls(self) -> dict[tuple[str, str], Calls]:
        """Observed when the first graph needs them, or by a run that was cut off."""
        file, mark = self.home / "calls.json", [*self.prompts, self.pack.pack_hash, _code()]
        record = json.loads(file.read_text("utf-8")) if file.exists() else {}
        if record.get("mark") == mark:
            return {
                (c, g): Calls(Path(f), list(map(Path, i)), s) for c, g, f, i, s in record["calls"]
            }
        shutil.rmtree(self.home, ignore_errors=True)
        calls = observe(self.pack, self.prompts, self.home / "calls", self.report)
        listed = [
            (*k, str(c.folder), list(map(str, c.inputs)), c.seconds) for k, c in calls.items()
        ]
        file.write_text(json.dumps({"mark": mark, "calls": listed}))
        return calls

    def emulated(self, key: tuple[str, str]) -> bool:
        """Whether a graph is measured in emulation."""
        if "npu-emulated" not in available():
            return False
        return EMULATED * self.calls[key].seconds <= self.patience

    def expected(self, key: tuple[str, str]) -> float:
        """Seconds that a graph takes, as measured at full size: 60 for a GB of weights and 8 for
        one on the CPU, twice where it is compiled once more to share them; then the emulation.
        """
        component, name = key
        graph, seconds = self.pack.graphs(component, "htp")[name], self.calls[key].seconds
        work = 60e-9 * sum(file.size for file in graph.files) + 8 * seconds
        twice = 2 if graph.dimensions else 1
        return twice * work + (EMULATED * seconds if self.emulated(key) else 0.0)

    def left(self, key: tuple[str, str], seconds: float) -> str:
        """How long the others will take, now that a graph took so many seconds."""
        self.worked.append((seconds, self.expected(key)))
        spent, expected = map(sum, zip(*self.worked, strict=True))
        rest = sum(self.expected(other) for other in self.todo - {key})
        return f"about {math.ceil(rest * spent / expected / 60)} min left"

    @cached_property
    def record_file(self) -> Path:
        """Where what is done is noted."""
        return self.pack.path / "compiled.json"

    @cached_property
    def record(self) -> dict[str, Any]:
        """Entries of the manifest by component, graph and what they depend on."""
        return json.loads(self.record_file.read_text("utf-8")) if self.record_file.exists() else {}

    def variants(self, component: str, graphs: Mapping[str, Graph]) -> dict[str, Any]:
        """The compiled variants of a component for the manifest."""
        about = {key: getattr(self.chip, key) for key in ("soc_model", "htp_arch")}
        variants = {}
        single = {name: self._single(component, graph) for name, graph in graphs.items()}
        context = {"context": about | {"sdk": qnn_sdk(), "shared": False}}
        stages = {name: graph for name, graph in graphs.items() if graph.dimensions}
        alone = single if self.unshared else {k: e for k, e in single.items() if k not in stages}
        variants["context"] = context | {"graphs": {k: _public(e) for k, e in alone.items()}}
        if stages:
            shared: dict[str, Any] = {}
            for part in dict.fromkeys(map(_without_stage, stages)):
                same = {name: g for name, g in stages.items() if _without_stage(name) == part}
                shared |= self._shared(component, part, same, single)
            context = {"context": about | {"sdk": qnn_sdk(), "shared": True}}
            variants["context-shared"] = context | {"graphs": shared}
        return variants

    def _single(self, component: str, graph: Graph) -> dict[str, Any]:
        """A graph compiled alone; if it is to share its weights, that is only to measure it."""
        home = self.pack.path if graph.dimensions else self.folder
        key = component, graph.name

        def make() -> dict[str, Any]:
            return self._tried(component, graph, home)

        entry = self._once(f"{component}/{graph.name}", [graph], make, home)
        self.todo.discard(key)
        return entry

    def _tried(self, component: str, graph: Graph, home: Path) -> dict[str, Any]:
        """The first precision of a graph that leaves its floor, compiled where that is needed."""
        key = component, graph.name
        calls, started, emulated = self.calls[key], time.perf_counter(), self.emulated(key)
        row = re.sub("^first_frame_(?=clip)|(_first|_later)?(_part.*)?$", "", graph.name)
        floor = FLOORS.get(row, WEIGHTS_ALONE.get(row, FP16_FLOOR))
        alone = emulated or self.unshared or not graph.dimensions
        tried: dict[str, float | None] = {}
        share, entry, compiled = 0.0, dict[str, Any](), None
        for precision in self._schemes(graph, row):
            if precision == "mixed":
                share = self._mix(component, graph, floor)
                if not share:
                    continue
            model, sizes = self._model(component, graph, precision)
            if not emulated:
                decibels = None if precision == "fp16" else measured_on_cpu(model, calls.unseen)
                tried[precision] = decibels
                if decibels is not None and with_half_precision(decibels) < floor:
                    continue
            if alone:
                target = home / "contexts" / f"{_file(*key)}.onnx"
                (compiled,) = compile_graphs([(model, sizes, target)], False, self.chip)
                entry = self._entry(graph, compiled.files, home) | _measures(compiled)
            if emulated:
                spec = graph_of(graph.name, entry)
                decibels, entry["expected"] = measured(spec, target, calls.unseen)
                tried[precision] = decibels
                if decibels < floor:
                    continue
            break
        else:
            raise BuildError(
                "{graph} has less than {floor} dB on the NPU ({tried}); use other weights.",
                graph=graph.name,
                floor=floor,
                tried=", ".join(f"{name} {db or 0.0:.1f} dB" for name, db in tried.items()),
            )
        if not graph.dimensions:
            shutil.rmtree(self._quantised(component, graph), ignore_errors=True)
        spent = time.perf_counter() - started
        self._tell(key, tried, emulated, entry, compiled if alone else None, spent)
        return entry | {
            "fidelity_db": tried[precision],
            "precision": precision,
            "tried": tried,
            "emulated": emulated,
            "eight_bit": {"w8a16": 1.0, "mixed": share}.get(precision, 0.0),
            "spent": spent,
        }

    def _tell(
        self,
        key: tuple[str, str],
        tried: Mapping[str, float | None],
        emulated: bool,
        entry: Mapping[str, Any],
        compiled: Compiled | None,
        spent: float,
    ) -> None:
        """Say what became of a graph and how long the others will take."""
        compilation = ""
        if compiled is not None:
            size = sum(file["size"] for file in (entry, *entry["data"])) / 1e6
            peak = compiled.peak / 1e9
            compilation = f" {size:.1f} MB, compiled in {compiled.seconds} s with {peak:.2f} GB,"
        self.report(
            f"{'/'.join(key)}: {tried} dB{'' if emulated else ' on the CPU'},{compilation}"
            f" {spent:.0f} s in all; {self.left(key, spent)}"
        )

    def _shared(
        self, component: str, part: str, stages: Mapping[str, Graph], single: Mapping[str, Any]
    ) -> dict[str, Any]:
        """One part of all stages and forms compiled so that their weights are kept once."""

        def make() -> dict[str, Any]:
            jobs = []
            for name, graph in stages.items():
                model, sizes = self._model(component, graph, single[name]["precision"])
                target = self.folder / "contexts" / f"{_file(component, name)}_shared.onnx"
                jobs.append((model, sizes, target))
            compiled = compile_graphs(jobs, True, self.chip)
            seconds = round(sum(one.seconds for one in compiled), 1)
            entries = {}
            for graph, one in zip(stages.values(), compiled, strict=True):
                entries[graph.name] = self._entry(graph, one.files, self.folder)
                for key in ("fidelity_db", "expected", "precision"):
                    entries[graph.name][key] = single[graph.name].get(key, {})
                entries[graph.name] |= _measures(one)
                entries[graph.name] |= {"seconds": seconds, "peak": compiled[-1].peak}
                shutil.rmtree(self._quantised(component, graph), ignore_errors=True)
            size = compiled[0].files[1].stat().st_size
            self.report(
                f"{component}/{part}: weights shared by {len(stages)} graphs, {size / 1e6:.1f} MB,"
                f" compiled in {seconds} s with {compiled[-1].peak / 1e9:.2f} GB"
            )
            return entries

        key = f"{component}/{part} shared"
        entries = self._once(key, list(stages.values()), make, self.folder)
        return {name: _public(entry) for name, entry in entries.items()}

    def _quantised(self, component: str, graph: Graph) -> Path:
        return self.home / "quantised" / f"{component}.{graph.name}"

    def _model(
        self, component: str, graph: Graph, precision: str
    ) -> tuple[Path, Mapping[str, int]]:
        """What is to be compiled and the sizes it still needs."""
        for file in graph.files:
            self.pack.verified(file)
        path = self.pack.verified(graph.file)
        if precision == "fp16":
            return path, graph.dimensions
        home = self._quantised(component, graph)
        if not (home / "quantised.onnx").exists():
            samples = map(loaded, self.calls[component, graph.name].inputs)
            home.mkdir(parents=True, exist_ok=True)
            ranged = None if precision == "w8" else samples
            with Quantiser(path, graph.dimensions, ranged, home) as quantiser:
                quantiser.write()
        return home / "quantised.onnx", {}

    def _schemes(self, graph: Graph, row: str) -> list[str]:
        """What to try, the fastest first; graphs that share their weights are all alike."""
        if self.precision == "fp16":
            return ["fp16"]
        if row in WEIGHTS_ALONE:
            return ["w8", "fp16"]
        if row in FLOORS:
            return ["w8a16", "fp16"] if graph.dimensions else ["w8a16", "mixed", "fp16"]
        return ["fp16"]

    def _mix(self, component: str, graph: Graph, floor: float) -> float:
        """Quantise those layers alone that leave the floor; their share of the work, 0 where there
        are none or to find them takes too long.
        """
        calls, home = self.calls[component, graph.name], self._quantised(component, graph)
        path = self.pack.verified(graph.file)
        with Quantiser(path, graph.dimensions, map(loaded, calls.inputs), home) as quantiser:
            if quantiser.count * calls.seconds > SEARCH:
                return 0.0
            layers = quantiser.layers(loaded(calls.inputs[-1]))
            chosen = cheapest(layers, floor + MARGIN)
            quantiser.write({layer.name for layer in chosen})
        return sum(layer.macs for layer in chosen) / sum(layer.macs for layer in layers)

    def _entry(self, graph: Graph, files: tuple[Path, Path], home: Path) -> dict[str, Any]:
        """The manifest's entry of compiled files in `home`; every size is a number."""
        small, binary = files
        entry = file_entry(small, home) | {"data": [file_entry(binary, home)]}
        for side in ("inputs", "outputs"):
            specs: Mapping[str, TensorSpec] = getattr(graph, side)
            entry[side] = {
                name: {
                    "dtype": spec.dtype,
                    "shape": [graph.dimensions.get(str(size), size) for size in spec.shape],
                }
                for name, spec in specs.items()
            }
        return entry

    def _once(
        self, key: str, graphs: Sequence[Graph], make: Callable[[], dict[str, Any]], home: Path
    ) -> dict[str, Any]:
        """What `make` gives, or gave before from the same files by the same code, in `home`."""
        hashes = [[file.sha256 for file in graph.files] for graph in graphs]
        how = [self.prompts, self.precision, self.unshared, self.patience, self.chip.options]
        mark = json.dumps([hashes, *how, QNN_OPTIONS, qnn_sdk(), _code()])
        kept: dict[str, Any] = self.record.get(key, {}).get(mark, {})
        if not kept or not all(
            (home / file["file"]).is_file() and file_entry(home / file["file"], home) == file
            for file in files_of(kept)
        ):
            kept = make()
            self.record[key] = {mark: kept}
            self.record_file.write_text(json.dumps(self.record, indent=1))
        else:
            self.report(f"{key}: kept")
        return kept


def _code() -> str:
    """A hash of what compiled graphs depend on besides the graphs; of all where it is frozen."""
    homes = (Path(__file__), Path(quantise.__file__))
    files = [file for home in homes for file in sorted(home.parent.glob("*.py"))]
    files = [Path(sys.executable)] if getattr(sys, "frozen", False) else files
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _measures(compiled: Compiled) -> dict[str, Any]:
    """What is noted of a compilation beside its files."""
    return {"nodes": compiled.nodes, "seconds": compiled.seconds, "peak": compiled.peak}


def _without_stage(graph: str) -> str:
    return re.sub(r"^transformer_\d+(_first|_later)?", "transformer", graph)


def _file(component: str, graph: str) -> str:
    return graph + ("_multistep" if component.endswith("_multistep") else "")


def _public(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry without what is only of the compilation."""
    private = {"precision", "tried", "emulated", "eight_bit", "spent", "nodes", "seconds", "peak"}
    return {key: value for key, value in entry.items() if key not in private}


def files_of(part: Any) -> Iterator[dict[str, Any]]:
    """Every file that a manifest or a part of it names."""
    if isinstance(part, dict):
        if {"file", "size", "sha256"} <= set(part):
            yield {key: part[key] for key in ("file", "size", "sha256")}
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from files_of(inner)
