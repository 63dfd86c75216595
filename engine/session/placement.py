"""Which of a pack's graphs run where, and opening them there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import onnxruntime as ort

from engine.errors import BackendError, PackError, first_line
from engine.pack import GET_AGAIN, Graph, Pack
from engine.session.qnn import QNN_OPTIONS, add_qnn, qnn_sdk
from engine.session.runtime import (
    ORT_ERRORS,
    Backend,
    OrtSession,
    check_graph,
    session_options,
)

CONTEXT_LIMIT = 2**20  # bytes of the small file that names a context's binary


def open_session(
    pack: Pack,
    graph: Graph,
    backend: Backend = "cpu",
    threads: int | None = None,
    *,
    last: bool = True,
) -> OrtSession:
    """Load a graph of a pack after verifying its files.

    threads: of the CPU, None for one per core; last: of those that share a context. Raises
    PackError where a file is damaged or the graph is not as the manifest says, BackendError where
    the backend cannot load it.
    """
    for file in graph.data:
        pack.verified(file)
    return load_graph(graph, pack.verified(graph.file), backend, threads, last=last)


def load_graph(
    graph: Graph,
    path: Path,
    backend: Backend = "cpu",
    threads: int | None = None,
    *,
    last: bool = True,
) -> OrtSession:
    """Load the graph in the file at `path`, which is trusted; raises as `open_session` does."""
    misfit = _misfit(graph)
    if misfit:
        raise BackendError(misfit)
    options = session_options(threads)
    if graph.context is not None:
        _check_context(graph, path)
        if graph.context.shared:
            options.add_session_config_entry("ep.share_ep_contexts", "1")
            if last:
                options.add_session_config_entry("ep.stop_share_ep_contexts", "1")
    for name, size in graph.dimensions.items():
        options.add_free_dimension_override_by_name(name, size)
    providers: list[str] = []
    if backend == "cpu":
        providers = ["CPUExecutionProvider"]
    else:
        add_qnn(options, backend)
    try:
        session = ort.InferenceSession(str(path), options, providers=providers or None)
    except ORT_ERRORS as error:
        raise BackendError(
            f"The graph {graph.file.name} should load on {backend}, but it does not"
            f" ({first_line(error)}); choose another backend or {GET_AGAIN}."
        ) from error
    # Otherwise a failed run on the NPU silently rebuilds the session on the CPU.
    session.disable_fallback()
    for key, found in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
        check_graph(graph, key, {tensor.name: tensor for tensor in found})
    return OrtSession(graph, session, backend)


def open_graphs(
    pack: Pack, component: str, role: str, backend: Backend, threads: int | None = None
) -> dict[str, OrtSession]:
    """Load a component's graphs whose names start with `role`, for `backend`.

    Where a device refuses compiled graphs that share their weights, the next form the pack has is
    taken, and a sentence on stderr says so. Raises as `open_session` does.
    """
    choices = placements(pack, component, role, backend)
    for number, (place, graphs) in enumerate(choices):
        opened: dict[str, OrtSession] = {}
        try:
            for name, graph in graphs.items():
                last = len(opened) == len(graphs) - 1
                opened[name] = open_session(pack, graph, place, threads, last=last)
        except BackendError as error:
            for session in opened.values():
                session.close()
            shared = any(graph.context and graph.context.shared for graph in graphs.values())
            if not shared:
                raise
            if number == len(choices) - 1:
                raise BackendError(
                    f"{error} If this device takes no graphs that share weights, export the pack"
                    " with --unshared."
                ) from error
            print(f"{error} Until then it runs from graphs of its own.", file=sys.stderr)
        else:
            return opened
    raise AssertionError("placements are never empty")


def placed(
    pack: Pack, component: str, role: str, backend: Backend
) -> tuple[Backend, dict[str, Graph]]:
    """The first of `placements`."""
    return placements(pack, component, role, backend)[0]


def placements(
    pack: Pack, component: str, role: str, backend: Backend
) -> list[tuple[Backend, dict[str, Graph]]]:
    """A component's graphs whose names start with `role`, and where they run under `backend`.

    On an NPU first what is compiled for it, then what is compiled when it is loaded; what has
    neither runs on the CPU. Graphs that share weights cannot be loaded in emulation, where QNN 2.51
    crashes. Raises PackError where there are none, BackendError where all are for another NPU.
    """
    choices: list[tuple[Backend, str]] = [("cpu", "portable")]
    if backend != "cpu":
        choices = [(backend, "context"), (backend, "htp"), *choices]
    if backend == "npu":
        choices.insert(0, (backend, "context-shared"))
    found: list[tuple[Backend, dict[str, Graph]]] = []
    problem = ""
    for place, variant in choices:
        graphs = pack.graphs(component, variant)
        named = {name: graph for name, graph in graphs.items() if name.startswith(role)}
        misfit = next(filter(None, map(_misfit, named.values())), "")
        problem = problem or misfit
        if named and not misfit:
            found.append((place, named))
    if found:
        return found
    if problem:
        raise BackendError(problem)
    if backend == "npu-emulated" and pack.graphs(component, "context-shared"):
        raise BackendError(
            f"The component {component} of {pack.name} should have graphs for the emulation, but"
            " its graphs share their weights; export the pack with --unshared."
        )
    if backend == "cpu" and pack.graphs(component, "context"):
        raise BackendError(
            f"The component {component} of {pack.name} should have graphs for the CPU, but it is"
            " compiled for the NPU alone; choose the backend npu, or another pack."
        )
    raise PackError(
        f"The component {component} of {pack.name} should have a graph {role}, but it has none;"
        f" {GET_AGAIN}."
    )


def _misfit(graph: Graph) -> str:
    """Why a compiled graph cannot run here, "" where it can."""
    if graph.context is None:
        return ""
    ours = int(QNN_OPTIONS["htp_arch"])
    if graph.context.htp_arch != ours:
        return (
            f"The graph {graph.name} should be compiled for Hexagon v{ours}, but it is for"
            f" v{graph.context.htp_arch}; use a pack made for this machine."
        )
    installed = qnn_sdk()
    if installed and _numbers(graph.context.sdk) > _numbers(installed):
        return (
            f"The graph {graph.name} should be compiled by QNN {installed} or older, but it is by"
            f" {graph.context.sdk}; update Neodragon Studio."
        )
    return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def verify_pack(pack: Pack) -> Iterator[str]:
    """Check every file's SHA-256, then load every graph and compare it with the manifest.

    Yields the name of each file or graph that passed; raises PackError or BackendError at the
    first that does not.
    """
    for file in pack.files:
        pack.verified(file)
        yield file.name
    for component in pack.components.values():
        for name, graphs in component.variants.items():
            for graph in graphs.values():
                if graph.context is None and graph.file.name.endswith(".onnx"):
                    open_session(pack, graph).close()
                    yield f"{component.name}/{name}/{graph.name}"


def _check_context(graph: Graph, path: Path) -> None:
    """Raise PackError where a compiled graph reads another file than the manifest says.

    It is a small ONNX file that names the binary beside it, the name's length in front (protobuf).
    """
    content = path.read_bytes() if path.stat().st_size <= CONTEXT_LIMIT else b""
    names = [Path(file.name).name.encode() for file in graph.data]
    sound = bool(names) and bytes([len(names[0])]) + names[0] in content
    if not sound or content.count(b".bin") != 1:
        raise PackError(
            f"{graph.file.name} should read {graph.data[0].name if names else 'one binary'} alone,"
            f" but it does not; {GET_AGAIN}."
        )
