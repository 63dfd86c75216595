"""The Hexagon NPU and its emulation: which backends this machine has, and QNN's options."""

from __future__ import annotations

import importlib
import importlib.util
import platform
from typing import Any

import onnxruntime as ort

from engine.errors import BackendError
from engine.session.runtime import BACKENDS, ORT_ERRORS, Backend

QNN = "QNNExecutionProvider"
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
# onnxruntime-qnn 2.7 silently accepts names it does not know, so they are checked here.
QNN_OPTION_NAMES = frozenset(
    "backend_path device_id enable_block_quant_weight_optimization enable_htp_fp16_precision"
    " enable_htp_shared_memory_allocator enable_htp_spill_fill_buffer"
    " htp_arch htp_graph_finalization_optimization_mode htp_performance_mode htp_reused_io_limit_mb"
    " offload_graph_io_quantization profiling_file_path profiling_level qnn_context_priority"
    " rpc_control_latency soc_model vtcm_mb".split()
)


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
