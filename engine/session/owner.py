"""One owner of the NPU at a time: a lock between processes that the system takes back from a dead
one.

Two processes that use the NPU at once make each other's loads fail (error 5005). SQLite's exclusive
transaction is the lock, as for the one studio of a user.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import Message
from engine.session.notices import notify
from engine.session.runtime import NoBackendError

PATIENCE = 120.0  # seconds: more than a clip and the time that graphs stay loaded after it
FOLDER_VARIABLE = "NEODRAGON_NPU_LOCK"  # a folder, for tests

_guard = threading.RLock()
_count = 0
_lock: sqlite3.Connection | None = None


class NpuBusyError(NoBackendError):
    """Another process has the NPU."""


def lock_file() -> Path:
    """Where the processes of this user meet."""
    for variable in (FOLDER_VARIABLE, "LOCALAPPDATA", "XDG_RUNTIME_DIR"):
        folder = os.environ.get(variable)
        if folder and os.access(folder, os.W_OK):
            return Path(folder) / "neodragon-npu.lock"
    user = os.getuid() if hasattr(os, "getuid") else ""
    return Path(tempfile.gettempdir()) / f"neodragon-npu{user}.lock"


@contextmanager
def held(patience: float = PATIENCE) -> Iterator[None]:
    """Have the NPU for a block; raises NpuBusyError where it is not free within the seconds."""
    acquire(patience)
    try:
        yield
    finally:
        release()


def acquire(patience: float = PATIENCE) -> None:
    """Take the NPU for this process, which may do so often; raises NpuBusyError."""
    global _count, _lock
    with _guard:
        if _count == 0:
            try:
                _lock = _locked(0)
            except NpuBusyError:
                if not patience:
                    raise
                notify(Message("The NPU is used by another clip; this one waits for it."))
                _lock = _locked(patience)
        _count += 1


def release() -> None:
    """Undo one `acquire`; the last one lets other processes have it."""
    global _count, _lock
    with _guard:
        _count -= 1
        if _count == 0 and _lock is not None:
            _lock.close()
            _lock = None


def _locked(patience: float) -> sqlite3.Connection | None:
    """None where no file can be had: a machine without that keeps its NPU."""
    try:
        lock = sqlite3.connect(
            lock_file(), timeout=patience, isolation_level=None, check_same_thread=False
        )
    except sqlite3.OperationalError:
        return None
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.DatabaseError as error:
        lock.close()
        if "locked" not in str(error):
            return None
        raise NpuBusyError(
            "The NPU is used by another clip or program of Neodragon Studio; wait until it is"
            " done, or choose the backend cpu."
        ) from error
    return lock
