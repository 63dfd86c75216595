"""What the command line and the page share: how far a rendering is, and what it was made by."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from engine.config import Request
from engine.pack import Pack
from engine.pipeline import Event, Progress, StageDone, Truncated
from studio import __version__

# How much of a clip is done when a stage ends, and what to call it while it runs.
STAGES = {
    "clip": (0.02, "Reading the prompt"),
    "first_frame": (0.2, "Drawing the first frame"),
    "video_encoder": (0.21, "Reading the first frame"),
    "text": (0.23, "Reading the prompt"),
    "transformer": (0.97, "Animating"),
}


class Meter:
    """How far a generation is, and what it is doing; fed with its events.

    end: the last stage that will run, `first_frame` or `transformer`.
    """

    def __init__(self, end: str = "transformer") -> None:
        self.words = STAGES["clip"][1]
        self._end = STAGES[end][0]
        self._done = 0.0
        self._stage, self._begun = "", 0.0

    @property
    def fraction(self) -> float:
        """Of the whole, 0 to 1."""
        return min(self._done / self._end, 1.0)

    def update(self, event: Event) -> bool:
        """Take an event in; returns whether there is something new to show."""
        if isinstance(event, StageDone) and event.stage in STAGES:
            self._done = max(self._done, STAGES[event.stage][0])
        elif isinstance(event, Progress) and event.stage in STAGES:
            end, self.words = STAGES[event.stage]
            if self._stage != event.stage:
                self._stage, self._begun = event.stage, self._done
            self._done = self._begun + (end - self._begun) * event.done / event.total
        else:
            return False
        return True


def unread(event: Truncated) -> str:
    """What to tell the user of a prompt's end that was too long to read."""
    return f"The prompt is too long for {event.encoder}, which did not read: {event.text!r}."


def record(
    pack: Pack, request: Request, backend: str, picture: str | None = None
) -> dict[str, Any]:
    """All it takes to make a clip again, for the inside of its file.

    picture: the name of the user's own picture, where it began with one.
    """
    negative = request.negative_prompt
    return {
        "software": f"Neodragon Studio {__version__}",
        "prompt": request.prompt,
        "negative_prompt": pack.prompt.negative if negative is None else negative,
        "look_seed": request.look_seed,
        "motion_seed": request.motion_seed,
        "mode": request.mode,
        "steps": request.steps or pack.schedule.modes[request.mode].steps,
        "upscale": request.upscale and pack.has("upscaler"),
        "suffix": bool(request.suffix),
        "picture": picture,
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
