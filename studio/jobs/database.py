"""The SQLite file of the job table: made when absent, shared by threads and processes, and read."""

from __future__ import annotations

import sqlite3
import statistics
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from engine.errors import NeodragonError
from studio.jobs.spec import (
    PENDING,
    RUNNING,
    STATES,
    Estimate,
    Job,
    Queue,
    State,
    Work,
    as_job,
    is_finished,
)
from studio.system.paths import private_file

HISTORY = 31  # jobs a median is taken of
BUSY = 30.0  # seconds to wait for another process's transaction
VERSION = 2
SCHEMA = """
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL, prompt TEXT NOT NULL, negative TEXT,
    look_seed INTEGER NOT NULL, motion_seed INTEGER NOT NULL, mode TEXT NOT NULL, steps TEXT,
    upscale INTEGER NOT NULL, suffix INTEGER NOT NULL, picture TEXT,
    backend TEXT NOT NULL, pack TEXT NOT NULL,
    key TEXT NOT NULL, position INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting', attempts INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL, started REAL, finished REAL, stages TEXT NOT NULL DEFAULT '{}',
    fraction REAL NOT NULL DEFAULT 0, words TEXT NOT NULL DEFAULT '',
    notice TEXT NOT NULL DEFAULT '', units INTEGER NOT NULL DEFAULT 0,
    result TEXT, size INTEGER, error TEXT NOT NULL DEFAULT '', stop TEXT NOT NULL DEFAULT '',
    batch TEXT, row INTEGER, folder TEXT
);
CREATE INDEX jobs_by_position ON jobs (state, position);
CREATE INDEX jobs_by_key ON jobs (key);
CREATE TABLE queue (paused INTEGER NOT NULL, reason TEXT NOT NULL);
INSERT INTO queue VALUES (0, '');
"""
STEPS = {1: "ALTER TABLE jobs ADD COLUMN suffix INTEGER NOT NULL DEFAULT 1"}  # from that version on


class JobsError(NeodragonError):
    """The job table cannot do what was asked of it."""


class JobFile:
    """The file at `path`, of which a transaction is all or nothing.

    Close it or use it as a context manager. Raises JobsError where the file fails it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        with self._sentences():
            private_file(path)
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
            elif version in STEPS:
                for number in range(version, VERSION):
                    db.execute(STEPS[number])
                db.execute(f"PRAGMA user_version = {VERSION}")
            elif version != VERSION:
                raise JobsError(
                    f"The job table {self.path} should have the version {VERSION}, but it has"
                    f" {version}; use the Neodragon Studio that made it or move the file away."
                )

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

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
            f"SELECT * FROM jobs WHERE state IN ({marks(states)}){of_batch}"
            " ORDER BY position DESC, id DESC LIMIT ?",
            [*states, *parameters, -1 if newest is None else newest],
        )
        return [as_job(row) for row in reversed(rows)]

    def job(self, job_id: int) -> Job:
        """One job."""
        rows = self._rows("SELECT * FROM jobs WHERE id = ?", [job_id])
        if not rows:
            raise self._unknown([job_id])
        return as_job(rows[0])

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
            sql = f"SELECT * FROM jobs WHERE key IN ({marks(part)}) ORDER BY id"
            for job in map(as_job, self._rows(sql, part)):
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
        jobs = [as_job(row) for row in rows]
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

    def _unknown(self, ids: Collection[int]) -> JobsError:
        return JobsError(
            f"Job {', '.join(map(str, ids))} should be in the table, but it is not;"
            " look at the queue again."
        )


def marks(values: Collection[object]) -> str:
    """A question mark for each value."""
    return ", ".join("?" * len(values))
