"""The settings of a clip or a first frame: metadata inside it, and the JSON file beside it.

The sidecar repeats the metadata and adds the date and the user's marks, which are nowhere else. It
is `name.json`, or `name.mp4.json` where `name.json` is another program's.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from engine.errors import Message, reason_of
from studio.media.video import read_metadata
from studio.system.files import (
    OutputError,
    fitted,
    move,
    open_regular,
    partial,
    publish,
    replace_whole,
)

Kind = Literal["clip", "frame"]
KINDS: Mapping[str, Kind] = {".mp4": "clip", ".png": "frame"}  # by the file's ending
SOFTWARE = "Neodragon Studio "
LIMIT = 2**24  # bytes of a sidecar
SHORT = 60  # characters of a name that is short enough in any script


def inside(path: Path) -> dict[str, Any]:
    """What a clip or a first frame carries inside; raises OutputError where it is not ours."""
    kind = KINDS.get(path.suffix.lower())
    problem: object = Message("another kind of file")
    try:
        if kind == "clip":
            metadata: object = read_metadata(path)
        elif kind == "frame":
            with open_regular(path) as file, Image.open(file, formats=["PNG"]) as image:
                metadata = json.loads(image.info["Comment"])
        else:
            metadata = None
        if isinstance(metadata, dict) and _is_ours(metadata):
            return {"kind": kind} | metadata
    except OSError as error:
        problem = reason_of(error)
    except (ValueError, KeyError, SyntaxError, RecursionError, Image.DecompressionBombError):
        problem = Message("it has none")
    raise OutputError(
        "{name} has no settings of Neodragon Studio inside ({problem}); choose a clip or first "
        "frame that it made.",
        name=path.name or str(path),
        problem=problem,
    )


def candidates(path: Path) -> tuple[Path, Path]:
    """What the sidecar of a clip or a first frame may be called, the usual name first."""
    short, long = names(path.name)
    return path.with_name(short), path.with_name(long)


def names(name: str) -> tuple[str, str]:
    """The same of names alone."""
    stem = name[: name.rfind(".")] if name.rfind(".") > 0 else name
    if len(name) < SHORT:
        return f"{stem}.json", f"{name}.json"
    short, long = (fitted(Path(one), ".json", told_apart=True).name for one in (stem, name))
    return short, long


def beside(path: Path, among: Collection[str] | None = None) -> tuple[Path, dict[str, Any]] | None:
    """The sidecar of a clip or a first frame and what it says; among: what is in its folder.

    Raises OSError where there is one that cannot be read now.
    """
    for sidecar in candidates(path):
        if sidecar.is_file() if among is None else sidecar.name in among:
            content = _content(sidecar)
            if content is not None and content.get("kind") == KINDS[path.suffix.lower()]:
                return sidecar, content
    return None


def read(path: Path) -> dict[str, Any]:
    """What a sidecar says, or the one beside a clip or first frame, or what is inside that.

    Raises OutputError where it is not ours.
    """
    problem: object = Message("another file, or damaged")
    try:
        if path.suffix.lower() in KINDS:
            sidecar = beside(path)
            return inside(path) if sidecar is None else sidecar[1]
        content = _content(path) if path.suffix.lower() == ".json" else inside(path)
        if content is not None:
            return content
    except OSError as error:
        problem = reason_of(error)
    raise OutputError(
        "{name} is not a sidecar of Neodragon Studio ({problem}); choose the JSON file beside a "
        "clip.",
        name=path.name,
        problem=problem,
    )


def is_free(path: Path) -> bool:
    """Whether a clip or first frame of that name would find no sidecar that is another's."""
    try:
        return beside(path) is None
    except OSError:
        return False


def write(path: Path, content: Mapping[str, Any], *, new: bool = False) -> Path:
    """Write the sidecar of a clip or a first frame at once and return it.

    It takes the place of the one that is there, unless it is `new`; what is no sidecar of it, or a
    damaged one, is kept. Raises OSError.
    """
    text = json.dumps(content, ensure_ascii=False, indent=1).encode("utf-8", "replace")
    sidecar = None if new else beside(path)
    if sidecar is not None:
        replace_whole(sidecar[0], text)  # what the user said of it is nowhere else
        return sidecar[0]
    short, long = candidates(path)
    part = partial(long)
    try:
        replace_whole(part, text)
        for target in (short, long):
            with suppress(FileExistsError):
                move(part, target)
                return target
        publish(long, fitted(long, ".damaged"), overwrite=False)
        move(part, long)
    finally:
        part.unlink(missing_ok=True)
    return long


def _content(sidecar: Path) -> dict[str, Any] | None:
    """What a sidecar says, None where it is not one of ours; raises OSError."""
    try:
        with open_regular(sidecar) as file:
            content = json.loads(file.read(LIMIT))  # a larger one breaks off, and is none
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and _is_ours(content) else None


def _is_ours(metadata: Mapping[str, Any]) -> bool:
    return str(metadata.get("software")).startswith(SOFTWARE)
