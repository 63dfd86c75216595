"""Rows of the job table that machines of the farm make: each is leased for a while.

    reserved (the row waits) -> begun (it runs) -> finished | stopped | handed back | lost

A lease that nobody renews ends. A row whose lease was lost has had one of its attempts; after the
last one it fails. A row that is only reserved may be moved, edited, removed, or claimed by this
studio's own worker: then the machine is told to leave it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.errors import Message
from studio.jobs.database import marks
from studio.jobs.spec import PENDING, Job, Stop
from studio.jobs.table import ATTEMPTS, JobTable, next_waiting

GONE = Message(
    "{attempts} machines did not deliver this job, {machine} last; check them, and retry the job."
)
FREE = "id NOT IN (SELECT job FROM leases)"
KEPT_WAITING = (
    "id IN (SELECT job FROM leases WHERE NOT begun"
    " AND machine IN (SELECT machine FROM leases WHERE begun))"
)
# Each engine by one step in its index, however many rows there are.
ENGINES = (
    "WITH RECURSIVE kinds(kind) AS (SELECT min(engine) FROM jobs UNION ALL"
    " SELECT (SELECT min(engine) FROM jobs WHERE engine > kind) FROM kinds WHERE kind IS NOT NULL)"
    " SELECT kind AS engine FROM kinds WHERE EXISTS (SELECT 1 FROM jobs WHERE engine = kind"
)


@dataclass(frozen=True)
class Lease:
    """A row given to a machine, which names it by the token; expires: seconds since 1970."""

    job: int
    token: str
    machine: str
    begun: bool
    expires: float


class LeasingTable(JobTable):
    """The job table as the farm sees it."""

    def reserve(
        self,
        machine: str,
        engines: Collection[str],
        seconds: float,
        *,
        again: Collection[str] = (),
        idle: bool = False,
    ) -> tuple[Job, str] | None:
        """The next row that a machine can make, and the token of its lease; None without one.

        engines: what it can make (`Work.engine`); again: what only it can, and so gets again where
        it has lost the row before. If it is idle and nothing else is left, it gets a row that
        waits for another machine to end what that one makes.
        """
        can = (
            f" AND engine IN ({marks(engines)})"
            f" AND (engine IN ({marks(again)})"
            " OR id NOT IN (SELECT job FROM lost_leases WHERE machine = ?))"
        )
        values = [*engines, *again, machine]
        with self._transaction() as db:
            (paused,) = db.execute("SELECT paused FROM queue").fetchone()
            if paused:
                return None
            row = next_waiting(db, FREE + can, values)
            if row is None and idle:
                row = next_waiting(db, KEPT_WAITING + can, values)
            if row is None:
                return None
            token = secrets.token_hex(16)
            db.execute(
                "INSERT OR REPLACE INTO leases VALUES (?, ?, ?, 0, ?)",
                [row["id"], token, machine, time.time() + seconds],
            )
        return self._jobs([row])[0], token

    def begin(self, token: str, seconds: float) -> Job | None:
        """The machine begins; its row, now running, or None where it must leave it.

        Asked again, as after an answer that was lost, it says the same.
        """
        if (running := self.leased(token)) is not None:
            return running
        with self._transaction() as db:
            rows = db.execute(
                "UPDATE leases SET begun = 1, expires = ? WHERE token = ? AND NOT begun"
                " RETURNING job",
                [time.time() + seconds, token],
            ).fetchall()
            begun = self._begin(db, rows[0]["job"]) if rows else []
            if not begun:
                db.execute("DELETE FROM leases WHERE token = ?", [token])
        return next(iter(self._jobs(begun)), None)

    def renew(
        self,
        token: str,
        seconds: float,
        fraction: float,
        stage: str,
        stages: Mapping[str, float],
    ) -> Stop | None:
        """Report on a row that has begun; what was asked of it, or None where the lease is over."""
        with self._transaction() as db:
            rows = db.execute(
                "UPDATE leases SET expires = ? WHERE token = ? AND begun RETURNING job",
                [time.time() + seconds, token],
            ).fetchall()
            return self.progress(rows[0]["job"], fraction, stage, stages) if rows else None

    def leased(self, token: str, seconds: float | None = None) -> Job | None:
        """The running row of a lease that is not over; seconds: for which it is renewed."""
        if seconds is not None:
            with self._transaction() as db:
                db.execute(
                    "UPDATE leases SET expires = ? WHERE token = ? AND begun",
                    [time.time() + seconds, token],
                )
        rows = self._rows(
            "SELECT jobs.* FROM jobs JOIN leases ON job = id"
            " WHERE token = ? AND begun AND state = 'running'",
            token,
        )
        return next(iter(self._jobs(rows)), None)

    def deliver(self, token: str, result: Path, stages: Mapping[str, float]) -> None:
        """The row is made, its file there."""
        self._close(token, lambda job: self.finish(job, result, stages))

    def hand_back(self, token: str, stop: Stop = "interrupt") -> None:
        """The machine gave the row up as asked, or cannot go on: it has not had an attempt."""
        self._close(token, lambda job: self.stopped(job, stop))

    def refuse(self, token: str, reason: Message) -> None:
        """No machine can make the row, which nobody has begun: it fails with the reason."""
        if self.begin(token, 0) is not None:
            self._close(token, lambda job: self.fail(job, reason))

    def lose(self, token: str, reason: Message, whole: Callable[[Job], bool]) -> None:
        """The row had an attempt and was not made; after the last one it fails with the reason.

        A row whose file is `whole` is done.
        """
        self._lost([lease for lease in self.leases() if lease.token == token], reason, whole)

    def expire(self, whole: Callable[[Job], bool]) -> list[Lease]:
        """End the leases that nobody has renewed; those that had begun."""
        now = time.time()
        gone = [lease for lease in self.leases() if lease.expires < now]
        self._lost(gone, GONE, whole)
        return [lease for lease in gone if lease.begun]

    def extend(self, seconds: float) -> None:
        """Give whoever has begun a row so long to be heard of: the host was away meanwhile."""
        with self._transaction() as db:
            db.execute(
                "UPDATE leases SET expires = max(expires, ?) WHERE begun", [time.time() + seconds]
            )

    def withdraw(self, machine: str, grace: float) -> None:
        """Take back what a machine has not begun; what it has it must bring in so many seconds."""
        with self._transaction() as db:
            db.execute("DELETE FROM leases WHERE machine = ? AND NOT begun", [machine])
            db.execute(
                "UPDATE leases SET expires = min(expires, ?) WHERE machine = ?",
                [time.time() + grace, machine],
            )

    def leases(self) -> list[Lease]:
        """All of them."""
        return [
            Lease(row["job"], row["token"], row["machine"], bool(row["begun"]), row["expires"])
            for row in self._rows("SELECT * FROM leases ORDER BY expires")
        ]

    def engines(self) -> list[str]:
        """What the waiting rows need (`Work.engine`)."""
        rows = self._rows(f"{ENGINES} AND state IN ({marks(PENDING)}))", *PENDING)
        return [row["engine"] for row in rows]

    def _close(self, token: str, end: Callable[[int], None]) -> None:
        with self._transaction() as db:
            for row in db.execute("DELETE FROM leases WHERE token = ? RETURNING *", [token]):
                db.execute("DELETE FROM lost_leases WHERE job = ?", [row["job"]])
                if row["begun"]:
                    end(row["job"])

    def _lost(self, gone: list[Lease], reason: Message, whole: Callable[[Job], bool]) -> None:
        for lease in gone:
            job = self.leased(lease.token)
            with self._transaction() as db:
                db.execute("DELETE FROM leases WHERE token = ?", [lease.token])
                if job is not None:
                    db.execute("INSERT INTO lost_leases VALUES (?, ?)", [job.id, lease.machine])
                    values = {"attempts": ATTEMPTS, "machine": lease.machine} | dict(reason.values)
                    self._lose(job, whole, Message(reason.template, values))
