"""Derive templates: `python -m training.templates CHECKPOINT -o assets/full-size/templates.zip`.

Each graph of the checkpoint is traced twice with labels for weights: odd numbers, the second time
negative, that together say which element of which tensor they are. What comes out of the
exporter is read back: a weight of the graph whose elements are labels is a view of published
tensors, one that is the same both times a constant, anything else is refused. Values of the
checkpoint are not looked at, only its configs, names and shapes. With `--check PACK` every template
is filled and compared with the graph that `training.export` has traced for that pack.
"""

from __future__ import annotations

import argparse
import copy
import gc
import hashlib
import json
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from builder.errors import BuildError
from builder.layout import PREFIX
from builder.plans import Plan, plans, remembering
from builder.published import CLIPS, TRANSFORMER
from builder.storage import Arrays, array_of
from builder.templates import FORMAT, LAYOUT, Filled, Piece, Recipe, Templates, home_of
from builder.weights import Weights
from engine.errors import NeodragonError
from training.export.graphs import traced
from training.export.pack import is_large
from training.export.source import Source
from training.export.trace import traced_graph
from training.export.trace import write as trace

# What is left of a weight's number when it is divided by these primes is its label: the two
# together name it, and no two tensors have the same labels.
PRIMES = (4194301, 4194287)
# A label is an odd number from BINADE on below twice that, so that a power of two by which it was
# multiplied shows in the exponent alone.
BINADE, EXPONENT = 2**23, 24
WIDTHS = range(8, 513, 8)  # that heads may have, whose roots attention is divided by
CHUNK = 2**24  # elements
STAY = {TRANSFORMER, "text_encoder_3", "context_adapter", *CLIPS}  # needed by more than one graph
Report = Callable[[str], None]


class Labelled(Source):
    """A checkpoint whose modules have labels for weights, of the first trace or the second."""

    def __init__(self, root: Path, blocks: int, work: Path) -> None:
        super().__init__(root, blocks=blocks)
        self.second = False
        self.work = work
        self.starts: dict[tuple[str, str], int] = {}
        self.ties: dict[str, set[tuple[str, ...]]] = {}
        count, taken = 0, set[tuple[int, int]]()
        for folder in sorted({path.parent.name for path in root.glob("*/*.safetensors")}):
            for name, place in Weights(root / folder).places.items():
                while taken & (labels := {(prime, count % prime) for prime in PRIMES}):
                    count += 1
                taken |= labels
                self.starts[folder, name] = count
                count += int(np.prod(place.shape))
        self.order = np.array(list(self.starts.values()))
        self.owners = list(self.starts)

    def load(self, kind: Any, folder: str) -> Any:
        """The module of a folder in float32, every tensor that its file holds made of labels."""
        module = super().load(kind, folder)
        known = Weights(self.root / folder).places
        state = module.state_dict(keep_vars=True)
        names: dict[int, list[str]] = {}
        for name, tensor in state.items():
            names.setdefault(tensor.data_ptr(), []).append(name)
        for same in names.values():
            stored = [n for name in same for n in (name, PREFIX + name) if n in known]
            if not stored:
                continue  # a table that the module makes itself
            self.ties.setdefault(folder, set()).update([tuple(same)] if len(same) > 1 else [])
            label = nn.Parameter(self.labels(folder, stored[0], state[same[0]]), False)
            for name in same:  # a new tensor: that of a table may be a view of a larger one
                home, _, leaf = name.rpartition(".")
                owner = module.get_submodule(home)
                if leaf in owner._parameters:
                    owner._parameters[leaf] = label
                else:
                    owner._buffers[leaf] = label.data
        for layer in module.modules():  # what runs from 16 bits would no longer show
            vars(layer).pop("forward", None)
        return module

    def labels(self, folder: str, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor's labels, float32; they lie in a file, so that no memory need hold them."""
        path, start = self.work / f"{folder}.{int(self.second)}.labels", self.starts[folder, name]
        first = min(at for (home, _), at in self.starts.items() if home == folder)
        if not path.exists():
            last = max(
                at + int(np.prod(Weights(self.root / folder).places[tensor].shape))
                for (home, tensor), at in self.starts.items()
                if home == folder
            )
            with path.open("wb") as file:
                for at in range(first, last, CHUNK):
                    numbers = np.arange(at, min(at + CHUNK, last), dtype=np.int64)
                    labels = (2 * (numbers % PRIMES[self.second]) + BINADE + 1).astype(np.float32)
                    (-labels if self.second else labels).tofile(file)
        shape = (max(tensor.numel(), 1),)
        mapped = np.memmap(path, np.float32, "c", 4 * (start - first), shape)
        return torch.from_numpy(mapped[: tensor.numel()]).reshape(tensor.shape)

    def sketch(self, compute: Callable[[], Any]) -> Any:
        """Zeros of the shapes that `compute` would give: labels are not worth computing with."""
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
            shapes = tree_map(lambda t: (tuple(t.shape), t.dtype), compute())
        return tree_map(
            lambda told: torch.zeros(told[0], dtype=told[1]),
            shapes,
            is_leaf=lambda told: isinstance(told, tuple) and isinstance(told[-1], torch.dtype),
        )

    @property
    def copies(self) -> dict[str, bool]:  # type: ignore[override]
        """The first frame's own copies of CLIP have templates of their own."""
        return {f"ssd_1b_{folder}": False for folder in CLIPS if self.has(f"ssd_1b_{folder}")}

    def owner(self, number: int) -> int:
        """Which tensor an element is of."""
        return int(np.searchsorted(self.order, number, side="right")) - 1


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


def numbered(first: NDArray[Any], second: NDArray[Any]) -> tuple[NDArray[np.int64], float] | None:
    """The elements' numbers, and the factor that labels were multiplied by.

    None where both traces have the same, which makes a constant of them; raises ValueError where
    they are neither that nor labels. A factor is a power of two, which shows in the exponent, or
    what attention is scaled by.
    """
    if np.array_equal(first, second):
        return None
    shown = 2.0 ** (int(np.frexp(first.flat[0])[1]) - EXPONENT)
    for factor in (shown, *(width**-0.5 for width in WIDTHS)):
        rests = [_rest(a, factor, prime) for a, prime in zip((first, -second), PRIMES, strict=True)]
        if rests[0] is not None and rests[1] is not None:
            one, other = PRIMES
            whole = (rests[1] - rests[0]) * pow(one, -1, other) % other
            return rests[0] + one * whole, factor
    raise ValueError


def _rest(labels: NDArray[Any], factor: float, prime: int) -> NDArray[np.int64] | None:
    """What is left of the elements' numbers, None where these are no labels times `factor`."""
    rest = np.rint((labels.astype(np.float64) / factor - BINADE - 1) / 2)
    if not ((rest >= 0) & (rest < prime)).all():
        return None
    again = (2 * rest + BINADE + 1).astype(np.float32) * np.float32(factor)
    return rest.astype(np.int64) if np.array_equal(again, labels) else None


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


def piece_of(source: Labelled, numbers: NDArray[np.int64], factor: float) -> Piece | None:
    """The piece that has these elements, None where they are of several tensors."""
    first = source.owner(int(numbers.min()))
    if source.owner(int(numbers.max())) != first:
        return None
    folder, tensor = source.owners[first]
    own = numbers - source.order[first]
    view: list[tuple[int, int]] = []
    for axis in range(own.ndim):
        index: list[Any] = [0] * own.ndim
        index[axis] = slice(None)
        view += stepped(own[tuple(index)]) if own.size else []
    offset = int(own.flat[0]) if own.size else 0
    piece = Piece(folder, tensor, own.shape, offset, tuple(view or [(1, 1)]), factor)
    positive = all(step >= 0 for _, step in piece.view)
    size = int(np.prod([size for size, _ in piece.view]))
    if positive and size == own.size:
        end = offset + sum((size - 1) * step for size, step in piece.view)
        if end <= own.max() and np.array_equal(piece.take(np.arange(own.max() + 1)), own):
            return piece
    return Piece(folder, tensor, own.shape, 0, (), factor, tuple(own.ravel().tolist()))


def pieces_of(
    source: Labelled, numbers: NDArray[np.int64], factor: float
) -> tuple[int, tuple[Piece, ...]]:
    """The same as pieces along an axis; raises ValueError where there is no such axis."""
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


def derive(source: Labelled, plan: Plan, work: Path) -> tuple[onnx.ModelProto, Recipe]:
    """A plan's template and recipe; raises BuildError where a weight is not read back."""
    source.second = False
    call = traced(source, plan)
    external = is_large(call)
    with traced_graph(call, external, work) as (model, ones):
        template = copy.deepcopy(model)
        source.second = True
        call = traced(source, plan)
        with traced_graph(call, external, work) as (again, others):
            weights = dict(_weights(source, plan, (model, ones), (again, others)))
            for tensor, traced_tensor in zip(
                template.graph.initializer, model.graph.initializer, strict=True
            ):
                if tensor.name in weights:
                    bare = TensorProto(name=tensor.name, dims=tensor.dims)
                    bare.data_type = tensor.data_type
                else:  # a constant, which must not stay in the exporter's file
                    bare = numpy_helper.from_array(np.array(ones(traced_tensor)), tensor.name)
                tensor.CopyFrom(bare)
    return template, Recipe(weights, external)


def _weights(
    source: Labelled,
    plan: Plan,
    first: tuple[onnx.ModelProto, Arrays],
    second: tuple[onnx.ModelProto, Arrays],
) -> Iterator[tuple[str, tuple[int, tuple[Piece, ...]]]]:
    """Recipes of a graph's weights by name."""
    (model, ones), (again, others) = first, second
    nodes = [[n.SerializeToString() for n in one.graph.node] for one in (model, again)]
    pairs = list(zip(model.graph.initializer, again.graph.initializer, strict=True))
    if nodes[0] != nodes[1] or any(a.name != b.name for a, b in pairs):
        raise BuildError(f"The graph {plan.graph} should not depend on weights, but it does.")
    for a, b in pairs:
        try:
            found = numbered(np.asarray(ones(a)), np.asarray(others(b)))
            if found is not None:
                yield a.name, pieces_of(source, *found)
        except ValueError as error:
            raise BuildError(
                f"The weight {a.name} of {plan.graph} should be made of published ones, but it is"
                " computed from them; let the graph compute it."
            ) from error


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
    ties = json.loads(ties_file.read_text()) if ties_file.exists() else {}
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
            model, recipe = derive(source, plan, work)
            gc.collect()
            (work / home).parent.mkdir(exist_ok=True)
            (work / f"{home}.onnx").write_bytes(model.SerializeToString(deterministic=True))
            ties = {folder: sorted(map(list, known)) for folder, known in source.ties.items()}
            ties_file.write_text(json.dumps(ties))
            told = json.dumps(recipe.told(), separators=(",", ":"))
            (work / f"{home}.json").write_text(told)
            for folder in set(plan.sources) - STAY:
                for file in work.glob(f"{folder}.*.labels"):
                    file.unlink()
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
                f"The template of {plan.graph} should give the graph that is traced, but"
                f" {difference}; it is refused."
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
        told = {
            name: (str(a.dtype), a.shape, hashlib.sha256(np.ascontiguousarray(a).data).hexdigest())
            for name, a in arrays.items()
        }
        tables.append(told)
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
