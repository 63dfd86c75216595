"""Derive templates: `python -m training.templates CHECKPOINT -o assets/full-size/templates.zip`.

Each graph of the checkpoint is traced with labels for weights (`training.export.labels`). What
comes out of the exporter is read back, once more when the module has other labels: a weight of the
graph whose elements are labels is a view of published tensors, one that is the same both times a
constant, anything else is refused. Values of the checkpoint are not looked at, only its configs,
names and shapes: one of `--empty` will do. The transformer's inner parts differ in the numbers of
their blocks alone, so one stands for all. With `--check WORK` every template is filled and compared
with the graph that `training.export` traces.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import math
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from torch import nn

from builder.errors import BuildError
from builder.plans import Plan, plans, remembering
from builder.storage import Arrays, array_of
from builder.templates import FORMAT, LAYOUT, Filled, Piece, Recipe, Templates, home_of
from builder.weights import Weights
from engine.errors import NeodragonError
from training.export.graphs import traced
from training.export.labels import Labelled, is_label, numbered
from training.export.pack import is_large
from training.export.source import Source
from training.export.trace import traced_in_memory
from training.export.trace import write as trace

KEPT = 2**25  # elements of a weight that may be more than one view
INNER = re.compile(r"^transformer_blocks\.(\d+)\.")
Report = Callable[[str], None]


def weight_names(source: Labelled) -> dict[str, Any]:
    """Every folder's tensors by shape, and names that are one tensor."""
    folders = {}
    for folder in dict.fromkeys(folder for folder, _ in source.starts):
        places = Weights(source.root / folder).places
        tensors = {name: list(place.shape) for name, place in places.items()}
        ties = sorted(source.ties.get(folder, set()))
        for names in ties:
            shape = next(tensors[name] for name in names if name in tensors)
            tensors |= dict.fromkeys(names, shape)
        folders[folder] = {
            "tensors": tensors,
            "ties": [list(names) for names in ties],
            "config": source.config(folder),
        }
    sizes = {key: source.manifest[key] for key in ("geometry", "transformer", "tokenizers")}
    return {"format": FORMAT, "manifest": sizes, "folders": folders}


def stepped(sequence: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Sizes and steps, outermost first, whose sums in order start like `sequence`."""
    if len(sequence) == 1:
        return []
    step = int(sequence[1] - sequence[0])
    along = sequence - sequence[0] == step * np.arange(len(sequence))
    run = len(sequence) if along.all() else int(np.argmin(along))
    if len(sequence) % run:
        return [(len(sequence), step)]
    return [*stepped(sequence[::run]), (run, step)]


def _edges(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The elements along each axis from the first on."""
    for axis in range(array.ndim):
        index: list[Any] = [0] * array.ndim
        index[axis] = slice(None)
        yield array[tuple(index)]


def view_of(
    source: Labelled, shape: tuple[int, ...], edges: Sequence[NDArray[np.int64]], factor: float
) -> Piece | None:
    """The view of one tensor that has these edges, None where there is none."""
    if not edges or not all(edge.size for edge in edges):
        return None
    owner = source.owner(int(edges[0][0]))
    folder, tensor = source.owners[owner]
    offset = int(edges[0][0] - source.order[owner])
    view = [pair for edge in edges for pair in stepped(edge)]
    end = offset + sum((size - 1) * step for size, step in view)
    positive = all(step >= 0 for _, step in view)
    whole = math.prod(size for size, _ in view) == math.prod(shape)
    if not positive or not whole or end >= math.prod(source.shapes[folder, tensor]):
        return None
    return Piece(folder, tensor, shape, offset, tuple(view or [(1, 1)]), factor)


def guessed(source: Labelled, look: Look, second: NDArray[Any]) -> Piece | None:
    """The view that labels are by their edges, if every other element agrees."""
    fits = [numbered(a, b) for a, b in zip(look.edges, _edges(second), strict=True)]
    edges = [numbers for numbers, _ in filter(None, fits)]
    factors = {factor for _, factor in filter(None, fits)}
    if len(edges) < max(1, second.ndim) or len(factors) > 1:
        return None
    piece = view_of(source, second.shape, edges, factors.pop())
    if piece is None:
        return None
    labels = piece.take(source.labels((piece.folder, piece.tensor), True))
    same = np.array_equal(labels * np.float32(piece.factor), second)
    return piece if same else None


def piece_of(source: Labelled, numbers: NDArray[np.int64], factor: float) -> Piece | None:
    """The piece that has these elements, None where they are of several tensors."""
    first = source.owner(int(numbers.min()))
    if source.owner(int(numbers.max())) != first:
        return None
    folder, tensor = source.owners[first]
    own = numbers - source.order[first]
    if own.max() >= math.prod(source.shapes[folder, tensor]):
        raise ValueError
    piece = view_of(source, own.shape, list(_edges(numbers)), factor)
    if piece is not None and np.array_equal(piece.take(np.arange(own.max() + 1)), own):
        return piece
    return Piece(folder, tensor, own.shape, 0, (), factor, tuple(own.ravel().tolist()))


def pieces_of(
    source: Labelled, look: Look, second: NDArray[Any]
) -> tuple[int, tuple[Piece, ...]] | None:
    """The pieces along an axis that a weight is made of, None for a constant.

    Raises ValueError where it is neither.
    """
    quick = guessed(source, look, second) if second.ndim and second.size else None
    if quick is not None:
        return 0, (quick,)
    if look.whole is None:
        raise ValueError
    fit = numbered(look.whole, second)
    if fit is None:
        if is_label(second):
            raise Stale
        return None
    numbers, factor = fit
    whole = piece_of(source, numbers, factor)
    if whole is not None:
        return 0, (whole,)
    owners = np.searchsorted(source.order, numbers, side="right")
    for axis in range(numbers.ndim):
        along = np.moveaxis(owners, axis, 0).reshape(numbers.shape[axis], -1)
        if (along == along[:, :1]).all():
            cuts = np.flatnonzero(np.diff(along[:, 0])) + 1
            parts = [piece_of(source, part, factor) for part in np.split(numbers, cuts, axis)]
            return axis, tuple(part for part in parts if part is not None)
    raise ValueError


class Stale(Exception):
    """A weight of a graph is a copy that did not follow the module's."""


@dataclass(frozen=True)
class Look:
    """What is kept of a weight of the first trace: a sketch of a large one, all of a small one."""

    edges: list[NDArray[Any]]
    whole: NDArray[Any] | None

    @classmethod
    def at(cls, array: NDArray[Any]) -> Look:
        whole = array.copy() if array.size <= KEPT else None
        return cls([edge.copy() for edge in _edges(array)], whole)


def derive(source: Labelled, plan: Plan) -> tuple[onnx.ModelProto, Recipe]:
    """A plan's template and recipe; raises BuildError where a weight is not read back."""
    source.second = False
    call = traced(source, plan)
    external = is_large(call)
    model, arrays = traced_in_memory(call)
    looks = {t.name: Look.at(np.asarray(arrays(t))) for t in model.graph.initializer}
    source.second = True
    again = traced(source, plan)
    relabel_(call.module, again.module)
    try:
        weights = dict(_weights(source, plan, looks, model, arrays))
    except Stale:  # the exporter has made copies of weights: trace it again
        nodes = [node.SerializeToString() for node in model.graph.node]
        model, arrays = traced_in_memory(again)
        if nodes != [node.SerializeToString() for node in model.graph.node]:
            raise BuildError(
                f"The structure of {plan.graph} changes with the weights; remove what depends on"
                " them."
            ) from None
        weights = dict(_weights(source, plan, looks, model, arrays))
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            bare = TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
        else:  # a constant
            bare = numpy_helper.from_array(np.array(arrays(tensor)), tensor.name)
        tensor.CopyFrom(bare)
    return model, Recipe(weights, external)


def relabel_(module: nn.Module, other: nn.Module) -> None:
    """Give a module the weights of another of the same kind, in place.

    The weights of a graph traced from it are views of its own, and follow.
    """
    theirs = dict(other.named_parameters()) | dict(other.named_buffers())
    for name, weight in (*module.named_parameters(), *module.named_buffers()):
        weight.data.copy_(theirs[name].data)


def _weights(
    source: Labelled, plan: Plan, looks: Mapping[str, Look], model: onnx.ModelProto, arrays: Arrays
) -> Iterator[tuple[str, tuple[int, tuple[Piece, ...]]]]:
    """Recipes of a graph's weights by name, from the looks before and the arrays now."""
    for tensor in model.graph.initializer:
        try:
            pieces = pieces_of(source, looks[tensor.name], np.asarray(arrays(tensor)))
        except ValueError as error:
            raise BuildError(
                f"The weight {tensor.name} of {plan.graph} is computed from published weights; let"
                " the graph compute it, so that the weight is a copy."
            ) from error
        if pieces is not None:
            yield tensor.name, pieces


def twin(source: Source, plan: Plan) -> Plan:
    """The plan whose graph differs from this one's in the numbers of blocks alone, maybe itself."""
    if not 1 < plan.part < source.parts - 1:
        return plan
    return replace(plan, graph=plan.graph.replace(f"part{plan.part}", "part1"), part=1)


def moved(source: Labelled, recipe: Recipe, blocks: int) -> Recipe:
    """The same recipe for the graph of blocks that come so many later."""

    def later(piece: Piece) -> Piece:
        name = INNER.sub(lambda m: f"transformer_blocks.{int(m[1]) + blocks}.", piece.tensor)
        shapes = [source.shapes[piece.folder, tensor] for tensor in (piece.tensor, name)]
        if shapes[0] != shapes[1]:
            raise BuildError(
                f"{name} has the shape {shapes[1]}, and {shapes[0]} was expected, as in the block"
                " before; use the weights as they were published."
            )
        return replace(piece, tensor=name)

    weights = {
        name: (axis, tuple(map(later, pieces))) for name, (axis, pieces) in recipe.weights.items()
    }
    return Recipe(weights, recipe.external)


def every(source: Source) -> Iterator[Plan]:
    """The plans that have templates of their own: not those of the monolithic mode's weights."""
    yield from (plan for plan in plans(source) if not plan.suffix)
    yield from remembering(source)


def write(root: Path, path: Path, blocks: Sequence[int], report: Report = print) -> None:
    """Derive the templates of the checkpoint at `root` to a .zip at `path`; raises BuildError.

    Each is kept in a folder beside it until all are there, and not derived again.
    """
    work = path.with_name(path.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    ties_file = work / "ties.json"
    ties = json.loads(ties_file.read_text("utf-8")) if ties_file.exists() else {}
    homes: dict[str, None] = {}
    for count in blocks:
        source = Labelled(root, count, work)
        source.ties = {folder: {tuple(names) for names in known} for folder, known in ties.items()}
        for plan in every(source):
            home = home_of(plan, count)
            homes[home] = None
            if (work / f"{home}.json").exists():
                continue
            started = time.monotonic()
            one = home_of(twin(source, plan), count)
            if one == home:
                model, recipe = derive(source, plan)
                content = model.SerializeToString(deterministic=True)
                gc.collect()
            else:
                content = (work / f"{one}.onnx").read_bytes()
                known = Recipe.of(json.loads((work / f"{one}.json").read_text("utf-8")))
                recipe = moved(source, known, count * (plan.part - 1))
            (work / home).parent.mkdir(exist_ok=True)
            (work / f"{home}.onnx").write_bytes(content)
            ties = {folder: sorted(map(list, same)) for folder, same in source.ties.items()}
            ties_file.write_text(json.dumps(ties))
            text = json.dumps(recipe.to_dict(), separators=(",", ":"))
            (work / f"{home}.json").write_text(text)
            report(f"{home}: {len(recipe.weights)} weights, {time.monotonic() - started:.0f} s")
    partial = path.with_name(path.name + ".part")
    with zipfile.ZipFile(partial, "w") as archive:
        for name in (f"{home}{end}" for home in homes for end in (".onnx", ".json")):
            archive.writestr(zipfile.ZipInfo(name), (work / name).read_bytes(), zipfile.ZIP_LZMA)
        layout = json.dumps(weight_names(source), separators=(",", ":"))
        archive.writestr(zipfile.ZipInfo(LAYOUT), layout, zipfile.ZIP_LZMA)
    partial.replace(path)
    report(f"{path}: {len(homes)} templates, {path.stat().st_size / 1e6:.2f} MB")
    shutil.rmtree(work)


def check(
    templates: Templates, root: Path, blocks: int, work: Path, report: Report = print
) -> None:
    """Fill every template from the checkpoint and compare it with its trace, bit for bit.

    Raises BuildError at the first that is another graph or has other weights.
    """
    source, filled = Source(root, blocks=blocks), Filled(root, templates)
    for plan in every(source):
        (work / "filled").mkdir(parents=True, exist_ok=True)
        filled.fill(plan, blocks, work / "filled")
        call = traced(source, plan)
        trace(call, work / "traced" / plan.file, is_large(call))
        del call
        gc.collect()
        difference = differs(work / "filled" / plan.file, work / "traced" / plan.file)
        if difference:
            raise BuildError(
                f"The template of {plan.graph} gives another graph than tracing does:"
                f" {difference}; derive the templates again."
            )
        report(f"{plan.graph}: the same")


def differs(path: Path, other: Path) -> str:
    """What is not the same in two graphs and their weights, "" where all is.

    Names of values are not compared: where weights come in 16 bits the exporter counts otherwise.
    """
    models = [onnx.load(one, load_external_data=False) for one in (path, other)]
    tables = []
    for model, home in zip(models, (path.parent, other.parent), strict=True):
        arrays = {tensor.name: array_of(tensor, home) for tensor in model.graph.initializer}
        hashes = {
            name: (str(a.dtype), a.shape, hashlib.sha256(np.ascontiguousarray(a).data).hexdigest())
            for name, a in arrays.items()
        }
        tables.append(hashes)
    if sorted(tables[0].values()) != sorted(tables[1].values()):
        return "its weights are others"
    shapes = [list(map(str, (*m.graph.input, *m.graph.output))) for m in models]
    if shapes[0] != shapes[1]:
        return "it takes or gives something else"
    flows = [_flow(model, table) for model, table in zip(models, tables, strict=True)]
    return "" if flows[0] == flows[1] else "its nodes are others"


def _flow(model: onnx.ModelProto, weights: Mapping[str, Any]) -> list[Any]:
    """Nodes with what goes into them: a weight by its content, a value by who made it."""
    made: dict[str, Any] = {tensor.name: tensor.name for tensor in model.graph.input}
    made |= {"": "", **weights}
    flow, pending = [], list(model.graph.node)
    for number, node in enumerate(pending):
        attributes = [a.SerializeToString() for a in node.attribute]
        flow.append((node.op_type, node.domain, [made[name] for name in node.input], attributes))
        casts = node.op_type == "Cast" and node.input[0] in weights
        for place, name in enumerate(node.output):
            # the Casts of weights stand in front in any order
            made[name] = ("wide", weights[node.input[0]]) if casts else (number, place)
    casts = [entry for entry in flow if isinstance(entry[2][0], tuple) and entry[0] == "Cast"]
    rest = [entry for entry in flow if entry not in casts]
    return [sorted(map(str, casts)), rest]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="in the published layout, of any weights")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the .zip")
    parser.add_argument(
        "--blocks", type=int, nargs="+", default=[6, 3, 2], help="of the transformer in one graph"
    )
    parser.add_argument(
        "--check", type=Path, metavar="WORK", help="compare each with its trace, in this folder"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        if not options.output.exists():
            write(options.checkpoint, options.output, options.blocks)
        if options.check:
            templates = Templates(options.output)
            for blocks in options.blocks:
                check(templates, options.checkpoint, blocks, options.check)
    except (NeodragonError, OSError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
