"""What a job makes and what became of it; what decides the frames of a clip.

It knows how a row of the job table (`studio/jobs/table.py`) stores them, and nothing else of it.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from engine.config import OLD_NAMES, Request
from engine.errors import Message, RequestError, reason_of
from engine.pack import Pack
from studio.media.sidecars import Kind
from studio.system.files import open_regular

State = Literal["waiting", "running", "done", "failed", "interrupted", "cancelled", "skipped"]
Stop = Literal["", "skip", "cancel", "interrupt"]
KINDS: tuple[Kind, ...] = get_args(Kind)
STATES: tuple[State, ...] = get_args(State)
PENDING: tuple[State, ...] = ("waiting", "interrupted")  # what a worker will take
RUNNING: tuple[State, ...] = ("running",)
MOVING = ("motion_seed", "steps", "upscale", "forks")  # what a first frame does not depend on
# Fields with a default that are in every key; others, as all that come later, only where another
# value was chosen, so that keys stay what they were.
ALWAYS = ("kind", "mode", "negative_prompt", "image", "steps", "upscale")
NUMBERS: dict[str, Any] = {  # types of a row's cells
    **dict.fromkeys(("id", "position", "attempts", "units"), int),
    **dict.fromkeys(("created", "fraction"), int | float),
    **dict.fromkeys(("started", "finished"), int | float | None),
    **dict.fromkeys(("size", "row"), int | None),
    **dict.fromkeys(("key", "stages", "work", "stage", "notices", "error"), str),
    **dict.fromkeys(("result", "batch", "folder"), str | None),
}
RETRIED: tuple[State, ...] = ("failed", "interrupted", "cancelled", "skipped")


@dataclass(frozen=True, kw_only=True, eq=False)
class Work(Request):
    """What a job makes, every choice made: the same work gives the same frames.

    A request whose image, if any, is the path of a file; kind: a whole clip or its first frame
    only; pack (a path) and backend: what makes it, as strings. Raises RequestError.
    """

    pack: str
    backend: str
    kind: Kind = "clip"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in KINDS:
            raise RequestError(
                "The kind is {kind!r}; choose one of {kinds}.",
                kind=self.kind,
                kinds=", ".join(KINDS),
            )
        for name, value in self.to_dict().items():
            if isinstance(value, str) and value.encode("utf-8", "replace").decode() != value:
                raise RequestError(
                    "The {name} has half a character in {text}; type it again.",
                    name=Message(name.replace("_", " ")),
                    text=ascii(value)[:40],
                )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Work) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_dict()))

    @property
    def settings(self) -> str:
        """What decides how long it takes and how large it gets, as the table stores it."""
        return self._part(("kind", "backend", "pack", "mode", "steps", "upscale"))

    @property
    def engine(self) -> str:
        """The part of the settings that any two jobs must share to be compared at all."""
        return self._part(("kind", "backend", "pack"))

    def _part(self, names: Sequence[str]) -> str:
        values = self.to_dict()
        return json.dumps([values[name] for name in names])


@dataclass(frozen=True)
class Entry:
    """A job to add: its content key and, of a batch, the line it came from.

    folder: where its file goes, None for the worker's own.
    """

    work: Work
    key: str
    row: int | None = None
    folder: str | None = None


@dataclass(frozen=True)
class Job:
    """A row of the table.

    Times are seconds since 1970; stages: seconds of each that is done; fraction: 0 to 1, stage:
    the engine's name of what it is doing, or ""; notices: what to know about a result; error: why
    it failed, or an empty message; units: how many previews there are;
    result: the file, which of a running job is yet to come; size: its bytes.
    """

    id: int
    work: Work
    key: str
    position: int
    state: State
    attempts: int
    created: float
    started: float | None
    finished: float | None
    stages: Mapping[str, float]
    fraction: float
    stage: str
    notices: tuple[Message, ...]
    units: int
    result: Path | None
    size: int | None
    error: Message
    batch: str | None
    row: int | None
    folder: str | None

    @property
    def seconds(self) -> float | None:
        """From claim to end, None before."""
        if self.started is None or self.finished is None:
            return None
        return self.finished - self.started


@dataclass(frozen=True)
class Queue:
    """Whether the worker waits although there is work, and why, or an empty message."""

    paused: bool
    reason: Message


@dataclass(frozen=True)
class Estimate:
    """Medians of what was like it, None without history: seconds in all and by stage, bytes."""

    seconds: float | None
    stages: Mapping[str, float]
    size: int | None


def content_key(work: Work, pack: Pack) -> str:
    """SHA-256 in hex of everything that decides the frames; `pack` is the one at `work.pack`.

    A first frame does not depend on what only moves it. Raises RequestError where there is no
    picture at `work.image` or the pack has no such mode.
    """
    if work.mode not in pack.schedule.modes:
        raise RequestError(
            "{pack} has no mode {mode}; choose one of {modes}.",
            pack=pack.name,
            mode=work.mode,
            modes=", ".join(pack.schedule.modes),
        )
    values = settled(work, pack) | {
        "pack": pack.pack_hash,
        "image": None if work.image is None else digest(str(work.image)),
        "suffix": work.suffix or not pack.prompt.suffix,
    }
    if work.kind == "frame":
        for name in MOVING:
            del values[name]
    # Under the names of version 0.2.0.
    defaults = {field.name: field.default for field in fields(work)}
    old = {new: old for old, new in OLD_NAMES.items()}
    parts = {
        old.get(name, name): value
        for name, value in values.items()
        if name in ALWAYS or value != defaults[name]
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def settled(request: Request, pack: Pack) -> dict[str, Any]:
    """The request's fields, with the pack's own values where it leaves the choice to the pack."""
    own = {
        "negative_prompt": pack.prompt.negative,
        "steps": pack.schedule.modes[request.mode].steps,
    }
    values = request.to_dict()
    values |= {name: value for name, value in own.items() if values[name] is None}
    return values | {"upscale": request.upscale and pack.has("upscaler")}


def digest(picture: str) -> str:
    """SHA-256 in hex of a picture's file; raises RequestError where it cannot be read."""
    try:
        stat = Path(picture).stat()
        return _digest_of(picture, stat.st_mtime_ns, stat.st_size)
    except (OSError, ValueError) as error:
        raise RequestError(
            "The picture {picture} cannot be read ({reason}); choose another.",
            picture=picture,
            reason=reason_of(error),
        ) from error


@lru_cache(maxsize=256)
def _digest_of(picture: str, _mtime: int, _size: int) -> str:
    with open_regular(Path(picture)) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_finished(job: Job) -> bool:
    """Whether a job is done and its file still where it was put."""
    return job.state == "done" and job.result is not None and job.result.is_file()


def as_columns(work: Work) -> dict[str, Any]:
    """The work as the table stores it."""
    text = json.dumps(work.to_dict(), ensure_ascii=False)
    return {"work": text, "settings": work.settings, "engine": work.engine}


@lru_cache(maxsize=1024)
def as_work(text: str) -> Work:
    """The work that the table stores as this text; raises ValueError, TypeError, RequestError."""
    return Work.from_dict(json.loads(text))


def as_job(row: sqlite3.Row) -> Job:
    """The job that a row of the table stores; raises ValueError where a cell of it is damaged."""
    values = dict(row)
    for name in ("settings", "engine", "stop"):
        del values[name]
    for name, types in NUMBERS.items():
        if not isinstance(values[name], types):
            raise ValueError(f"{name} is {values[name]!r}")
    if values["state"] not in STATES:
        raise ValueError(f"state is {values['state']!r}")
    stages = json.loads(values["stages"])
    if not all(isinstance(seconds, int | float) for seconds in stages.values()):
        raise ValueError(f"stages are {stages!r}")
    values |= {
        "work": as_work(values["work"]),
        "stages": stages,
        "notices": messages(values["notices"]),
        "error": next(iter(messages(values["error"])), Message("")),
        "result": None if values["result"] is None else Path(values["result"]),
    }
    return Job(**values)


def as_text(*messages: Message) -> str:
    """Messages as the table stores them; without one an empty text."""
    return json.dumps([_plain(message) for message in messages]) if any(messages) else ""


def messages(text: str) -> tuple[Message, ...]:
    """Messages from the table; a text that is none, as older tables have it, is one itself."""
    if not text:
        return ()
    try:
        return tuple(_message(value) for value in json.loads(text))
    except (ValueError, LookupError, TypeError, AttributeError):
        return (Message(text),)


def _plain(message: Message) -> dict[str, Any]:
    values = {
        name: _plain(value)
        if isinstance(value, Message)
        else value
        if isinstance(value, int | float | str)
        else str(value)
        for name, value in message.values.items()
    }
    return {"template": message.template, "values": values}


def _message(value: Mapping[str, Any]) -> Message:
    values = {
        name: _message(inner) if isinstance(inner, dict) else inner
        for name, inner in value["values"].items()
    }
    message = Message(value["template"], values)
    str(message)  # every place has its value
    return message


def as_json(job: Job) -> dict[str, object]:
    """The job as other programs get it: `nds queue --json` and the page's `/queue`."""
    return {
        "id": job.id,
        "state": job.state,
        **job.work.to_dict(),
        "fraction": job.fraction,
        "attempts": job.attempts,
        "file": None if job.result is None else str(job.result),
        "seconds": job.seconds,
        "notice": " ".join(map(str, job.notices)),
        "error": str(job.error),
        "batch": job.batch,
        "row": job.row,
    }
