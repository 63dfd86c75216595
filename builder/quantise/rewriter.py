"""Rewrite nodes of a graph to 8 bits: their constants and the operators around them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from builder.storage import ALIGNMENT, array_of, external_tensor

QDQ = "com.microsoft"  # whose QuantizeLinear knows 16 bits before opset 21
BIAS_LIMIT = 2.0**30
BLOCK = 32  # weights that share a scale where activations keep half precision

Ranges = dict[str, tuple[float, float]]


def is_transposed(node: Any) -> bool:
    """Whether a linear layer's weights lie with outputs first."""
    return any(a.name == "transB" and a.i for a in node.attribute)


@dataclass
class Rewriter:
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
        rewritten: list[Any] = []
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
        array = array if is_transposed(node) else array.T
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
        axis = 0 if node.op_type == "Conv" or is_transposed(node) else array.ndim - 1
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
        self.added[name] = external_tensor(name, array, self.data)

    def _array(self, name: str) -> NDArray[Any]:
        """A constant of the plain graph, mapped from its file."""
        return array_of(self.constants[name], self.folder)
