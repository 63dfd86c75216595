"""The worker: a process of its own that owns the engine and makes what the job table asks for.

`python -m studio.jobs.worker --jobs FILE`, or `start` from the page. It takes one job at a time,
reports on each as it goes, and writes a result when it is whole: the clip, then its sidecar, then
the row. A job that fails does not stop the next; if no file can be written, the queue pauses. All
its state is in the table or on disk, so it may be killed at any moment.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import FrameType

import numpy as np
from numpy.typing import NDArray

from engine.config import Request
from engine.errors import Message, NeodragonError
from engine.events import Event, FirstFrame, StageDone, Truncated, UnitFrames
from engine.graph_cache import GraphCache
from engine.pack import Pack, open_pack
from engine.pipeline import generate, prewarm
from engine.session import notices_to, require
from studio.jobs import previews, results
from studio.jobs.database import JobsError
from studio.jobs.previews import Previews
from studio.jobs.render import Meter, record, unread, with_pixels
from studio.jobs.spec import PENDING, RUNNING, Job, Stop, content_key
from studio.jobs.table import JobTable
from studio.language.catalogue import chosen_language, string
from studio.media.pictures import write_png
from studio.media.video import write_mp4
from studio.system.files import OutputError
from studio.system.packs import changed
from studio.system.paths import APPLICATION, own_worker, private_file
from studio.system.power import Awake, low_battery, memory, tell
from studio.system.settings import load, settings_file

Bytes = NDArray[np.uint8]

FAILED = 2
STANDBY = 600.0  # seconds an attached worker waits for another one to end
KEPT = 4  # the share of the machine's memory, one in so many, for graphs between jobs
IDLE = 60.0  # seconds without a job after which they are freed
WARM = 600.0  # the same before the first job
POLL = 0.1  # seconds between looks at an empty queue
FLOOR = 10**9  # bytes that stay free on the disk of the clips
DAY = 86_400.0  # seconds after which a part of a file is nobody's any more
CLOSED = Message("The studio was closed while jobs were waiting; resume the queue to go on.")
# What a mistake of ours may raise in one job: its row says so, and the next job is made.
FAULTS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, OSError),
    *(RuntimeError, TypeError, ValueError),
)


def start(
    jobs: Path,
    clips: Path,
    cache: Path,
    *,
    threads: int | None = None,
    floor: int = FLOOR,
    kept: bool = False,
    served: bool = False,
    warm: tuple[Path, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a worker process that lives as long as this one, and the job it is at.

    It waits for a worker that is still there to end; with `kept` it does not pause the queue when
    that one was killed; served: as of `Worker`; warm: a pack and the backend to load its graphs
    for, before the first job.
    What it has to say goes to `FILE.log` beside the table. Raises OSError.
    """
    command = [*own_worker(), "--attached", "--floor", str(floor)]
    command += ["--jobs", str(jobs), "--clips", str(clips), "--cache", str(cache)]
    if threads is not None:
        command += ["--threads", str(threads)]
    command += [*["--kept"] * kept, *["--served"] * served]
    if warm is not None:
        command += ["--warm", str(warm[0]), warm[1]]
    log_file = jobs.with_name(f"{jobs.name}.log")
    private_file(log_file)
    with log_file.open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # which ends when this process does, however it does
            stdout=log,
            stderr=log,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )


class _Stopped(Exception):
    """The user gave up the running job."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop


class Worker:
    """Makes the jobs of a table; its clips and first frames go to `clips`, previews to `cache`.

    threads: of the CPU, None for all; floor: bytes that stay free on the disk; served: another
    process hands it one job after the other, and tells the user what there is to tell.
    """

    def __init__(
        self,
        table: JobTable,
        clips: Path,
        cache: Path,
        threads: int | None = None,
        floor: int = FLOOR,
        served: bool = False,
    ) -> None:
        self.table = table
        self.served = served
        self.clips = clips
        self.previews = Previews(cache)
        self.threads = threads
        self.floor = floor
        self.leaving = threading.Event()  # set: no further job
        self._pack: Pack | None = None
        self._stamp = ""
        self._awake = Awake()
        self._graphs = GraphCache(memory() // KEPT, cache / "graphs")
        self._idle_since = time.monotonic()
        self._ended = 0  # jobs since the queue was done

    def run(
        self,
        *,
        drain: bool = False,
        wait: float = 0,
        kept: bool = False,
        warm: tuple[str, str] | None = None,
    ) -> None:
        """Work until `leaving` is set or, with `drain`, until there is nothing to take.

        wait: seconds for another worker to end; kept: a killed one is no reason to pause; warm: as
        of `start`. Raises JobsError where the other does not end.
        """
        warming = self._warming(*warm) if warm else iter(())
        with self.table.lease(wait, self.leaving.is_set):
            self._sweep()
            self.table.recover(results.is_whole, pause=not kept)
            try:
                while not self.leaving.is_set():
                    job = self.table.claim()
                    if job is not None:
                        self._do(job)
                        self._idle_since = time.monotonic()
                        continue
                    self._rest()
                    if next(warming, None):
                        self._idle_since = time.monotonic() + WARM - IDLE
                        continue
                    if time.monotonic() - self._idle_since > IDLE:
                        self._graphs.clear()
                    if drain:
                        return
                    self.table.recover(results.is_whole, pause=False)  # leases that ended
                    self.leaving.wait(POLL / 10 if self.served else POLL)
            finally:
                self._awake.release()
                self._graphs.clear()
                self._close_pack()

    def _warming(self, path: str, backend: str) -> Iterator[str]:
        """Load one group of graphs after another; a job says what is wrong, if anything is."""
        with suppress(NeodragonError):
            yield from prewarm(self._opened(path), require(backend), self.threads, self._graphs)

    def _rest(self) -> None:
        """Let the machine sleep, and say once that the queue is done."""
        self._awake.release()
        ended, self._ended = self._ended, 0
        if self.served:
            return
        settings, _ = load(settings_file())
        if ended and not self.table.count(PENDING) and settings.notify:
            language = chosen_language(settings.language)
            tell(APPLICATION, string("queue.done", language, count=ended))

    def _do(self, job: Job) -> None:
        """Make a job, and see that its row says what became of it."""
        settings, _ = load(settings_file())
        if settings.awake:
            self._awake.hold()
        try:
            if low := low_battery(settings.battery):
                self.table.release(job.id)
                self.table.pause(low)
                return
            folder = results.home(job, self.clips)
            if not results.has_room(folder, self.floor):
                self.table.release(job.id)
                self.table.pause(results.full(folder, self.floor))
                return
            self._ended += 1
            self._make(job)
        except _Stopped as stopped:
            self.table.stopped(job.id, stopped.stop)
        except JobsError:
            raise  # nothing can be said in a table that cannot be written
        except OutputError as error:  # the next one would fail alike
            self.table.pause(error.message)
            self.table.release(job.id, "interrupted")
        except NeodragonError as error:
            self.table.fail(job.id, error.message)
        except FAULTS as error:
            traceback.print_exc()
            self.table.fail(
                job.id,
                Message(
                    "The studio made a mistake ({error}: {text}); retry the job, and report it if"
                    " it happens again.",
                    {"error": type(error).__name__, "text": str(error)[:200]},
                ),
            )
        except BaseException:
            self.table.release(job.id)
            raise
        finally:
            self._forget_previews()

    def _make(self, job: Job) -> None:
        work = job.work
        begun = time.perf_counter()
        request = with_pixels(work)
        pack = self._opened(work.pack)
        stages: dict[str, float] = {}
        metadata = record(pack, work, require(work.backend))
        metadata |= {"key": content_key(work, pack), "kind": work.kind}
        self.previews.clear(job.id)
        first: Bytes | None = None
        units: list[Bytes] = []

        def noted(notice: Message) -> None:
            self.table.note(job.id, notice)
            metadata.setdefault("notices", []).append(str(notice))

        with notices_to(noted), closing(self._events(job, request, pack, stages)) as events:
            for event in events:
                if isinstance(event, FirstFrame):
                    first = event.image
                    self.previews.keep_first(job.id, first, metadata)
                    if work.kind == "frame":
                        break
                elif isinstance(event, UnitFrames):
                    units.append(event.frames)

        encoding = time.perf_counter()
        target = results.target(job, self.clips)
        accept = results.accepts(self.table, job, metadata["key"])
        if work.kind == "frame":
            assert first is not None, "every generation has a first frame"
            target = write_png(target, first, metadata, accept=accept)
        else:
            frames = np.concatenate(units)
            target = write_mp4(target, frames, pack.geometry.fps, metadata, accept=accept)
        stages["file"] = time.perf_counter() - encoding
        results.describe(self.table, job, target, metadata, time.perf_counter() - begun)
        self.table.finish(job.id, target, stages)

    def _events(
        self, job: Job, request: Request, pack: Pack, stages: dict[str, float]
    ) -> Generator[Event, None, None]:
        """The events of a generation, each reported; raises _Stopped as soon as it is asked to."""
        meter = Meter("first_frame" if job.work.kind == "frame" else "transformer")
        units = 0
        backend = require(job.work.backend)
        checked = load(settings_file())[0].safety
        running = generate(
            pack, request, backend, self.threads, checked=checked, cache=self._graphs
        )
        with closing(running) as events:
            for event in events:
                meter.update(event)
                if isinstance(event, StageDone):
                    stages[event.stage] = event.seconds
                elif isinstance(event, Truncated):
                    self.table.note(job.id, unread(event))
                elif isinstance(event, UnitFrames):
                    self.previews.add(job.id, event)
                    units += 1
                stop = self.table.progress(job.id, meter.fraction, meter.stage, stages, units)
                if stop:
                    raise _Stopped(stop)
                yield event

    def _opened(self, path: str) -> Pack:
        """The pack at `path`, kept open, and its files' hashes known, for the next job."""
        stamp = f"{path} {changed(path)}"
        if self._pack is None or self._stamp != stamp:
            self._close_pack()
            self._pack, self._stamp = open_pack(path), stamp
        return self._pack

    def _close_pack(self) -> None:
        if self._pack is not None:
            self._pack.close()
            self._pack = None

    def _sweep(self) -> None:
        """Remove what workers that were killed left behind."""
        queued = self.table.jobs((*RUNNING, *PENDING))
        self.previews.sweep({results.home(job, self.clips) for job in queued} | {self.clips}, DAY)
        self._forget_previews()

    def _forget_previews(self) -> None:
        """Remove those of all but the last jobs that are done."""
        self.previews.forget([job.id for job in self.table.jobs(["done"], newest=previews.KEPT)])


def main(argv: list[str] | None = None) -> int:
    """Work as the arguments say; the exit code."""
    parser = argparse.ArgumentParser(prog="studio.jobs.worker", description="Make queued clips.")
    parser.add_argument("--jobs", type=Path, required=True, help="the job table")
    parser.add_argument("--clips", type=Path, required=True, help="folder for results")
    parser.add_argument("--cache", type=Path, required=True, help="folder for previews")
    parser.add_argument("--threads", type=int, help="of the CPU; all cores when absent")
    parser.add_argument("--floor", type=int, default=FLOOR, help="bytes that stay free on disk")
    parser.add_argument("--drain", action="store_true", help="end when nothing is left to take")
    parser.add_argument(
        "--attached", action="store_true", help="end when stdin does; wait for another worker"
    )
    parser.add_argument("--kept", action="store_true", help="go on where another worker was killed")
    parser.add_argument("--served", action="store_true", help="jobs come one after the other")
    parser.add_argument(
        "--warm",
        nargs=2,
        metavar=("PACK", "BACKEND"),
        help="load its graphs before any job",
    )
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        with JobTable(arguments.jobs) as table, ExitStack() as stack:
            worker = Worker(
                *(table, arguments.clips, arguments.cache, arguments.threads, arguments.floor),
                served=arguments.served,
            )
            if arguments.attached:
                for name in {"SIGINT", "SIGBREAK"} & set(dir(signal)):  # meant for who started it
                    signal.signal(getattr(signal, name), signal.SIG_IGN)
                threading.Thread(target=_watch, args=[worker], daemon=True).start()
            else:
                stack.enter_context(table.attended())
            wait = STANDBY if arguments.attached else 0
            worker.run(drain=arguments.drain, wait=wait, kept=arguments.kept, warm=arguments.warm)
            if worker.leaving.is_set():
                pause_if_deserted(table, CLOSED)
    except NeodragonError as error:
        print(f"worker: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def pause_if_deserted(table: JobTable, reason: Message) -> None:
    """Pause what waits, unless an app is open that sees to it."""
    with table.deserted() as alone:
        if alone and table.count((*RUNNING, *PENDING)) and not table.queue().paused:
            table.pause(reason)


def _watch(worker: Worker) -> None:
    """Let the worker leave when the process that started it is gone."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    worker.leaving.set()


def _terminate(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
