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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from studio.jobs.database import JobFile, JobsError, marks
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
    as_job,
    content_key,
    is_finished,
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

ATTEMPTS = 2  # a job that took two workers down does not get a third
LEASE_POLL = 0.1  # seconds
CLEAN = (  # what a row says before an attempt
    "finished = NULL, stages = '{}', fraction = 0, words = '', notice = '', units = 0,"
    " result = NULL, size = NULL, error = '', stop = ''"
)
FRESH = f"state = 'waiting', attempts = 0, started = NULL, {CLEAN}"


class JobTable(JobFile):
    """The table in the file at `path`, made when absent; safe from threads and processes.

    Close it or use it as a context manager. Every method raises JobsError where the file fails it
    or an id is not there; the file must not lie on a network drive.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._lease: sqlite3.Connection | None = None

    # Arranging the queue

    def add(self, entries: Iterable[Entry], batch: str | None = None) -> list[int]:
        """Put jobs at the end of the queue, all or none; their ids."""
        with self._transaction() as db:
            (last,) = db.execute("SELECT coalesce(max(position), 0) FROM jobs").fetchone()
            ids = []
            for position, entry in enumerate(entries, last + 1):
                values = as_columns(entry.work) | {
                    "key": entry.key,
                    "position": position,
                    "created": time.time(),
                    "batch": batch,
                    "row": entry.row,
                    "folder": entry.folder,
                }
                ids.append(_insert(db, values))
            return ids

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

    def interrupt(self, reason: str) -> None:
        """Pause, and ask the worker to put the running job back, which is interrupted then."""
        with self._transaction() as db:
            db.execute("UPDATE queue SET paused = 1, reason = ?", [reason])
            db.execute("UPDATE jobs SET stop = 'interrupt' WHERE state = 'running'")

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

    def recover(
        self, whole: Callable[[Job], bool] = lambda job: False, *, pause: bool = True
    ) -> list[Job]:
        """See to the running rows of a dead worker, and `pause` the queue if there were any.

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
        if dead and pause:
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
                f" WHERE id = (SELECT id FROM jobs WHERE state IN ({marks(PENDING)})"
                " ORDER BY position, id LIMIT 1) AND NOT (SELECT paused FROM queue) RETURNING *",
                [time.time(), *PENDING],
            ).fetchone()
        return None if row is None else as_job(row)

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
        """The running job was given up as asked; an interruption counts as no attempt."""
        if stop == "interrupt":
            self.release(job_id, "interrupted")
        else:
            self._end(job_id, "skipped" if stop == "skip" else "cancelled", "")

    def release(self, job_id: int, state: State = "waiting") -> None:
        """Let the running job wait again where it was, as if it had not been claimed."""
        with self._transaction() as db:
            db.execute(
                "UPDATE jobs SET state = ?, attempts = attempts - 1, started = NULL,"
                f" {CLEAN} WHERE id = ?",
                [state, job_id],
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


def _insert(db: sqlite3.Connection, values: Mapping[str, Any]) -> int:
    cursor = db.execute(
        f"INSERT INTO jobs ({', '.join(values)}) VALUES ({marks(values)})", list(values.values())
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid
