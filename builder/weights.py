"""Published weights as they are on the disk: safetensors in one or several files, mapped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from builder.errors import BuildError

DTYPES: dict[str, Any] = {
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F32": np.float32,
    "F64": np.float64,
    "I64": np.int64,
    "I32": np.int32,
}
# Tables of numbers that older releases of transformers stored beside the weights.
IGNORED = ("position_ids",)


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: its file, type, shape, and first byte."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int


class Weights:
    """The tensors of one published folder, none in memory until it is asked for."""

    def __init__(self, folder: Path) -> None:
        """Read the headers of the folder's files; raises BuildError."""
        self.folder = folder

    @cached_property
    def files(self) -> list[Path]:
        """Its safetensors files: those of the index where there is one, else the one there is."""
        # A name with more dots is of another form of the same: half precision, moving averages.
        files, indexes = (
            sorted(
                (file for file in self.folder.glob(f"*{end}") if not file.name.startswith(".")),
                key=lambda file: (file.name.count("."), file.name),
            )
            for end in (".safetensors", ".safetensors.index.json")
        )
        if indexes:
            listed = _json(indexes[0]).get("weight_map")
            names = (
                sorted({str(name) for name in listed.values()}) if isinstance(listed, dict) else []
            )
            unsafe = [name for name in names if Path(name).name != name]
            missing = [name for name in names if not (self.folder / name).is_file()]
            if unsafe or missing or not names:
                what = (unsafe or missing or ["no file"])[0]
                raise BuildError(
                    "{index} lists {name}, which is not there; copy the weights again.",
                    index=indexes[0],
                    name=what,
                )
            return [self.folder / name for name in names]
        plain = [file for file in files if file.name.count(".") == files[0].name.count(".")]
        if not plain:
            raise BuildError(
                "{folder} has no .safetensors file; copy the weights again.",
                folder=self.folder,
            )
        if len(plain) > 1:
            raise BuildError(
                "{folder} has several .safetensors files ({one}, {other}) and no index of them; "
                "copy the weights again.",
                folder=self.folder,
                one=plain[0].name,
                other=plain[1].name,
            )
        return plain

    @cached_property
    def places(self) -> dict[str, Place]:
        """Every tensor's place by its name; raises BuildError where a file is damaged."""
        places: dict[str, Place] = {}
        for file in self.files:
            places |= _header(file)
        return {name: p for name, p in places.items() if not name.endswith(IGNORED)}

    @property
    def size(self) -> int:
        """Bytes of the folder's files of weights."""
        return sum(file.stat().st_size for file in self.files)

    def flat(self, name: str) -> NDArray[Any]:
        """A tensor's elements in their order, mapped, in the type they are stored in."""
        place = self.places[name]
        count = int(np.prod(place.shape, dtype=np.int64))
        dtype = np.dtype(DTYPES[place.dtype])
        if not count:
            return np.zeros(0, dtype)
        mapped = np.memmap(place.file, np.uint8, "r", place.start, (count * dtype.itemsize,))
        return mapped.view(dtype)

    def array(self, name: str) -> NDArray[Any]:
        """The same in its shape."""
        return self.flat(name).reshape(self.places[name].shape)

    def check(self, shapes: Mapping[str, Iterable[int]], ties: Iterable[Iterable[str]]) -> None:
        """Raise BuildError unless the tensors are these, by name and shape, and numbers.

        ties: names of one tensor each, of which one is enough.
        """
        tied = [set(names) for names in ties]
        for name, shape in shapes.items():
            place = self.places.get(name)
            if place is None:
                same = next((names for names in tied if name in names), set[str]())
                if not same & self.places.keys():
                    raise BuildError(
                        "{folder} lacks the tensor {name} of shape {wanted};"
                        " copy the weights again.",
                        folder=self.folder,
                        name=name,
                        wanted=tuple(shape),
                    )
            elif place.shape != tuple(shape):
                raise BuildError(
                    "{folder} holds {name} of shape {shape}, but {wanted} was expected; use the "
                    "published weights of this model.",
                    folder=self.folder,
                    name=name,
                    shape=place.shape,
                    wanted=tuple(shape),
                )
        unknown = sorted(self.places.keys() - shapes.keys())
        if unknown:
            raise BuildError(
                "{folder} has the tensor {name}, which the model does not know; use the published"
                " weights of this model.",
                folder=self.folder,
                name=unknown[0],
            )

    def resolve(self, name: str, ties: Iterable[Iterable[str]]) -> str:
        """The name under which a tensor, or one that is tied to it, is stored."""
        if name in self.places:
            return name
        for names in ties:
            if name in names:
                return next(other for other in names if other in self.places)
        raise KeyError(name)


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError, TypeError) as error:
        raise BuildError("{path} is not valid JSON; copy the weights again.", path=path) from error


def _header(file: Path) -> dict[str, Place]:
    """The places of one file's tensors; the library checks that they fit into it."""
    try:
        with safe_open(file, "np") as opened:
            opened.keys()
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            listed = json.loads(stream.read(length))
    except (OSError, ValueError, SafetensorError) as error:
        line = str(error).splitlines()[0]
        raise BuildError(
            "{file} cannot be read ({line}); copy the weights again.",
            file=file,
            line=line,
        ) from error
    listed.pop("__metadata__", None)
    places = {}
    for name, spec in listed.items():
        if spec["dtype"] not in DTYPES:
            raise BuildError(
                "{name} in {file} is {dtype}, and only weights in 16 or 32 bits can be used; use "
                "the weights as they were published.",
                file=file,
                name=name,
                dtype=spec["dtype"],
            )
        start = 8 + length + spec["data_offsets"][0]
        places[name] = Place(file, spec["dtype"], tuple(spec["shape"]), start)
    return places
