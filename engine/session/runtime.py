"""A graph loaded in ONNX Runtime: every call checked by name, type and shape, answers by name."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Literal, Protocol, TypeVar, get_args

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from engine.errors import BackendError, Message, PackError, first_line
from engine.pack import Graph, TensorSpec
from engine.session.notices import notify

ort.disable_telemetry_events()  # also where the legacy backend does not know the variable

Backend = Literal["cpu", "npu", "npu-emulated"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
Array = NDArray[Any]
Result = TypeVar("Result")

_npu = threading.RLock()  # threads of a clip take turns on it

AGAIN = re.compile(r"\b1100\b")  # QNN's code of a failed run that a fresh load may mend

# Of a loaded graph, with and without work. onnxruntime-qnn 2.7 ends the process at other values.
PACE, BUSY, IDLE = "ep.dynamic.qnn_htp_performance_mode", "burst", "low_power_saver"
TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
}
ORT_ERRORS: tuple[type[Exception], ...] = (
    ort_state.EPFail,
    ort_state.EngineError,
    ort_state.Fail,
    ort_state.InvalidArgument,
    ort_state.InvalidGraph,
    ort_state.InvalidProtobuf,
    ort_state.NoModel,
    ort_state.NoSuchFile,
    ort_state.NotImplemented,
    ort_state.RuntimeException,
    MemoryError,
    RuntimeError,
    ValueError,
)


class NoBackendError(BackendError):
    """This machine lacks the backend, or another program has it: no other form would help."""


class Clock:
    """Seconds in which at least one thread is inside, as a context or from `start` to `stop`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside, self._spent, self._since = 0, 0.0, 0.0

    @property
    def seconds(self) -> float:
        """Up to now."""
        with self._lock:
            return self._spent + (time.perf_counter() - self._since if self._inside else 0.0)

    def start(self) -> None:
        """One more is inside."""
        with self._lock:
            if not self._inside:
                self._since = time.perf_counter()
            self._inside += 1

    def stop(self) -> None:
        """One less is."""
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._spent += time.perf_counter() - self._since

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()


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
    """A graph of a pack in ONNX Runtime; use `open_session`.

    reload: loads it afresh, to try a failed run once more; release: called once when it is closed.
    """

    def __init__(
        self,
        graph: Graph,
        session: ort.InferenceSession,
        backend: Backend = "cpu",
        reload: Callable[[], ort.InferenceSession] | None = None,
        release: Callable[[], None] | None = None,
    ) -> None:
        self.backend = backend
        self.name = graph.name
        self.inputs = graph.inputs
        self.outputs = graph.outputs
        self.seconds = 0.0
        self.clock = Clock()
        self.watch: Callable[[str, dict[str, Array], dict[str, Array]], None] | None = None
        self._session: ort.InferenceSession | None = session
        self._output_names = list(graph.outputs)
        self._reload, self._release = reload, release

    def run(self, **inputs: Array) -> dict[str, Array]:
        """The outputs by name; raises BackendError for inputs that do not fit or a failed run."""
        _check_inputs(self.name, self.inputs, inputs)
        outputs = self.work(lambda session: session.run(self._output_names, inputs))
        named = dict(zip(self._output_names, outputs, strict=True))
        _check_outputs(self.name, self.outputs, named)
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
        pace = {PACE: BUSY if is_busy else IDLE}
        self.work(lambda session: session.set_ep_dynamic_options(pace))

    def work(self, do: Callable[[ort.InferenceSession], Result]) -> Result:
        """What `do` gives for ONNX Runtime's session; timed, its errors told in one sentence.

        A run that ends with QNN's 1100 is tried once more from a fresh load: after many loads
        some NPUs refuse one. Raises BackendError.
        """
        if self._session is None:
            raise BackendError(
                "The graph {graph} is closed; open it again.",
                graph=self.name,
            )
        with self.clock, nullcontext() if self.backend == "cpu" else _npu:
            started = time.perf_counter()
            try:
                return self._tried(self._session, do)
            except ORT_ERRORS as error:
                raise BackendError(
                    "The graph {graph} failed ({reason}); try another backend.",
                    graph=self.name,
                    reason=first_line(error),
                ) from error
            finally:
                self.seconds += time.perf_counter() - started

    def _tried(
        self, session: ort.InferenceSession, do: Callable[[ort.InferenceSession], Result]
    ) -> Result:
        try:
            return do(session)
        except ORT_ERRORS as error:
            if self._reload is None or not AGAIN.search(str(error)):
                raise
            notify(
                Message(
                    "The graph {graph} failed on the NPU ({reason}); it is loaded again.",
                    {"graph": self.name, "reason": first_line(error)},
                )
            )
        self._session = None  # its memory first
        del session
        self._session = self._reload()
        return do(self._session)

    def close(self) -> None:
        """Free the graph's memory."""
        self._session = None
        release, self._release = self._release, None
        if release is not None:
            release()

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
        expected = {name: spec for name, spec in graph.inputs.items() if name not in self._now}
        _check_inputs(graph.name, expected, inputs)
        names = [name for name in graph.outputs if name.removeprefix("next_") not in self._now]

        def run(session: ort.InferenceSession) -> list[Array]:
            binding = session.io_binding()
            for name, array in inputs.items():
                binding.bind_cpu_input(name, np.ascontiguousarray(array))
            for name, value in self._now.items():
                binding.bind_ortvalue_input(name, value)
            for name in names:
                binding.bind_output(name)
            for name, value in self._next.items():
                binding.bind_ortvalue_output(f"next_{name}", value)
            session.run_with_iobinding(binding)
            return [value.numpy() for value in binding.get_outputs()[: len(names)]]

        outputs = graph.work(run)
        named: dict[str, Array] = dict(zip(names, outputs, strict=True))
        _check_outputs(graph.name, graph.outputs, named)
        if graph.watch is not None:
            before = {name: np.array(value.numpy()) for name, value in self._now.items()}
            after = {f"next_{name}": np.array(value.numpy()) for name, value in self._next.items()}
            graph.watch(graph.name, inputs | before, named | after)
        self._now, self._next = self._next, self._now
        return named


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


def _check_inputs(name: str, specs: Mapping[str, TensorSpec], inputs: Mapping[str, Array]) -> None:
    """Raise BackendError unless the inputs are those of the graph; a named size is one size."""
    if set(inputs) != set(specs):
        raise BackendError(
            "The graph {name} takes the inputs {names}, and got {got}; update Neodragon Studio.",
            name=name,
            names=", ".join(specs),
            got=", ".join(inputs),
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
                "The input {key} of the graph {name} is {dtype} {shape}, and {spec} was expected;"
                " get the pack again or export it anew.",
                key=key,
                name=name,
                spec=spec,
                dtype=array.dtype,
                shape=list(array.shape),
            )


def _check_outputs(
    name: str, specs: Mapping[str, TensorSpec], outputs: Mapping[str, Array]
) -> None:
    """Raise BackendError where an output has not the fixed sizes it should."""
    for key, array in outputs.items():
        spec = specs[key]
        if array.ndim != len(spec.shape) or any(
            isinstance(wanted, int) and size != wanted
            for size, wanted in zip(array.shape, spec.shape, strict=True)
        ):
            raise BackendError(
                "The output {key} of the graph {name} is {dtype} {shape}, and {spec} was expected;"
                " get the pack again or export it anew.",
                key=key,
                name=name,
                spec=spec,
                dtype=array.dtype,
                shape=list(array.shape),
            )


def check_graph(graph: Graph, key: str, tensors: Mapping[str, Any]) -> None:
    """Raise PackError unless a loaded graph's tensors are as the manifest says."""
    specs: Mapping[str, TensorSpec] = getattr(graph, key)
    if set(tensors) != set(specs):
        raise PackError(
            "{name} has the {key} {got} instead of {names}; get the pack again or export it anew.",
            name=graph.file.name,
            key=key,
            names=", ".join(specs),
            got=", ".join(tensors),
        )
    for name, spec in specs.items():
        dtype = TYPES.get(tensors[name].type, tensors[name].type)
        shape = [graph.dimensions.get(size, size) for size in tensors[name].shape]
        fits = dtype == spec.dtype and len(shape) == len(spec.shape)
        for size, wanted in zip(shape, spec.shape, strict=False):
            # A computed dimension of an output may carry no number, even where it has only one.
            loose = not isinstance(size, int) and (isinstance(wanted, str) or key == "outputs")
            fits = fits and (loose or size == wanted)
        if not fits:
            raise PackError(
                "{name} of {file} is {dtype} {shape}, and {spec} was expected; get the pack again"
                " or export it anew.",
                name=name,
                file=graph.file.name,
                spec=spec,
                dtype=dtype,
                shape=shape,
            )
