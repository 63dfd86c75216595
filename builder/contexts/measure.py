"""How close a graph in 8 bits, or compiled, comes to the portable one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from builder.contexts.calls import Values
from engine.canary import noise_inputs, sampled
from engine.measures import snr_db
from engine.pack import Graph
from engine.session import load_graph, session_options

TWICE = 300.0  # seconds that a graph may take in emulation to be run there once more
HALF = 45.0  # dB that half precision leaves by itself, where only the CPU measures: 46 and more


def measured(
    graph: Graph, path: Path, unseen: tuple[Values, Values]
) -> tuple[float, dict[str, list[float]]]:
    """A graph in emulation, nothing on the CPU: dB beside the portable one's outputs.

    And what it makes of noise, by which a device is tried; nothing where that takes too long.
    """
    inputs, expected = unseen
    with load_graph(graph, path, "npu-emulated") as session:
        outputs = session.run(**inputs)
        noise_outputs = (
            sampled(session.run(**noise_inputs(graph))) if session.seconds < TWICE else {}
        )
    return _least(expected, outputs), noise_outputs


def measured_on_cpu(path: Path, unseen: tuple[Values, Values]) -> float:
    """The same of a quantised graph on the CPU, in dB."""
    session = ort.InferenceSession(
        str(path), session_options(None), providers=["CPUExecutionProvider"]
    )
    inputs, expected = unseen
    names = [tensor.name for tensor in session.get_inputs()]
    outputs = session.run(list(expected), {name: inputs[name] for name in names})
    return _least(expected, dict(zip(expected, outputs, strict=True)))


def _least(expected: Values, outputs: Mapping[str, Any]) -> float:
    return round(min(snr_db(value, outputs[name]) for name, value in expected.items()), 1)


def with_half_precision(db: float) -> float:
    """What half precision leaves of a graph whose 8 bits leave `db`."""
    return float(-10 * np.log10(10 ** (-db / 10) + 10 ** (-HALF / 10)))
