"""SQLite files that several processes share, and locks that die with the process that holds them.

A database is opened here only: write-ahead log, a patient wait for other writers, transactions
that happen whole or not at all. A damaged file is kept under another name and never deleted.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar, Self

from engine.errors import Message, NeodragonError, reason_of
from studio.system.files import publish
from studio.system.paths import private_file

BUSY = 30.0  # seconds to wait for another process's transaction
POLL = 0.1  # seconds between tries to take a lock
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Database:
    """The SQLite file at `path`, made when absent; safe from threads and processes.

    Close it or use it as a context manager. A subclass names its `failure`, which every method
    raises, and what the file is (`subject`), and makes its tables in `prepare`.
    """

    failure: ClassVar[type[NeodragonError]] = NeodragonError
    subject: ClassVar[Message] = Message("The database")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        with self._sentences():
            if str(path) != ":memory:":
                private_file(path)
            self._db = sqlite3.connect(
                path, timeout=BUSY, isolation_level=None, check_same_thread=False
            )
        self._db.row_factory = sqlite3.Row
        try:
            with self._sentences():
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = NORMAL")
            with self._transaction() as db:
                self.prepare(db)
        except BaseException:
            self._db.close()
            raise

    def prepare(self, db: sqlite3.Connection) -> None:
        """Make the tables, or bring them up to this version; inside a transaction."""

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def version(self) -> tuple[int, int]:
        """Changes whenever anything is written, by whomever; costs next to nothing."""
        with self._lock, self._sentences():
            (others,) = self._db.execute("PRAGMA data_version").fetchone()
            return others, self._db.total_changes

    def _rows(self, sql: str, *parameters: object) -> list[sqlite3.Row]:
        with self._lock, self._sentences():
            return self._db.execute(sql, parameters).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it or nothing; inside another it is part of that."""
        with self._lock, self._sentences():
            if self._db.in_transaction:
                yield self._db
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.commit()
            except BaseException:
                with suppress(sqlite3.Error):  # the first error says more
                    self._db.rollback()
                raise

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        """Turn what SQLite and the file system raise into `failure`."""
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGED:
                raise self._damaged() from error
            raise self.failure(
                "{subject} {path} cannot be used ({reason}); free some space, or close other"
                " programs that have it open.",
                subject=self.subject,
                path=str(self.path),
                reason=str(error),
            ) from error
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> NeodragonError:
        """What to say of a file that the system refuses."""
        return self.failure(
            "{subject} {path} cannot be used ({reason}); free some space, or choose a folder that"
            " can be written.",
            subject=self.subject,
            path=str(self.path),
            reason=reason_of(error),
        )

    def _damaged(self) -> NeodragonError:
        """Set the damaged file aside; what to say of it."""
        with suppress(AttributeError, sqlite3.Error):
            self._db.close()
        try:
            kept = publish(
                self.path, self.path.with_suffix(f".damaged{self.path.suffix}"), overwrite=False
            )
            for ending in ("-wal", "-shm"):
                with suppress(OSError):
                    self.path.with_name(self.path.name + ending).replace(
                        kept.with_name(kept.name + ending)
                    )
        except OSError as error:
            return self.failure(
                "{subject} {path} is damaged and in use ({reason}); close every window of the"
                " studio and start it again.",
                subject=self.subject,
                path=str(self.path),
                reason=reason_of(error),
            )
        return self.failure(
            "{subject} {path} was damaged; it is kept as {kept}. Start again with an empty one.",
            subject=self.subject,
            path=str(self.path),
            kept=kept.name,
        )


@contextmanager
def lock(
    path: Path, wait: float = 0, *, shared: bool = False, give_up: Callable[[], bool] = bool
) -> Iterator[bool]:
    """Hold the lock in the file at `path` meanwhile; whether it was to be had.

    shared: with others that share it. It waits at most so many seconds, and no longer than until
    `give_up` says so. The operating system takes a lock back from a process that dies. Raises
    sqlite3.Error or OSError where the folder takes no lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    held = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    deadline = time.monotonic() + wait
    try:
        while not (taken := _take(held, shared)):
            if time.monotonic() >= deadline or give_up():
                break
            time.sleep(POLL if wait > 1 else 0.01)
        yield taken
    finally:
        held.close()


def _take(connection: sqlite3.Connection, shared: bool) -> bool:
    try:
        connection.execute("BEGIN" if shared else "BEGIN EXCLUSIVE")
        if shared:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise
        if connection.in_transaction:
            connection.rollback()
        return False
    return True
