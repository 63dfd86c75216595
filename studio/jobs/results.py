"""How a job's file gets its name, whichever machine made it: file, then sidecar, then row."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from PIL import Image

from engine.errors import Message
from studio.jobs.render import sidecar
from studio.jobs.spec import Job
from studio.jobs.table import JobTable
from studio.media import sidecars
from studio.media.sidecars import Kind
from studio.media.video import read_metadata
from studio.system.files import OutputError, open_regular, prepare, unwritten
from studio.system.paths import clip_name

SUFFIXES = {"clip": ".mp4", "frame": ".png"}


def home(job: Job, clips: Path) -> Path:
    """The folder that a job's file goes to; clips: where the job names none."""
    return clips if job.folder is None else Path(job.folder)


def target(job: Job, clips: Path) -> Path:
    """What a job's file is called; where something is called so, it gets a number."""
    work = job.work
    name = clip_name(work.prompt, work.look_seed, work.motion_seed, datetime.now())
    if work.kind == "frame":
        name = name.replace(f"_motion{work.motion_seed}", "", 1)
    return (home(job, clips).absolute() / name).with_suffix(SUFFIXES[work.kind])


def has_room(folder: Path, floor: int) -> bool:
    """Whether its disk has so many bytes free; raises OutputError without a folder."""
    prepare(folder / "clip.mp4", ".mp4")
    try:
        return shutil.disk_usage(folder).free >= floor
    except OSError as error:
        raise unwritten(folder, error) from error


def full(folder: Path, floor: int) -> Message:
    """What to tell the user of a disk without room."""
    return Message(
        "The disk of {folder} has less than {size:.1f} GB free; free some space"
        " and resume the queue.",
        {"folder": str(folder), "size": floor / 1e9},
    )


def accepts(table: JobTable, job: Job, key: str) -> Callable[[Path], bool]:
    """Asked for each name: whether nothing of ours is called so.

    Then the row says that its file will be; key: what decides the file's frames.
    """

    def accept(name: Path) -> bool:
        free = sidecars.is_free(name)
        if free:
            table.announce(job.id, name, key)
        return free

    return accept


def describe(
    table: JobTable, job: Job, path: Path, metadata: Mapping[str, Any], seconds: float
) -> None:
    """Write the JSON file beside a result; where that fails the job says so and the queue pauses.

    What it was made by is in the result, too.
    """
    try:
        write_sidecar(path, metadata, seconds)
    except OutputError as error:
        table.note(job.id, error.message)
        table.pause(error.message)


def is_whole(job: Job) -> bool:
    """Whether the file that was about to come is there; it gets its sidecar then."""
    path = job.result
    if path is None or job.started is None:
        return False
    try:
        metadata = inside(path)
        if metadata.get("key") != job.key:
            return False
        if sidecars.is_free(path):
            write_sidecar(path, metadata, path.stat().st_mtime - job.started)
    except (OSError, OutputError):
        return False
    return True


def inside(path: Path, kind: Kind | None = None) -> dict[str, Any]:
    """What is inside a clip or a first frame, None for what its ending says; raises OutputError."""
    if kind == "clip" or (kind is None and path.suffix == SUFFIXES["clip"]):
        return read_metadata(path)
    try:
        with open_regular(path) as file, Image.open(file, formats=["PNG"]) as image:
            image.load()
            metadata = json.loads(image.info["Comment"])
        assert isinstance(metadata, dict)
    except (OSError, ValueError, KeyError, SyntaxError, AssertionError) as error:
        raise OutputError(
            "{name} is not a first frame with its settings inside; draw it again.",
            name=path.name,
        ) from error
    return metadata


def write_sidecar(
    path: Path, metadata: Mapping[str, Any], seconds: float, *, new: bool = True
) -> dict[str, Any]:
    """Write the JSON file beside a result at once, and return it; raises OutputError."""
    content = sidecar(
        metadata,
        file=path.name,
        created=datetime.fromtimestamp(path.stat().st_mtime).astimezone(),
        seconds=seconds,
        key=metadata["key"],
        kind=metadata["kind"],
    )
    try:
        sidecars.write(path, content, new=new)
    except OSError as error:
        raise unwritten(path.with_suffix(".json"), error) from error
    return content
