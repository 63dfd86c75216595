"""A torch module's call to a compact ONNX graph, and how close the graph comes to the module.

Weights are stored in 16 bits wherever that loses nothing, and widened by one Cast each that ONNX
Runtime folds when it loads the graph. Two operators are translated our own way so that the same
graph also compiles for the Hexagon NPU. It knows nothing of components or packs.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxscript
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxscript import opset20 as op
from torch import Tensor, nn

from engine.measures import snr_db as snr_db
from engine.pack import Graph, PackFile, TensorSpec

EXTERNAL_ABOVE = 1_800_000_000  # bytes; a protobuf holds at most 2 GiB
LARGE = 1_000_000_000  # bytes of weights in float32 from which on `export_large` saves memory
ALIGNMENT = 4096  # bytes; what can be mapped
SMALL = 128  # elements below which a tensor stays as it is
DTYPES = {1: "float32", 2: "uint8", 6: "int32", 7: "int64", 10: "float16"}


class Call(nn.Module):
    """A function of a module as a module of its own, which is what can be exported."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        """`function` is called with the module and the graph's inputs in order."""
        super().__init__()
        self.module = module
        self.function = function
        self.eval()

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self.module, *inputs)


def attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Scaled dot-product attention of any rank as MatMul, Add, Softmax, MatMul."""
    assert not is_causal and not enable_gqa and not dropout_p, "no model here needs it"
    rank = len(query.shape)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if scale != 1:
        query = op.Mul(query, op.Constant(value_float=scale))
    scores = op.MatMul(query, op.Transpose(key, perm=[*range(rank - 2), rank - 1, rank - 2]))
    if attn_mask is not None:
        if attn_mask.dtype == onnxscript.ir.DataType.BOOL:
            hidden = op.Constant(value_float=-1e9)
            attn_mask = op.Where(attn_mask, op.Constant(value_float=0.0), hidden)
        scores = op.Add(scores, attn_mask)
    return op.MatMul(op.Softmax(scores, axis=-1), value)


def rms_norm(
    input: Any, normalized_shape: Sequence[int], weight: Any = None, eps: float = 1e-5
) -> Any:
    """RMS norm of the last axis, on a rank-2 view.

    QNN 2.51's RMSNormalization is wrong on [tokens, heads, head_dim] with 6 heads: 4 dB, and right
    with 8, 16 or no heads. `nn.RMSNorm` is one operator from opset 23 on.
    """
    width = normalized_shape[-1]
    shape = [size if isinstance(size, int) else -1 for size in input.shape]
    rows = op.Reshape(input, op.Constant(value_ints=[-1, width]))
    normed = onnxscript.opset23.RMSNormalization(rows, weight, axis=-1, epsilon=eps)
    return op.Reshape(normed, op.Constant(value_ints=shape))


def export(
    call: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic: Mapping[str, Sequence[str | None]],
    opset: int,
) -> onnx.ModelProto:
    """Trace `call` on example `inputs` into a graph with these names.

    dynamic: names of the dynamic dimensions of an input or output, None where it is fixed.
    opset: 20 decomposes norms as ONNX Runtime runs them best, 23 keeps RMS norms whole.
    """
    model = _traced(call, inputs, outputs, dynamic, opset).model_proto
    _strip(model, dynamic)
    _share(model)
    _store_in_16_bits(model)
    return model


def export_large(
    call: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic: Mapping[str, Sequence[str | None]],
    opset: int,
    path: Path,
) -> tuple[onnx.ModelProto, list[Path]]:
    """The same to a file at `path`, its weights in `path.data`: the graph without them, the files.

    They go to the disk as they are and come back one by one, so no second copy is ever in memory.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = path.with_name(path.name + ".data")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        whole = Path(folder) / "whole.onnx"
        _traced(call, inputs, outputs, dynamic, opset).save(whole, external_data=True)
        model = onnx.load(whole, load_external_data=False)
        _strip(model, dynamic)
        _move_weights(model, whole.parent, data)
    onnx.save_model(model, path)
    return model, [path, data]


def _traced(
    call: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic: Mapping[str, Sequence[str | None]],
    opset: int,
) -> Any:
    auto = torch.export.Dim.AUTO
    shapes = tuple(
        {axis: auto for axis, size in enumerate(dynamic.get(name, ())) if size} for name in inputs
    )
    translations: dict[Any, Any] = {torch.ops.aten.scaled_dot_product_attention.default: attention}
    if opset >= 23:
        translations[torch.ops.aten.rms_norm.default] = rms_norm
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            call,
            tuple(inputs.values()),
            dynamo=True,
            opset_version=opset,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=(shapes,) if dynamic else None,
            custom_translation_table=translations,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    return program


def _strip(model: onnx.ModelProto, dynamic: Mapping[str, Sequence[str | None]]) -> None:
    """Drop what only debugs the exporter and name the dynamic dimensions."""
    graph = model.graph
    del graph.value_info[:]
    del model.metadata_props[:]
    del graph.metadata_props[:]
    model.doc_string = graph.doc_string = ""
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        part.doc_string = ""
        del part.metadata_props[:]
    for tensor in (*graph.input, *graph.output):
        names = dynamic.get(tensor.name, ())
        for size, name in zip(tensor.type.tensor_type.shape.dim, names, strict=False):
            if name:
                size.dim_param = name


def _share(model: onnx.ModelProto) -> None:
    """Keep equal tensors once."""
    graph = model.graph
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    renamed: dict[str, str] = {}
    kept = []
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        digest = hashlib.sha256(np.ascontiguousarray(array).data).digest()
        key = (tensor.data_type, array.shape, digest)
        if key in first:
            renamed[tensor.name] = first[key]
        else:
            first[key] = tensor.name
            kept.append(tensor)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)


def _move_weights(model: onnx.ModelProto, source: Path, target: Path) -> None:
    """Copy weights from the files in `source` to `target`, each once and in 16 bits if it can."""
    graph = model.graph
    casts, kept, renamed = [], [], {}
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    with target.open("wb") as file:
        for tensor in graph.initializer:
            array: NDArray[Any]
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                where = {entry.key: entry.value for entry in tensor.external_data}
                dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
                start, shape = int(where.get("offset", 0)), tuple(tensor.dims)
                array = np.memmap(source / where["location"], dtype, "r", start, shape)
            else:
                array = numpy_helper.to_array(tensor)
            digest = hashlib.sha256(np.ascontiguousarray(array).data).digest()
            key = (tensor.data_type, tuple(tensor.dims), digest)
            if key in first:
                renamed[tensor.name] = first[key]
                continue
            first[key] = tensor.name
            kept.append(tensor)
            small = narrowed(array) if tensor.data_type == onnx.TensorProto.FLOAT else None
            if small is not None:
                stored = f"{tensor.name}.stored"
                casts.append(
                    onnx.helper.make_node(
                        "Cast", [stored], [tensor.name], to=onnx.TensorProto.FLOAT
                    )
                )
                tensor.name = stored
                tensor.data_type = onnx.helper.np_dtype_to_tensor_dtype(small.dtype)
                array = small
            if array.nbytes < SMALL * 8:
                tensor.CopyFrom(numpy_helper.from_array(np.asarray(array), tensor.name))
                continue
            file.write(bytes(-file.tell() % ALIGNMENT))
            place = {"location": target.name, "offset": file.tell(), "length": array.nbytes}
            file.write(np.ascontiguousarray(array).data)
            tensor.ClearField("raw_data")
            del tensor.external_data[:]
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for name, value in place.items():
                tensor.external_data.add(key=name, value=str(value))
    tensors = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    nodes = list(graph.node)
    for node in nodes:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
    del graph.node[:]
    graph.node.extend(casts + nodes)


def _store_in_16_bits(model: onnx.ModelProto) -> None:
    """Store float32 tensors as float16, else bfloat16, where every value survives."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        small = narrowed(numpy_helper.to_array(tensor))
        if small is not None:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(small, f"{name}.stored"))
            casts.append(
                onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT)
            )
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(casts + nodes)


def narrowed(array: NDArray[np.float32]) -> NDArray[Any] | None:
    """`array` in float16 or bfloat16 if every value survives, else None."""
    if array.size < SMALL:
        return None
    for dtype in (np.float16, ml_dtypes.bfloat16):
        with np.errstate(over="ignore"):
            small = array.astype(dtype)
        if np.array_equal(small.astype(np.float32), array):
            return small
    return None


def write(model: onnx.ModelProto, path: Path, external_above: int = EXTERNAL_ABOVE) -> list[Path]:
    """Write the graph, its weights in a file of their own where it is large; the files written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = path.with_name(path.name + ".data")
    for file in (path, data):
        file.unlink(missing_ok=True)
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if size <= external_above:
        onnx.save_model(model, path)
        return [path]
    onnx.save_model(model, path, save_as_external_data=True, location=data.name)
    return [path, data]


def tensor_specs(tensors: Sequence[onnx.ValueInfoProto]) -> dict[str, dict[str, Any]]:
    """The manifest's description of a graph's inputs or outputs."""
    return {
        tensor.name: {
            "dtype": DTYPES[tensor.type.tensor_type.elem_type],
            "shape": [
                size.dim_param or size.dim_value for size in tensor.type.tensor_type.shape.dim
            ],
        }
        for tensor in tensors
    }


def file_entry(path: Path, root: Path) -> dict[str, Any]:
    """Name, size and SHA-256 of a file for the manifest."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {
        "file": path.relative_to(root).as_posix(),
        "size": path.stat().st_size,
        "sha256": digest,
    }


def graph_of(name: str, entry: Mapping[str, Any]) -> Graph:
    """A manifest's entry as the engine reads it, to load the graph just written."""
    specs = [
        {key: TensorSpec(spec["dtype"], tuple(spec["shape"])) for key, spec in entry[side].items()}
        for side in ("inputs", "outputs")
    ]
    file = PackFile(entry["file"], entry["size"], entry["sha256"])
    return Graph(name, file, (), entry.get("dimensions", {}), specs[0], specs[1], None)
