"""A graph is run on a backend and scored: whether an NPU computes what it should.

Beside the portable graph on the CPU; a compiled graph may have none, and then carries what it gave
in emulation, at some places of each output.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from engine.errors import BackendError, Message, NeodragonError
from engine.measures import snr_db
from engine.noise import normal, stream
from engine.pack import Graph, Pack
from engine.session import UNMAPPED, Array, Backend, NoBackendError, OrtSession, open_session

SEED = 7
CPU = Message("the CPU")
PLACES = 256  # of an output that are compared where there is no portable graph
FLOOR_DB = 30.0  # below which an NPU computes something else


@dataclass(frozen=True)
class Score:
    """db: signal-to-noise ratio of all outputs beside the CPU's or the emulation's, on seeded
    noise, NaN where there is neither; seconds of loading and of the second run; problem: one
    sentence where it did not run.
    """

    component: str
    graph: str
    db: float = math.nan
    load_seconds: float = math.nan
    run_seconds: float = math.nan
    beside: Message = CPU
    problem: Message | None = None

    @property
    def is_sound(self) -> bool:
        """Whether it ran and computed what it should, as far as that is known."""
        return not self.problem and not self.db < FLOOR_DB


def canary(pack: Pack, backend: Backend) -> Score:
    """The smallest graph that the pack has for NPUs, on `backend`; NaN dB where it has none."""
    graphs = _graphs(pack, backend)
    if not graphs:
        return Score(
            "", "", problem=Message("The pack {pack} has no graph for NPUs.", {"pack": pack.name})
        )
    component, graph = min(graphs, key=lambda entry: sum(file.size for file in entry[1].files))
    return _score(pack, component, graph, backend)


def require_sound(pack: Pack, backend: Backend) -> None:
    """Raise BackendError unless the smallest graph comes out on the NPU as it should.

    A pack without graphs for NPUs has nothing to try.
    """
    score = canary(pack, backend) if _graphs(pack, backend) else Score("", "")
    if score.problem and backend != "npu":  # where an NPU refuses it, `open_graphs` says so
        raise BackendError(score.problem)
    if not score.problem and not score.is_sound:
        raise BackendError(
            "The graph {graph} gives {db:.0f} dB on {backend} against {beside}, which is too "
            "little; update the NPU's driver, or choose the backend cpu.",
            graph=score.graph,
            backend=backend,
            beside=score.beside,
            db=score.db,
        )


def scores(pack: Pack, backend: Backend) -> Iterator[Score]:
    """Every graph that the pack has for NPUs, on `backend`."""
    for component, graph in _graphs(pack, backend):
        yield _score(pack, component, graph, backend)


def _graphs(pack: Pack, backend: Backend) -> list[tuple[str, Graph]]:
    """Those that the backend would run; graphs that share weights do not load in emulation."""
    graphs = []
    for component in pack.components.values():
        compiled = component.variants.get("context", {})
        if backend == "npu":
            compiled = {**compiled, **component.variants.get("context-shared", {})}
        for graph in (compiled or component.variants.get("htp", {})).values():
            graphs.append((component.name, graph))
    return graphs


def _score(pack: Pack, component: str, graph: Graph, backend: Backend) -> Score:
    portable = pack.graphs(component, "portable")
    reference = portable.get(graph.name)
    if reference is None:  # a stage of the one portable graph
        reference = next((one for one in portable.values() if one.file == graph.file), None)
    inputs, beside = noise_inputs(graph), CPU
    wanted: Mapping[str, Array] = {}
    try:
        if graph.expected:
            beside = Message("its emulation")
            wanted = {name: np.array(values) for name, values in graph.expected.items()}
        elif reference is not None:
            with open_session(pack, reference) as session:
                wanted = session.run(**inputs)
        started = time.perf_counter()
        with _opened(pack, graph, backend) as session:
            loaded = time.perf_counter()
            got = session.run(**inputs)
            begun = time.perf_counter()
            session.run(**inputs)
            ended = time.perf_counter()
    except NeodragonError as error:
        return Score(component, graph.name, problem=error.message)
    if graph.expected:
        got = {name: np.array(values) for name, values in sampled(got).items()}
    db = math.nan
    if wanted:
        db = snr_db(*(np.concatenate([x[n].ravel() for n in wanted]) for x in (wanted, got)))
    return Score(component, graph.name, db, loaded - started, ended - begun, beside)


def _opened(pack: Pack, graph: Graph, backend: Backend) -> OrtSession:
    """Without mapping its file where it does not load otherwise."""
    try:
        return open_session(pack, graph, backend)
    except NoBackendError:
        raise
    except BackendError:
        if backend != "npu" or graph.context is None:
            raise
        return open_session(pack, graph, backend, options=UNMAPPED)


def sampled(outputs: Mapping[str, Array]) -> dict[str, list[float]]:
    """Each output at seeded places, at most PLACES of them, to six digits."""
    samples = {}
    for name, array in outputs.items():
        places = stream(SEED, f"places of {name}").integers(0, array.size, PLACES)
        samples[name] = [float(f"{number:.6g}") for number in array.reshape(-1)[places]]
    return samples


def noise_inputs(graph: Graph) -> dict[str, Array]:
    """Seeded noise of the graph's shapes; whole numbers are 1, as ids and masks may be."""
    inputs: dict[str, Array] = {}
    for name, spec in graph.inputs.items():
        shape = tuple(
            graph.dimensions.get(size, 1) if isinstance(size, str) else size for size in spec.shape
        )
        if spec.dtype.startswith("float"):
            inputs[name] = normal(stream(SEED, name), shape).astype(spec.dtype)
        else:
            inputs[name] = np.ones(shape, spec.dtype)
    return inputs
