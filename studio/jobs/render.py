"""What the command line and the page share: the progress of a rendering, and its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

from engine.config import Request
from engine.errors import Message
from engine.events import Event, Progress, StageDone, Truncated
from engine.pack import Pack
from studio import __version__
from studio.jobs.spec import settled
from studio.media.pictures import read_picture

# How much of a clip is done when a stage of the engine ends.
STAGES = {
    "clip": 0.02,
    "first_frame": 0.2,
    "video_encoder": 0.21,
    "text": 0.23,
    "transformer": 0.97,
}


class Meter:
    """How far a generation is, and what it is doing; fed with its events.

    end: the last stage that will run, `first_frame` or `transformer`.
    """

    def __init__(self, end: str = "transformer") -> None:
        self.stage = "clip"  # what is being done
        self._end = STAGES[end]
        self._done = 0.0
        self._begun: dict[str, float] = {}  # what was done when a stage began

    @property
    def fraction(self) -> float:
        """Of the whole, 0 to 1."""
        return min(self._done / self._end, 1.0)

    def update(self, event: Event) -> bool:
        """Take an event in; returns whether there is something new to show."""
        if isinstance(event, StageDone) and event.stage in STAGES:
            self._done = max(self._done, STAGES[event.stage])
        elif isinstance(event, Progress) and event.stage in STAGES:
            self.stage = event.stage
            begun = self._begun.setdefault(event.stage, self._done)
            self._done = begun + (STAGES[event.stage] - begun) * event.done / event.total
        else:
            return False
        return True


def unread(event: Truncated) -> Message:
    """What to tell the user of a prompt's end that was too long to read."""
    return Message(
        "The prompt is too long for {encoder}, which did not read: {text!r}.",
        {"encoder": event.encoder, "text": event.text},
    )


def with_pixels(request: Request) -> Request:
    """The request with its image read from its file; raises RequestError."""
    values = {field.name: getattr(request, field.name) for field in fields(Request)}
    if isinstance(request.image, Path):
        values["image"] = read_picture(request.image)
    return Request(**values)


def record(pack: Pack, request: Request, backend: str) -> dict[str, Any]:
    """All it takes to make a clip again, for the inside of its file; of an image its name."""
    values = settled(request, pack)
    return {
        "software": f"Neodragon Studio {__version__}",
        **{field.name: values[field.name] for field in fields(Request)},
        "image": request.image.name if isinstance(request.image, Path) else None,
        "pack": {"name": pack.name, "version": pack.version, "hash": pack.pack_hash},
        "backend": backend,
    }


def sidecar(
    recorded: Mapping[str, Any],
    *,
    file: str,
    created: datetime,
    seconds: float,
    key: str,
    kind: str,
) -> dict[str, Any]:
    """What stands in the JSON file beside a clip or a first frame.

    recorded: from `record`; file: its name, in the same folder; created: when, with its time zone;
    seconds: of work; key: its content key (`studio.jobs.spec.content_key`);
    kind: `clip` or `frame`.
    """
    return {
        **recorded,
        "file": file,
        "created": created.isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "key": key,
        "kind": kind,
    }
