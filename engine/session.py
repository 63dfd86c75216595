"""Run graphs on ONNX Runtime: on the CPU, on the Hexagon NPU, or on the NPU's emulation.

The only file that imports onnxruntime. Every call is checked by name, type and shape, answers come
by name, and nothing falls back to another processor: a graph that cannot run where it was asked to
run is a `BackendError`. It knows nothing of prompts, latents or frames.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from engine.errors import BackendError, PackError
from engine.pack import GET_AGAIN, Graph, Pack, TensorSpec

ort.disable_telemetry_events()  # also where the legacy backend does not know the variable

Backend = Literal["cpu", "npu", "npu-emulated"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
Array = NDArray[Any]

QNN = "QNNExecutionProvider"
CONTEXT_LIMIT = 2**20  # bytes of the small file that names a context's binary
# Snapdragon X Elite. Without these three, compiling off the device assumes a smaller one and fails.
QNN_OPTIONS = {
    "soc_model": "60",
    "htp_arch": "73",
    "vtcm_mb": "8",
    "htp_graph_finalization_optimization_mode": "3",
    "offload_graph_io_quantization": "0",
}
EMULATING = {("Linux", "x86_64"), ("Windows", "AMD64")}  # onnxruntime-qnn emulates there
NPU_OPTIONS = {"htp_performance_mode": "burst", "rpc_control_latency": "100"}
# Of a loaded graph, with and without work. onnxruntime-qnn 2.7 ends the process at other values.
PACE, BUSY, IDLE = "ep.dynamic.qnn_htp_performance_mode", "burst", "low_power_saver"
# onnxruntime-qnn 2.7 silently accepts names it does not know, so they are checked here.
QNN_OPTION_NAMES = frozenset(
    "backend_path device_id enable_block_quant_weight_optimization enable_htp_fp16_precision"
    " enable_htp_shared_memory_allocator enable_htp_spill_fill_buffer"
    " htp_arch htp_graph_finalization_optimization_mode htp_performance_mode htp_reused_io_limit_mb"
    " offload_graph_io_quantization profiling_file_path profiling_level qnn_context_priority"
    " rpc_control_latency soc_model vtcm_mb".split()
)
TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
}
ORT_ERRORS = tuple(
    getattr(ort_state, name)
    for name in (
        "EPFail",
        "EngineError",
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
    )
) + (
    ort_state.NoModel,
    ort_state.NoSuchFile,
    ort_state.NotImplemented,
    ort_state.RuntimeException,
    RuntimeError,
    ValueError,
)


class Session(Protocol):
    """A loaded graph.

    inputs, outputs: what goes in and out, by name; seconds: spent in the graph so far.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    seconds: float

    def run(self, **inputs: Array) -> dict[str, Array]:
        """The outputs by name; raises BackendError for inputs that do not fit or a failed run."""
        ...

    def stream(self) -> Stream:
        """For a graph with memory: its steps, from a memory of zeros on."""
        ...

    def close(self) -> None:
        """Free the graph's memory."""
        ...

    def __enter__(self) -> Session: ...

    def __exit__(self, *error: object) -> None: ...


class OrtSession:
    """A graph of a pack in ONNX Runtime; use `open_session`."""

    def __init__(
        self, graph: Graph, session: ort.InferenceSession, backend: Backend = "cpu"
    ) -> None:
        self.backend = backend
        self.name = graph.name
        self.inputs = graph.inputs
        self.outputs = graph.outputs
        self.seconds = 0.0
        self.watch: Callable[[str, dict[str, Array], dict[str, Array]], None] | None = None
        self._session: ort.InferenceSession | None = session
        self._output_names = list(graph.outputs)

    def run(self, **inputs: Array) -> dict[str, Array]:
        """The outputs by name; raises BackendError for inputs that do not fit or a failed run."""
        _check_inputs(self.name, self.inputs, inputs)
        with self.running() as session:
            outputs = session.run(self._output_names, inputs)
        named = dict(zip(self._output_names, outputs, strict=True))
        if self.watch is not None:
            self.watch(self.name, inputs, named)
        return named

    def stream(self) -> Stream:
        """For a graph with memory: its steps, from a memory of zeros on."""
        return Stream(self)

    def busy(self, is_busy: bool) -> None:
        """Ask the NPU for its full speed, or let it rest; raises BackendError where it is gone."""
        if self.backend == "cpu":
            return
        with self.running() as session:
            session.set_ep_dynamic_options({PACE: BUSY if is_busy else IDLE})

    @contextmanager
    def running(self) -> Iterator[ort.InferenceSession]:
        """ONNX Runtime's session, what happens in it timed and its errors told in one sentence."""
        if self._session is None:
            raise BackendError(
                f"The graph {self.name} should be open, but it is closed; open it again."
            )
        started = time.perf_counter()
        try:
            yield self._session
        except ORT_ERRORS as error:
            raise BackendError(
                f"The graph {self.name} should run, but it failed ({_first_line(error)});"
                " try another backend."
            ) from error
        finally:
            self.seconds += time.perf_counter() - started

    def close(self) -> None:
        """Free the graph's memory."""
        self._session = None

    def __enter__(self) -> OrtSession:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Stream:
    """A graph that takes `state_*` and gives `next_state_*`, run step by step.

    The states are bound to two sets of buffers that take turns: what a step has written, the next
    one reads where it is.
    """

    def __init__(self, graph: OrtSession) -> None:
        self.graph = graph
        self._now, self._next = (
            {
                name: ort.OrtValue.ortvalue_from_numpy(
                    np.zeros([int(size) for size in spec.shape], spec.dtype)
                )
                for name, spec in graph.inputs.items()
                if name.startswith("state_")
            }
            for _ in range(2)
        )

    def step(self, **inputs: Array) -> dict[str, Array]:
        """The outputs but for the states; raises as `run` does."""
        graph = self.graph
        given = {name: spec for name, spec in graph.inputs.items() if name not in self._now}
        _check_inputs(graph.name, given, inputs)
        told = [name for name in graph.outputs if name.removeprefix("next_") not in self._now]
        with graph.running() as session:
            binding = session.io_binding()
            for name, array in inputs.items():
                binding.bind_cpu_input(name, np.ascontiguousarray(array))
            for name, value in self._now.items():
                binding.bind_ortvalue_input(name, value)
            for name in told:
                binding.bind_output(name)
            for name, value in self._next.items():
                binding.bind_ortvalue_output(f"next_{name}", value)
            session.run_with_iobinding(binding)
            outputs = [value.numpy() for value in binding.get_outputs()[: len(told)]]
        named: dict[str, Array] = dict(zip(told, outputs, strict=True))
        if graph.watch is not None:
            before = {name: np.array(value.numpy()) for name, value in self._now.items()}
            after = {f"next_{name}": np.array(value.numpy()) for name, value in self._next.items()}
            graph.watch(graph.name, inputs | before, named | after)
        self._now, self._next = self._next, self._now
        return named


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
            f" ({_first_line(error)}); choose another backend or {GET_AGAIN}."
        ) from error
    # Otherwise a failed run on the NPU silently rebuilds the session on the CPU.
    session.disable_fallback()
    for key, found in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
        _check_graph(graph, key, {tensor.name: tensor for tensor in found})
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


def qnn_sdk() -> str:
    """The version of the QNN SDK that onnxruntime-qnn carries, "" without it."""
    if importlib.util.find_spec("onnxruntime_qnn") is None:
        return ""
    return str(importlib.import_module("onnxruntime_qnn.build_and_package_info").qnn_version)


def available() -> tuple[Backend, ...]:
    """The backends this machine has, best first."""
    found: list[Backend] = []
    for backend in ("npu", "cpu", "npu-emulated"):
        if _unavailable(backend) is None:
            found.append(backend)
    return tuple(found)


def require(backend: str) -> Backend:
    """`backend` if this machine has it; raises BackendError otherwise."""
    for known in BACKENDS:
        if backend == known:
            reason = _unavailable(known)
            if reason is None:
                return known
            raise BackendError(
                f"The backend {known} should be on this machine, but {reason}; use --backend cpu."
            )
    raise BackendError(
        f"The backend should be one of {', '.join(BACKENDS)}, but it is {backend!r};"
        " choose one of them."
    )


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


def session_options(threads: int | None) -> ort.SessionOptions:
    """ONNX Runtime's options for any graph."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or os.cpu_count() or 1
    # The sessions of the loop take turns: waiting threads must not spin in each other's way.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Hand memory back between runs; as fast, and 17 MB of 180 less for a mini clip.
    options.enable_cpu_mem_arena = False
    return options


def _devices() -> list[Any]:
    """ONNX Runtime's QNN devices; empty where onnxruntime-qnn is not installed."""
    if importlib.util.find_spec("onnxruntime_qnn") is None:
        return []
    devices = [device for device in ort.get_ep_devices() if device.ep_name == QNN]
    if not devices:
        library = importlib.import_module("onnxruntime_qnn").get_library_path()
        try:
            ort.register_execution_provider_library(QNN, library)
        except ORT_ERRORS:
            return []
        devices = [device for device in ort.get_ep_devices() if device.ep_name == QNN]
    return devices


def _is_npu(device: Any) -> bool:
    """Whether a QNN device is a real NPU: its emulation reports itself as a CPU."""
    return bool(device.device.type == ort.OrtHardwareDeviceType.NPU)


def _unavailable(backend: Backend) -> str | None:
    """Why this machine lacks a backend, None where it has it."""
    if backend == "cpu":
        return None
    machine = platform.system(), platform.machine()
    if backend == "npu-emulated" and machine not in EMULATING:
        return f"it exists for x86-64 Linux and Windows only and this is {' '.join(machine)}"
    if importlib.util.find_spec("onnxruntime_qnn") is None:
        return "onnxruntime-qnn is not installed"
    devices = _devices()
    if not devices:
        return "onnxruntime-qnn finds no device"
    if backend == "npu" and not any(_is_npu(device) for device in devices):
        return "there is no Hexagon NPU"
    return None


def qnn_options(backend: Backend, **extra: str) -> dict[str, str]:
    """The QNN provider's options with `extra` on top; raises BackendError for unknown names."""
    options = QNN_OPTIONS | (NPU_OPTIONS if backend == "npu" else {}) | extra
    unknown = sorted(set(options) - QNN_OPTION_NAMES)
    if unknown:
        raise BackendError(
            f"The QNN options should be known ones, but there is {unknown[0]!r}; correct its name."
        )
    return options


def add_qnn(options: ort.SessionOptions, backend: Backend) -> None:
    """Let a session run on the NPU or its emulation, and nowhere else; raises BackendError."""
    require(backend)
    devices = [device for device in _devices() if _is_npu(device) == (backend == "npu")]
    htp = importlib.import_module("onnxruntime_qnn").get_qnn_htp_path()
    options.add_provider_for_devices(devices[:1], qnn_options(backend, backend_path=htp))
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")


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


def _check_inputs(name: str, specs: Mapping[str, TensorSpec], inputs: Mapping[str, Array]) -> None:
    """Raise BackendError unless the inputs are those of the graph; a named size is one size."""
    if set(inputs) != set(specs):
        raise BackendError(
            f"The graph {name} should get {', '.join(specs)}, but it gets {', '.join(inputs)};"
            f" {GET_AGAIN}."
        )
    named: dict[str, int] = {}
    for key, array in inputs.items():
        spec = specs[key]
        fits = array.dtype == spec.dtype and array.ndim == len(spec.shape)
        for size, wanted in zip(array.shape, spec.shape, strict=False):
            expected = named.setdefault(wanted, size) if isinstance(wanted, str) else wanted
            fits = fits and size == expected
        if not fits:
            raise BackendError(
                f"The input {key} of the graph {name} should be {spec}, but it is"
                f" {array.dtype} {list(array.shape)}; {GET_AGAIN}."
            )


def _check_graph(graph: Graph, key: str, found: Mapping[str, Any]) -> None:
    """Raise PackError unless a loaded graph's tensors are as the manifest says."""
    specs: Mapping[str, TensorSpec] = getattr(graph, key)
    if set(found) != set(specs):
        raise PackError(
            f"{graph.file.name} should have the {key} {', '.join(specs)}, but it has"
            f" {', '.join(found)}; {GET_AGAIN}."
        )
    for name, spec in specs.items():
        dtype = TYPES.get(found[name].type, found[name].type)
        shape = [graph.dimensions.get(size, size) for size in found[name].shape]
        fits = dtype == spec.dtype and len(shape) == len(spec.shape)
        for size, wanted in zip(shape, spec.shape, strict=False):
            # A computed dimension of an output may carry no number, even where it has only one.
            loose = not isinstance(size, int) and (isinstance(wanted, str) or key == "outputs")
            fits = fits and (loose or size == wanted)
        if not fits:
            raise PackError(
                f"{name} of {graph.file.name} should be {spec}, but it is {dtype} {shape};"
                f" {GET_AGAIN}."
            )


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0][:300].rstrip(". ")
