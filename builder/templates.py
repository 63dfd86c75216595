"""Graphs without weights, and recipes that say where in the published weights theirs are.

A set of templates is one .zip: `layout.json` names every published folder's tensors by shape and
those that are one (`ties`); each graph has its ONNX file without weights and a recipe. A recipe
says of each weight of the graph from which tensor it is, as a strided view of that tensor's
elements: an offset, sizes and steps, which covers slices, transpositions and regular permutations,
times a factor; where no regular view does, the elements' numbers themselves. Recipes are
derived by `training.templates`, never typed.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from builder.errors import BuildError
from builder.plans import Plan
from builder.storage import graph_entry, store
from builder.weights import Weights

FORMAT = 1
LAYOUT = "layout.json"
FIRST_FRAMES = "ssd_1b_"  # begins the names of the first frame's own folders


@dataclass(frozen=True)
class Piece:
    """A weight of a graph, or a part of it along `axis`: elements of a published tensor.

    view: sizes and steps of the elements from `offset` on, outermost first; numbers: of the
    elements, where no view gives them; factor: that they are multiplied by, in float32.
    """

    folder: str
    tensor: str
    shape: tuple[int, ...]
    offset: int = 0
    view: tuple[tuple[int, int], ...] = ()
    factor: float = 1.0
    numbers: tuple[int, ...] = ()

    def take(self, flat: NDArray[Any]) -> NDArray[Any]:
        """Its values, from the tensor's elements in their order; a view where that is possible."""
        if self.numbers:
            chosen: NDArray[Any] = flat[np.array(self.numbers)]
            return chosen.reshape(self.shape)
        sizes = [size for size, _ in self.view]
        steps = [step * flat.itemsize for _, step in self.view]
        view: NDArray[Any] = as_strided(flat[self.offset :], sizes, steps, writeable=False)
        return view.reshape(self.shape)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        content: dict[str, Any] = {"from": [self.folder, self.tensor], "shape": list(self.shape)}
        content |= {"numbers": list(self.numbers)} if self.numbers else {}
        content |= {"offset": self.offset} if self.offset else {}
        content |= {} if self.numbers else {"view": [list(pair) for pair in self.view]}
        return content | ({"factor": self.factor} if self.factor != 1 else {})

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Piece:
        """From JSON."""
        folder, tensor = content["from"]
        view = tuple((int(size), int(step)) for size, step in content.get("view", ()))
        numbers = tuple(map(int, content.get("numbers", ())))
        shape = tuple(map(int, content["shape"]))
        return cls(
            folder,
            tensor,
            shape,
            content.get("offset", 0),
            view,
            content.get("factor", 1.0),
            numbers,
        )


@dataclass(frozen=True)
class Recipe:
    """Of every weight of a graph its pieces and the axis along which they are joined.

    external: the weights go to a file of their own.
    """

    weights: Mapping[str, tuple[int, tuple[Piece, ...]]]
    external: bool

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        weights = {
            name: {"axis": axis, "pieces": [piece.to_dict() for piece in pieces]}
            for name, (axis, pieces) in self.weights.items()
        }
        return {"external": self.external, "weights": weights}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Recipe:
        """From JSON."""
        weights = {
            name: (one["axis"], tuple(map(Piece.of, one["pieces"])))
            for name, one in content["weights"].items()
        }
        return cls(weights, content["external"])


def home_of(plan: Plan, blocks: int) -> str:
    """The name of a plan's template, with `blocks` of the transformer in one graph."""
    in_parts = plan.graph.startswith("transformer")
    return f"blocks{blocks}/{plan.graph}" if in_parts else plan.graph


class Templates:
    """A set of templates in the .zip at `path`."""

    def __init__(self, path: Path) -> None:
        """Raises BuildError where it is none, or one by a later studio."""
        self.path = path
        try:
            self.archive = zipfile.ZipFile(path)
            self.layout: dict[str, Any] = json.loads(self.archive.read(LAYOUT))
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise BuildError(
                "{path} cannot be read; install Neodragon Studio again.",
                path=path,
            ) from error
        if self.layout["format"] != FORMAT:
            raise BuildError(
                "{path} has format {got} instead of {format}; update Neodragon Studio.",
                path=path,
                format=FORMAT,
                got=self.layout["format"],
            )

    def has(self, plan: Plan, blocks: int) -> bool:
        """Whether there is a template of this graph."""
        return f"{home_of(plan, blocks)}.onnx" in self.names

    @cached_property
    def names(self) -> frozenset[str]:
        """Files in the set."""
        return frozenset(self.archive.namelist())

    def read(self, plan: Plan, blocks: int) -> tuple[onnx.ModelProto, Recipe]:
        """A plan's graph without weights, and its recipe; raises BuildError where there is none."""
        home = home_of(plan, blocks)
        if not self.has(plan, blocks):
            raise BuildError(
                "{path} has no template of {home}; update Neodragon Studio.",
                path=self.path.name,
                home=home,
            )
        model = onnx.load_from_string(self.archive.read(f"{home}.onnx"))
        return model, Recipe.of(json.loads(self.archive.read(f"{home}.json")))

    def check(self, folder: str, weights: Weights, suffix: str = "") -> None:
        """Raise BuildError unless a folder holds the published tensors by name and shape.

        suffix: ends the folder's name where its weights are the monolithic mode's own.
        """
        expected = self.layout["folders"][self.known(folder, suffix)]
        weights.check(expected["tensors"], expected["ties"])

    def known(self, folder: str, suffix: str = "") -> str:
        """The name a folder has in the templates; raises BuildError where they do not know it."""
        for name in (folder, folder.removesuffix(suffix), folder.removeprefix(FIRST_FRAMES)):
            if name in self.layout["folders"]:
                return name
        raise BuildError(
            "The templates do not know the folder {folder}; update Neodragon Studio.",
            folder=folder,
        )

    def digest(self, home: str) -> str:
        """A hash of a template and its recipe."""
        parts = (self.archive.read(f"{home}{end}") for end in (".onnx", ".json"))
        return hashlib.sha256(b"".join(parts)).hexdigest()

    def ties(self, folder: str) -> list[list[str]]:
        """Names in a folder that are one tensor."""
        return list(self.layout["folders"][folder]["ties"])


class Filled:
    """The weights of a checkpoint at `root`, as recipes ask for them."""

    def __init__(self, root: Path, templates: Templates) -> None:
        self.root = root
        self.templates = templates
        self.opened: dict[str, Weights] = {}

    def folder(self, name: str) -> Weights:
        """A folder's tensors, their files' headers read once."""
        return self.opened.setdefault(name, Weights(self.root / name))

    def values(self, piece: Piece, suffix: str) -> NDArray[Any]:
        """A piece in float32."""
        name = piece.folder
        own = f"{name}{suffix}"
        weights = self.folder(own if suffix and (self.root / own).is_dir() else name)
        tensor = weights.resolve(piece.tensor, self.templates.ties(name))
        taken = piece.take(weights.flat(tensor)).astype(np.float32)
        return taken if piece.factor == 1 else taken * np.float32(piece.factor)

    def fill(self, plan: Plan, blocks: int, pack: Path) -> dict[str, Any]:
        """Write a plan's graph with its weights to `pack`; the manifest's entry."""
        model, recipe = self.templates.read(plan, blocks)

        def arrays(tensor: TensorProto) -> NDArray[Any]:
            if tensor.name not in recipe.weights:
                return numpy_helper.to_array(tensor)
            axis, pieces = recipe.weights[tensor.name]
            parts = [self.values(piece, plan.suffix) for piece in pieces]
            return parts[0] if len(parts) == 1 else np.concatenate(parts, axis)

        files = store(model, arrays, pack / plan.file, recipe.external)
        return graph_entry(model, files, pack)
