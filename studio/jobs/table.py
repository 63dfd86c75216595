"""The job table: what is to be made, what is being made, what became of it; in one SQLite file.

Any number of processes and threads add rows and watch. One worker at a time, the one that holds the
lease, claims rows and reports on them. Rows of finished jobs stay: they are the history that
estimates come from. It knows nothing of pixels or graphs.

    waiting -> running -> done | failed | skipped | cancelled
                  `----> interrupted (its worker died) -> running, once more -> failed
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from engine.errors import Message
from studio.jobs.database import JobsError, marks
from studio.jobs.presence import Presence
from studio.jobs.spec import (
    PENDING,
    RETRIED,
    RUNNING,
    STATES,
    Entry,
    Estimate,
    Job,
    Queue,
    State,
    Stop,
    Work,
    as_columns,
    as_text,
    content_key,
    is_finished,
    messages,
)
from studio.media.sidecars import Kind

__all__ = [  # the table and its words
    "ATTEMPTS",
    "PENDING",
    "RETRIED",
    "RUNNING",
    "STATES",
    "Entry",
    "Estimate",
    "Job",
    "JobTable",
    "JobsError",
    "Kind",
    "Queue",
    "State",
    "Stop",
    "Work",
    "content_key",
    "is_finished",
]

NOTHING = Message("")
ATTEMPTS = 2  # a job that took two workers down does not get a third
HOST = 5.0  # seconds that the farm's host, if there is one, has to see to a lease that ended
ENDED = Message(
    "{attempts} workers ended in the middle of this job; change something about it, or retry it.",
    {"attempts": ATTEMPTS},
)
CLEAN = (  # what a row says before an attempt
    "finished = NULL, stages = '{}', fraction = 0, stage = '', notices = '', units = 0,"
    " result = NULL, size = NULL, error = '', stop = ''"
)
FRESH = f"state = 'waiting', attempts = 0, started = NULL, {CLEAN}"


class JobTable(Presence):
    """The table in the file at `path`, made when absent; safe from threads and processes.

    Close it or use it as a context manager. Every method raises JobsError where the file fails it
    or an id is not there; the file must not lie on a network drive.
    """

    # Arranging the queue

    def add(self, entries: Iterable[Entry], batch: str | None = None) -> list[int]:
        """Put jobs at the end of the queue, all or none; their ids."""
        entries = list(entries)
        with self._transaction() as db:
            (last,) = db.execute("SELECT coalesce(max(position), 0) FROM jobs").fetchone()
            return _insert(db, entries, last + 1, batch)

    def ensure(
        self, entries: Iterable[Entry], batch: str | None = None, *, ahead: bool = False
    ) -> list[int]:
        """Put jobs into the queue unless they are made or queued already; an id for each entry.

        Of the same work asked for at the same time, in whatever process, there is one job. ahead:
        before what waits, else at the end.
        """
        entries = list(entries)
        with self._transaction() as db:
            ids = self._known([entry.key for entry in entries])
            new = list({entry.key: entry for entry in entries if entry.key not in ids}.values())
            (last,) = db.execute("SELECT coalesce(max(position), 0) FROM jobs").fetchone()
            at = last + 1
            if ahead and new:
                where = f"state IN ({marks(PENDING)})"
                (first,) = db.execute(
                    f"SELECT min(position) FROM jobs WHERE {where}", PENDING
                ).fetchone()
                if first is not None:
                    at = first
                    db.execute(
                        f"UPDATE jobs SET position = position + ? WHERE {where}",
                        [len(new), *PENDING],
                    )
            made = _insert(db, new, at, batch)
            ids |= {entry.key: number for entry, number in zip(new, made, strict=True)}
        return [ids[entry.key] for entry in entries]

    def edit(self, job_id: int, work: Work, key: str) -> None:
        """Let a waiting job make something else."""
        values = as_columns(work) | {"key": key}
        with self._transaction() as db:
            self._require(db, [job_id], PENDING, "edited")
            names = ", ".join(f"{name} = ?" for name in values)
            db.execute(f"UPDATE jobs SET {names}, {FRESH} WHERE id = ?", [*values.values(), job_id])

    def duplicate(self, job_id: int) -> int:
        """Add a job like this one, whatever its state, at the end of the queue; its id."""
        job = self.job(job_id)
        return self.add([Entry(job.work, job.key, job.row, job.folder)], job.batch)[0]

    def remove(self, ids: Collection[int]) -> None:
        """Take waiting jobs out of the table, all or none."""
        with self._transaction() as db:
            self._require(db, ids, PENDING, "removed")
            db.executemany("DELETE FROM jobs WHERE id = ?", [(job_id,) for job_id in ids])

    def forget(self, job_id: int) -> None:
        """Take a job out of the table that is not running; its file stays."""
        with self._transaction() as db:
            self._require(
                db, [job_id], [state for state in STATES if state != "running"], "removed"
            )
            db.execute("DELETE FROM jobs WHERE id = ?", [job_id])

    def move(self, ids: Sequence[int], before: int | None = None) -> None:
        """Put waiting jobs, in this order, before the waiting job `before`, None for the end."""
        with self._transaction() as db:
            self._require(db, [*ids, *([] if before is None else [before])], PENDING, "moved")
            waiting = db.execute(
                f"SELECT id, position FROM jobs WHERE state IN ({marks(PENDING)})"
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

    def pause(self, reason: Message = NOTHING) -> None:
        """Start no further job (*Stop after this*); reason: for the user."""
        with self._transaction() as db:
            db.execute("UPDATE queue SET paused = 1, reason = ?", [as_text(reason)])

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

    def interrupt(self, reason: Message) -> None:
        """Pause, and ask the worker to put the running job back, which is interrupted then."""
        with self._transaction() as db:
            db.execute("UPDATE queue SET paused = 1, reason = ?", [as_text(reason)])
            db.execute("UPDATE jobs SET stop = 'interrupt' WHERE state = 'running'")

    # The worker's side

    def recover(
        self, whole: Callable[[Job], bool] = lambda job: False, *, pause: bool = True
    ) -> list[Job]:
        """See to the running rows of a dead worker, and `pause` the queue if there were any.

        A job whose file is `whole` is done; the others are interrupted, or failed after their
        second attempt. Those that the farm has leased are none of these until their leases have
        ended and no host has seen to that.
        Returns them as they were. Needs the lease.
        """
        assert self._has_lease, "only the worker recovers"
        with self._transaction() as db:
            db.execute("DELETE FROM leases WHERE expires < ?", [time.time() - HOST])
        dead = self._jobs(
            self._rows(  # at once: the farm may begin a row between two looks
                "SELECT * FROM jobs WHERE state = 'running'"
                " AND id NOT IN (SELECT job FROM leases WHERE begun) ORDER BY position, id"
            )
        )
        if dead and pause:  # first: who sees an interrupted job sees why it waits
            self.pause(
                Message("The last run ended in the middle of a job; resume the queue to go on.")
            )
        for job in dead:
            self._lose(job, whole, ENDED)
        return dead

    def _lose(self, job: Job, whole: Callable[[Job], bool], reason: Message) -> None:
        """See to a running row that nobody works on any more."""
        if whole(job):
            assert job.result is not None, "a whole file has a path"
            self.finish(job.id, job.result, job.stages, at=job.result.stat().st_mtime)
        elif job.attempts < ATTEMPTS:
            self._end(job.id, "interrupted")
        else:
            self.fail(job.id, reason)

    def claim(self) -> Job | None:
        """The next job, now running; None where there is none or the queue is paused.

        One that a machine of the farm was given but has not begun comes last. Needs the lease.
        """
        assert self._has_lease, "only the worker claims"
        with self._transaction() as db:
            row = next_waiting(db, "id NOT IN (SELECT job FROM leases)") or next_waiting(db, "1")
            rows = [] if row is None else self._begin(db, row["id"])
        return next(iter(self._jobs(rows)), None)

    def _begin(self, db: sqlite3.Connection, job_id: int) -> list[sqlite3.Row]:
        """The waiting job, now running; none where the queue is paused."""
        rows = db.execute(
            f"UPDATE jobs SET state = 'running', attempts = attempts + 1, started = ?, {CLEAN}"
            f" WHERE id = ? AND state IN ({marks(PENDING)}) AND NOT (SELECT paused FROM queue)"
            " RETURNING *",
            [time.time(), job_id, *PENDING],
        ).fetchall()
        db.execute("DELETE FROM leases WHERE job = ? AND NOT begun", [job_id])
        return rows

    def progress(
        self, job_id: int, fraction: float, stage: str, stages: Mapping[str, float], units: int = 0
    ) -> Stop:
        """Report on the running job; what was asked of it meanwhile."""
        with self._transaction() as db:
            row = db.execute(
                "UPDATE jobs SET fraction = ?, stage = ?, stages = ?, units = ? WHERE id = ?"
                " RETURNING stop",
                [fraction, stage, json.dumps(dict(stages)), units, job_id],
            ).fetchone()
        if row is None:
            raise self._unknown([job_id])
        stop: Stop = row["stop"]
        return stop

    def note(self, job_id: int, notice: Message) -> None:
        """Add to what the user should know of a result."""
        with self._transaction() as db:
            for row in db.execute("SELECT notices FROM jobs WHERE id = ?", [job_id]).fetchall():
                text = as_text(*messages(row["notices"]), notice)
                db.execute("UPDATE jobs SET notices = ? WHERE id = ?", [text, job_id])

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
                " fraction = 1, stage = '', error = '', stop = '' WHERE id = ?",
                [
                    *(at or time.time(), str(result), result.stat().st_size),
                    *(json.dumps(dict(stages)), job_id),
                ],
            )

    def fail(self, job_id: int, error: Message) -> None:
        """The running job failed."""
        self._end(job_id, "failed", error)

    def stopped(self, job_id: int, stop: Stop) -> None:
        """The running job was given up as asked; an interruption counts as no attempt."""
        if stop == "interrupt":
            self.release(job_id, "interrupted")
        else:
            self._end(job_id, "skipped" if stop == "skip" else "cancelled")

    def release(self, job_id: int, state: State = "waiting") -> None:
        """Let the running job wait again where it was, as if it had not been claimed."""
        with self._transaction() as db:
            db.execute(
                "UPDATE jobs SET state = ?, attempts = attempts - 1, started = NULL,"
                f" {CLEAN} WHERE id = ?",
                [state, job_id],
            )

    def _end(self, job_id: int, state: State, error: Message = NOTHING) -> None:
        with self._transaction() as db:
            db.execute(
                "UPDATE jobs SET state = ?, error = ?, finished = ?, result = NULL, stage = '',"
                " stop = '' WHERE id = ?",
                [state, as_text(error), time.time(), job_id],
            )

    # The file

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
                    "Job {id} is {state} and cannot be {verb}; look at the queue again.",
                    id=job_id,
                    state=Message(row["state"]),
                    verb=Message(verb),
                )


def next_waiting(
    db: sqlite3.Connection, where: str, parameters: Sequence[object] = ()
) -> sqlite3.Row | None:
    """The first waiting row that meets a condition, by an index of each state."""
    rows: list[sqlite3.Row] = []
    for state in PENDING:
        sql = f"SELECT * FROM jobs WHERE state = ? AND {where} ORDER BY position, id LIMIT 1"
        rows += db.execute(sql, [state, *parameters]).fetchall()
    return min(rows, key=lambda row: (row["position"], row["id"]), default=None)


def _insert(
    db: sqlite3.Connection, entries: Iterable[Entry], position: int, batch: str | None
) -> list[int]:
    """Add rows from that position on; their ids."""
    ids = []
    for place, entry in enumerate(entries, position):
        values = as_columns(entry.work) | {
            "key": entry.key,
            "position": place,
            "created": time.time(),
            "batch": batch,
            "row": entry.row,
            "folder": entry.folder,
        }
        cursor = db.execute(
            f"INSERT INTO jobs ({', '.join(values)}) VALUES ({marks(values)})",
            list(values.values()),
        )
        assert cursor.lastrowid is not None
        ids.append(cursor.lastrowid)
    return ids
