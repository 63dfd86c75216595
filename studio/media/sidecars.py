"""What a clip or a first frame was made by: the metadata inside it and in the JSON file beside it.

The sidecar says all that the inside says, when it was made, and the user's marks, which are nowhere
else. It is `name.json`, or where that is somebody else's, `name.mp4.json`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from studio.media.video import read_metadata
from studio.system.paths import OutputError, partial, publish

Kind = Literal["clip", "frame"]
KINDS: Mapping[str, Kind] = {".mp4": "clip", ".png": "frame"}  # by the file's ending
SOFTWARE = "Neodragon Studio "
LIMIT = 2**24  # bytes of a sidecar


def inside(path: Path) -> dict[str, Any]:
    """What a clip or a first frame carries inside; raises OutputError where it is not ours."""
    kind = KINDS.get(path.suffix.lower())
    problem = "it is something else"
    try:
        if kind == "clip":
            metadata: object = read_metadata(path)
        elif kind == "frame":
            with Image.open(path, formats=["PNG"]) as image:
                metadata = json.loads(image.info["Comment"])
        else:
            metadata = None
        if isinstance(metadata, dict) and _is_ours(metadata):
            return {"kind": kind} | metadata
    except OSError as error:
        problem = error.strerror or "it cannot be read"
    except (ValueError, KeyError, SyntaxError, RecursionError, Image.DecompressionBombError):
        problem = "it has none"
    raise OutputError(
        f"{path.name} should be a clip or a first frame with its settings inside, but {problem};"
        " choose one made by Neodragon Studio."
    )


def candidates(path: Path) -> tuple[Path, Path]:
    """What the sidecar of a clip or a first frame may be called, the usual name first."""
    return path.with_suffix(".json"), path.with_name(f"{path.name}.json")


def beside(path: Path, among: Collection[Path] | None = None) -> tuple[Path, dict[str, Any]] | None:
    """The sidecar of a clip or a first frame and what it says; among: the files that are there.

    Raises OSError where there is one that cannot be read now.
    """
    for sidecar in candidates(path):
        if sidecar.is_file() if among is None else sidecar in among:
            content = _content(sidecar)
            if content is not None and content.get("kind") == KINDS[path.suffix.lower()]:
                return sidecar, content
    return None


def read(path: Path) -> dict[str, Any]:
    """What a sidecar says, or the one beside a clip or first frame, or what is inside that.

    Raises OutputError where it is not ours.
    """
    problem = "it is not or is damaged"
    try:
        if path.suffix.lower() in KINDS:
            found = beside(path)
            return inside(path) if found is None else found[1]
        content = _content(path) if path.suffix.lower() == ".json" else inside(path)
        if content is not None:
            return content
    except OSError as error:
        problem = f"it cannot be read ({error.strerror})"
    raise OutputError(
        f"{path.name} should be the sidecar of a clip or a first frame, but {problem};"
        " choose one made by Neodragon Studio."
    )


def write(path: Path, content: Mapping[str, Any]) -> Path:
    """Write the sidecar of a clip or a first frame at once and return it.

    It takes the place of the one that is there; what is no sidecar of it, or a damaged one, is
    kept. Raises OSError.
    """
    found = beside(path)
    free = [name for name in candidates(path) if not name.exists()]
    if found is not None:
        target = found[0]
    elif free:
        target = free[0]
    else:
        target = candidates(path)[1]
        publish(target, target.with_name(f"{target.name}.damaged"), overwrite=False)
    text = json.dumps(content, ensure_ascii=False, indent=1)
    part = partial(target)
    try:
        with part.open("w", encoding="utf-8", errors="replace") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())  # what the user said of it is nowhere else
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _content(sidecar: Path) -> dict[str, Any] | None:
    """What a sidecar says, None where it is not one of ours; raises OSError."""
    try:
        if sidecar.stat().st_size > LIMIT:
            return None
        content = json.loads(sidecar.read_bytes())
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and _is_ours(content) else None


def _is_ours(metadata: Mapping[str, Any]) -> bool:
    return str(metadata.get("software")).startswith(SOFTWARE)
