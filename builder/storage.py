"""How a graph is stored: weights once, in 16 bits where that loses nothing, and its entry.

Weights are stored in 16 bits wherever every value survives, and widened by one Cast each that ONNX
Runtime folds when it loads the graph; a large table of embeddings is widened behind its Gather, so
that it stays small in memory too. It knows nothing of components or packs.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engine.pack import Graph, PackFile, TensorSpec

EXTERNAL_ABOVE = 1_000_000_000  # bytes of weights in float32; a protobuf holds at most 2 GiB
ALIGNMENT = 4096  # bytes; what can be mapped
SMALL = 128  # elements below which a tensor stays as it is
INLINE = 1024  # bytes up to which a tensor stays in the graph's own file
TABLE = 2**20  # elements from which on embeddings are widened behind their Gather
HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
DTYPES = {1: "float32", 2: "uint8", 6: "int32", 7: "int64", 10: "float16"}

Arrays = Callable[[TensorProto], NDArray[Any]]


def strip(model: onnx.ModelProto, dynamic: Mapping[str, Sequence[str | None]]) -> None:
    """Drop what only debugs the exporter and name the dynamic dimensions, in place."""
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


def array_of(tensor: TensorProto, folder: Path) -> NDArray[Any]:
    """A tensor's values, mapped where they lie in a file of `folder`."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return numpy_helper.to_array(tensor)
    where = {entry.key: entry.value for entry in tensor.external_data}
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    start, shape = int(where.get("offset", 0)), tuple(tensor.dims)
    mapped: NDArray[Any] = np.memmap(folder / where["location"], dtype, "r", start, shape)
    return mapped


def widened(model: onnx.ModelProto, arrays: Arrays) -> Arrays:
    """Make weights that the graph itself widens from 16 bits float32 ones, in place.

    Whether a layer's weights came in 16 bits then no longer shows. Returns the values of every
    initializer of the changed graph.
    """
    graph = model.graph
    halves = {t.name: t for t in graph.initializer if t.data_type in HALVES}
    sources: dict[str, TensorProto] = {}
    for node in list(graph.node):
        if node.op_type == "Cast" and node.input[0] in halves:
            tensor = halves[node.input[0]]
            sources[node.output[0]] = tensor
            graph.node.remove(node)
        elif node.op_type == "Gather" and node.input[0] in halves:
            (cast,) = [n for n in graph.node if n.op_type == "Cast" and node.output[0] in n.input]
            sources[f"{node.input[0]}.wide"] = halves[node.input[0]]
            node.input[0], node.output[0] = f"{node.input[0]}.wide", cast.output[0]
            graph.node.remove(cast)
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    kept += [
        TensorProto(name=name, dims=tensor.dims, data_type=TensorProto.FLOAT)
        for name, tensor in sources.items()
    ]
    del graph.initializer[:]
    graph.initializer.extend(kept)

    def values(tensor: TensorProto) -> NDArray[Any]:
        source = sources.get(tensor.name)
        return arrays(tensor) if source is None else arrays(source).astype(np.float32)

    return values


def store(model: onnx.ModelProto, arrays: Arrays, path: Path, external: bool) -> list[Path]:
    """Write the graph to `path`, with `external` its weights to `path.data`; the files written.

    Equal tensors are kept once, in 16 bits where no value changes; they come one by one from
    `arrays`, so that no more than one is in memory where they go to a file of their own. The
    initializers of `model` are replaced by what is stored.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = path.with_name(path.name + ".data")
    for file in (path, data):
        file.unlink(missing_ok=True)
    if external:
        with data.open("wb") as stream:
            _settle(model, arrays, stream)
    else:
        _settle(model, arrays, None)
    onnx.save_model(model, path)
    return [path, data] if external else [path]


def _settle(model: onnx.ModelProto, arrays: Arrays, data: IO[bytes] | None) -> None:
    graph = model.graph
    casts, kept, renamed = [], [], {}
    tables = _tables(graph)
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    behind: dict[str, str] = {}
    for tensor in graph.initializer:
        array = arrays(tensor)
        digest = hashlib.sha256(np.ascontiguousarray(array).data).digest()
        key = (tensor.data_type, tuple(tensor.dims), digest)
        if key in first:
            if first[key] not in behind:
                renamed[tensor.name] = first[key]
            else:
                casts.append(_widening(behind[first[key]], tensor.name))
            continue
        first[key] = name = tensor.name
        small = narrowed(array) if tensor.data_type == TensorProto.FLOAT else None
        if small is not None:
            array, name = small, f"{tensor.name}.stored"
            if tensor.name in tables and array.size >= TABLE:
                behind[tensor.name] = name
                _widen_behind(graph, tensor.name, name)
            else:
                casts.append(_widening(name, tensor.name))
        kept.append(_stored(name, array, data))
    del graph.initializer[:]
    graph.initializer.extend(kept)
    nodes = list(graph.node)
    for node in nodes:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
    del graph.node[:]
    graph.node.extend(casts + nodes)


def _widening(narrow: str, wide: str) -> onnx.NodeProto:
    return helper.make_node("Cast", [narrow], [wide], to=TensorProto.FLOAT)


def _tables(graph: onnx.GraphProto) -> set[str]:
    """Initializers of which nothing but Gathers reads."""
    gathered = {node.input[0] for node in graph.node if node.op_type == "Gather"}
    uses = Counter(name for node in graph.node for name in node.input)
    reads = Counter(node.input[0] for node in graph.node if node.op_type == "Gather")
    return {name for name in gathered if uses[name] == reads[name]}


def _widen_behind(graph: onnx.GraphProto, name: str, stored: str) -> None:
    """Let Gathers read `stored` instead of `name`, and widen what they give."""
    nodes = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type == "Gather" and node.input[0] == name:
            result, narrow = node.output[0], f"{node.output[0]}.narrow"
            node.input[0], node.output[0] = stored, narrow
            nodes.append(_widening(narrow, result))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _stored(name: str, array: NDArray[Any], data: IO[bytes] | None) -> TensorProto:
    """A tensor of these values, in `data` where it is not small."""
    if data is None or array.nbytes < INLINE:
        return numpy_helper.from_array(np.asarray(array), name)
    return external_tensor(name, array, data)


def external_tensor(name: str, array: NDArray[Any], data: IO[bytes]) -> TensorProto:
    """A tensor whose values are appended to the file `data`, aligned so that they can be mapped."""
    data.write(bytes(-data.tell() % ALIGNMENT))
    tensor = TensorProto(
        name=name,
        dims=array.shape,
        data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
        data_location=TensorProto.EXTERNAL,
    )
    place = (Path(data.name).name, data.tell(), array.nbytes)
    for key, value in zip(("location", "offset", "length"), place, strict=True):
        tensor.external_data.add(key=key, value=str(value))
    data.write(np.ascontiguousarray(array).data)
    return tensor


def narrowed(array: NDArray[Any]) -> NDArray[Any] | None:
    """`array` in float16 or bfloat16 if every value survives, else None."""
    if array.size < SMALL:
        return None
    for dtype in (np.float16, ml_dtypes.bfloat16):
        with np.errstate(over="ignore"):
            small = array.astype(dtype)
        if np.array_equal(small.astype(np.float32), array):
            return small
    return None


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


def graph_entry(model: onnx.ModelProto, files: Sequence[Path], root: Path) -> dict[str, Any]:
    """The manifest's entry of a graph just written to `files`."""
    entry = file_entry(files[0], root)
    if files[1:]:
        entry["data"] = [file_entry(file, root) for file in files[1:]]
    entry["inputs"] = tensor_specs(model.graph.input)
    entry["outputs"] = tensor_specs(model.graph.output)
    return entry


def graph_of(name: str, entry: Mapping[str, Any]) -> Graph:
    """A manifest's entry as the engine reads it, to load the graph just written."""
    specs = [
        {key: TensorSpec(spec["dtype"], tuple(spec["shape"])) for key, spec in entry[side].items()}
        for side in ("inputs", "outputs")
    ]
    file = PackFile(entry["file"], entry["size"], entry["sha256"])
    return Graph(name, file, (), entry.get("dimensions", {}), specs[0], specs[1], None)
