"""A pack for any PC: linear layers and convolutions stored in 8 bits, everything else as it was.

Linear layers become MatMulNBits: blocks of 32 weights that share a scale, multiplied in integers
with activations that ONNX Runtime puts into 8 bits as they come. Convolutions keep their kernels,
which compute in float32, and widen 8-bit weights per output channel when they are loaded. Each
graph is compared with the portable one on seeded noise; where 8 bits of all leave too little,
convolutions keep 16 bits, then everything does.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from builder.quantise.rewriter import is_transposed
from builder.storage import INLINE, array_of, external_tensor, graph_entry, graph_of
from engine.canary import noise_inputs
from engine.measures import snr_db
from engine.pack import MANIFEST, Graph
from engine.session import load_graph

MICROSOFT = "com.microsoft"
BLOCK = 32
LEAST = 2**14  # elements from which on a layer is worth it
FLOOR = 30.0  # dB that a graph keeps beside the portable one
LAYER_FLOOR = 35.0  # dB that a layer's weights keep
INTEGERS = 4  # MatMulNBits's accuracy level that multiplies integers
KINDS = {"all": ("MatMul", "Gemm", "Conv"), "linear": ("MatMul", "Gemm"), "none": ()}

Report = Callable[[str], None]


def quantise_pack(source: Path, target: Path, report: Report) -> None:
    """Make the pack at `target` of the portable one at `source`; what is there is kept."""
    manifest = json.loads((source / MANIFEST).read_text(encoding="utf-8"))
    record_file = target / "quantised.json"
    target.mkdir(parents=True, exist_ok=True)
    record = json.loads(record_file.read_text("utf-8")) if record_file.exists() else {}
    for name, component in manifest["components"].items():
        fixed = component["variants"].pop("htp", {"graphs": {}})["graphs"]
        graphs = component["variants"]["portable"]["graphs"]
        for graph, entry in graphs.items():
            key = f"{name}/{graph}"
            done = record.get(key, {}).get(entry["sha256"])
            if done is None or not (target / entry["file"]).is_file():
                done = _quantised(source, target, graph, entry, fixed)
                record[key] = {entry["sha256"]: done}
                partial = record_file.with_suffix(".part")
                partial.write_text(json.dumps(record, indent=1), encoding="utf-8")
                partial.replace(record_file)
                report(f"{key}: {_summary(done)}")
            else:
                report(f"{key}: kept")
            graphs[graph] = done["entry"]
    for file in (*manifest["tokenizers"].values(), *manifest.get("licences", ())):
        (target / file["file"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file["file"], target / file["file"])
    text = json.dumps(manifest, indent=1) + "\n"
    (target / MANIFEST).write_text(text, encoding="utf-8")
    record_file.unlink(missing_ok=True)


def _summary(done: Mapping[str, Any]) -> str:
    entry = done["entry"]
    size = (entry["size"] + sum(file["size"] for file in entry.get("data", []))) / 1e6
    worst = f", {done['layers']} layers of {done['worst']} dB and more" if done["layers"] else ""
    return f"{entry['fidelity_db']} dB, {size:.1f} MB{worst}"


def _quantised(
    source: Path, target: Path, graph: str, entry: Mapping[str, Any], fixed: Mapping[str, Any]
) -> dict[str, Any]:
    """One graph in as much of 8 bits as its floor allows: its entry, layers and the worst's dB."""
    same = (e.get("dimensions", {}) for e in fixed.values() if e["file"] == entry["file"])
    sizes: Mapping[str, int] = next(filter(None, same), {})
    spec = _with_sizes(graph_of(graph, entry), sizes)
    inputs = noise_inputs(spec)
    with load_graph(spec, source / entry["file"]) as session:
        expected = session.run(**inputs)
    for kinds in KINDS.values():
        model, files, layers = _written(source / entry["file"], target / entry["file"], kinds)
        with load_graph(spec, files[0]) as session:
            got = session.run(**inputs)
        db = round(min(snr_db(value, got[name]) for name, value in expected.items()), 1)
        if db >= FLOOR:
            break
    made = graph_entry(model, files, target) | {"fidelity_db": db}
    return {"entry": made, "layers": len(layers), "worst": min(layers, default=None)}


def _is_plain(node: NodeProto) -> bool:
    """Whether a linear layer only multiplies and adds."""
    attributes = {a.name: a.i if a.name == "transA" else a.f for a in node.attribute}
    return (
        attributes.get("alpha", 1) == 1
        and attributes.get("beta", 1) == 1
        and not attributes.get("transA", 0)
    )


def _with_sizes(graph: Graph, sizes: Mapping[str, int]) -> Graph:
    """A graph with its dynamic sizes fixed."""
    if not sizes:
        return graph
    sides = {
        side: {
            name: type(spec)(spec.dtype, tuple(sizes.get(str(n), n) for n in spec.shape))
            for name, spec in getattr(graph, side).items()
        }
        for side in ("inputs", "outputs")
    }
    return Graph(graph.name, graph.file, (), sizes, sides["inputs"], sides["outputs"], None)


def _written(
    path: Path, target: Path, kinds: tuple[str, ...]
) -> tuple[onnx.ModelProto, list[Path], list[float]]:
    """The graph with layers of these kinds in 8 bits; its files, and the dB each layer keeps."""
    target.parent.mkdir(parents=True, exist_ok=True)
    model = onnx.load(path, load_external_data=False)
    external = any(t.data_location == TensorProto.EXTERNAL for t in model.graph.initializer)
    data = target.with_name(target.name + ".data")
    data.unlink(missing_ok=True)
    if not external:
        rewriter = _Rewriter(model, path.parent, kinds, None)
        rewriter.rewrite()
        onnx.save_model(model, target)
        return model, [target], rewriter.layers
    with data.open("wb") as stream:
        rewriter = _Rewriter(model, path.parent, kinds, stream)
        rewriter.rewrite()
    onnx.save_model(model, target)
    return model, [target, data], rewriter.layers


@dataclass
class _Rewriter:
    """Puts layers of a graph into 8 bits; data: where large constants go, None for the graph."""

    model: onnx.ModelProto
    folder: Path
    kinds: tuple[str, ...]
    data: IO[bytes] | None
    layers: list[float] = field(default_factory=list)
    added: list[TensorProto] = field(default_factory=list)

    def rewrite(self) -> None:
        graph = self.model.graph
        stored = {tensor.name: tensor for tensor in graph.initializer}
        wide = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Cast"}
        sources = {
            name: stored[wide.get(name, name)]
            for name in (*wide, *stored)
            if wide.get(name, name) in stored
        }
        uses = Counter(name for node in graph.node for name in node.input)
        nodes: list[NodeProto] = []
        for node in graph.node:
            tensor = sources.get(node.input[1]) if len(node.input) > 1 else None
            fits = node.op_type in self.kinds and tensor is not None and uses[node.input[1]] == 1
            if not fits or tensor is None or np.prod(tensor.dims) < LEAST:
                nodes.append(node)
                continue
            array = array_of(tensor, self.folder).astype(np.float32)
            made = list(
                self._conv(node, array) if node.op_type == "Conv" else self._linear(node, array)
            )
            nodes += made or [node]
        used = {name for node in nodes for name in node.input}
        nodes = [
            n
            for n in nodes
            if n.op_type != "Cast"
            or n.output[0] in used
            or n.output[0] in {o.name for o in graph.output}
        ]
        used = {name for node in nodes for name in node.input}
        kept = [self._kept(tensor) for tensor in graph.initializer if tensor.name in used]
        copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:], graph.initializer[:]
        graph.node.extend(copies)
        graph.initializer.extend([*kept, *self.added])
        if not any(opset.domain == MICROSOFT for opset in self.model.opset_import):
            self.model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))

    def _linear(self, node: NodeProto, array: NDArray[np.float32]) -> Iterator[NodeProto]:
        if array.ndim != 2 or not _is_plain(node):
            return
        array = array if is_transposed(node) else array.T
        outputs, inputs = array.shape
        padded = np.zeros((outputs, -(-inputs // BLOCK) * BLOCK), np.float32)
        padded[:, :inputs] = array
        cut = padded.reshape(outputs, -1, BLOCK)
        scales = np.maximum(np.abs(cut).max(-1), 1e-12) / 127
        small = np.rint(cut / scales[..., None])
        if not self._keeps(cut, small * scales[..., None]):
            return
        result = node.output[0]
        names = [f"{result}.eight", f"{result}.scale"]
        self._add(names[0], (small + 128).astype(np.uint8))
        self._add(names[1], scales.astype(np.float32).reshape(-1))
        has_bias = len(node.input) > 2 and node.input[2]
        product = f"{result}.product" if has_bias else result
        attributes = {"K": inputs, "N": outputs, "bits": 8, "block_size": BLOCK}
        yield helper.make_node(
            "MatMulNBits",
            [node.input[0], *names],
            [product],
            name=f"{result}.eight_bits",
            domain=MICROSOFT,
            accuracy_level=INTEGERS,
            **attributes,
        )
        if has_bias:
            yield helper.make_node("Add", [product, node.input[2]], [result])

    def _conv(self, node: NodeProto, array: NDArray[np.float32]) -> Iterator[NodeProto]:
        others = tuple(range(1, array.ndim))
        scales = np.maximum(np.abs(array).max(others), 1e-12) / 127
        shaped = scales.reshape(-1, *[1] * (array.ndim - 1))
        small = np.rint(array / shaped)
        if not self._keeps(array, small * shaped):
            return
        name = f"{node.output[0]}.eight"
        self._add(name, small.astype(np.int8))
        self._add(f"{name}.scale", scales.astype(np.float32))
        yield helper.make_node(
            "DequantizeLinear", [name, f"{name}.scale"], [f"{name}.wide"], axis=0
        )
        node.input[1] = f"{name}.wide"
        yield node

    def _keeps(self, array: NDArray[Any], rounded: NDArray[Any]) -> bool:
        """Whether a layer's weights are close enough in 8 bits; noted if so."""
        db = round(snr_db(array, rounded), 1)
        if db >= LAYER_FLOOR:
            self.layers.append(db)
        return db >= LAYER_FLOOR

    def _kept(self, tensor: TensorProto) -> TensorProto:
        """A constant as it was."""
        array = array_of(tensor, self.folder)
        if self.data is None or array.nbytes < INLINE:
            return numpy_helper.from_array(np.asarray(array), tensor.name)
        return external_tensor(tensor.name, array, self.data)

    def _add(self, name: str, array: NDArray[Any]) -> None:
        large = self.data is not None and array.nbytes >= INLINE
        made = external_tensor(name, array, self.data) if large and self.data else None
        self.added.append(made or numpy_helper.from_array(array, name))
