"""8-bit weights for an NPU graph: per channel with 16-bit activations, or alone in blocks.

Only linear layers and convolutions whose weights are constants are touched. Written here and not
by ONNX Runtime's quantiser, which takes seven times a graph's weights in memory: weights stay on
the disk and come one by one, and the ranges of activations are found inside the graph. Its results
are as close as the library's (docs/experiments.md).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engine.session import session_options

KINDS = ("MatMul", "Gemm", "Conv")
QDQ = "com.microsoft"  # whose QuantizeLinear knows 16 bits before opset 21
BIAS_LIMIT = 2.0**30
ALIGNMENT = 4096
BLOCK = 32  # weights that share a scale where activations keep half precision

Values = Mapping[str, NDArray[Any]]
Ranges = dict[str, tuple[float, float]]


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
            _Rewriter(model, self.folder, constants, self.ranges, data).rewrite(nodes)
        onnx.save_model(model, self.folder / "quantised.onnx")
        return self.folder / "quantised.onnx"

    def layers(self, sample: Values) -> list[Layer]:
        """What each layer costs, and what 8 bits of it do to the graph's outputs."""
        expected = _outputs(self.plain, sample)
        found = []
        model = onnx.load(self.plain, load_external_data=False)
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in self._nodes(model):
            (name,), shape = node.output, constants[node.input[1]].dims
            outputs = shape[0 if node.op_type == "Conv" or _transposed(node) else -1]
            macs = math.prod(shape) // outputs * self.elements[name]
            got = _outputs(self.write({name}), sample)
            noise = max(
                float(
                    np.square(a - b, dtype=np.float64).sum() / np.square(a, dtype=np.float64).sum()
                )
                for a, b in zip(expected, got, strict=True)
            )
            found.append(Layer(name, macs, noise))
        return found

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
    asked = {tensor.name: sample[tensor.name] for tensor in session.get_inputs()}
    return list(session.run(None, asked))


def _transposed(node: Any) -> bool:
    return any(a.name == "transB" and a.i for a in node.attribute)


def _width(node: Any, constants: Mapping[str, TensorProto]) -> int:
    """Inputs of a linear layer."""
    return int(constants[node.input[1]].dims[1 if _transposed(node) else 0])


def _ranges(
    plain: Path, names: set[str], samples: Iterable[Values]
) -> tuple[Ranges, dict[str, int]]:
    """The least and the largest value of tensors over all samples, 0 between them; their sizes."""
    model = onnx.load(plain, load_external_data=False)
    given = {tensor.name for tensor in model.graph.output}
    order, kinds = sorted(names), ("ReduceMin", "ReduceMax", "Size")
    for name in order:
        for kind in kinds:
            told, keep = f"{name}.{kind}", {} if kind == "Size" else {"keepdims": 0}
            model.graph.node.append(helper.make_node(kind, [name], [told], **keep))
            number = TensorProto.INT64 if kind == "Size" else TensorProto.FLOAT
            model.graph.output.append(helper.make_tensor_value_info(told, number, []))
    for tensor in [tensor for tensor in model.graph.output if tensor.name in given]:
        model.graph.output.remove(tensor)
    watched = plain.with_name("watched.onnx")
    onnx.save_model(model, watched)
    session = ort.InferenceSession(
        str(watched), session_options(None), providers=["CPUExecutionProvider"]
    )
    asked = [tensor.name for tensor in session.get_inputs()]
    found, elements = [(0.0, 0.0)] * len(order), [0] * len(order)
    for sample in samples:
        told = session.run(None, {name: sample[name] for name in asked})
        elements = [int(size) for size in told[2::3]]
        found = [
            (min(low, float(a)), max(high, float(b)))
            for (low, high), a, b in zip(found, told[::3], told[1::3], strict=True)
        ]
    return dict(zip(order, found, strict=True)), dict(zip(order, elements, strict=True))


@dataclass
class _Rewriter:
    """Puts quantised constants, and the nodes around them, into `model`."""

    model: onnx.ModelProto
    folder: Path
    constants: dict[str, TensorProto]
    ranges: Ranges | None
    data: IO[bytes]
    added: dict[str, TensorProto] = field(default_factory=dict)
    activations: dict[str, str] = field(default_factory=dict)

    def rewrite(self, nodes: list[Any]) -> None:
        """Quantise these nodes of the model."""
        chosen = {id(node) for node in nodes}
        rewritten = []
        for node in self.model.graph.node:
            if id(node) in chosen:
                rewritten += self._blocks(node) if self.ranges is None else self._node(node)
            else:
                rewritten.append(node)
        used = {name for node in rewritten for name in node.input}
        kept = []
        for tensor in [t for t in self.model.graph.initializer if t.name in used]:
            if tensor.data_location == TensorProto.EXTERNAL:
                self._add(tensor.name, self._array(tensor.name))
            else:
                kept.append(tensor)
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in rewritten]
        tensors = [
            TensorProto.FromString(t.SerializeToString()) for t in (*kept, *self.added.values())
        ]
        del (
            self.model.graph.node[:],
            self.model.graph.initializer[:],
            self.model.graph.value_info[:],
        )
        self.model.graph.node.extend(copies)
        self.model.graph.initializer.extend(tensors)
        if not any(opset.domain == QDQ for opset in self.model.opset_import):
            self.model.opset_import.append(helper.make_opsetid(QDQ, 1))

    def _blocks(self, node: Any) -> Iterator[Any]:
        """A linear layer as MatMulNBits, which the NPU knows for three axes alone."""
        array = self._array(node.input[1])
        array = array if _transposed(node) else array.T
        outputs, inputs = array.shape
        cut = array.astype(np.float32).reshape(outputs, -1, BLOCK)
        scales = np.maximum(np.abs(cut).max(-1), 1e-12) / 127
        small = (np.rint(cut / scales[..., None]) + 128).astype(np.uint8)
        result, flat = node.output[0], node.op_type == "Gemm"
        stored = [f"{result}.stored", f"{result}.scale"]
        self._add(stored[0], small)
        self._add(stored[1], scales.astype(np.float32).reshape(-1))
        source, product = node.input[0], f"{result}.product"
        if flat:
            self._add("first_axis", np.array([0]))
            source = f"{result}.source"
            yield helper.make_node("Unsqueeze", [node.input[0], "first_axis"], [source])
        yield helper.make_node(
            "MatMulNBits",
            [source, *stored],
            [product],
            name=product,
            domain=QDQ,
            K=inputs,
            N=outputs,
            bits=8,
            block_size=BLOCK,
        )
        if len(node.input) > 2:
            yield helper.make_node("Add", [product, node.input[2]], [f"{result}.sum"])
            product = f"{result}.sum"
        last = ("Squeeze", [product, "first_axis"]) if flat else ("Identity", [product])
        yield helper.make_node(*last, [result])

    def _node(self, node: Any) -> Iterator[Any]:
        """A node between the nodes that make it an 8-bit one."""
        source, weight = node.input[0], node.input[1]
        scale_in, _ = self._scale(source)
        if source not in self.activations:
            self.activations[source] = f"{source}.q16"
            yield from self._pair(source, source, self.activations[source])
        array = self._array(weight).astype(np.float32)
        axis = 0 if node.op_type == "Conv" or _transposed(node) else array.ndim - 1
        others = tuple(i for i in range(array.ndim) if i != axis)
        scales = np.maximum(np.abs(array).max(others), 1e-12) / 127
        bias = None
        if len(node.input) > 2 and node.input[2] in self.constants:
            bias = self._array(node.input[2]).astype(np.float64)
            scales = np.maximum(scales, np.abs(bias) / scale_in / BIAS_LIMIT)
        scales = scales.astype(np.float32)
        shape = [-1 if i == axis else 1 for i in range(array.ndim)]
        small = np.rint(array / scales.reshape(shape)).clip(-127, 127).astype(np.int8)
        name = node.name or node.output[0]
        node.input[0] = self.activations[source]
        node.input[1] = f"{name}.weight"
        yield self._constant(node.input[1], small, scales, axis)
        if bias is not None:
            steps = scale_in * scales.astype(np.float64)
            whole = np.rint(bias / steps).astype(np.int32)
            node.input[2] = f"{name}.bias"
            yield self._constant(node.input[2], whole, steps.astype(np.float32), 0)
        result = node.output[0]
        node.output[0] = f"{result}.raw"
        yield node
        yield from self._pair(node.output[0], result, result)

    def _scale(self, name: str) -> tuple[float, int]:
        """Scale and zero point of an activation in 16 bits."""
        assert self.ranges is not None
        low, high = self.ranges[name]
        scale = max(high - low, 1e-8) / 65535
        return scale, round(-low / scale)

    def _pair(self, tensor: str, ranged: str, result: str) -> Iterator[Any]:
        """To 16 bits and back."""
        scale, zero = self._scale(ranged)
        self._add(f"{ranged}.scale", np.float32(scale))
        self._add(f"{ranged}.zero", np.uint16(zero))
        constants = [f"{ranged}.scale", f"{ranged}.zero"]
        middle = f"{result}.u16"
        for kind, source, target in (
            ("QuantizeLinear", tensor, middle),
            ("DequantizeLinear", middle, result),
        ):
            yield helper.make_node(
                kind, [source, *constants], [target], name=f"{target}.{kind}", domain=QDQ
            )

    def _constant(self, name: str, array: NDArray[Any], scales: NDArray[Any], axis: int) -> Any:
        """A quantised constant and what widens it."""
        self._add(f"{name}.stored", array)
        self._add(f"{name}.scale", scales)
        self._add(f"{name}.zero", np.zeros(len(scales), array.dtype))
        inputs = [f"{name}.{part}" for part in ("stored", "scale", "zero")]
        return helper.make_node(
            "DequantizeLinear",
            inputs,
            [name],
            name=f"{name}.DequantizeLinear",
            domain=QDQ,
            axis=axis,
        )

    def _add(self, name: str, array: Any) -> None:
        """A new constant, a large one in the file of data."""
        array = np.asarray(array)
        if array.nbytes < ALIGNMENT:
            self.added[name] = numpy_helper.from_array(array, name)
            return
        self.data.write(bytes(-self.data.tell() % ALIGNMENT))
        tensor = TensorProto(
            name=name,
            dims=array.shape,
            data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
            data_location=TensorProto.EXTERNAL,
        )
        place = (Path(self.data.name).name, self.data.tell(), array.nbytes)
        for key, value in zip(("location", "offset", "length"), place, strict=True):
            tensor.external_data.add(key=key, value=str(value))
        self.data.write(np.ascontiguousarray(array).data)
        self.added[name] = tensor

    def _array(self, name: str) -> NDArray[Any]:
        """A constant of the plain graph, mapped from its file."""
        tensor = self.constants[name]
        if tensor.data_location != TensorProto.EXTERNAL:
            return numpy_helper.to_array(tensor)
        where = {entry.key: entry.value for entry in tensor.external_data}
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        start = int(where.get("offset", 0))
        mapped: NDArray[Any] = np.memmap(
            self.folder / where["location"], dtype, "r", start, tuple(tensor.dims)
        )
        return mapped
