"""Where a machine makes a row: a job table and a worker process of the farm's own.

The user's own queue and clips on that machine are not touched.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from engine.errors import Message, NeodragonError
from studio.jobs.spec import PENDING, RUNNING, Entry, Work
from studio.jobs.supervisor import Keeper
from studio.jobs.table import JobTable

NOTHING = Message("")
LOOK = 0.01  # seconds between looks at the table's version, which cost next to nothing
KEPT = 86_400.0  # seconds that a file waits for its row to be asked for again


@dataclass(frozen=True)
class State:
    """How far a row is.

    file: it is made; error: it cannot be; trouble: this machine cannot make rows now; stages,
    seconds: of work; fraction, stage, notices: as of `studio.jobs.spec.Job`.
    """

    fraction: float = 0.0
    stage: str = ""
    stages: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    notices: tuple[Message, ...] = ()
    file: Path | None = None
    error: Message = NOTHING
    trouble: Message = NOTHING
    stopped: bool = False

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to wait for."""
        return bool(self.file or self.error or self.trouble or self.stopped)


class Maker(Protocol):
    """What a machine needs of its worker: one row at a time."""

    def begin(self, work: Work, key: str) -> None:
        """Begin a row."""

    def look(self, wait: float) -> State:
        """How far it is, as soon as that is new, or after so many seconds."""

    def stop(self) -> None:
        """Give it up."""

    def clear(self, file: Path) -> None:
        """A row's file was taken away."""

    def close(self) -> None:
        """Give up what is begun."""


class LocalWorker:
    """The real one, in a folder of the studio's data. threads: of the CPU, None for all."""

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._table = JobTable(folder / "jobs.sqlite")
        self._table.remove(self._table.ids(PENDING))
        for left in (folder / "clips").glob("*"):  # what nobody wanted any more
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > KEPT:
                    left.unlink()
        self._keeper = Keeper(self._table, folder / "clips", folder / "cache", threads, served=True)
        self._table.resume()
        self._job: int | None = None
        self._seen: tuple[int, int] | None = None  # of the table, when it was looked at

    def begin(self, work: Work, key: str) -> None:
        """Begin a row; one that is made but was not taken away is there at once."""
        self._table.resume()
        [self._job] = self._table.ensure([Entry(work, key)])
        self._seen = None

    def look(self, wait: float = 0.0) -> State:
        """How far it is, as soon as that is new, or after so many seconds."""
        assert self._job is not None, "something has begun"
        until = time.monotonic() + wait
        while self._seen == (seen := self._table.version()) and time.monotonic() < until:
            time.sleep(LOOK)
        self._seen = seen
        job = self._table.job(self._job)
        if job.state in (*PENDING, *RUNNING):
            try:
                self._keeper.look()
            except NeodragonError as error:
                return State(trouble=error.message)
            queue = self._table.queue()
            if queue.paused and job.state in PENDING:
                return State(trouble=queue.reason or Message("The machine's queue is paused."))
            return State(job.fraction, job.stage, job.stages)
        if job.state == "done" and job.result is not None:
            return State(*(1.0, "", job.stages, job.seconds or 0.0, job.notices), file=job.result)
        return State(error=job.error, stopped=not job.error)

    def stop(self) -> None:
        """Give it up."""
        assert self._job is not None, "something has begun"
        with suppress(NeodragonError):  # it ended meanwhile
            self._table.remove([self._job])
        with suppress(NeodragonError):
            self._table.skip(self._job)

    def clear(self, file: Path) -> None:
        """Remove a file that was taken away, and what lies beside it."""
        with suppress(OSError):
            file.unlink(missing_ok=True)
            file.with_suffix(".json").unlink(missing_ok=True)
        shutil.rmtree(self._keeper.cache / str(self._job), ignore_errors=True)

    def close(self) -> None:
        """Give up what is begun and end the worker."""
        if self._job is not None:
            self.stop()
        self._keeper.close()
        self._table.close()
