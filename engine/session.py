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
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

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
# Snapdragon X Elite. Without these three, compiling off the device assumes a smaller one and fails.
QNN_OPTIONS = {
    "soc_model": "60",
    "htp_arch": "73",
    "vtcm_mb": "8",
    "htp_graph_finalization_optimization_mode": "3",
    "offload_graph_io_quantization": "0",
}
NPU_OPTIONS = {"htp_performance_mode": "burst", "rpc_control_latency": "100"}
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

    def close(self) -> None:
        """Free the graph's memory."""
        ...

    def __enter__(self) -> Session: ...

    def __exit__(self, *error: object) -> None: ...


class OrtSession:
    """A graph of a pack in ONNX Runtime; use `open_session`."""

    def __init__(self, graph: Graph, session: ort.InferenceSession) -> None:
        self.name = graph.name
        self.inputs = graph.inputs
        self.outputs = graph.outputs
        self.seconds = 0.0
        self._session: ort.InferenceSession | None = session
        self._output_names = list(graph.outputs)

    def run(self, **inputs: Array) -> dict[str, Array]:
        """The outputs by name; raises BackendError for inputs that do not fit or a failed run."""
        if self._session is None:
            raise BackendError(
                f"The graph {self.name} should be open, but it is closed; open it again."
            )
        _check_inputs(self.name, self.inputs, inputs)
        started = time.perf_counter()
        try:
            outputs = self._session.run(self._output_names, inputs)
        except ORT_ERRORS as error:
            raise BackendError(
                f"The graph {self.name} should run, but it failed ({_first_line(error)});"
                " try another backend."
            ) from error
        finally:
            self.seconds += time.perf_counter() - started
        return dict(zip(self._output_names, outputs, strict=True))

    def close(self) -> None:
        """Free the graph's memory."""
        self._session = None

    def __enter__(self) -> OrtSession:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_session(
    pack: Pack, graph: Graph, backend: Backend = "cpu", threads: int | None = None
) -> OrtSession:
    """Load a graph of a pack after verifying its files.

    threads: of the CPU, None for one per core. Raises PackError where a file is damaged or the
    graph is not as the manifest says, BackendError where the backend cannot load it.
    """
    for file in graph.data:
        pack.verified(file)
    return load_graph(graph, pack.verified(graph.file), backend, threads)


def load_graph(
    graph: Graph, path: Path, backend: Backend = "cpu", threads: int | None = None
) -> OrtSession:
    """Load the graph in the file at `path`, which is trusted; raises as `open_session` does."""
    options = _session_options(threads)
    for name, size in graph.dimensions.items():
        options.add_free_dimension_override_by_name(name, size)
    providers: list[str] = []
    if backend == "cpu":
        providers = ["CPUExecutionProvider"]
    else:
        _add_qnn(options, backend)
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
    return OrtSession(graph, session)


def placed(
    pack: Pack, component: str, role: str, backend: Backend
) -> tuple[Backend, dict[str, Graph]]:
    """A component's graphs whose names start with `role`, and where they run under `backend`.

    On an NPU those of the `htp` variant; what it has none of runs on the CPU. Raises PackError
    where the component is absent.
    """
    choices: list[tuple[Backend, str]] = [("cpu", "portable")]
    if backend != "cpu":
        choices.insert(0, (backend, "htp"))
    for place, variant in choices:
        graphs = pack.graphs(component, variant)
        found = {name: graph for name, graph in graphs.items() if name.startswith(role)}
        if found:
            return place, found
    raise PackError(
        f"The component {component} of {pack.name} should have a graph {role}, but it has none;"
        f" {GET_AGAIN}."
    )


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
                if graph.file.name.endswith(".onnx"):
                    open_session(pack, graph).close()
                    yield f"{component.name}/{name}/{graph.name}"


def _session_options(threads: int | None) -> ort.SessionOptions:
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
    if backend == "npu-emulated" and (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return (
            f"it exists on x86-64 Linux only and this is {platform.system()} {platform.machine()}"
        )
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


def _add_qnn(options: ort.SessionOptions, backend: Backend) -> None:
    require(backend)
    devices = [device for device in _devices() if _is_npu(device) == (backend == "npu")]
    htp = importlib.import_module("onnxruntime_qnn").get_qnn_htp_path()
    options.add_provider_for_devices(devices[:1], qnn_options(backend, backend_path=htp))
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")


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
