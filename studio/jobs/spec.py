"""What a job makes and what became of it; what decides the frames of a clip.

It knows how a row of the job table (`studio/jobs/table.py`) stores them, and nothing else of it.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from engine.config import Mode, Request
from engine.errors import RequestError
from engine.pack import Pack
from studio.media.sidecars import Kind

State = Literal["waiting", "running", "done", "failed", "interrupted", "cancelled", "skipped"]
Stop = Literal["", "skip", "cancel", "interrupt"]
KINDS: tuple[Kind, ...] = get_args(Kind)
STATES: tuple[State, ...] = get_args(State)
PENDING: tuple[State, ...] = ("waiting", "interrupted")  # what a worker will take
RUNNING: tuple[State, ...] = ("running",)
RETRIED: tuple[State, ...] = ("failed", "interrupted", "cancelled", "skipped")


@dataclass(frozen=True)
class Work:
    """What a job makes, every choice made: the same work gives the same frames.

    kind: a whole clip or its first frame only. The fields of `engine.config.Request` as there;
    negative: None for the pack's own; picture: path of a picture to begin with; backend and pack
    (a path) as strings. Raises RequestError.
    """

    prompt: str
    look_seed: int
    motion_seed: int
    pack: str
    backend: str
    kind: Kind = "clip"
    mode: Mode = "hybrid"
    steps: tuple[int, int, int] | None = None
    negative: str | None = None
    picture: str | None = None
    upscale: bool = True
    suffix: bool = True

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise RequestError(
                f"The kind should be {' or '.join(KINDS)}, but it is {self.kind!r};"
                " choose one of them."
            )
        request = self.request()
        for name in ("look_seed", "motion_seed", "steps"):
            object.__setattr__(self, name, getattr(request, name))
        for text in (self.prompt, self.negative, self.picture, self.backend, self.pack):
            if text is not None and text.encode("utf-8", "replace").decode() != text:
                raise RequestError(
                    f"The words should be Unicode, but {ascii(text)[:40]} has half a character;"
                    " type them again."
                )

    def request(self, image: NDArray[np.uint8] | None = None) -> Request:
        """The engine's request, `image` (uint8 [H, W, 3]) being the picture's pixels."""
        return Request(
            prompt=self.prompt,
            look_seed=self.look_seed,
            motion_seed=self.motion_seed,
            mode=self.mode,
            steps=self.steps,
            negative_prompt=self.negative,
            image=image,
            upscale=self.upscale,
            suffix=self.suffix,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What decides how long it takes and how large it gets, as the table stores it."""
        row = as_columns(self)
        return {name: row[name] for name in ("kind", "backend", "pack", "mode", "steps", "upscale")}


WORK = tuple(field.name for field in fields(Work))


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

    Times are seconds since 1970; stages: seconds of each that is done; fraction: 0 to 1, words:
    what it is doing; notice: something to know about a result; units: how many previews there are;
    result: the file, which of a running job is yet to come; size: its bytes; error: one sentence.
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
    words: str
    notice: str
    units: int
    result: Path | None
    size: int | None
    error: str
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
    """Whether the worker waits although there is work, and the sentence that says why."""

    paused: bool
    reason: str


@dataclass(frozen=True)
class Estimate:
    """Medians of what was like it, None without history: seconds in all and by stage, bytes."""

    seconds: float | None
    stages: Mapping[str, float]
    size: int | None


def content_key(work: Work, pack: Pack) -> str:
    """SHA-256 in hex of everything that decides the frames; `pack` is the one at `work.pack`.

    A first frame does not depend on what only moves it. Raises RequestError where there is no
    picture at `work.picture` or the pack has no such mode.
    """
    if work.mode not in pack.schedule.modes:
        raise RequestError(
            f"The mode should be one that {pack.name} has ({', '.join(pack.schedule.modes)}), but"
            f" it is {work.mode}; choose one of them."
        )
    parts = {
        "kind": work.kind,
        "prompt": work.prompt,
        "negative": pack.prompt.negative if work.negative is None else work.negative,
        "look_seed": work.look_seed,
        "mode": work.mode,
        "picture": None if work.picture is None else _digest(work.picture),
        "backend": work.backend,
        "pack": pack.pack_hash,
    }
    if pack.prompt.suffix and not work.suffix:
        parts["suffix"] = False
    if work.kind == "clip":
        parts |= {
            "motion_seed": work.motion_seed,
            "steps": work.steps or pack.schedule.modes[work.mode].steps,
            "upscale": bool(work.upscale) and pack.has("upscaler"),
        }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _digest(picture: str) -> str:
    try:
        stat = Path(picture).stat()
        return _digest_of(picture, stat.st_mtime_ns, stat.st_size)
    except (OSError, ValueError) as error:
        raise RequestError(
            f"The picture {picture} should be a file, but it cannot be read"
            f" ({getattr(error, 'strerror', None) or error}); choose another."
        ) from error


@lru_cache(maxsize=256)
def _digest_of(picture: str, _mtime: int, _size: int) -> str:
    with Path(picture).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_finished(job: Job) -> bool:
    """Whether a job is done and its file still where it was put."""
    return job.state == "done" and job.result is not None and job.result.is_file()


def as_columns(work: Work) -> dict[str, Any]:
    """The work as the table stores it."""
    values = {name: getattr(work, name) for name in WORK}
    return values | {
        "steps": None if work.steps is None else json.dumps(work.steps),
        "upscale": int(work.upscale),
        "suffix": int(work.suffix),
    }


def as_job(row: sqlite3.Row) -> Job:
    """The job that a row of the table stores."""
    values = dict(row)
    work = {name: values.pop(name) for name in WORK}
    steps = work["steps"]
    work["steps"] = None if steps is None else tuple(json.loads(steps))
    work |= {name: bool(work[name]) for name in ("upscale", "suffix")}
    values["stages"] = json.loads(values["stages"])
    values["result"] = None if values["result"] is None else Path(values["result"])
    del values["stop"]
    return Job(work=Work(**work), **values)


def as_json(job: Job) -> dict[str, object]:
    """The job as other programs get it: `nds queue --json` and the page's `/queue`."""
    return {
        "id": job.id,
        "state": job.state,
        "kind": job.work.kind,
        "prompt": job.work.prompt,
        "look_seed": job.work.look_seed,
        "motion_seed": job.work.motion_seed,
        "fraction": job.fraction,
        "attempts": job.attempts,
        "file": None if job.result is None else str(job.result),
        "seconds": job.seconds,
        "notice": job.notice,
        "error": job.error,
        "batch": job.batch,
        "row": job.row,
    }
