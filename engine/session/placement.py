"""Which of a pack's graphs run where, and opening them there."""

from __future__ import annotations

import mmap
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, chdir, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType

import onnxruntime as ort

from engine.errors import BackendError, Message, PackError, first_line
from engine.pack import MANIFEST, Graph, Pack
from engine.pack.graphs import version_numbers
from engine.session import owner
from engine.session.chips import chip_with, this_chip
from engine.session.notices import notify
from engine.session.optimised import Optimised
from engine.session.qnn import UNMAPPED, add_qnn, qnn_sdk
from engine.session.runtime import (
    ORT_ERRORS,
    Backend,
    NoBackendError,
    OrtSession,
    check_graph,
    session_options,
)

NONE: Mapping[str, str] = MappingProxyType({})
UNSHARED = (
    "{component} does not load on the NPU with shared weights ({reason}); its graphs with weights"
    " of their own are tried."
)
FROM_MEMORY = (
    "{component} does not load on the NPU ({reason}); it is tried without mapping its files into"
    " memory."
)
COMPILED_HERE = (
    "{component} does not load on the NPU as it was compiled ({reason}); it is compiled on this"
    " machine, which takes a while."
)
ON_CPU = (
    "{component} does not load on the NPU ({reason}); it runs on the CPU, which is slower. Update"
    " the NPU's driver."
)
CONTEXT_LIMIT = 2**20  # bytes of the small file that names a context's binary
_LOADING = threading.Lock()


@dataclass(frozen=True)
class Step:
    """A way to load a component's graphs: where, which, and with which of QNN's options on top.

    template: the sentence that says, with {component} and {reason}, that it is tried next.
    """

    place: Backend
    graphs: Mapping[str, Graph]
    options: Mapping[str, str] = field(default_factory=dict)
    template: str = ""

    @property
    def is_shared(self) -> bool:
        """Whether the graphs share their weights."""
        return any(graph.context and graph.context.shared for graph in self.graphs.values())


def open_session(
    pack: Pack,
    graph: Graph,
    backend: Backend = "cpu",
    threads: int | None = None,
    *,
    last: bool = True,
    options: Mapping[str, str] = NONE,
    optimised: Optimised | None = None,
) -> OrtSession:
    """Load a graph of a pack after verifying its files.

    threads: of the CPU, None for one per core; last: of those that share a context; options: of
    QNN, on top; optimised: keeps the CPU's graphs ready. Raises PackError where a file is damaged
    or the graph is not as the manifest says, BackendError where the backend cannot load it.
    """
    for file in graph.data:
        pack.verified(file)
    if graph.context is None:
        path = pack.once(graph.file, partial(_check_onnx, graph))
    else:
        path = pack.verified(graph.file)
    return load_graph(
        graph, path, backend, threads, last=last, options=options, optimised=optimised
    )


def load_graph(
    graph: Graph,
    path: Path,
    backend: Backend = "cpu",
    threads: int | None = None,
    *,
    last: bool = True,
    options: Mapping[str, str] = NONE,
    optimised: Optimised | None = None,
) -> OrtSession:
    """Load the graph in the file at `path`, which is trusted; raises as `open_session` does.

    On the NPU this process owns it until the graph is closed.
    """
    misfit = _misfit(graph, backend)
    if misfit:
        raise BackendError(misfit)
    if graph.context is not None:
        _check_context(graph, path)

    def load() -> ort.InferenceSession:
        if backend == "cpu" and optimised is not None:
            return optimised.session(graph, path, lambda: _options(graph, threads))
        return start(graph, path, backend, threads, last, options)

    on_npu = backend == "npu"
    with ExitStack() as undo:
        if on_npu:
            owner.acquire()
            undo.callback(owner.release)
        try:
            session = load()
        except ORT_ERRORS as error:
            raise BackendError(
                "The graph {file} does not load on {backend} ({reason}); choose another backend, "
                "or get the pack again.",
                file=graph.file.name,
                backend=backend,
                reason=first_line(error),
            ) from error
        for key, tensors in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
            check_graph(graph, key, {tensor.name: tensor for tensor in tensors})
        undo.pop_all()
    again = None if backend == "cpu" else load
    return OrtSession(graph, session, backend, again, owner.release if on_npu else None)


def start(
    graph: Graph,
    path: Path,
    backend: Backend,
    threads: int | None,
    last: bool,
    options: Mapping[str, str],
) -> ort.InferenceSession:
    """ONNX Runtime's session of a graph, made here alone; raises its errors and BackendError."""
    chosen = _options(graph, threads)
    chip: dict[str, str] = {}
    if graph.context is not None:
        known = chip_with(graph.context.htp_arch)
        chip = known.options if known else {}
        if graph.context.shared:
            chosen.add_session_config_entry("ep.share_ep_contexts", "1")
            if last:
                chosen.add_session_config_entry("ep.stop_share_ep_contexts", "1")
    providers = ["CPUExecutionProvider"] if backend == "cpu" else None
    if backend != "cpu":
        add_qnn(chosen, backend, **{**chip, **options})
    with _plain_name(path) if backend != "cpu" else nullcontext(str(path)) as name:
        session = ort.InferenceSession(name, chosen, providers=providers)
    # Otherwise a failed run on the NPU silently rebuilds the session on the CPU.
    session.disable_fallback()
    return session


@contextmanager
def _plain_name(path: Path) -> Iterator[str]:
    """A name that QNN can open a compiled graph by; over others it ends the process on Windows.

    It opens the binary by a name in the system's encoding, which may lack letters of the folder; so
    that is the current folder meanwhile, of the whole process, and no two are loaded at once.
    """
    if sys.platform != "win32" or str(path).isascii():
        yield str(path)
    else:
        with _LOADING, chdir(path.parent):
            yield path.name


def _options(graph: Graph, threads: int | None) -> ort.SessionOptions:
    options = session_options(threads)
    for name, size in graph.dimensions.items():
        options.add_free_dimension_override_by_name(name, size)
    return options


def open_graphs(
    pack: Pack,
    component: str,
    role: str,
    backend: Backend,
    threads: int | None = None,
    *,
    once: bool = False,
    optimised: Optimised | None = None,
) -> dict[str, OrtSession]:
    """Load a component's graphs whose names start with `role`, for `backend`.

    Where an NPU refuses them, the next step of `ladder` is taken, and a notice says so;
    once: not so. Raises as `open_session` does.
    """
    steps = ladder(placements(pack, component, role, backend))
    for step, following in zip_longest(steps, () if once else steps[1:]):
        try:
            return _open_all(pack, step, threads, optimised)
        except NoBackendError:
            raise
        except BackendError as error:
            if following is None and all(step.is_shared for step in steps):
                raise BackendError(
                    "{problem} If this device takes no graphs that share weights, export the pack"
                    " with --unshared.",
                    problem=error.message,
                ) from error
            if following is None:
                raise
            reason = first_line(
                error.__cause__ if isinstance(error.__cause__, Exception) else error
            )
            notify(Message(following.template, {"component": component, "reason": reason}))
    raise AssertionError("placements are never empty")


def ladder(choices: Sequence[tuple[Backend, Mapping[str, Graph]]]) -> list[Step]:
    """What is tried in turn where an NPU refuses to load: graphs that share their weights, graphs
    of their own, these without mapping their files, those compiled here, the CPU's.

    In emulation the first alone: a graph that only runs elsewhere was not emulated.
    """
    steps: list[Step] = []
    compiled: list[Step] = []
    for place, graphs in choices:
        if place == "cpu":
            steps.append(Step(place, graphs, template=ON_CPU))
        elif any(graph.context for graph in graphs.values()):
            compiled.append(Step(place, graphs, template=UNSHARED))
        else:
            steps.append(Step(place, graphs, template=COMPILED_HERE))
    if compiled:
        last = compiled[-1]
        compiled.append(Step(last.place, last.graphs, UNMAPPED, FROM_MEMORY))
    steps = compiled + steps
    return steps[:1] if steps[0].place == "npu-emulated" else steps


def _open_all(
    pack: Pack, step: Step, threads: int | None, optimised: Optimised | None
) -> dict[str, OrtSession]:
    """Every graph of a step, or none."""
    opened: dict[str, OrtSession] = {}
    try:
        for name, graph in step.graphs.items():
            last = len(opened) == len(step.graphs) - 1
            opened[name] = open_session(
                pack,
                graph,
                step.place,
                threads,
                last=last,
                options=step.options,
                optimised=optimised,
            )
    except BaseException:
        for session in opened.values():
            session.close()
        raise
    return opened


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
    fitting: list[tuple[Backend, dict[str, Graph]]] = []
    problem: Message | None = None
    for place, variant in choices:
        graphs = pack.graphs(component, variant)
        named = {name: graph for name, graph in graphs.items() if name.startswith(role)}
        misfit = next(filter(None, (_misfit(graph, place) for graph in named.values())), None)
        problem = problem or misfit
        if named and not misfit:
            fitting.append((place, named))
    if fitting:
        return fitting
    if problem:
        raise BackendError(problem)
    if backend == "npu-emulated" and pack.graphs(component, "context-shared"):
        raise BackendError(
            "The graphs of {component} in {name} share their weights, which the emulation cannot "
            "load; export the pack with --unshared.",
            component=component,
            name=pack.name,
        )
    if backend == "cpu" and pack.graphs(component, "context"):
        raise BackendError(
            "The component {component} of {name} is compiled for the NPU only; choose the backend"
            " npu, or another pack.",
            component=component,
            name=pack.name,
        )
    raise PackError(
        "The component {component} of {name} has no graph {role}; get the pack again or export it"
        " anew.",
        component=component,
        name=pack.name,
        role=role,
    )


def _misfit(graph: Graph, place: Backend) -> Message | None:
    """Why a compiled graph cannot run here, None where it can."""
    made_for, mine = graph.context, this_chip()
    if made_for is None:
        return None
    chip = chip_with(made_for.htp_arch)
    if chip is None:
        return Message(
            "The graph {graph} is compiled for Hexagon v{arch}, which this version does not know;"
            " use a pack made for this machine, or update Neodragon Studio.",
            {"graph": graph.name, "arch": made_for.htp_arch},
        )
    if place == "npu" and mine is not None and mine.htp_arch != made_for.htp_arch:
        return Message(
            "The graph {graph} is compiled for {chip}, and this machine has {mine}; use a pack "
            "made for {mine}.",
            {"graph": graph.name, "chip": chip.name, "mine": mine.name},
        )
    installed = qnn_sdk()
    if installed and version_numbers(made_for.sdk) > version_numbers(installed):
        return Message(
            "The graph {graph} is compiled by QNN {sdk}, and this version has the older "
            "{installed}; update Neodragon Studio.",
            {"graph": graph.name, "sdk": made_for.sdk, "installed": installed},
        )
    return None


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
            "{name} does not read {binary} alone; get the pack again or export it anew.",
            name=graph.file.name,
            binary=graph.data[0].name if names else "*.bin",
        )


def _check_onnx(graph: Graph, path: Path) -> None:
    """Raise PackError where a graph reads files that the manifest does not say it reads.

    A tensor that lies in another file has an entry in protobuf with the key `location` and the
    file's name; the operator EPContext names a compiled graph's binary.
    """
    folder = graph.file.name.rpartition("/")[0]
    names = [file.name.removeprefix(f"{folder}/").encode() for file in graph.data]
    entries = [_field(0x0A, b"location") + _field(0x12, name) for name in names]
    known = [_field(0x6A, entry) for entry in entries]
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as onnx:
        sound = onnx.find(b"EPContext") < 0
        place = onnx.find(b"location")
        while sound and place >= 0:
            starts = [(place - entry.index(b"location"), entry) for entry in known]
            sound = onnx[place - 1] not in b"\0\x08" or any(
                onnx[start : start + len(entry)] == entry for start, entry in starts
            )
            place = onnx.find(b"location", place + 1)
    if not sound:
        raise PackError(
            "{name} reads files that {manifest} does not name; get the pack again or export it"
            " anew.",
            name=graph.file.name,
            manifest=MANIFEST,
        )


def _field(tag: int, content: bytes) -> bytes:
    """A field of protobuf: its tag, the length of its content in seven bits each, the content."""
    size = len(content)
    return bytes([tag, size] if size < 128 else [tag, size & 127 | 128, size >> 7]) + content
