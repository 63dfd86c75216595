"""The job table: what is to be made, what is being made, what became of it; in one SQLite file.

Any number of processes and threads add rows and watch. One worker at a time, the one that holds the
lease, claims rows and reports on them. Rows of finished jobs stay: they are the history that
estimates come from. It knows nothing of pixels or graphs.

    waiting -> running -> done | failed | skipped | cancelled
                  `----> interrupted (its worker died) -> running, once more -> failed
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from engine.config import Mode, Request
from engine.errors import NeodragonError, RequestError
from engine.pack import Pack

Kind = Literal["clip", "frame"]
State = Literal["waiting", "running", "done", "failed", "interrupted", "cancelled", "skipped"]
Stop = Literal["", "skip", "cancel"]
KINDS: tuple[Kind, ...] = get_args(Kind)
STATES: tuple[State, ...] = get_args(State)
PENDING: tuple[State, ...] = ("waiting", "interrupted")  # what a worker will take
RUNNING: tuple[State, ...] = ("running",)
RETRIED: tuple[State, ...] = ("failed", "interrupted", "cancelled", "skipped")
ATTEMPTS = 2  # a job that took two workers down does not get a third
HISTORY = 31  # jobs a median is taken of
BUSY = 30.0  # seconds to wait for another process's transaction
LEASE_POLL = 0.1  # seconds
VERSION = 1
SCHEMA = """
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL, prompt TEXT NOT NULL, negative TEXT,
    look_seed INTEGER NOT NULL, motion_seed INTEGER NOT NULL, mode TEXT NOT NULL, steps TEXT,
    upscale INTEGER NOT NULL, picture TEXT, backend TEXT NOT NULL, pack TEXT NOT NULL,
    key TEXT NOT NULL, position INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting', attempts INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL, started REAL, finished REAL, stages TEXT NOT NULL DEFAULT '{}',
    fraction REAL NOT NULL DEFAULT 0, words TEXT NOT NULL DEFAULT '',
    notice TEXT NOT NULL DEFAULT '', units INTEGER NOT NULL DEFAULT 0,
    result TEXT, size INTEGER, error TEXT NOT NULL DEFAULT '', stop TEXT NOT NULL DEFAULT '',
    batch TEXT, row INTEGER
);
CREATE INDEX jobs_by_position ON jobs (state, position);
CREATE INDEX jobs_by_key ON jobs (key);
CREATE TABLE queue (paused INTEGER NOT NULL, reason TEXT NOT NULL);
INSERT INTO queue VALUES (0, '');
"""
CLEAN = (  # what a row says before an attempt
    "finished = NULL, stages = '{}', fraction = 0, words = '', notice = '', units = 0,"
    " result = NULL, size = NULL, error = '', stop = ''"
)
FRESH = f"state = 'waiting', attempts = 0, started = NULL, {CLEAN}"


class JobsError(NeodragonError):
    """The job table cannot do what was asked of it."""


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
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What decides how long it takes and how large it gets, as the table stores it."""
        row = _columns(self)
        return {name: row[name] for name in ("kind", "backend", "pack", "mode", "steps", "upscale")}


WORK = tuple(field.name for field in fields(Work))


@dataclass(frozen=True)
class Entry:
    """A job to add: its content key and, of a batch, the line it came from."""

    work: Work
    key: str
    row: int | None = None


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


class JobTable:
    """The table in the file at `path`, made when absent; safe from threads and processes.

    Close it or use it as a context manager. Every method raises JobsError where the file fails it
    or an id is not there; the file must not lie on a network drive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._lease: sqlite3.Connection | None = None
        with self._sentences():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(
                path, timeout=BUSY, isolation_level=None, check_same_thread=False
            )
            self._db.row_factory = sqlite3.Row
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        with self._sentences():
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
        with self._transaction() as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in SCHEMA.split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {VERSION}")
            elif version != VERSION:
                raise JobsError(
                    f"The job table {self.path} should have the version {VERSION}, but it has"
                    f" {version}; use the Neodragon Studio that made it or move the file away."
                )

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def __enter__(self) -> JobTable:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # Looking

    def jobs(
        self,
        states: Collection[State] = STATES,
        *,
        batch: str | None = None,
        newest: int | None = None,
    ) -> list[Job]:
        """Jobs in those states in the queue's order; newest: only that many, from its end."""
        of_batch, parameters = ("", []) if batch is None else (" AND batch = ?", [batch])
        rows = self._rows(
            f"SELECT * FROM jobs WHERE state IN ({_marks(states)}){of_batch}"
            " ORDER BY position DESC, id DESC LIMIT ?",
            [*states, *parameters, -1 if newest is None else newest],
        )
        return [_job(row) for row in reversed(rows)]

    def job(self, job_id: int) -> Job:
        """One job."""
        rows = self._rows("SELECT * FROM jobs WHERE id = ?", [job_id])
        if not rows:
            raise self._unknown([job_id])
        return _job(rows[0])

    def queue(self) -> Queue:
        """Whether it is paused, and why."""
        (row,) = self._rows("SELECT * FROM queue")
        return Queue(bool(row["paused"]), row["reason"])

    def by_key(self, keys: Iterable[str]) -> dict[str, Job]:
        """Of each content key its best job: done with its file there, else the latest one."""
        found: dict[str, Job] = {}
        wanted = list(dict.fromkeys(keys))
        for start in range(0, len(wanted), 500):
            part = wanted[start : start + 500]
            sql = f"SELECT * FROM jobs WHERE key IN ({_marks(part)}) ORDER BY id"
            for job in map(_job, self._rows(sql, part)):
                if job.key not in found or not is_finished(found[job.key]) or is_finished(job):
                    found[job.key] = job
        return found

    def estimate(self, work: Work) -> Estimate:
        """Medians of the last jobs with the same settings, else of the same kind on this pack."""
        settings = work.settings
        common = {name: settings[name] for name in ("kind", "backend", "pack")}
        rows: list[sqlite3.Row] = []
        for alike in (settings, common):
            where = " AND ".join(f"{name} IS ?" for name in alike)
            sql = f"SELECT * FROM jobs WHERE state = 'done' AND {where} ORDER BY finished DESC"
            rows = rows or self._rows(f"{sql} LIMIT {HISTORY}", list(alike.values()))
        stages: dict[str, list[float]] = {}
        jobs = [_job(row) for row in rows]
        for job in jobs:
            for stage, seconds in job.stages.items():
                stages.setdefault(stage, []).append(seconds)
        durations = [job.seconds for job in jobs if job.seconds is not None]
        sizes = [job.size for job in jobs if job.size is not None]
        return Estimate(
            statistics.median(durations) if durations else None,
            {stage: statistics.median(values) for stage, values in stages.items()},
            round(statistics.median(sizes)) if sizes else None,
        )

    def seconds_left(self, jobs: Iterable[Job] | None = None) -> float | None:
        """Until those jobs (all of the queue) are done, None where one is unlike any before."""
        known: dict[tuple[object, ...], float | None] = {}
        total = 0.0
        for job in self.jobs((*RUNNING, *PENDING)) if jobs is None else jobs:
            settings = tuple(job.work.settings.values())
            if settings not in known:
                known[settings] = self.estimate(job.work).seconds
            seconds = known[settings]
            if seconds is None:
                return None
            total += seconds * (1 - job.fraction if job.state == "running" else 1)
        return total

    # Arranging the queue

    def add(self, entries: Iterable[Entry], batch: str | None = None) -> list[int]:
        """Put jobs at the end of the queue, all or none; their ids."""
        with self._transaction() as db:
            (last,) = db.execute("SELECT coalesce(max(position), 0) FROM jobs").fetchone()
            ids = []
            for position, entry in enumerate(entries, last + 1):
                values = _columns(entry.work) | {
                    "key": entry.key,
                    "position": position,
                    "created": time.time(),
                    "batch": batch,
                    "row": entry.row,
                }
                ids.append(_insert(db, values))
            return ids

    def edit(self, job_id: int, work: Work, key: str) -> None:
        """Let a waiting job make something else."""
        values = _columns(work) | {"key": key}
        with self._transaction() as db:
            self._require(db, [job_id], PENDING, "edited")
            names = ", ".join(f"{name} = ?" for name in values)
            db.execute(f"UPDATE jobs SET {names}, {FRESH} WHERE id = ?", [*values.values(), job_id])

    def duplicate(self, job_id: int) -> int:
        """Add a job like this one, whatever its state, at the end of the queue; its id."""
        job = self.job(job_id)
        return self.add([Entry(job.work, job.key, job.row)], job.batch)[0]

    def remove(self, ids: Collection[int]) -> None:
        """Take waiting jobs out of the table, all or none."""
        with self._transaction() as db:
            self._require(db, ids, PENDING, "removed")
            db.executemany("DELETE FROM jobs WHERE id = ?", [(job_id,) for job_id in ids])

    def move(self, ids: Sequence[int], before: int | None = None) -> None:
        """Put waiting jobs, in this order, before the waiting job `before`, None for the end."""
        with self._transaction() as db:
            self._require(db, [*ids, *([] if before is None else [before])], PENDING, "moved")
            waiting = db.execute(
                f"SELECT id, position FROM jobs WHERE state IN ({_marks(PENDING)})"
                " ORDER BY position, id",
                PENDING,
            ).fetchall()
            moved = list(dict.fromkeys(ids))
            order = [row["id"] for row in waiting if row["id"] not in set(moved) - {before}]
            at = len(order) if before is None else order.index(before)
            order[at:at] = [job_id for job_id in moved if job_id != before]
            places = [row["position"] for row in waiting]
            db.executemany(
                "UPDATE jobs SET position = ? WHERE id = ?", list(zip(places, order, strict=True))
            )

    def retry(self, ids: Collection[int] | None = None) -> int:
        """Let jobs that did not end well wait again at the end, None for all failed; how many."""
        with self._transaction() as db:
            if ids is None:
                rows = db.execute("SELECT id FROM jobs WHERE state = 'failed' ORDER BY position")
                ids = [row["id"] for row in rows]
            self._require(db, ids, RETRIED, "retried")
            for job_id in ids:
                db.execute(
                    f"UPDATE jobs SET {FRESH}, position = (SELECT max(position) + 1 FROM jobs)"
                    " WHERE id = ?",
                    [job_id],
                )
            return len(ids)

    # Stopping and going on

    def pause(self, reason: str = "") -> None:
        """Start no further job (*Stop after this*); reason: a sentence for the user."""
        with self._transaction() as db:
            db.execute("UPDATE queue SET paused = 1, reason = ?", [reason])

    def resume(self) -> None:
        """Let the worker go on."""
        with self._transaction() as db:
            db.execute("UPDATE queue SET paused = 0, reason = ''")

    def skip(self, job_id: int) -> None:
        """Ask the worker to give up this running job and go on with the next (*Skip this*)."""
        with self._transaction() as db:
            self._require(db, [job_id], RUNNING, "skipped")
            db.execute("UPDATE jobs SET stop = 'skip' WHERE id = ?", [job_id])

    def stop_all(self) -> None:
        """Pause, and ask the worker to give up the running job (*Stop all*); the rest waits."""
        with self._transaction() as db:
            db.execute("UPDATE queue SET paused = 1, reason = ''")
            db.execute("UPDATE jobs SET stop = 'cancel' WHERE state = 'running'")

    # The worker's side

    @contextmanager
    def lease(self, wait: float = 0, give_up: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Be the one worker meanwhile, waiting at most so many seconds for another to end.

        The operating system takes the lease back from a process that dies. Raises JobsError where
        another has it, or `give_up` says so.
        """
        path = self._lease_path
        with self._sentences():
            lease = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        deadline = time.monotonic() + wait
        try:
            while True:
                try:
                    lease.execute("BEGIN EXCLUSIVE")
                    break
                except sqlite3.OperationalError as error:
                    if time.monotonic() >= deadline or give_up():
                        raise JobsError(
                            f"The worker of {self.path} should be the only one, but another has"
                            f" {path.name} ({error}); let that one work."
                        ) from error
                time.sleep(LEASE_POLL)
            self._lease = lease
            yield
        finally:
            self._lease = None
            lease.close()

    def has_worker(self) -> bool:
        """Whether a living process, this one or another, holds the lease."""
        with self._sentences():
            probe = sqlite3.connect(self._lease_path, timeout=0)
            try:
                probe.execute("SELECT 1 FROM sqlite_master")
            except sqlite3.OperationalError:
                return True
            finally:
                probe.close()
            return False

    def recover(self, whole: Callable[[Job], bool] = lambda job: False) -> list[Job]:
        """See to the running rows of a dead worker, and pause the queue if there were any.

        A job whose file is `whole` is done; the others are interrupted, or failed after their
        second attempt. Returns them as they were. Needs the lease.
        """
        assert self._lease, "only the worker recovers"
        dead = self.jobs(RUNNING)
        for job in dead:
            if whole(job):
                assert job.result is not None, "a whole file has a path"
                self.finish(job.id, job.result, job.stages, at=job.result.stat().st_mtime)
            elif job.attempts < ATTEMPTS:
                self._end(job.id, "interrupted", "")
            else:
                self.fail(
                    job.id,
                    f"The job should survive its worker, but {ATTEMPTS} of them ended in the"
                    " middle of it; change something about it or retry it.",
                )
        if dead:
            self.pause("The last run ended in the middle of a job; resume the queue to go on.")
        return dead

    def claim(self) -> Job | None:
        """The next job, now running; None where there is none or the queue is paused.

        Needs the lease.
        """
        assert self._lease, "only the worker claims"
        with self._transaction() as db:
            row = db.execute(
                f"UPDATE jobs SET state = 'running', attempts = attempts + 1, started = ?, {CLEAN}"
                f" WHERE id = (SELECT id FROM jobs WHERE state IN ({_marks(PENDING)})"
                " ORDER BY position, id LIMIT 1) AND NOT (SELECT paused FROM queue) RETURNING *",
                [time.time(), *PENDING],
            ).fetchone()
        return None if row is None else _job(row)

    def progress(
        self, job_id: int, fraction: float, words: str, stages: Mapping[str, float], units: int = 0
    ) -> Stop:
        """Report on the running job; what was asked of it meanwhile."""
        with self._transaction() as db:
            row = db.execute(
                "UPDATE jobs SET fraction = ?, words = ?, stages = ?, units = ? WHERE id = ?"
                " RETURNING stop",
                [fraction, words, json.dumps(dict(stages)), units, job_id],
            ).fetchone()
        if row is None:
            raise self._unknown([job_id])
        stop: Stop = row["stop"]
        return stop

    def note(self, job_id: int, sentence: str) -> None:
        """Add to what the user should know of a result."""
        with self._transaction() as db:
            db.execute(
                "UPDATE jobs SET notice = trim(notice || ' ' || ?) WHERE id = ?", [sentence, job_id]
            )

    def announce(self, job_id: int, result: Path, key: str) -> None:
        """Say which file the running job is about to make, and what decides its frames."""
        with self._transaction() as db:
            db.execute(
                "UPDATE jobs SET result = ?, key = ? WHERE id = ?", [str(result), key, job_id]
            )

    def finish(
        self, job_id: int, result: Path, stages: Mapping[str, float], at: float | None = None
    ) -> None:
        """The running job is done, its file there; at: since when, None for now."""
        with self._transaction() as db:
            db.execute(
                "UPDATE jobs SET state = 'done', finished = ?, result = ?, size = ?, stages = ?,"
                " fraction = 1, words = '', error = '', stop = '' WHERE id = ?",
                [
                    *(at or time.time(), str(result), result.stat().st_size),
                    *(json.dumps(dict(stages)), job_id),
                ],
            )

    def fail(self, job_id: int, sentence: str) -> None:
        """The running job failed."""
        self._end(job_id, "failed", sentence)

    def stopped(self, job_id: int, stop: Stop) -> None:
        """The running job was given up as asked."""
        self._end(job_id, "skipped" if stop == "skip" else "cancelled", "")

    def release(self, job_id: int) -> None:
        """Let the running job wait again where it was, as if it had not been claimed."""
        with self._transaction() as db:
            db.execute(
                "UPDATE jobs SET state = 'waiting', attempts = attempts - 1, started = NULL,"
                f" {CLEAN} WHERE id = ?",
                [job_id],
            )

    def _end(self, job_id: int, state: State, error: str) -> None:
        with self._transaction() as db:
            db.execute(
                "UPDATE jobs SET state = ?, error = ?, finished = ?, result = NULL, words = '',"
                " stop = '' WHERE id = ?",
                [state, error, time.time(), job_id],
            )

    # The file

    @property
    def _lease_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}-worker")

    def _rows(self, sql: str, parameters: Sequence[object] = ()) -> list[sqlite3.Row]:
        with self._lock, self._sentences():
            return self._db.execute(sql, parameters).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._sentences():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.rollback()
                raise
            self._db.commit()

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        """Turn what SQLite and the file system raise into JobsError."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise JobsError(
                f"The job table {self.path} should be readable and writable, but it is not"
                f" ({error}); free some space, or move the file away if it is damaged."
            ) from error

    def _require(
        self, db: sqlite3.Connection, ids: Collection[int], states: Collection[State], verb: str
    ) -> None:
        """Raise JobsError unless every job is there and in one of the states."""
        for job_id in ids:
            row = db.execute("SELECT state FROM jobs WHERE id = ?", [job_id]).fetchone()
            if row is None:
                raise self._unknown([job_id])
            if row["state"] not in states:
                raise JobsError(
                    f"Job {job_id} should be {' or '.join(states)} to be {verb}, but it is"
                    f" {row['state']}; look at the queue again."
                )

    def _unknown(self, ids: Collection[int]) -> JobsError:
        return JobsError(
            f"Job {', '.join(map(str, ids))} should be in the table, but it is not;"
            " look at the queue again."
        )


def is_finished(job: Job) -> bool:
    """Whether a job is done and its file still where it was put."""
    return job.state == "done" and job.result is not None and job.result.is_file()


def _marks(values: Collection[object]) -> str:
    return ", ".join("?" * len(values))


def _columns(work: Work) -> dict[str, Any]:
    """The work as the table stores it."""
    values = {name: getattr(work, name) for name in WORK}
    return values | {
        "steps": None if work.steps is None else json.dumps(work.steps),
        "upscale": int(work.upscale),
    }


def _insert(db: sqlite3.Connection, values: Mapping[str, Any]) -> int:
    cursor = db.execute(
        f"INSERT INTO jobs ({', '.join(values)}) VALUES ({_marks(values)})", list(values.values())
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def _job(row: sqlite3.Row) -> Job:
    values = dict(row)
    work = {name: values.pop(name) for name in WORK}
    steps = work["steps"]
    work["steps"] = None if steps is None else tuple(json.loads(steps))
    work["upscale"] = bool(work["upscale"])
    values["stages"] = json.loads(values["stages"])
    values["result"] = None if values["result"] is None else Path(values["result"])
    del values["stop"]
    return Job(work=Work(**work), **values)
