"""Rows of the job table in the hands of machines: given once, taken back, never lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import Message
from studio.jobs.leases import LeasingTable
from studio.jobs.spec import Entry, Job, Work
from studio.jobs.table import HOST, JobTable

LONG = 100.0  # seconds


def work(seed: int = 1, pack: str = "p") -> Work:
    return Work(prompt="a star", look_seed=seed, motion_seed=2, pack=pack, backend="cpu")


ENGINES = [work().engine]


def never(job: Job) -> bool:
    return False


@pytest.fixture
def table(tmp_path: Path) -> Iterator[LeasingTable]:
    with LeasingTable(tmp_path / "jobs.sqlite") as table:
        yield table


def add(table: JobTable, count: int) -> list[int]:
    return table.add([Entry(work(seed), f"key {seed}") for seed in range(count)])


def given(table: LeasingTable, machine: str = "one", seconds: float = LONG) -> tuple[Job, str]:
    found = table.reserve(machine, ENGINES, seconds)
    assert found is not None
    return found


def test_a_row_goes_from_the_queue_to_its_file(table: LeasingTable, tmp_path: Path) -> None:
    (row,) = add(table, 1)
    job, token = given(table)
    assert (job.id, table.job(row).state) == (row, "waiting"), "until the machine begins"
    assert table.reserve("two", ENGINES, LONG) is None
    assert table.begin(token, LONG) is not None
    again = table.begin(token, LONG)
    assert again is not None and again.attempts == 1, "an answer may be lost"
    assert table.renew(token, LONG, 0.5, "transformer", {"clip": 1.0}) == ""
    assert (table.job(row).state, table.job(row).fraction) == ("running", 0.5)
    file = tmp_path / "x.png"
    file.write_bytes(b"x")
    table.deliver(token, file, {"clip": 1.0})
    assert (table.job(row).state, table.job(row).result) == ("done", file)
    assert not table.leases() and table.leased(token) is None
    assert table.renew(token, LONG, 1, "", {}) is None


def test_only_rows_that_a_machine_can_make(table: LeasingTable) -> None:
    table.add([Entry(work(pack="other"), "a"), Entry(work(), "b")])
    assert given(table)[0].key == "b"
    assert sorted(table.engines()) == sorted({work(pack="other").engine, *ENGINES})
    assert table.reserve("two", [], LONG) is None


def test_what_the_user_does_meanwhile_holds(table: LeasingTable) -> None:
    a, b, c = add(table, 3)
    _, first = given(table)
    _, second = given(table)
    table.pause()
    assert table.reserve("two", ENGINES, LONG) is None
    assert table.begin(first, LONG) is None, "a paused queue begins nothing"
    table.resume()
    table.remove([b])
    assert table.begin(second, LONG) is None, "it was removed"
    table.move([c], before=a)
    job, token = given(table)
    assert job.id == c, "what is moved to the front is next"
    table.begin(token, LONG)
    table.skip(c)
    assert table.renew(token, LONG, 0.1, "", {}) == "skip"
    table.hand_back(token, "skip")
    assert table.job(c).state == "skipped"
    _, token = given(table)
    table.begin(token, LONG)
    table.interrupt(Message("the user stopped"))
    assert table.renew(token, LONG, 0.1, "", {}) == "interrupt"
    table.hand_back(token)
    assert (table.job(a).state, table.job(a).attempts) == ("interrupted", 0)


def test_a_lost_row_has_had_an_attempt(table: LeasingTable) -> None:
    (row,) = add(table, 1)
    _, token = given(table, seconds=0)
    table.begin(token, 0)
    time.sleep(0.01)
    assert [lease.machine for lease in table.expire(never)] == ["one"]
    assert (table.job(row).state, table.job(row).attempts) == ("interrupted", 1)
    assert table.reserve("one", ENGINES, LONG) is None, "another machine first"
    assert table.renew(token, LONG, 1, "", {}) is None, "it comes too late"
    _, token = given(table, "two")
    table.begin(token, LONG)
    table.lose(token, Message("{machine} gave a damaged file."), never)
    job = table.job(row)
    assert (job.state, str(job.error)) == ("failed", "two gave a damaged file.")
    table.retry()
    assert table.reserve("one", ENGINES, LONG, again=ENGINES) is not None


def test_an_idle_worker_takes_what_no_machine_has_begun(table: LeasingTable) -> None:
    a, b = add(table, 2)
    _, token = given(table)
    with table.lease():
        assert table.claim().id == b, "first what nobody has"
        assert table.claim().id == a
        assert table.begin(token, LONG) is None
        assert table.claim() is None


def test_a_worker_leaves_living_leases_alone_and_takes_over_dead_ones(table: LeasingTable) -> None:
    a, b = add(table, 2)
    _, one = given(table)
    _, two = given(table)
    table.begin(one, LONG)
    table.begin(two, -HOST)  # longer than a host needs to see to it
    time.sleep(0.01)
    with table.lease():
        table.recover(pause=False)
    assert (table.job(a).state, table.job(b).state) == ("running", "interrupted")
    table.withdraw("one", 0)
    table.extend(LONG)
    assert table.expire(never) == [], "a host that comes back waits for its machines"
    table.withdraw("one", 0)
    time.sleep(0.01)
    table.expire(never)
    assert table.job(a).state == "interrupted"


def test_each_row_is_given_once_however_many_ask(table: LeasingTable) -> None:
    add(table, 60)
    got: list[int] = []

    def machine(name: str) -> None:
        with LeasingTable(table.path) as own:
            while found := own.reserve(name, ENGINES, LONG):
                job, token = found
                assert own.begin(token, LONG) is not None
                got.append(job.id)

    threads = [threading.Thread(target=machine, args=[f"m{number}"]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(got) == [job.id for job in table.jobs()]


def test_a_damaged_row_costs_no_other(table: LeasingTable) -> None:
    add(table, 2)
    with table._transaction() as db:
        db.execute("UPDATE jobs SET stages = 'x' WHERE id = 1")
    with pytest.raises(Exception, match="damaged"):
        table.reserve("one", ENGINES, LONG)
    assert given(table)[0].id == 2


def test_machines_share_the_time_that_is_left(table: LeasingTable, tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    file.write_bytes(b"x")
    rows = add(table, 7)
    _, token = given(table)
    table.begin(token, LONG)
    table.deliver(token, file, {})
    with table._transaction() as db:  # it took ten seconds
        db.execute("UPDATE jobs SET started = 100, finished = 110 WHERE id = ?", [rows[0]])
    assert table.seconds_left() == pytest.approx(60)
    for machine in ("one", "two"):
        _, token = given(table, machine)
        table.begin(token, LONG)
        table.renew(token, LONG, 0.5, "transformer", {})
    assert table.seconds_left() == pytest.approx(5 + 4 * 10 / 2)
