"""Run graphs on ONNX Runtime: on the CPU, on the Hexagon NPU, or on the NPU's emulation.

The only part that imports onnxruntime. Nothing falls back to another processor: a graph that
cannot run where it was asked to run is a `BackendError`. It knows nothing of prompts, latents or
frames. `runtime` runs a loaded graph, `qnn` knows the NPU, `placement` chooses and opens.
"""

from engine.session.placement import (
    load_graph,
    open_graphs,
    open_session,
    placed,
    placements,
    verify_pack,
)
from engine.session.qnn import QNN_OPTIONS, add_qnn, available, qnn_options, qnn_sdk, require
from engine.session.runtime import (
    BACKENDS,
    Array,
    Backend,
    OrtSession,
    Session,
    Stream,
    session_options,
)

__all__ = [
    "BACKENDS",
    "QNN_OPTIONS",
    "Array",
    "Backend",
    "OrtSession",
    "Session",
    "Stream",
    "add_qnn",
    "available",
    "load_graph",
    "open_graphs",
    "open_session",
    "placed",
    "placements",
    "qnn_options",
    "qnn_sdk",
    "require",
    "session_options",
    "verify_pack",
]
