"""The job table: arranging, claiming, stopping, recovering; from several processes at once."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import Message, RequestError
from engine.pack import Pack
from studio.jobs.database import JobsError
from studio.jobs.spec import Entry, Work, content_key, is_finished
from studio.jobs.table import JobTable

WORK = Work("a red ball", 1, 2, pack="pack", backend="cpu")


@pytest.fixture
def table(tmp_path: Path) -> Iterator[JobTable]:
    with JobTable(tmp_path / "new" / "jobs.sqlite") as table:
        yield table


def add(table: JobTable, count: int = 1) -> list[int]:
    return table.add(
        Entry(replace(WORK, look_seed=seed), f"key {seed}", seed) for seed in range(count)
    )


def order(table: JobTable) -> list[int]:
    return [job.id for job in table.jobs(("waiting", "interrupted"))]


def claim_all(table: JobTable) -> list[int]:
    with table.lease():
        return [job.id for job in iter(table.claim, None)]


def test_a_job_keeps_everything(table: JobTable) -> None:
    work = Work(
        *("🎈\n\0'\"", 2**32 - 1, 0, "monolithic", (1, 2, 3)),
        pack="p ä",
        backend="npu",
        kind="frame",
        negative_prompt="",
        image=Path("x.png"),
        upscale=False,
    )
    (job_id,) = table.add([Entry(work, "k", 7)], "batch")
    job = table.job(job_id)
    assert (job.work, job.key, job.row, job.batch) == (work, "k", 7, "batch")
    assert (job.state, job.attempts, job.seconds, job.result) == ("waiting", 0, None, None)
    with JobTable(table.path) as other:
        assert other.jobs() == [job]


def test_the_queue_is_arranged(table: JobTable) -> None:
    a, b, c, d = add(table, 4)
    table.move([d, b], before=a)
    assert order(table) == [d, b, a, c]
    table.move([d, a])
    assert order(table) == [b, c, d, a]
    table.move([c], before=c)
    assert order(table) == [b, c, d, a]
    table.remove([c, d])
    e = table.duplicate(b)
    assert order(table) == [b, a, e]
    assert table.job(e).work == table.job(b).work
    table.edit(a, replace(WORK, prompt="a house"), "other")
    assert (table.job(a).work.prompt, table.job(a).key) == ("a house", "other")
    assert claim_all(table) == [b, a, e]


def test_only_what_waits_is_arranged(table: JobTable) -> None:
    a, b = add(table, 2)
    with table.lease():
        table.claim()
        table.fail(a, Message("It went wrong."))
        for refused in (
            lambda: table.remove([b, a]),
            lambda: table.edit(a, WORK, "k"),
            lambda: table.move([a]),
            lambda: table.skip(b),
            lambda: table.retry([b]),
            lambda: table.job(99),
            lambda: table.remove([99]),
            lambda: table.progress(99, 0, "", {}),
        ):
            with pytest.raises(JobsError, match=r"^Job \d+ is .*; look at (the queue|it) again\.$"):
                refused()
    assert order(table) == [b]  # nothing of it happened


def test_a_failed_job_is_retried(table: JobTable) -> None:
    a, b, c = add(table, 3)
    with table.lease():
        for job_id in (a, b):
            table.claim()
            table.progress(job_id, 0.5, "Animating", {"clip": 1.0}, 3)
            table.fail(job_id, Message("It went wrong."))
    assert str(table.job(a).error) == "It went wrong."
    assert table.retry() == 2
    assert order(table) == [c, a, b]
    job = table.job(a)
    assert (job.attempts, job.error, job.fraction, job.stages, job.units) == (
        0,
        Message(""),
        0,
        {},
        0,
    )


def test_a_paused_queue_gives_nothing(table: JobTable) -> None:
    a, _ = add(table, 2)
    with table.lease():
        table.pause(Message("The disk is full."))
        assert table.claim() is None
        assert str(table.queue().reason) == "The disk is full."
        table.resume()
        assert not table.queue().paused
        job = table.claim()
        assert job is not None and job.id == a and job.state == "running" and job.attempts == 1


def test_stopping_is_told_to_the_worker(table: JobTable) -> None:
    a, b, c = add(table, 3)
    with table.lease():
        table.claim()
        assert table.progress(a, 0.1, "x", {}) == ""
        table.skip(a)
        assert table.progress(a, 0.2, "x", {}) == "skip"
        table.stopped(a, "skip")
        table.claim()
        table.stop_all()
        assert table.progress(b, 0.2, "x", {}) == "cancel"
        table.stopped(b, "cancel")
        assert table.claim() is None
    assert [job.state for job in table.jobs()] == ["skipped", "cancelled", "waiting"]
    assert table.retry([b, a]) == 2
    assert order(table) == [c, b, a]


def test_a_released_job_is_as_if_untouched(table: JobTable) -> None:
    before = [table.job(job_id) for job_id in add(table, 2)]
    with table.lease():
        table.claim()
        table.release(before[0].id)
    assert table.jobs() == before


def test_a_dead_worker_gets_one_more_chance(table: JobTable, tmp_path: Path) -> None:
    a, b = add(table, 2)
    for attempt in (1, 2):
        with table.lease():
            job = table.claim()
            assert job is not None and (job.id, job.attempts) == (a, attempt)
        with table.lease():  # the next worker
            assert [job.id for job in table.recover()] == [a]
        assert table.queue().paused
        table.resume()
    assert [table.job(job_id).state for job_id in (a, b)] == ["failed", "waiting"]
    assert str(table.job(a).error).startswith("2 workers ended in the middle of this job")
    with table.lease():
        table.claim()
        whole = tmp_path / "clip.mp4"
        whole.write_bytes(b"whole")
        table.announce(b, whole, "key")
    with table.lease():
        table.recover(lambda job: job.result == whole)
    assert is_finished(table.job(b))
    with table.lease():
        assert table.recover() == []


def test_there_is_one_worker(table: JobTable) -> None:
    assert not table.has_worker()
    with JobTable(table.path) as other, table.lease():
        assert other.has_worker() and table.has_worker()
        with pytest.raises(JobsError, match="Another worker has"), other.lease():
            pass
        with pytest.raises(JobsError), other.lease(60, lambda: True):
            pass
    assert not table.has_worker()


def test_a_killed_process_leaves_no_lease(table: JobTable) -> None:
    script = (
        "import sys, pathlib, studio.jobs.table as j\n"
        "with j.JobTable(pathlib.Path(sys.argv[1])) as t, t.lease():\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(table.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stdout.readline().rstrip() == b"held"
        assert table.has_worker()
        process.kill()
    with table.lease(wait=60):
        pass


def test_many_write_at_once(table: JobTable) -> None:
    script = (
        "import sys, pathlib, studio.jobs.table as j\n"
        "with j.JobTable(pathlib.Path(sys.argv[1])) as t:\n"
        "    for n in range(20):\n"
        "        t.add([j.Entry(j.Work('a', n, 0, pack='p', backend='cpu'), 'k')])\n"
    )
    fresh = table.path.with_name("fresh.sqlite")  # made by all of them at once
    processes = [subprocess.Popen([sys.executable, "-c", script, str(fresh)]) for _ in range(3)]
    with JobTable(fresh) as other:
        threads = [
            threading.Thread(target=lambda: [other.duplicate(add(other)[0]) for _ in range(10)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [process.wait(120) for process in processes] == [0, 0, 0]
        jobs = other.jobs()
        assert len(jobs) == 140
        assert len({job.position for job in jobs}) == 140
        assert [job.id for job in other.jobs(newest=3)] == [job.id for job in jobs[-3:]]
        assert sorted(claim_all(other)) == sorted(job.id for job in jobs)


def test_estimates_are_medians_of_what_is_alike(table: JobTable, tmp_path: Path) -> None:
    assert table.estimate(WORK).seconds is None
    coarse = replace(WORK, steps=(1, 1, 1))
    add(table, 3)
    table.add([Entry(coarse, "c")])
    with table.lease():
        assert table.seconds_left() is None
        for seconds, size in ((10, 5), (30, 7), (20, 9), (2, 1)):
            job = table.claim()
            assert job is not None and job.started is not None
            path = tmp_path / f"{job.id}.mp4"
            path.write_bytes(b"0" * size)
            table.finish(job.id, path, {"clip": seconds / 2}, at=job.started + seconds)
        estimate = table.estimate(WORK)
        assert estimate.seconds == pytest.approx(20)
        assert (estimate.stages, estimate.size) == ({"clip": 10.0}, 7)
        assert table.estimate(coarse).seconds == pytest.approx(2)
        assert table.estimate(replace(WORK, steps=(9, 9, 9))).seconds == pytest.approx(15)
        assert table.estimate(replace(WORK, backend="npu")).seconds is None
        table.add([Entry(WORK, "d"), Entry(coarse, "e")])
        running = table.claim()
        assert running is not None
        table.progress(running.id, 0.75, "Animating", {})
        assert table.seconds_left() == pytest.approx(5 + 2)
        assert table.seconds_left([table.job(running.id)]) == pytest.approx(5)


def test_the_best_job_of_a_key(table: JobTable, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.touch()
    a, b = table.add([Entry(WORK, "k"), Entry(WORK, "k")])
    with table.lease():
        table.claim()
        table.finish(a, path, {})
        table.claim()
        table.fail(b, Message("No."))
    assert table.by_key(["k", "k", "unknown"])["k"].id == a
    path.unlink()
    assert table.by_key(["k"])["k"].id == b


def test_the_key_is_what_decides_the_frames(pack: Pack, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"1")
    steps = pack.schedule.modes["hybrid"].steps
    same = {
        content_key(work, pack)
        for work in (
            WORK,
            replace(WORK, pack="elsewhere"),
            replace(WORK, steps=steps),
            replace(WORK, negative_prompt=pack.prompt.negative),
        )
    }
    assert len(same) == 1
    others = [
        replace(WORK, prompt="b"),
        replace(WORK, look_seed=2),
        replace(WORK, motion_seed=3),
        replace(WORK, steps=(1, 1, 7)),
        replace(WORK, mode="monolithic"),
        replace(WORK, negative_prompt="no"),
        replace(WORK, upscale=False),
        replace(WORK, backend="npu"),
        replace(WORK, kind="frame"),
        replace(WORK, image=picture),
    ]
    keys = {content_key(work, pack) for work in others}
    assert len(keys | same) == len(others) + 1
    frame = replace(WORK, kind="frame")
    assert content_key(replace(frame, motion_seed=9, steps=(1, 1, 1)), pack) in keys
    picture.write_bytes(b"22")
    assert content_key(others[-1], pack) not in keys
    for lost in ("absent.png", "\0", str(tmp_path)):
        with pytest.raises(RequestError, match=r"^The picture .* cannot be read .*\.$"):
            content_key(replace(WORK, image=Path(lost)), pack)


@pytest.mark.parametrize("content", [b"no database at all " * 100, b"SQLite format 3\0" * 300])
def test_a_damaged_file_is_kept_and_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "jobs.sqlite"
    for number in ("", "-2"):
        path.write_bytes(content)
        with pytest.raises(JobsError, match=r"^The job table .* was damaged; it is kept as .*\.$"):
            JobTable(path)
        assert (tmp_path / f"jobs.damaged{number}.sqlite").read_bytes() == content
        with JobTable(path) as table:
            assert table.jobs() == []


def test_a_file_damaged_in_the_middle_is_kept_and_said(table: JobTable) -> None:
    add(table, 2000)
    table.close()
    content = bytearray(table.path.read_bytes())
    content[4096 * 3 :] = b"\xff" * (len(content) - 4096 * 3)
    table.path.write_bytes(content)
    with pytest.raises(JobsError, match="was damaged; it is kept as"), JobTable(table.path) as bad:
        bad.jobs()
    assert table.path.with_name("jobs.damaged.sqlite").read_bytes()[4096:] == content[4096:]


def test_a_file_that_is_a_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "jobs.sqlite").mkdir()
    with pytest.raises(JobsError, match=r"^The job table .* cannot be used .*\.$"):
        JobTable(tmp_path / "jobs.sqlite")


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("stages", "not JSON"),
        ("stages", "[1]"),
        ("stages", '{"clip": "long"}'),
        ("work", "{"),
        ("work", '{"prompt": 5}'),
        ("work", "7"),
        ("fraction", "half"),
        ("state", "lost"),
        ("created", b"\0"),
        ("result", b"5"),
    ],
)
def test_a_damaged_row_is_kept_apart_and_said(table: JobTable, cell: str, value: object) -> None:
    a, b, c = add(table, 3)
    db = sqlite3.connect(table.path)
    db.execute(f"UPDATE jobs SET {cell} = ? WHERE id = ?", [value, b])
    db.commit()
    with pytest.raises(JobsError, match=rf"^Job {b} in the job table was damaged"):
        table.job(b)
    assert [job.id for job in table.jobs()] == [a, c]
    ((kept,),) = db.execute("SELECT row FROM damaged_jobs").fetchall()
    assert json.loads(kept)["id"] == b
    db.close()


def test_a_damaged_row_does_not_stop_the_worker(table: JobTable) -> None:
    a, b = add(table, 2)
    db = sqlite3.connect(table.path)
    db.execute("UPDATE jobs SET work = 'x', error = 'a{' WHERE id = ?", [a])
    db.commit()
    db.close()
    with table.lease():
        with pytest.raises(JobsError, match="was damaged"):
            table.claim()
        job = table.claim()
        assert job is not None and job.id == b


def test_the_same_work_asked_for_at_once_is_one_job(table: JobTable) -> None:
    entries = [Entry(replace(WORK, look_seed=seed), f"key {seed}") for seed in range(20)]
    ids: list[list[int]] = []

    def ask() -> None:
        with JobTable(table.path) as other:
            ids.append(other.ensure(entries, ahead=True))

    script = (
        "import sys, pathlib\n"
        "from dataclasses import replace\n"
        "from studio.jobs.spec import Entry, Work\n"
        "from studio.jobs.table import JobTable\n"
        "work = Work('a red ball', 1, 2, pack='pack', backend='cpu')\n"
        "entries = [Entry(replace(work, look_seed=n), f'key {n}') for n in range(20)]\n"
        "with JobTable(pathlib.Path(sys.argv[1])) as table:\n"
        "    sys.stdin.readline(); table.ensure(entries)\n"
    )
    command = [sys.executable, "-c", script, str(table.path)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(3)]
    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for process in processes:
        process.communicate(b"\n", timeout=120)
    for thread in threads:
        thread.join()
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(job.key for job in table.jobs()) == sorted(entry.key for entry in entries)
    assert {tuple(part) for part in ids} == {tuple(ids[0])}


def test_what_is_asked_for_ahead_comes_before_what_waits(table: JobTable) -> None:
    a, b, c = add(table, 3)
    with table.lease():
        table.claim()
        d, e = table.ensure([Entry(WORK, "d"), Entry(WORK, "e"), Entry(WORK, "d")], ahead=True)[:2]
        assert order(table) == [d, e, b, c]
        assert table.ensure([Entry(WORK, "key 1"), Entry(WORK, "f")], ahead=True)[0] == b
        claimed = table.claim()
        assert claimed is not None and claimed.key == "f"


def test_whether_anything_changed_costs_one_question(table: JobTable) -> None:
    before = table.version()
    assert table.version() == before
    add(table)
    changed = table.version()
    assert changed != before
    with JobTable(table.path) as other:
        add(other)
    assert table.version() != changed


def test_a_newer_table_is_left_alone(table: JobTable) -> None:
    db = sqlite3.connect(table.path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(JobsError, match="has the version 99"):
        JobTable(table.path)
