"""A first frame by the worker of the studio that is open, whose graphs are loaded."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from engine.errors import NeodragonError
from studio.jobs.database import JobsError
from studio.jobs.results import has_room
from studio.jobs.spec import PENDING, RUNNING, Entry, Job, Work
from studio.jobs.table import JobTable
from studio.jobs.worker import FLOOR
from studio.media.pictures import read_picture
from studio.system import paths
from studio.system.files import OutputError

LOOK = 0.02  # seconds between looks at the job
PATIENCE = 10.0  # seconds that it may take to be given up


def draw(work: Work, key: str) -> tuple[Job, NDArray[np.uint8]] | None:
    """The job, which has left the table, and its picture, uint8 [H, W, 3].

    None where no studio is open or its worker has something else to do. Raises NeodragonError
    where the job fails.
    """
    if not paths.jobs_file().exists():
        return None
    with suppress(JobsError, OutputError, OSError), JobTable(paths.jobs_file()) as table:
        if _is_free(table):
            with TemporaryDirectory(dir=paths.cache_folder()) as folder:
                return _drawn(table, Entry(work, key, folder=folder))
    return None


def _is_free(table: JobTable) -> bool:
    """Whether a worker of an open studio waits for something to do, with room for it."""
    with table.deserted() as alone:
        idle = not alone and table.has_worker() and not table.queue().paused
    return idle and not table.count((*RUNNING, *PENDING)) and has_room(paths.cache_folder(), FLOOR)


def _drawn(table: JobTable, entry: Entry) -> tuple[Job, NDArray[np.uint8]] | None:
    (number,) = table.add([entry])
    try:
        job = table.job(number)
        while job.state == "running" or (job.state == "waiting" and not table.queue().paused):
            time.sleep(LOOK)
            job = table.job(number)
        if job.state == "failed":
            raise NeodragonError(job.error)
        if job.state != "done" or job.result is None:
            return None
        return job, read_picture(Path(job.result))
    finally:
        _leave(table, number)


def _leave(table: JobTable, number: int) -> None:
    """Take the job out of the table, whatever became of it."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(JobsError):
            table.skip(number)  # it runs
        with suppress(JobsError):
            table.forget(number)
            return
        time.sleep(LOOK)
