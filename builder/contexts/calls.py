"""The calls of every graph while the pipeline runs on the CPU: ranges for 8 bits come from them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnxruntime as ort

from engine.config import Request
from engine.graph_cache import GraphCache, Key
from engine.pack import Pack
from engine.pipeline import generate
from engine.session import Array, Backend, OrtSession, placed, session_options

SAMPLES = 12  # of each graph's calls, for the ranges
UNSEEN = "a green fish swims right under water at noon"

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
        inputs, outputs = (loaded(self.folder / f"unseen_{n}.npz") for n in range(2))
        return inputs, outputs

    @unseen.setter
    def unseen(self, call: tuple[Values, Values]) -> None:
        """Keep that call."""
        for number, values in enumerate(call):
            np.savez(self.folder / f"unseen_{number}.npz", **values)  # type: ignore[arg-type]


class _OneOfEachFile(GraphCache):
    """Graphs on the CPU, those of one file run by one session: 24 GB do not hold every stage's.

    seconds: spent in each graph, by component and name.
    """

    def __init__(self) -> None:
        super().__init__(budget=0)
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)

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


def observe(
    pack: Pack, prompts: Sequence[str], folder: Path, report: Callable[[str], None]
) -> dict[tuple[str, str], Calls]:
    """Run the pipeline on the CPU; the calls of each component's graphs, kept in `folder`.

    The last unit is the one kept of the unseen prompt: its history is full.
    """
    fixed, cache = with_fixed_sizes(pack), _OneOfEachFile()
    calls: dict[tuple[str, str], Calls] = {}
    modes = ["hybrid", *(["monolithic"] if pack.has("transformer_multistep") else [])]
    for number, prompt in enumerate([*prompts, UNSEEN]):
        last, started = number == len(prompts), time.monotonic()

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
        spent = time.monotonic() - started
        report(f"clip {number + 1} of {len(prompts) + 1} for the ranges: {spent:.0f} s")
    share = len(prompts) / (len(prompts) + 1)
    for key, seconds in cache.seconds.items():
        calls[key].seconds = seconds * share / calls[key].count
    return calls


def loaded(path: Path) -> Values:
    """Arrays by name from a file."""
    with np.load(path) as values:
        return dict(values)
