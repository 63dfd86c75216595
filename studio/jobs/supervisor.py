"""Keeps a worker running while an app is open: a worker that dies is replaced.

The page and the commands that run a queue hold one each; of several open apps, one has the worker.
"""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from pathlib import Path

from engine.errors import Message, NeodragonError, reason_of
from studio.jobs import worker
from studio.jobs.table import ATTEMPTS, JobTable

GRACE = 2.0  # seconds in which a worker without a job ends by itself
LEFT = Message("The queue was left by an app that is gone; resume it to go on.")


class WorkerError(NeodragonError):
    """No worker stays at the queue."""


class Keeper:
    """Sees to a worker whenever it is told to `look`; close it or use it as a context manager.

    clips, cache, threads, served: as of `worker.Worker`; warm: as of `worker.start`.
    A queue without a worker when it opens was left by an app that is gone: it is paused.
    """

    def __init__(
        self,
        table: JobTable,
        clips: Path,
        cache: Path,
        threads: int | None = None,
        warm: tuple[Path, str] | None = None,
        served: bool = False,
    ) -> None:
        self.table = table
        self.served = served
        self.warm = warm
        self.clips = clips
        self.cache = cache
        self.threads = threads
        self._process: subprocess.Popen[bytes] | None = None
        self._idle_ends = 0
        if not table.has_worker():
            worker.pause_if_deserted(table, LEFT)
        self._attending = ExitStack()
        self._attending.enter_context(table.attended())

    def look(self) -> None:
        """Start a worker where there is none; raises WorkerError where none stays."""
        if self.is_ours or self.table.has_worker():
            return
        if self._process is not None and not self.table.is_working():
            self._idle_ends += 1  # in the middle of a job, it is the job that counts its attempts
            if self._idle_ends > ATTEMPTS:
                code = self._process.returncode
                self._end()
                self._process, self._idle_ends = None, ATTEMPTS  # the next look tries once more
                raise WorkerError(
                    "The worker ended {count} times with code {code}; its last words are in {log}.",
                    count=ATTEMPTS + 1,
                    code=code,
                    log=f"{self.table.path}.log",
                )
        self._end()
        try:
            self._process = worker.start(
                self.table.path,
                self.clips,
                self.cache,
                threads=self.threads,
                kept=True,
                served=self.served,
                warm=self.warm,
            )
        except OSError as error:
            raise WorkerError(
                "The worker cannot be started ({reason}); close other programs and try again.",
                reason=reason_of(error),
            ) from error

    @property
    def is_ours(self) -> bool:
        """Whether the worker is this keeper's, and alive."""
        return self._process is not None and self._process.poll() is None

    def interrupt(self, reason: Message) -> bool:
        """Pause, and let the running job wait again; whether the worker is ours to stop."""
        if self.is_ours:
            self.table.interrupt(reason)
        return self.is_ours

    def close(self) -> None:
        """Let the worker end after the job it is at; another app may take over at once."""
        self._attending.close()
        self._end()

    def _end(self) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            while not self._has_ended():
                if not self.table.is_working():  # it may be loading graphs for nobody
                    self._process.kill()
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def _has_ended(self) -> bool:
        """Whether the worker ends within some seconds."""
        assert self._process is not None
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            return False
        return True

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
