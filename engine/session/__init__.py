"""Run graphs on ONNX Runtime: on the CPU, on the Hexagon NPU, or on the NPU's emulation.

The only part that imports onnxruntime. Nothing falls back to another processor: a graph that
cannot run where it was asked to run is a `BackendError`. It knows nothing of prompts, latents or
frames. `runtime` runs a loaded graph, `qnn` knows the NPU, `chips` the machines that have one,
`library` where its libraries are, `owner` whose it is, `notices` what the user is told,
`optimised` keeps the CPU's graphs ready, `placement` chooses and opens.
"""

from engine.session.chips import CHIPS, Chip, chip_with, this_chip
from engine.session.driver import npu_driver
from engine.session.notices import notices_to, notify
from engine.session.optimised import Optimised
from engine.session.owner import NpuBusyError
from engine.session.placement import (
    load_graph,
    open_graphs,
    open_session,
    placed,
    placements,
    verify_pack,
)
from engine.session.qnn import (
    QNN_OPTIONS,
    UNMAPPED,
    add_qnn,
    available,
    qnn_options,
    qnn_sdk,
    require,
)
from engine.session.runtime import (
    BACKENDS,
    Array,
    Backend,
    Clock,
    NoBackendError,
    OrtSession,
    Session,
    Stream,
    session_options,
)

__all__ = [
    "BACKENDS",
    "CHIPS",
    "QNN_OPTIONS",
    "UNMAPPED",
    "Array",
    "Backend",
    "Chip",
    "Clock",
    "NoBackendError",
    "NpuBusyError",
    "Optimised",
    "OrtSession",
    "Session",
    "Stream",
    "add_qnn",
    "available",
    "chip_with",
    "load_graph",
    "notices_to",
    "notify",
    "npu_driver",
    "open_graphs",
    "open_session",
    "placed",
    "placements",
    "qnn_options",
    "qnn_sdk",
    "require",
    "session_options",
    "this_chip",
    "verify_pack",
]
