"""The SQLite file of the job table: made when absent, brought up to date, and read."""

from __future__ import annotations

import json
import sqlite3
import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.errors import Message, NeodragonError, RequestError
from studio.jobs.spec import (
    PENDING,
    RUNNING,
    STATES,
    Estimate,
    Job,
    Queue,
    State,
    Work,
    as_columns,
    as_job,
    as_text,
    as_work,
    is_finished,
    messages,
)
from studio.system.sqlite import Database

HISTORY = 31  # jobs a median is taken of
VERSION = 3
SCHEMA = """
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    work TEXT NOT NULL, settings TEXT NOT NULL, engine TEXT NOT NULL,
    key TEXT NOT NULL, position INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting', attempts INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL, started REAL, finished REAL, stages TEXT NOT NULL DEFAULT '{}',
    fraction REAL NOT NULL DEFAULT 0, stage TEXT NOT NULL DEFAULT '',
    notices TEXT NOT NULL DEFAULT '', units INTEGER NOT NULL DEFAULT 0,
    result TEXT, size INTEGER, error TEXT NOT NULL DEFAULT '', stop TEXT NOT NULL DEFAULT '',
    batch TEXT, row INTEGER, folder TEXT
);
CREATE INDEX jobs_by_position ON jobs (state, position);
CREATE INDEX jobs_by_key ON jobs (key);
CREATE TABLE queue (paused INTEGER NOT NULL, reason TEXT NOT NULL);
INSERT INTO queue VALUES (0, '');
"""
INDEXES = """
CREATE INDEX IF NOT EXISTS jobs_by_settings ON jobs (settings, state, finished);
CREATE INDEX IF NOT EXISTS jobs_by_engine ON jobs (engine, state, finished);
CREATE TABLE IF NOT EXISTS damaged_jobs (row TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS leases (
    job INTEGER PRIMARY KEY, token TEXT NOT NULL, machine TEXT NOT NULL,
    begun INTEGER NOT NULL DEFAULT 0, expires REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS lost_leases (job INTEGER NOT NULL, machine TEXT NOT NULL)
"""
# What versions 1 and 2 of the table had for each field of a request, and for what a job is at.
OLD_WORK = (
    "kind prompt negative look_seed motion_seed mode steps upscale suffix picture backend pack"
).split()
OLD_STAGES = {
    "Reading the prompt": "clip",
    "Drawing the first frame": "first_frame",
    "Reading the first frame": "video_encoder",
    "Animating": "transformer",
}


class JobsError(NeodragonError):
    """The job table cannot do what was asked of it."""


class JobFile(Database):
    """The file at `path`, of which a transaction is all or nothing.

    Close it or use it as a context manager. Raises JobsError where the file fails it.
    """

    failure = JobsError
    subject = Message("The job table")

    def prepare(self, db: sqlite3.Connection) -> None:
        """Make the tables, or bring those of an older version up."""
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            _run(db, SCHEMA)
        elif version in (1, 2):
            _to_version_3(db)
        elif version != VERSION:
            raise JobsError(
                "The job table {path} has the version {version}, which this studio does not know;"
                " use the Neodragon Studio that made it, or move the file away.",
                path=str(self.path),
                version=version,
            )
        _run(db, INDEXES)
        if version != VERSION:
            db.execute(f"PRAGMA user_version = {VERSION}")

    def jobs(
        self,
        states: Collection[State] = STATES,
        *,
        batch: str | None = None,
        newest: int | None = None,
        next_: int | None = None,
    ) -> list[Job]:
        """Jobs in those states in the queue's order.

        newest: only that many, from its end; next_: only that many, from its beginning.
        """
        of_batch, parameters = ("", []) if batch is None else (" AND batch = ?", [batch])
        order = "" if newest is None else " DESC"
        limit = next_ if newest is None else newest
        rows = self._rows(
            f"SELECT * FROM jobs WHERE state IN ({marks(states)}){of_batch}"
            f" ORDER BY position{order}, id{order} LIMIT ?",
            *(*states, *parameters, -1 if limit is None else limit),
        )
        return self._jobs(rows if newest is None else reversed(rows))

    def count(self, states: Collection[State] = STATES) -> int:
        """How many jobs are in those states."""
        (row,) = self._rows(
            f"SELECT count(*) AS count FROM jobs WHERE state IN ({marks(states)})", *states
        )
        count: int = row["count"]
        return count

    def is_working(self) -> bool:
        """Whether this studio's own worker is at a job: one that runs and is not the farm's."""
        return bool(
            self._rows(
                "SELECT 1 FROM jobs WHERE state = 'running'"
                " AND id NOT IN (SELECT job FROM leases) LIMIT 1"
            )
        )

    def ids(self, states: Collection[State]) -> list[int]:
        """The jobs in those states, in the queue's order."""
        sql = f"SELECT id FROM jobs WHERE state IN ({marks(states)}) ORDER BY position, id"
        return [row["id"] for row in self._rows(sql, *states)]

    def job(self, job_id: int) -> Job:
        """One job."""
        rows = self._rows("SELECT * FROM jobs WHERE id = ?", job_id)
        if not rows:
            raise self._unknown([job_id])
        return self._jobs(rows)[0]

    def takes(self, work: Work, among: int, most: int) -> list[int]:
        """The newest first frames that differ from a work in their seeds alone, oldest first.

        among: how many of the newest ones are looked at; most: how many are returned.
        """
        frame = replace(work, kind="frame")
        look = _seedless(as_columns(frame)["work"])
        rows = self._rows(
            "SELECT id, work, result FROM jobs WHERE state = 'done' AND engine = ?"
            " ORDER BY position DESC, id DESC LIMIT ?",
            frame.engine,
            among,
        )
        same: list[int] = []
        for row in rows:
            if len(same) == most:
                break
            with suppress(ValueError, TypeError, RequestError):  # damaged: `jobs` sets it aside
                if _seedless(row["work"]) == look and Path(row["result"]).is_file():
                    same.append(row["id"])
        return same[::-1]

    def queue(self) -> Queue:
        """Whether it is paused, and why."""
        (row,) = self._rows("SELECT * FROM queue")
        return Queue(bool(row["paused"]), next(iter(messages(row["reason"])), Message("")))

    def _jobs(self, rows: Iterable[sqlite3.Row]) -> list[Job]:
        """The jobs of rows; raises JobsError after setting damaged ones aside."""
        jobs, damaged = [], []
        for row in rows:
            try:
                jobs.append(as_job(row))
            except (ValueError, TypeError, AttributeError, RequestError):
                damaged.append(row)
        if damaged:
            with self._transaction() as db:
                for row in damaged:
                    _set_aside(db, row)
            raise JobsError(
                "Job {ids} in the job table was damaged and cannot be made; its row is kept apart"
                " in the same file. Everything else is as it was: look at the queue again.",
                ids=", ".join(str(row["id"]) for row in damaged),
            )
        return jobs

    def damaged(self) -> list[dict[str, Any]]:
        """The rows that were set aside, as they were found."""
        return [json.loads(row["row"]) for row in self._rows("SELECT row FROM damaged_jobs")]

    def by_key(self, keys: Iterable[str]) -> dict[str, Job]:
        """Of each content key its best job: done with its file there, else the latest one."""
        jobs: dict[str, Job] = {}
        for part in _parts(keys):
            sql = f"SELECT * FROM jobs WHERE key IN ({marks(part)}) ORDER BY id"
            for job in self._jobs(self._rows(sql, *part)):
                if job.key not in jobs or not is_finished(jobs[job.key]) or is_finished(job):
                    jobs[job.key] = job
        return jobs

    def _known(self, keys: Iterable[str]) -> dict[str, int]:
        """Of each content key the job that is queued, or done with its file there, if any."""
        ids: dict[str, int] = {}
        for part in _parts(keys):
            sql = f"SELECT key, id, state, result FROM jobs WHERE key IN ({marks(part)})"
            for row in self._rows(f"{sql} ORDER BY id", *part):
                made = row["state"] == "done" and row["result"] and Path(row["result"]).is_file()
                if made or row["state"] in (*PENDING, *RUNNING):
                    ids[row["key"]] = row["id"]
        return ids

    def estimate(self, work: Work) -> Estimate:
        """Medians of the last jobs with the same settings, else of the same kind on this pack."""
        return self._estimate(work.settings, work.engine)

    def _estimate(self, settings: str, engine: str) -> Estimate:
        rows: list[sqlite3.Row] = []
        for column, value in (("settings", settings), ("engine", engine)):
            sql = f"SELECT * FROM jobs WHERE state = 'done' AND {column} = ?"
            rows = rows or self._rows(f"{sql} ORDER BY finished DESC LIMIT ?", value, HISTORY)
        stages: dict[str, list[float]] = {}
        jobs = self._jobs(rows)
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
        """Until those jobs (all of the queue) are done, None where one is unlike any before.

        What runs runs side by side, and as many machines as make rows now share what waits.
        """
        known: dict[str, float | None] = {}
        running, waiting = 0.0, 0.0
        for job in self.jobs((*RUNNING, *PENDING)) if jobs is None else jobs:
            settings = job.work.settings
            if settings not in known:
                known[settings] = self.estimate(job.work).seconds
            seconds = known[settings]
            if seconds is None:
                return None
            if job.state == "running":
                running = max(running, seconds * (1 - job.fraction))
            else:
                waiting += seconds
        return running + waiting / max(1, self.count(RUNNING))

    def _unknown(self, ids: Collection[int]) -> JobsError:
        return JobsError(
            "Job {ids} is not in the queue any more; look at it again.",
            ids=", ".join(map(str, ids)),
        )


def marks(values: Collection[object]) -> str:
    """A question mark for each value."""
    return ", ".join("?" * len(values))


def _parts(keys: Iterable[str]) -> Iterator[list[str]]:
    """Each key once, in lists short enough for one query."""
    wanted = list(dict.fromkeys(keys))
    for start in range(0, len(wanted), 500):
        yield wanted[start : start + 500]


def _run(db: sqlite3.Connection, script: str) -> None:
    for statement in script.split(";"):
        db.execute(statement)


def _set_aside(db: sqlite3.Connection, row: sqlite3.Row) -> None:
    """Keep a row that cannot be read in a table of its own."""
    text = json.dumps(dict(row), default=repr)
    db.execute("INSERT INTO damaged_jobs VALUES (?)", [text])
    db.execute("DELETE FROM jobs WHERE id = ?", [row["id"]])


def _to_version_3(db: sqlite3.Connection) -> None:
    """The request in one column, in the words of `engine.config.Request`; ids for sentences."""
    _run(db, INDEXES[INDEXES.index("CREATE TABLE") :])
    rows = db.execute("SELECT * FROM jobs").fetchall()
    for name in ("work", "settings", "engine"):
        db.execute(f"ALTER TABLE jobs ADD COLUMN {name} TEXT NOT NULL DEFAULT ''")
    db.execute("ALTER TABLE jobs RENAME COLUMN words TO stage")
    db.execute("ALTER TABLE jobs RENAME COLUMN notice TO notices")
    for row in rows:
        try:
            values = as_columns(_old_work(row)) | {
                "stage": OLD_STAGES.get(row["words"], ""),
                "notices": as_text(Message(row["notice"])),
                "error": as_text(Message(row["error"])),
            }
        except (ValueError, TypeError, RequestError):
            _set_aside(db, row)
            continue
        names = ", ".join(f"{name} = ?" for name in values)
        db.execute(f"UPDATE jobs SET {names} WHERE id = ?", [*values.values(), row["id"]])
    there = {column["name"] for column in db.execute("PRAGMA table_info(jobs)")}
    for name in OLD_WORK:
        if name in there:
            db.execute(f"ALTER TABLE jobs DROP COLUMN {name}")
    for row in db.execute("SELECT reason FROM queue").fetchall():
        db.execute("UPDATE queue SET reason = ?", [as_text(Message(row["reason"]))])


def _old_work(row: sqlite3.Row) -> Work:
    values: Mapping[str, Any] = {name: row[name] for name in OLD_WORK if name in row.keys()}
    steps = values["steps"]
    flags = {name: bool(values.get(name, 1)) for name in ("upscale", "suffix")}
    return Work.from_dict(
        {**values, **flags, "steps": None if steps is None else json.loads(steps)}
    )


@lru_cache(maxsize=1024)
def _seedless(work: str) -> Mapping[str, Any]:
    """What a work's text says but its seeds and forks, which tell takes of one look apart."""
    return as_work(work).to_dict() | {"look_seed": 0, "motion_seed": 0, "forks": ()}
