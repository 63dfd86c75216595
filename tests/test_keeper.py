"""A worker that dies is replaced, and what an app left behind waits for its user."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import Message
from engine.pack import Pack
from studio.jobs.spec import Entry, Job, Work, content_key
from studio.jobs.supervisor import Keeper, WorkerError
from studio.jobs.table import ATTEMPTS, JobTable

PATIENCE = 600.0  # seconds, on a machine that is busy with other things


@pytest.fixture
def table(tmp_path: Path) -> Iterator[JobTable]:
    with JobTable(tmp_path / "jobs.sqlite") as table:
        yield table


def add(table: JobTable, pack: Pack, count: int) -> list[int]:
    work = Work("a ball", 1, 2, pack=str(pack.path), backend="cpu", steps=(1, 1, 1), upscale=False)
    works = [replace(work, look_seed=seed) for seed in range(count)]
    return table.add(Entry(work, content_key(work, pack)) for work in works)


def until(keeper: Keeper, job_id: int, reached: Callable[[Job], bool]) -> Job:
    """The job as soon as it is so, the keeper looking after the worker meanwhile."""
    deadline = time.monotonic() + PATIENCE
    while not reached(job := keeper.table.job(job_id)):
        keeper.look()
        assert time.monotonic() < deadline, job
        time.sleep(0.01)
    return job


def kill_worker(keeper: Keeper) -> None:
    assert keeper.is_ours and keeper._process is not None
    keeper._process.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    keeper._process.wait()


def test_a_worker_that_dies_is_replaced(table: JobTable, pack: Pack, tmp_path: Path) -> None:
    with Keeper(table, tmp_path / "clips", tmp_path / "cache", 1) as keeper:
        first, second = add(table, pack, 2)
        for attempt in range(1, ATTEMPTS + 1):
            until(keeper, first, lambda job: job.units > 0 and job.attempts == attempt)  # noqa: B023
            kill_worker(keeper)
        job = until(keeper, second, lambda job: job.state == "done")
        assert job.attempts == 1 and not table.queue().paused
        dead = table.job(first)
        assert dead.state == "failed" and str(dead.error).startswith(f"{ATTEMPTS} workers ended")
        table.retry()
        until(keeper, first, lambda job: job.state == "done")
    assert len(list((tmp_path / "clips").glob("*.mp4"))) == 2
    assert not table.has_worker()


def test_what_an_app_left_waits(table: JobTable, pack: Pack, tmp_path: Path) -> None:
    (job_id,) = add(table, pack, 1)
    with Keeper(table, tmp_path / "clips", tmp_path / "cache") as keeper:
        assert table.queue().paused and "left by an app" in str(table.queue().reason)
        table.pause(Message("The disk is full."))
        keeper.close()  # twice is no harm
    with table.lease():
        table.resume()
        table.claim()
        with Keeper(table, tmp_path, tmp_path) as other:  # while another app works on it
            other.look()
            assert not other.is_ours and not other.interrupt("No.")
            assert not table.queue().paused
    with Keeper(table, tmp_path, tmp_path):
        assert table.queue().paused and table.job(job_id).state == "running"


def test_an_interrupted_job_is_as_if_untouched(table: JobTable, pack: Pack, tmp_path: Path) -> None:
    with Keeper(table, tmp_path / "clips", tmp_path / "cache", 1) as keeper:
        (job_id,) = add(table, pack, 1)
        until(keeper, job_id, lambda job: job.units > 0)
        assert keeper.interrupt(Message("You stopped it."))
        job = until(keeper, job_id, lambda job: job.state != "running")
        assert (job.state, job.attempts, job.units) == ("interrupted", 0, 0)
        assert str(table.queue().reason) == "You stopped it."
    assert table.queue().paused and not list((tmp_path / "clips").glob("*"))


@pytest.mark.skipif(os.name != "posix", reason="Windows has no signal that stops a process")
def test_a_worker_that_hangs_without_a_job_does_not_keep_the_app(
    table: JobTable, tmp_path: Path
) -> None:
    with Keeper(table, tmp_path / "clips", tmp_path / "cache", 1) as keeper:
        keeper.look()
        assert keeper._process is not None
        keeper._process.send_signal(signal.SIGSTOP)
    assert keeper._process.returncode == -signal.SIGKILL
    assert not table.has_worker()


def test_a_worker_that_never_works_is_said(
    table: JobTable, pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(table, pack, 1)
    monkeypatch.setattr(sys, "executable", "/bin/false" if os.name == "posix" else "where")
    with Keeper(table, tmp_path, tmp_path) as keeper, pytest.raises(WorkerError) as raised:
        while True:
            keeper.look()
            time.sleep(0.01)
    assert "with code" in str(raised.value)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
    with Keeper(table, tmp_path, tmp_path) as keeper, pytest.raises(WorkerError, match="started"):
        keeper.look()
