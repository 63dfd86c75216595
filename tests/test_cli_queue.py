"""`nds queue` on the table that the page shares, with and without somebody at work on it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import Message
from engine.pack import Pack
from studio.cli.main import main
from studio.jobs.spec import Entry, Job, State, Work, content_key
from studio.jobs.table import JobTable
from studio.system import paths

PATIENCE = 900.0  # seconds, on a machine that is busy with other things
Said = pytest.CaptureFixture[str]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobTable]:
    """The one that the command finds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(paths.DATA_VARIABLE, str(tmp_path / "data"))
    with JobTable(paths.jobs_file()) as table:
        yield table


def add(table: JobTable, *states: State) -> list[int]:
    """Jobs that came to be so, without an engine."""
    work = Work("a ball", 1, 2, pack="pack", backend="cpu")
    ids = []
    for seed, state in enumerate(states):
        ids += table.add([Entry(replace(work, look_seed=seed), f"{seed}", seed)])
        if state != "waiting":
            with table.lease(), table.attended():
                table.claim()
                if state == "failed":
                    table.fail(ids[-1], Message("It went wrong."))
    return ids


def listed(capsys: Said, *more: str) -> dict[str, object]:
    capsys.readouterr()
    assert main(["queue", "list", *more, "--json"]) == 0
    told: dict[str, object] = json.loads(capsys.readouterr().out)
    return told


def waiting(table: JobTable) -> list[int]:
    return [job.id for job in table.jobs(("waiting",))]


def test_rows_that_were_damaged_are_listed(table: JobTable, capsys: Said) -> None:
    whole, damaged = add(table, "waiting", "waiting")
    with closing(sqlite3.connect(table.path)) as db, db:
        db.execute("UPDATE jobs SET work = 'x' WHERE id = ?", [damaged])
    assert main(["queue"]) == 2
    assert f"Job {damaged} in the job table was damaged" in capsys.readouterr().err
    assert main(["queue"]) == 0
    first, second, _ = capsys.readouterr().out.splitlines()
    assert first.split()[:2] == [str(whole), "waiting"]
    assert second.split()[:2] == [str(damaged), "damaged:"]
    rows = listed(capsys)["damaged"]
    assert isinstance(rows, list)
    assert [(row["id"], row["work"]) for row in rows] == [(damaged, "x")]


def test_the_queue_is_listed(table: JobTable, capsys: Said) -> None:
    assert main(["queue"]) == 0
    assert capsys.readouterr().out == "not paused\n"
    failed, running, next_ = add(table, "failed", "running", "waiting")
    table.progress(running, 0.5, "Animating", {})
    table.pause(Message("The disk is full."))
    assert main(["queue"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        [str(failed), "failed", "clip", "It", "went", "wrong."],
        [str(running), "running", "50%", "clip", "a", "ball"],
        [str(next_), "waiting", "clip", "a", "ball"],
        ["paused.", "The", "disk", "is", "full."],
    ]
    told = listed(capsys)
    assert (told["paused"], told["reason"]) == (True, "The disk is full.")
    assert isinstance(told["jobs"], list)
    assert [job["state"] for job in told["jobs"]] == ["failed", "running", "waiting"]
    path = paths.data_folder() / "clip.mp4"
    path.touch()
    table.finish(running, path, {})
    assert len(listed(capsys)["jobs"]) == 2  # type: ignore[arg-type]
    assert json.dumps(str(path)) in json.dumps(listed(capsys, "--all"))


def test_the_queue_is_arranged(table: JobTable, capsys: Said) -> None:
    failed, a, b, c = add(table, "failed", "waiting", "waiting", "waiting")
    assert main(["queue", "move", str(c), "1"]) == 0
    assert waiting(table) == [c, a, b]
    assert main(["queue", "move", str(c), "2", "--json"]) == 0
    assert waiting(table) == [a, c, b]
    assert main(["queue", "--json", "move", str(a), "99"]) == 0
    assert waiting(table) == [c, b, a]
    assert main(["queue", "remove", str(a), str(b)]) == 0
    assert waiting(table) == [c]
    assert main(["queue", "retry"]) == 0  # every one that failed
    assert waiting(table) == [c, failed]
    assert main(["queue", "pause"]) == 0 and table.queue().paused
    with table.lease(), table.attended():  # somebody is at work
        assert main(["queue", "resume"]) == 0
    assert not table.queue().paused and waiting(table) == [c, failed]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["remove", "99"], "Job 99 is not in the queue"),
        (["move", "99", "1"], "Job 99 is not in the queue"),
        (["retry", "1"], "Job 1 is waiting and cannot be retried"),
        (["move", "1", "0"], "whole number from 1"),
        (["remove", "x"], "whole number from 1"),
        (["remove", "9" * 30], "whole number from 1"),
        (["remove"], "ID"),
        (["juggle"], "juggle"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], words: str, table: JobTable, capsys: Said
) -> None:
    before = [table.job(job_id) for job_id in add(table, "waiting")]
    try:
        code = main(["queue", *arguments])
    except SystemExit as exit_:  # argparse
        code = int(exit_.code or 0)
    assert code == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and said.endswith(".\n")
    assert table.jobs() == before


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_another_terminal_stops_what_runs(
    table: JobTable, pack: Pack, tmp_path: Path, capsys: Said
) -> None:
    slow = Work(
        "a ball", 1, 2, pack=str(pack.path), backend="cpu", steps=(100, 100, 100), upscale=False
    )
    works = [slow, replace(slow, look_seed=9), replace(slow, kind="frame")]
    folder = str(tmp_path / "clips")
    first, second, third = table.add(
        Entry(work, content_key(work, pack), folder=folder) for work in works
    )
    table.pause()

    def until(job_id: int, reached: Callable[[Job], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not reached(table.job(job_id)):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)

    command = [sys.executable, "-m", "studio.cli.main", "queue", "resume"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, encoding="utf-8", start_new_session=True
    ) as process:
        try:
            until(first, lambda job: job.fraction > 0.25)
            assert main(["queue", "skip"]) == 0
            until(second, lambda job: job.fraction > 0.25)
            assert main(["queue", "stop"]) == 0
            said, _ = process.communicate(timeout=PATIENCE)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 1  # not all of it was made
    assert f"2 of 3, job {second}: cancelled\n1 are still waiting: " in said
    assert [job.state for job in table.jobs()] == ["skipped", "cancelled", "waiting"]
    assert not table.has_worker()
    capsys.readouterr()
    assert main(["queue", "resume"]) == 0
    assert f"1 of 1, job {third}: clips" in capsys.readouterr().out
    assert [job.state for job in table.jobs()] == ["skipped", "cancelled", "done"]


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_resuming_at_once_after_a_kill_goes_on(table: JobTable, pack: Pack, tmp_path: Path) -> None:
    """The killed app's worker is still at its clip; it must not pause what goes on."""
    slow = Work(
        "a ball", 1, 2, pack=str(pack.path), backend="cpu", steps=(30, 30, 30), upscale=False
    )
    works = [slow, *(replace(slow, look_seed=n, kind="frame") for n in (2, 3))]
    folder = str(tmp_path / "clips")
    ids = table.add(Entry(work, content_key(work, pack), folder=folder) for work in works)
    command = [sys.executable, "-m", "studio.cli.main", "queue", "resume"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + PATIENCE
        while not table.job(ids[0]).fraction > 0.25:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert table.has_worker()
    run = subprocess.run(command, capture_output=True, timeout=PATIENCE)
    assert run.returncode == 0, run.stderr
    assert [job.state for job in table.jobs()] == ["done"] * 3
    assert not table.queue().paused and len(list((tmp_path / "clips").glob("*.json"))) == 3
