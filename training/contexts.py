"""Compile a pack's graphs for one Hexagon: `training.export --target` calls `compile_pack`.

Weights of linear layers and convolutions become 8 bits per output channel, with activations of 16,
where the graph stays close enough; where it does not, only those layers that leave it close enough
together; those of CLIP-G 8 bits in blocks, with activations as they are. The rest stays in half
precision, text encoders whole. Ranges
are those of the pipeline's own activations on a list of prompts; what is reported is measured on a
prompt that is not in it, in the NPU's emulation, beside the portable graph; where that would take
too long, on the CPU, which tells what 8 bits cost but not half precision. Every compilation has a
process of its own, so that the memory it took is given back.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
import onnxruntime as ort

from engine.canary import noise_inputs, sampled
from engine.config import Request
from engine.graph_cache import GraphCache, Key
from engine.pack import MANIFEST, Graph, Pack, TensorSpec, open_pack
from engine.pipeline import generate
from engine.session import (
    QNN_OPTIONS,
    Array,
    Backend,
    OrtSession,
    load_graph,
    placed,
    qnn_sdk,
    session_options,
)
from training.onnx_graphs import file_entry, graph_of, snr_db
from training.quantise import Quantiser, cheapest

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
HALF = 45.0  # dB that half precision leaves by itself, where only the CPU measures: 46 and more
SEARCH = 3600.0  # seconds that may be spent to find those
PATIENCE = 600.0  # seconds that a graph may take in emulation
TWICE = 300.0  # and to be run there once more
EMULATED = 100.0  # of them for one on the CPU: 26 to 250 were measured
SAMPLES = 12  # of each graph's calls, for the ranges
UNSEEN = "a green fish swims right under water at noon"

Report = Callable[[str], None]
Values = dict[str, Array]


@dataclass
class Calls:
    """What went into a graph on the calibration prompts, and one call it has not seen.

    inputs: files of arrays, thinned out to SAMPLES; seconds: of one run on the CPU.
    """

    folder: Path
    inputs: list[Path] = field(default_factory=list)
    seconds: float = 0.0
    count: int = 0
    stride: int = 1

    def add(self, values: Values) -> None:
        """Keep every so many calls, so that at most twice SAMPLES are kept."""
        if self.count % self.stride == 0:
            path = self.folder / f"{self.count}.npz"
            np.savez(path, **values)  # type: ignore[arg-type]
            self.inputs.append(path)
        self.count += 1
        if len(self.inputs) == 2 * SAMPLES:
            for path in self.inputs[1::2]:
                path.unlink()
            self.inputs = self.inputs[::2]
            self.stride *= 2

    @property
    def unseen(self) -> tuple[Values, Values]:
        """Inputs and the portable outputs of the call that is not among `inputs`."""
        inputs, outputs = (_loaded(self.folder / f"unseen_{n}.npz") for n in range(2))
        return inputs, outputs

    @unseen.setter
    def unseen(self, call: tuple[Values, Values]) -> None:
        for number, values in enumerate(call):
            np.savez(self.folder / f"unseen_{number}.npz", **values)  # type: ignore[arg-type]


class _OneOfEachFile(GraphCache):
    """Graphs on the CPU, those of one file run by one session: 24 GB do not hold every stage's.

    seconds: spent in each graph, by component and name.
    """

    def __init__(self) -> None:
        super().__init__(budget=0)
        self.seconds: Counter[tuple[str, str]] = Counter()

    def take(
        self, pack: Pack, component: str, role: str, backend: Backend, threads: int | None
    ) -> tuple[Key, dict[str, OrtSession]]:
        _, graphs = placed(pack, component, role, backend)
        sessions: dict[str, ort.InferenceSession] = {}
        for graph in graphs.values():
            if graph.file.name not in sessions:
                path, *_ = [pack.verified(file) for file in graph.files]
                options, providers = session_options(threads), ["CPUExecutionProvider"]
                sessions[graph.file.name] = ort.InferenceSession(str(path), options, providers)
        opened = {name: OrtSession(g, sessions[g.file.name]) for name, g in graphs.items()}
        return Key(pack.pack_hash, component, role, backend, threads), opened

    def give_back(self, key: Key, sessions: dict[str, OrtSession]) -> None:
        for name, session in sessions.items():
            self.seconds[key.component, name] += session.seconds


def with_fixed_sizes(pack: Pack) -> Pack:
    """The pack with the NPU's graphs, every size fixed, to be run on the CPU."""
    fixed = {
        name: replace(part, variants={"portable": part.variants.get("htp", {})})
        for name, part in pack.components.items()
    }
    return replace(pack, components=fixed)


def observe(pack: Pack, prompts: Sequence[str], folder: Path) -> dict[tuple[str, str], Calls]:
    """Run the pipeline on the CPU; the calls of each component's graphs, kept in `folder`.

    The last unit is the one kept of the unseen prompt: its history is full.
    """
    fixed, cache = with_fixed_sizes(pack), _OneOfEachFile()
    calls: dict[tuple[str, str], Calls] = {}
    modes = ["hybrid", *(["monolithic"] if pack.has("transformer_multistep") else [])]
    for number, prompt in enumerate([*prompts, UNSEEN]):
        last = number == len(prompts)

        def watch(
            component: str, graph: str, inputs: Values, outputs: Values, last: bool = last
        ) -> None:
            key = component, graph
            if key not in calls:
                calls[key] = Calls(folder / f"{component}-{graph}")
                calls[key].folder.mkdir(parents=True)
            if last:
                calls[key].unseen = inputs, outputs
            else:
                calls[key].add(inputs)

        for mode in modes:
            # Every stage's first timestep and one more do for ranges, and take hours as it is.
            steps = (2,) * pack.schedule.stages if mode == "monolithic" else None
            request = Request(prompt, number, number + 1, mode=mode, steps=steps)  # type: ignore[arg-type]
            for _ in generate(fixed, request, checked=True, watch=watch, cache=cache):
                pass
    share = len(prompts) / (len(prompts) + 1)
    for key, seconds in cache.seconds.items():
        calls[key].seconds = seconds * share / calls[key].count
    return calls


@dataclass(frozen=True)
class Compiled:
    """files: the small .onnx and its binary; nodes, all on the NPU; seconds and peak bytes of the
    compilation.
    """

    files: tuple[Path, Path]
    nodes: int
    seconds: float
    peak: int


def compile_graphs(
    graphs: Sequence[tuple[Path, Mapping[str, int], Path]], shared: bool
) -> list[Compiled]:
    """Compile graphs (file, sizes, the .onnx to write) in a process of their own.

    shared: their weights are kept once. Raises RuntimeError with the compiler's words.
    """
    job = [[str(path), dict(sizes), str(target)] for path, sizes, target in graphs]
    for _, _, target in graphs:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
    command = [sys.executable, "-m", "training.compile_context", json.dumps([job, shared])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it was killed"])[-1])
    said = json.loads(done.stdout.splitlines()[-1])
    return [
        Compiled((target, _binary(target)), _nodes(path), seconds, said["peak"])
        for (path, _, target), seconds in zip(graphs, said["seconds"], strict=True)
    ]


def _binary(target: Path) -> Path:
    """The file that a context's .onnx reads, which must be all it is."""
    model = onnx.load(target)
    kinds = {node.op_type for node in model.graph.node}
    if kinds != {"EPContext"} or len(model.graph.node) != 1:
        raise RuntimeError(f"{target.name} should be one context, but it has {sorted(kinds)}")
    (name,) = [a.s for a in model.graph.node[0].attribute if a.name == "ep_cache_context"]
    return target.with_name(name.decode())


def _nodes(path: Path) -> int:
    """Nodes of a graph that compute something anew when it runs."""
    graph = onnx.load(path, load_external_data=False).graph
    constant, count = {"", *(tensor.name for tensor in graph.initializer)}, 0
    for node in graph.node:
        if set(node.input) <= constant:
            constant |= set(node.output)
        else:
            count += 1
    return count


def measured(
    graph: Graph, path: Path, unseen: tuple[Values, Values]
) -> tuple[float, dict[str, list[float]]]:
    """A graph in emulation, nothing on the CPU: dB beside the portable one's outputs.

    And what it makes of noise, by which a device is tried; nothing where that takes too long.
    """
    inputs, expected = unseen
    with load_graph(graph, path, "npu-emulated") as session:
        outputs = session.run(**inputs)
        told = sampled(session.run(**noise_inputs(graph))) if session.seconds < TWICE else {}
    return _least(expected, outputs), told


def measured_on_cpu(path: Path, unseen: tuple[Values, Values]) -> float:
    """The same of a quantised graph on the CPU, in dB."""
    session = ort.InferenceSession(
        str(path), session_options(None), providers=["CPUExecutionProvider"]
    )
    inputs, expected = unseen
    names = [tensor.name for tensor in session.get_inputs()]
    outputs = session.run(list(expected), {name: inputs[name] for name in names})
    return _least(expected, dict(zip(expected, outputs, strict=True)))


def _least(expected: Values, outputs: Mapping[str, Any]) -> float:
    return round(min(snr_db(value, outputs[name]) for name, value in expected.items()), 1)


def _with_half_precision(db: float) -> float:
    """What half precision leaves of a graph whose 8 bits leave `db`."""
    return float(-10 * np.log10(10 ** (-db / 10) + 10 ** (-HALF / 10)))


def compile_pack(
    source: Path,
    folder: Path,
    prompts: Sequence[str],
    precision: Precision = "w8a16",
    components: Sequence[str] = (),
    *,
    portable: bool = False,
    unshared: bool = False,
    patience: float = PATIENCE,
    report: Report = print,
) -> None:
    """Compile the graphs of the portable pack `source` to a pack in `folder`.

    components: only these, all where empty, the others stay as they are; portable: keep what runs
    on the CPU of all; the upscaler keeps it anyway, as the graph by which an NPU is tried;
    unshared: also graphs that do not share their weights with others; patience: seconds that one
    graph may take in emulation. What is done is noted in `source`, and not done again. Raises
    RuntimeError.
    """
    if not prompts:
        raise RuntimeError(
            "There should be a prompt to calibrate with, but there is none; give one."
        )
    manifest = json.loads((source / MANIFEST).read_text(encoding="utf-8"))
    with open_pack(source) as pack:
        unknown = sorted(set(components) - set(pack.components))
        if unknown:
            raise RuntimeError(
                f"The components should be among {', '.join(pack.components)}, but there is"
                f" {unknown[0]}; correct its name."
            )
        chosen = {
            name: part.variants["htp"]
            for name, part in pack.components.items()
            if "htp" in part.variants and (not components or name in components)
        }
        todo = {(name, graph) for name, graphs in chosen.items() for graph in graphs}
        work = _Work(pack, folder, tuple(prompts), precision, report, unshared, patience, todo)
        for name, graphs in chosen.items():
            listed = manifest["components"][name]
            listed["variants"] |= work.variants(name, graphs)
            if not portable and name != "upscaler":
                del listed["variants"]["portable"], listed["variants"]["htp"]
    shutil.rmtree(work.home, ignore_errors=True)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    for file in _files(manifest):
        if not (folder / file["file"]).exists():
            (folder / file["file"]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file["file"], folder / file["file"])
    with open_pack(folder) as made:
        size = sum(file.size for file in made.files) / 1e6
        report(f"{folder}: {made.name} {made.version}, {size:.1f} MB, pack {made.pack_hash[:12]}")


@dataclass
class _Work:
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
    worked: list[tuple[float, float]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        """What is gone when all is done: calls and quantised graphs, as large as the pack."""
        return self.pack.path / "work"

    @cached_property
    def calls(self) -> dict[tuple[str, str], Calls]:
        """Observed when the first graph needs them, or by a run that was cut off."""
        file, mark = self.home / "calls.json", [*self.prompts, self.pack.pack_hash, _code()]
        told = json.loads(file.read_text()) if file.exists() else {}
        if told.get("mark") == mark:
            return {
                (c, g): Calls(Path(f), list(map(Path, i)), s) for c, g, f, i, s in told["calls"]
            }
        shutil.rmtree(self.home, ignore_errors=True)
        started = time.perf_counter()
        calls = observe(self.pack, self.prompts, self.home / "calls")
        listed = [
            (*k, str(c.folder), list(map(str, c.inputs)), c.seconds) for k, c in calls.items()
        ]
        file.write_text(json.dumps({"mark": mark, "calls": listed}))
        spent = time.perf_counter() - started
        self.report(f"observed {len(self.prompts) + 1} clips in {spent:.0f} s")
        return calls

    def emulated(self, key: tuple[str, str]) -> bool:
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
        return self.pack.path / "compiled.json"

    @cached_property
    def record(self) -> dict[str, Any]:
        """Entries of the manifest by component, graph and what they depend on."""
        return json.loads(self.record_file.read_text()) if self.record_file.exists() else {}

    def variants(self, component: str, graphs: Mapping[str, Graph]) -> dict[str, Any]:
        """The compiled variants of a component for the manifest."""
        about = {key: int(QNN_OPTIONS[key]) for key in ("soc_model", "htp_arch")}
        variants = {}
        single = {name: self._single(component, graph) for name, graph in graphs.items()}
        context = {"context": about | {"sdk": qnn_sdk(), "shared": False}}
        stages = {name: graph for name, graph in graphs.items() if graph.dimensions}
        alone = single if self.unshared else {k: e for k, e in single.items() if k not in stages}
        variants["context"] = context | {"graphs": {k: _public(e) for k, e in alone.items()}}
        if stages:
            shared = {}
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
            calls, started = self.calls[key], time.perf_counter()
            target = home / "contexts" / f"{_file(*key)}.onnx"
            unseen, emulated = calls.unseen, self.emulated(key)
            row = re.sub("^first_frame_(?=clip)|(_first|_later)?(_part.*)?$", "", graph.name)
            floor = FLOORS.get(row, WEIGHTS_ALONE.get(row, FP16_FLOOR))
            alone = emulated or self.unshared or not graph.dimensions
            tried: dict[str, float | None] = {}
            share, entry, told = 0.0, {}, ""
            for precision in self._schemes(graph, row):
                if precision == "mixed":
                    share = self._mix(component, graph, floor)
                    if not share:
                        continue
                model, sizes = self._model(component, graph, precision)
                if not emulated:
                    fp16 = precision == "fp16"
                    tried[precision] = found = None if fp16 else measured_on_cpu(model, unseen)
                    if found is not None and _with_half_precision(found) < floor:
                        continue
                if alone:
                    (compiled,) = compile_graphs([(model, sizes, target)], shared=False)
                    entry = self._entry(graph, compiled.files, home) | _measures(compiled)
                if emulated:
                    spec = graph_of(graph.name, entry)
                    tried[precision], entry["expected"] = found, _ = measured(spec, target, unseen)
                    if found < floor:
                        continue
                break
            else:
                raise RuntimeError(
                    f"{graph.name} should keep {floor} dB on the NPU, but it has {tried}."
                )
            if not graph.dimensions:
                shutil.rmtree(self._quantised(component, graph), ignore_errors=True)
            if alone:
                size = sum(file["size"] for file in (entry, *entry["data"])) / 1e6
                peak = compiled.peak / 1e9
                told = f" {size:.1f} MB, compiled in {compiled.seconds} s with {peak:.2f} GB,"
            spent = time.perf_counter() - started
            self.report(
                f"{component}/{graph.name}: {tried} dB{'' if emulated else ' on the CPU'},{told}"
                f" {spent:.0f} s in all; {self.left(key, spent)}"
            )
            return entry | {
                "fidelity_db": tried[precision],
                "precision": precision,
                "tried": tried,
                "emulated": emulated,
                "eight_bit": {"w8a16": 1.0, "mixed": share}.get(precision, 0.0),
                "spent": spent,
            }

        entry = self._once(f"{component}/{graph.name}", [graph], make, home)
        self.todo.discard(key)
        return entry

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
            compiled = compile_graphs(jobs, shared=True)
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
            samples = map(_loaded, self.calls[component, graph.name].inputs)
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
        with Quantiser(path, graph.dimensions, map(_loaded, calls.inputs), home) as quantiser:
            if quantiser.count * calls.seconds > SEARCH:
                return 0.0
            layers = quantiser.layers(_loaded(calls.inputs[-1]))
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
        told = [[file.sha256 for file in graph.files] for graph in graphs]
        how = [self.prompts, self.precision, self.unshared, self.patience, QNN_OPTIONS, qnn_sdk()]
        mark = json.dumps([told, *how, _code()])
        kept: dict[str, Any] = self.record.get(key, {}).get(mark, {})
        if not kept or not all(
            (home / file["file"]).is_file() and file_entry(home / file["file"], home) == file
            for file in _files(kept)
        ):
            kept = make()
            self.record[key] = {mark: kept}
            self.record_file.write_text(json.dumps(self.record, indent=1))
        else:
            self.report(f"{key}: kept")
        return kept


def _code() -> str:
    """A hash of what compiled graphs depend on besides the graphs."""
    names = ("contexts", "quantise", "compile_context")
    files = [Path(__file__).with_name(f"{name}.py") for name in names]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _measures(compiled: Compiled) -> dict[str, Any]:
    """What is noted of a compilation beside its files."""
    return {"nodes": compiled.nodes, "seconds": compiled.seconds, "peak": compiled.peak}


def _loaded(path: Path) -> Values:
    with np.load(path) as values:
        return dict(values)


def _without_stage(graph: str) -> str:
    return re.sub(r"^transformer_\d+(_first|_later)?", "transformer", graph)


def _file(component: str, graph: str) -> str:
    return graph + ("_multistep" if component.endswith("_multistep") else "")


def _public(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry without what is only of the compilation."""
    private = {"precision", "tried", "emulated", "eight_bit", "spent", "nodes", "seconds", "peak"}
    return {key: value for key, value in entry.items() if key not in private}


def _files(part: Any) -> Iterator[dict[str, Any]]:
    """Every file that a manifest or a part of it names."""
    if isinstance(part, dict):
        if {"file", "size", "sha256"} <= set(part):
            yield {key: part[key] for key in ("file", "size", "sha256")}
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from _files(inner)
