"""Which processes work on a job table or watch it: locks beside the file.

The operating system releases the lock of a process that dies, so a dead process never counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from studio.jobs.database import JobFile, JobsError
from studio.system.sqlite import BUSY, lock

PROBED = 0.5  # seconds in which others look whether a lock is free


class Presence(JobFile):
    """A job file with one lease, for the worker, and a lock that every open app shares."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._has_lease = False

    @contextmanager
    def lease(self, wait: float = 0, give_up: Callable[[], bool] = bool) -> Iterator[None]:
        """Be the one worker meanwhile, waiting at most so many seconds for another to end.

        The operating system takes the lease back from a process that dies. Raises JobsError where
        another has it, or `give_up` says so.
        """
        with self._locked("worker", max(wait, PROBED), give_up=give_up) as taken:
            if not taken:
                raise JobsError(
                    "Another worker has the job table {path}; let that one work.",
                    path=str(self.path),
                )
            self._has_lease = True
            try:
                yield
            finally:
                self._has_lease = False

    def has_worker(self) -> bool:
        """Whether a living process, this one or another, holds the lease."""
        with self._locked("worker", shared=True) as free:
            return not free

    @contextmanager
    def attended(self) -> Iterator[None]:
        """Be an app that sees to the queue meanwhile, as any number of processes may.

        While there is one, no worker pauses the queue because its own app is gone.
        """
        with self._locked("apps", BUSY, shared=True):
            yield

    @contextmanager
    def deserted(self) -> Iterator[bool]:
        """Whether no app sees to the queue; if so, none begins to meanwhile."""
        with self._locked("apps") as alone:
            yield alone

    @contextmanager
    def _locked(self, what: str, wait: float = 0, **options: Any) -> Iterator[bool]:
        """Hold a lock beside the table meanwhile; whether it was to be had; raises JobsError."""
        with ExitStack() as stack:
            with self._sentences():
                path = self.path.with_name(f"{self.path.name}-{what}")
                taken = stack.enter_context(lock(path, wait, **options))
            yield taken
