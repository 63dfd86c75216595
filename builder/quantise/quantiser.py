"""8-bit weights for an NPU graph: per channel with 16-bit activations, or alone in blocks.

Only linear layers and convolutions whose weights are constants are touched. Written here and not
by ONNX Runtime's quantiser, which takes seven times a graph's weights in memory: weights stay on
the disk and come one by one, and the ranges of activations are found inside the graph. Its results
are as close as the library's (docs/experiments.md).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from builder.quantise.rewriter import BLOCK, Ranges, Rewriter, is_transposed
from engine.session import session_options

KINDS = ("MatMul", "Gemm", "Conv")

Values = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Layer:
    """A linear layer or convolution; noise: of the graph's worst output, by its signal, with this
    layer alone in 8 bits.
    """

    name: str
    macs: int
    noise: float


class Quantiser:
    """The graph at `path` with dynamic `sizes` fixed, about to be written with weights in 8 bits.

    samples: inputs that show how large activations become; None leaves activations as they are, and
    only linear layers get 8 bits, in blocks of BLOCK weights. Its files are in `folder`, those of
    weights in the old precision until it is closed.
    """

    def __init__(
        self, path: Path, sizes: Mapping[str, int], samples: Iterable[Values] | None, folder: Path
    ) -> None:
        self.folder, self.plain = folder, folder / "plain.onnx"
        options = session_options(None)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(self.plain)
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", "plain.onnx.data"
        )
        for name, size in sizes.items():
            options.add_free_dimension_override_by_name(name, size)
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.ranges: Ranges | None = None
        self.elements: dict[str, int] = {}
        nodes = self._nodes(onnx.load(self.plain, load_external_data=False))
        self.count = len(nodes)
        if samples is not None:
            names = {name for node in nodes for name in (node.input[0], node.output[0])}
            self.ranges, self.elements = _ranges(self.plain, names, samples)

    def _nodes(self, model: onnx.ModelProto) -> list[Any]:
        """What 8 bits are for."""
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        return [
            node
            for node in model.graph.node
            if node.op_type in KINDS and len(node.input) > 1 and node.input[1] in constants
        ]

    def write(self, chosen: Collection[str] | None = None) -> Path:
        """The quantised graph, or only these layers of it: `quantised.onnx` in the folder."""
        model = onnx.load(self.plain, load_external_data=False)
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        nodes = self._nodes(model)
        if self.ranges is None:
            nodes = [n for n in nodes if n.op_type != "Conv" and not _width(n, constants) % BLOCK]
        if chosen is not None:
            nodes = [node for node in nodes if node.output[0] in chosen]
        with (self.folder / "quantised.onnx.data").open("wb") as data:
            Rewriter(model, self.folder, constants, self.ranges, data).rewrite(nodes)
        onnx.save_model(model, self.folder / "quantised.onnx")
        return self.folder / "quantised.onnx"

    def layers(self, sample: Values) -> list[Layer]:
        """What each layer costs, and what 8 bits of it do to the graph's outputs."""
        expected = _outputs(self.plain, sample)
        layers = []
        model = onnx.load(self.plain, load_external_data=False)
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in self._nodes(model):
            (name,), shape = node.output, constants[node.input[1]].dims
            outputs = shape[0 if node.op_type == "Conv" or is_transposed(node) else -1]
            macs = math.prod(shape) // outputs * self.elements[name]
            got = _outputs(self.write({name}), sample)
            noise = max(
                float(
                    np.square(a - b, dtype=np.float64).sum() / np.square(a, dtype=np.float64).sum()
                )
                for a, b in zip(expected, got, strict=True)
            )
            layers.append(Layer(name, macs, noise))
        return layers

    def close(self) -> None:
        """Remove what only the quantiser needs."""
        for name in ("plain.onnx", "plain.onnx.data", "watched.onnx"):
            (self.folder / name).unlink(missing_ok=True)

    def __enter__(self) -> Quantiser:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def cheapest(layers: Iterable[Layer], floor: float) -> list[Layer]:
    """Those that leave `floor` dB together and cost the most: the least noise for its work first.

    Noises of layers are taken to add up.
    """
    budget, chosen = 10 ** (-floor / 10), []
    for layer in sorted(layers, key=lambda layer: layer.noise / layer.macs):
        if layer.noise <= budget:
            budget -= layer.noise
            chosen.append(layer)
    return chosen


def _energy(array: NDArray[Any]) -> float:
    return float(np.square(array, dtype=np.float64).sum())


def _outputs(path: Path, sample: Values) -> list[NDArray[Any]]:
    session = ort.InferenceSession(
        str(path), session_options(None), providers=["CPUExecutionProvider"]
    )
    inputs = {tensor.name: sample[tensor.name] for tensor in session.get_inputs()}
    return list(session.run(None, inputs))


def _width(node: Any, constants: Mapping[str, TensorProto]) -> int:
    """Inputs of a linear layer."""
    return int(constants[node.input[1]].dims[1 if is_transposed(node) else 0])


def _ranges(
    plain: Path, names: set[str], samples: Iterable[Values]
) -> tuple[Ranges, dict[str, int]]:
    """The least and the largest value of tensors over all samples, 0 between them; their sizes."""
    model = onnx.load(plain, load_external_data=False)
    outputs = {tensor.name for tensor in model.graph.output}
    order, kinds = sorted(names), ("ReduceMin", "ReduceMax", "Size")
    for name in order:
        for kind in kinds:
            statistic = f"{name}.{kind}"
            keep: dict[str, Any] = {} if kind == "Size" else {"keepdims": 0}
            model.graph.node.append(helper.make_node(kind, [name], [statistic], **keep))
            number = TensorProto.INT64 if kind == "Size" else TensorProto.FLOAT
            model.graph.output.append(helper.make_tensor_value_info(statistic, number, []))
    for tensor in [tensor for tensor in model.graph.output if tensor.name in outputs]:
        model.graph.output.remove(tensor)
    watched = plain.with_name("watched.onnx")
    onnx.save_model(model, watched)
    session = ort.InferenceSession(
        str(watched), session_options(None), providers=["CPUExecutionProvider"]
    )
    inputs = [tensor.name for tensor in session.get_inputs()]
    ranges, elements = [(0.0, 0.0)] * len(order), [0] * len(order)
    for sample in samples:
        statistics = session.run(None, {name: sample[name] for name in inputs})
        elements = [int(size) for size in statistics[2::3]]
        ranges = [
            (min(low, float(a)), max(high, float(b)))
            for (low, high), a, b in zip(ranges, statistics[::3], statistics[1::3], strict=True)
        ]
    return dict(zip(order, ranges, strict=True)), dict(zip(order, elements, strict=True))
