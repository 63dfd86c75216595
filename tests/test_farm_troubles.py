"""What goes wrong in a farm costs no more than it must, and nothing of a row stays in memory."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from farms import Engine, in_farm, leave, member, until

pytest.importorskip("distributed")

from engine.pack import Pack
from studio.cli.main import main as nds
from studio.farm.host import FarmHost
from studio.farm.local_worker import State
from studio.farm.machine import Machine
from studio.farm.orders import BLOCK
from studio.farm.register import Register
from studio.jobs.leases import LeasingTable
from studio.jobs.spec import Entry, Work
from studio.media.pictures import write_png

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
LONG = 100.0  # seconds
# asyncio keeps a hundred timers and tasks that are over, the table a thousand works it has read.
BOUNDED = (asyncio.TimerHandle, contextvars.Context, weakref.ReferenceType, Work)


class Instant:
    """A worker that has made its small picture at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)

    def begin(self, work: Work, key: str) -> None:
        self.key = key

    def look(self, wait: float) -> State:
        metadata = {"software": "Neodragon Studio 0", "key": self.key, "kind": "frame"}
        path = self.folder / f"{self.key}.png"
        return State(file=write_png(path, np.zeros((16, 24, 3), np.uint8), metadata))

    def stop(self) -> None:
        """It is done already."""

    def clear(self, file: Path) -> None:
        file.unlink()

    def close(self) -> None:
        """Nothing to give up."""


def rows(pack: Pack, count: int, **values: object) -> list[Entry]:
    work = {"prompt": "a", "motion_seed": 0, "kind": "frame", "pack": str(pack.path)} | values
    works = [Work(**{"backend": "cpu", "look_seed": seed} | work) for seed in range(count)]
    return [Entry(one, f"key{number}") for number, one in enumerate(works)]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[FarmHost]:
    """One that is not on, with the machines that a test gives it."""
    with (
        LeasingTable(tmp_path / "jobs.sqlite") as table,
        Register(tmp_path / "farm.sqlite") as register,
    ):
        yield FarmHost(table, register, tmp_path / "farm", tmp_path / "clips", LONG)


def knows(host: FarmHost, pack: Pack, **backends: set[str]) -> None:
    host.dispatcher.able = {name: ({pack.pack_hash}, can) for name, can in backends.items()}


def given(host: FarmHost) -> list[tuple[str, str]]:
    """Whom the host gives which rows."""
    return [(name, order["key"]) for name, order in host.dispatcher.orders()]


def test_a_row_leaves_nothing_in_memory(tmp_path: Path, pack: Pack) -> None:
    async def do(host: FarmHost, address: str) -> None:
        tasks = []
        for name in ("one", "two"):
            folder = tmp_path / name
            machine = Machine(
                Instant(folder / "made"), folder, {pack.pack_hash: pack.path}, say=lambda line: None
            )
            tasks.append(await member(host, address, name, machine))
        host.checks.every = 5
        counts = []
        for first, last in ((0, 100), (100, 250)):
            host.table.add(rows(pack, last)[first:])
            await until(lambda last=last: host.table.count(["done"]) == last)
            await until(lambda: not host.checks._waiting and not host.checks._open)
            await asyncio.sleep(1)
            gc.collect()
            found = [type(one) for one in gc.get_objects()]
            counts.append(sum(kind not in BOUNDED for kind in found))
        assert counts[1] - counts[0] < 150, "less than one object a row"
        scheduler = host._scheduler
        assert not scheduler.tasks and not scheduler.task_groups and not scheduler.computations
        await leave(*tasks)

    in_farm(tmp_path, do)


def test_a_lost_row_waits_only_for_machines_that_can_make_it(host: FarmHost, pack: Pack) -> None:
    host.table.add(rows(pack, 1))
    knows(host, pack, one={"cpu"}, two={"cpu"}, other={"npu"})
    [(name, order)] = host.dispatcher.orders()
    host.table.begin(order["token"], LONG)
    host.desk.answer(name, "failed", {"token": order["token"], "error": ""})
    other = ({"one", "two"} - {name}).pop()
    host.desk.resting[other] = time.monotonic() + LONG
    assert given(host) == [(name, "key0")], "nobody else can make it now"
    host.table.withdraw(name, LONG)
    host.desk.resting.clear()
    assert given(host) == [(other, "key0")]


def test_an_idle_machine_takes_a_row_that_waits_for_a_slow_one(host: FarmHost, pack: Pack) -> None:
    host.table.add(rows(pack, 3))
    knows(host, pack, slow={"cpu"})
    first, second = host.dispatcher.orders()
    knows(host, pack, slow={"cpu"}, quick={"cpu"})
    assert given(host) == [("quick", "key2")]
    [quick] = [lease for lease in host.table.leases() if lease.machine == "quick"]
    host.table.begin(quick.token, LONG)
    host.table.hand_back(quick.token, "skip")
    assert given(host) == [], "the slow one may be about to begin both"
    assert host.table.begin(first[1]["token"], LONG) is not None
    assert given(host) == [("quick", "key1")]
    assert host.table.begin(second[1]["token"], LONG) is None, "it is told to leave it"
    assert given(host) == [], "and does not take it back"


def test_a_picture_that_is_gone_costs_its_row_alone(
    host: FarmHost, pack: Pack, tmp_path: Path
) -> None:
    picture = tmp_path / "start.png"
    [lost] = host.table.add(rows(pack, 1, kind="clip", image=picture))
    host.table.add(rows(pack, 1))
    knows(host, pack, one={"cpu"})
    assert given(host) == [("one", "key0")]
    job = host.table.job(lost)
    assert job.state == "failed" and "start.png cannot be read" in str(job.error)
    write_png(picture, np.zeros((16, 24, 3), np.uint8), {})
    host.table.retry([lost])
    assert len(host.dispatcher.orders()) == 1


def test_a_host_that_slept_waits_for_its_machines(host: FarmHost, pack: Pack) -> None:
    [row] = host.table.add(rows(pack, 1))
    knows(host, pack, one={"cpu"})
    [(_, order)] = host.dispatcher.orders()
    host.table.begin(order["token"], 0)
    host.dispatcher._alive -= LONG  # the last look was so long ago
    host.dispatcher.orders()
    assert host.table.job(row).state == "running"
    host.table.withdraw("one", -1)
    host.dispatcher.orders()
    assert host.table.job(row).state == "interrupted", "if it was awake, the machine is lost"


def test_rows_with_pictures_are_not_checked(host: FarmHost, pack: Pack, tmp_path: Path) -> None:
    host.checks.every = 1
    [row] = host.table.add(rows(pack, 1, kind="clip", image=tmp_path / "start.png"))
    host.checks.made(host.table.job(row), "one", tmp_path / "x.mp4")
    assert host.checks.next("two", lambda engine: True) is None


def test_a_full_disk_pauses_the_queue_and_costs_no_attempt(
    host: FarmHost, pack: Pack, tmp_path: Path
) -> None:
    (tmp_path / "clips").write_text("no folder")
    [row] = host.table.add(rows(pack, 1))
    knows(host, pack, one={"cpu"})
    for ask, rest in (("part", {}), ("done", {"receipt": {"size": 2, "sha256": ""}})):
        host.table.resume()
        [(_, order)] = host.dispatcher.orders()
        host.table.begin(order["token"], LONG)
        values = {"token": order["token"], "offset": 0, "data": b"xx"}
        answer = host.desk.answer("one", ask, values | rest)
        assert answer in ({"have": None}, {"taken": False})
        job = host.table.job(row)
        assert (job.state, job.attempts) == ("interrupted", 0)
        assert host.table.queue().paused and str(host.table.queue().reason)


def test_a_machine_that_fails_row_after_row_rests(host: FarmHost, pack: Pack) -> None:
    host.table.add(rows(pack, 9))
    knows(host, pack, broken={"cpu"}, good={"cpu"})
    host.register.enrol("broken")
    failed = 0
    while "broken" not in host.desk.resting:
        for name, order in host.dispatcher.orders():
            if name == "broken":
                failed += 1
                host.table.begin(order["token"], LONG)
                error = '[{"template": "Its driver is broken.", "values": {}}]'
                host.desk.answer(name, "failed", {"token": order["token"], "error": error})
    assert failed < 6, "not each row's first attempt"
    assert str(host.register.machines()[0].problem) == "Its driver is broken."


def test_two_that_are_wrong_are_both_set_aside(tmp_path: Path, pack: Pack) -> None:
    async def do(host: FarmHost, address: str) -> None:
        host.checks.every = 1
        tasks = []
        for lies, name in enumerate(("one", "two"), 1):
            folder = tmp_path / name
            machine = Machine(
                Engine(pack, folder / "made", lies), folder, {pack.pack_hash: pack.path}
            )
            tasks.append(await member(host, address, name, machine))
        host.table.add(rows(pack, 1))
        await until(lambda: sum(bool(one.aside) for one in host.register.machines()) == 2)
        await leave(*tasks)

    in_farm(tmp_path, do)


def test_a_pack_comes_to_who_joined_before_and_goes_on_after_a_cut(
    tmp_path: Path, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEODRAGON_DATA", str(tmp_path / "data"))

    async def do(host: FarmHost, address: str) -> None:
        folder, said = tmp_path / "one", []
        machine = Machine(Instant(folder / "made"), folder, {}, fetch=True, say=said.append)
        asked = []
        ask = machine.ask

        async def cut(what: str, **values: object) -> dict:
            asked.append((what, values.get("name"), values.get("offset")))
            if len(asked) == 4:
                assert machine.worker is not None
                await machine.worker.close(nanny=False)
            return await ask(what, **values)

        monkeypatch.setattr(machine, "ask", cut)
        task = await member(host, address, "one", machine)
        await until(lambda: any("in the farm" in line for line in said))
        host.table.add(rows(pack, 2))
        await until(lambda: host.table.count(["done"]) == 2)
        files = [one for one in asked if one[0] == "file"]
        assert len(files) == len(set(files)) and len(files) >= len(pack.files)
        assert sum("in the farm" in line for line in said) == 2
        await leave(task)

    in_farm(tmp_path, do)


def test_a_file_of_many_parts_comes_whole(tmp_path: Path, pack: Pack) -> None:
    class Large(Instant):
        def look(self, wait: float) -> State:
            noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), np.uint8)
            metadata = {"software": "Neodragon Studio 0", "key": self.key, "kind": "frame"}
            path = write_png(self.folder / f"{self.key}.png", noise, metadata)
            assert path.stat().st_size > 2 * BLOCK
            return State(file=path)

    async def do(host: FarmHost, address: str) -> None:
        folder = tmp_path / "one"
        machine = Machine(Large(folder / "made"), folder, {pack.pack_hash: pack.path})
        task = await member(host, address, "one", machine)
        host.table.add(rows(pack, 1))
        await until(lambda: host.table.count(["done"]) == 1)
        await until(lambda: not list((folder / "made").iterdir()))
        await leave(task)

    in_farm(tmp_path, do)


def test_a_machine_has_a_plain_name(host: FarmHost) -> None:
    assert host.register.enrol("\x1b[31m<b>rouge") == "-31m-b-rouge"
    assert host.register.enrol("") == "machine"
    assert len(host.register.enrol("x" * 500)) == 60
    assert host.register.enrol("invitation") == "invitation-2"


@pytest.mark.parametrize(
    "arguments",
    [
        ["start", "--port", "99999"],
        ["start", "--lease", "nan"],
        ["start", "--lease", "-1"],
        ["invite", "--hours", "1e300"],
        ["invite", "--hours", "nan"],
        ["invite", "--hours", "0"],
    ],
)
def test_odd_numbers_are_answered_in_one_sentence(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        nds(["farm", *arguments])
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
