"""The Hexagon NPU and its emulation: which backends this machine has, and QNN's options."""

from __future__ import annotations

import platform
import sys
from typing import Any

import onnxruntime as ort

from engine.errors import BackendError, Message
from engine.session import library
from engine.session.chips import ASSUMED, this_chip
from engine.session.runtime import BACKENDS, ORT_ERRORS, Backend, NoBackendError

LEAST_PYTHON = (3, 12)  # on Windows: 3.11 takes the folder of another processor
QNN = "QNNExecutionProvider"
QNN_OPTIONS = {
    **ASSUMED.options,
    "htp_graph_finalization_optimization_mode": "3",
    "offload_graph_io_quantization": "0",
}
EMULATING = {("Linux", "x86_64"), ("Windows", "AMD64")}  # onnxruntime-qnn emulates there
NPU_OPTIONS = {"htp_performance_mode": "burst", "rpc_control_latency": "100"}
# Windows maps a compiled graph's file into memory; some 16 GB machines refuse (8003, then 1002).
UNMAPPED = {"disable_file_mapped_weights": "1"}
# onnxruntime-qnn 2.7 silently accepts names it does not know, so they are checked here.
QNN_OPTION_NAMES = frozenset(
    "backend_path device_id disable_file_mapped_weights enable_block_quant_weight_optimization"
    " enable_htp_fp16_precision enable_htp_shared_memory_allocator enable_htp_spill_fill_buffer"
    " enable_vtcm_backup_buffer_sharing htp_share_resource_optimization"
    " htp_arch htp_graph_finalization_optimization_mode htp_performance_mode htp_reused_io_limit_mb"
    " offload_graph_io_quantization profiling_file_path profiling_level qnn_context_priority"
    " rpc_control_latency soc_model vtcm_mb".split()
)


def qnn_sdk() -> str:
    """The version of the QNN SDK that onnxruntime-qnn carries, "" without it."""
    return library.sdk()


def available() -> tuple[Backend, ...]:
    """The backends this machine has, best first."""
    backends: list[Backend] = []
    for backend in ("npu", "cpu", "npu-emulated"):
        if _unavailable(backend) is None:
            backends.append(backend)
    return tuple(backends)


def require(backend: str) -> Backend:
    """`backend` if this machine has it; raises NoBackendError otherwise."""
    for known in BACKENDS:
        if backend == known:
            reason = _unavailable(known)
            if reason is None:
                return known
            raise NoBackendError(
                "The backend {backend} cannot run here: {reason}; use --backend cpu.",
                backend=known,
                reason=reason,
            )
    raise NoBackendError(
        "There is no backend {backend}; choose one of {known}.",
        known=", ".join(BACKENDS),
        backend=repr(backend),
    )


def _devices() -> list[Any]:
    """ONNX Runtime's QNN devices; empty where onnxruntime-qnn is not installed."""
    if not library.is_installed():
        return []
    devices = [device for device in ort.get_ep_devices() if device.ep_name == QNN]
    if not devices:
        try:
            ort.register_execution_provider_library(QNN, library.libraries()[0])
        except ORT_ERRORS:
            return []
        devices = [device for device in ort.get_ep_devices() if device.ep_name == QNN]
    return devices


def _is_npu(device: Any) -> bool:
    """Whether a QNN device is a real NPU: its emulation reports itself as a CPU."""
    return bool(device.device.type == ort.OrtHardwareDeviceType.NPU)


def _unavailable(backend: Backend) -> Message | None:
    """Why this machine lacks a backend, None where it has it."""
    if backend == "cpu":
        return None
    machine = platform.system(), platform.machine()
    if backend == "npu-emulated" and machine not in EMULATING:
        return Message(
            "it exists for x86-64 Linux and Windows only, and this is {machine}",
            {"machine": " ".join(machine)},
        )
    if backend == "npu" and sys.platform == "win32" and sys.version_info < LEAST_PYTHON:
        return Message(
            "Python 3.11 loads the wrong libraries for it on Windows, Python 3.12 the right ones"
        )
    if not library.is_installed():
        return Message("onnxruntime-qnn is not installed")
    devices = _devices()
    if not devices:
        return Message("onnxruntime-qnn finds no device")
    if backend == "npu" and not any(_is_npu(device) for device in devices):
        return Message("there is no Hexagon NPU")
    return None


def qnn_options(backend: Backend, **extra: str) -> dict[str, str]:
    """The QNN provider's options with `extra` on top; raises BackendError for unknown names."""
    options = dict(QNN_OPTIONS)
    if backend == "npu":
        options |= (this_chip() or ASSUMED).options | NPU_OPTIONS
    options |= extra
    unknown = sorted(set(options) - QNN_OPTION_NAMES)
    if unknown:
        raise BackendError(
            "QNN has no option {name}; correct its name.",
            name=repr(unknown[0]),
        )
    return options


def add_qnn(options: ort.SessionOptions, backend: Backend, **extra: str) -> None:
    """Let a session run on the NPU or its emulation, and nowhere else; raises BackendError.

    extra: QNN's options on top, as those of another chip to emulate.
    """
    require(backend)
    devices = [device for device in _devices() if _is_npu(device) == (backend == "npu")]
    chosen = qnn_options(backend, backend_path=library.libraries()[1], **extra)
    options.add_provider_for_devices(devices[:1], chosen)
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
