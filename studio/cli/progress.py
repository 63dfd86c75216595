"""Work through the queue in a terminal: a progress line, and one line for each finished job."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from engine.errors import Message
from studio.cli.console import Bar, shown
from studio.farm.supervisor import FarmSupervisor
from studio.jobs.database import JobsError
from studio.jobs.spec import PENDING, RUNNING, Job
from studio.jobs.supervisor import Keeper
from studio.jobs.table import JobTable
from studio.language.catalogue import string
from studio.system import paths
from studio.system.settings import clips_folder

LOOK = 0.2  # seconds between looks at the table
STOPPED = Message("You stopped the run; resume the queue or run the list again to go on.")


def work_off(table: JobTable, ids: Mapping[int, str], *, quiet: bool, farm: bool = False) -> None:
    """See to these waiting jobs until they have ended or the queue is paused; ids: their names.

    farm: other machines work on them, and this one only where it has joined its own farm.

    On Ctrl+C the running one waits again and the queue is paused, unless it is another app's
    worker that works on it. Raises WorkerError or RegisterError.
    """
    if not ids:
        return
    bar = Bar()
    ended = 0
    here: Keeper | FarmSupervisor = (
        FarmSupervisor(table) if farm else Keeper(table, clips_folder(), paths.cache_folder())
    )
    with here as keeper:
        others = [job for job in table.jobs((*RUNNING, *PENDING)) if job.id not in ids]
        if others and not quiet:
            print(f"{len(others)} other jobs are in the queue too", flush=True)
        try:
            table.resume()
            for job in _watched(table, keeper, ids, bar):
                ended += 1
                if not quiet:
                    bar.clear()
                    print(f"{ended} of {len(ids)}, {ids[job.id]}: {became(job)}", flush=True)
        except KeyboardInterrupt:
            if not keeper.interrupt(STOPPED) and not quiet:
                bar.clear()
                print("The queue goes on in another window; `nds queue stop` stops it.")
            raise
        finally:
            bar.clear()
    left = [job for job in table.jobs(PENDING) if job.id in ids]
    if left and not quiet:
        print(f"{len(left)} are still waiting: {str(table.queue().reason) or 'paused'}")


def _watched(
    table: JobTable, keeper: Keeper | FarmSupervisor, ids: Mapping[int, str], bar: Bar
) -> Iterator[Job]:
    """The jobs as they end, until all have or the queue is paused."""
    open_, before, rest = dict(ids), [-1], None
    while True:
        keeper.look()
        paused = table.queue().paused
        running = table.jobs(RUNNING)
        now = [job.id for job in running]
        if now != before or not now:
            alive = table.jobs((*RUNNING, *PENDING))  # at one moment: a job may be claimed any time
            running = [job for job in alive if job.state == "running"]
            before = now = [job.id for job in running]
            rest = table.seconds_left(j for j in alive if j.id in open_ and j.id not in now)
            for job_id in sorted(set(open_) - {job.id for job in alive}):
                del open_[job_id]
                try:
                    yield table.job(job_id)
                except JobsError:  # removed, by another terminal
                    continue
        if not open_ or (paused and not now):
            return
        for job in running[:1]:
            done = len(ids) - len(open_)
            left = table.seconds_left([job])
            time_left = "" if left is None or rest is None else f", {duration(left + rest)} left"
            bar.draw(
                f"{min(done + 1, len(ids))} of {len(ids)}",
                (done + (job.fraction if job.id in open_ else 0)) / len(ids),
                f"{string(f'doing.{job.stage}', 'en') if job.stage else ''}{time_left}",
            )
        time.sleep(LOOK)


def became(job: Job) -> str:
    """What became of a job, in a line."""
    if job.state == "done" and job.result is not None:
        return " ".join([f"{shown(job.result)} ({job.seconds or 0:.1f} s)", *map(str, job.notices)])
    return f"{job.state}{'. ' * bool(job.error)}{job.error}"


def duration(seconds: float) -> str:
    """Seconds, or minutes where there are many."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
