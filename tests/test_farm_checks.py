"""A machine that makes something else is found out, and packs and pictures come whole."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from farms import Engine, in_farm, leave, member, until

pytest.importorskip("distributed")

from distributed import metrics

from engine.events import FirstFrame
from engine.pack import Pack
from engine.pipeline import generate
from studio.farm import link, transfers
from studio.farm.certificates import FarmError
from studio.farm.host import FarmHost
from studio.farm.machine import Machine
from studio.jobs.spec import Entry, Work, content_key
from studio.media.pictures import read_picture

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.mark.timeout(60)  # it hung
def test_dasks_clock_on_windows_is_set_where_the_systems_is_fine() -> None:
    link.prepare()
    clock = metrics._WindowsTime(time.time, is_monotonic=False)
    assert abs(clock.time() - time.time()) < 1


def test_a_machine_that_makes_something_else_is_set_aside(tmp_path: Path, pack: Pack) -> None:
    async def do(host: FarmHost, address: str) -> None:
        host.checks.every = 1
        known = {pack.pack_hash: pack.path}
        tasks = []
        for name, lies in (("liar", 1), ("honest", 0)):
            folder = tmp_path / name
            machine = Machine(Engine(pack, folder / "made", lies), folder, known)
            tasks.append(await member(host, address, name, machine))
            await until(lambda name=name: any(m.name == name for m in host.register.machines()))
        work = Work(
            **{"prompt": "a red star", "look_seed": 5, "motion_seed": 0, "kind": "frame"},
            **{"pack": str(pack.path), "backend": "cpu"},
        )
        [row] = host.table.add([Entry(work, content_key(work, pack))])
        await until(lambda: any(machine.aside for machine in host.register.machines()))
        machines = {machine.name: machine for machine in host.register.machines()}
        assert "liar made job" in str(machines["liar"].aside)
        assert not machines["honest"].aside
        await until(lambda: host.table.job(row).result is not None)
        events = generate(pack, work, "cpu", 1)
        right = next(event.image for event in events if isinstance(event, FirstFrame))

        def is_right() -> bool:
            result = host.table.job(row).result
            return result is not None and np.array_equal(read_picture(result), right)

        await until(is_right)
        result = host.table.job(row).result
        assert result is not None
        beside = json.loads(result.with_suffix(".json").read_text("utf-8"))
        assert beside["machine"] == "honest"
        await leave(*tasks)

    in_farm(tmp_path, do)


def test_a_pack_comes_in_parts_and_goes_on(
    tmp_path: Path, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEODRAGON_DATA", str(tmp_path / "data"))

    async def do(host: FarmHost, address: str) -> None:
        work = Work(
            **{"prompt": "a", "look_seed": 5, "motion_seed": 0},
            **{"pack": str(pack.path), "backend": "cpu"},
        )
        host.table.pause()
        host.table.add([Entry(work, "key")])
        folder = tmp_path / "one"
        said: list[str] = []
        machine = Machine(Engine(pack, folder / "made"), folder, {}, say=said.append)
        task = await member(host, address, "one", machine)
        await until(lambda: any("--fetch" in line for line in said))
        asked = []

        async def broken(ask: str, **values: object) -> dict:
            asked.append((ask, values.get("name"), values.get("offset")))
            if len(asked) == 6:
                raise FarmError("the cable")
            return await machine.ask(ask, **values)

        home = tmp_path / "packs"
        with pytest.raises(FarmError, match="cable"):
            await transfers.fetch_pack(broken, pack.pack_hash, home, said.append)
        path = await transfers.fetch_pack(broken, pack.pack_hash, home, said.append)
        files = [one for one in asked if one[0] == "file"]
        assert len(files) == len(set(files)) + 1, "what was there was not asked for again"
        for file in pack.files:
            assert (path / file.name).read_bytes() == (pack.path / file.name).read_bytes()
        shutil.rmtree(path)
        # A machine that may fetch does so by itself, and is given rows then.
        folder = tmp_path / "two"
        machine = Machine(Engine(pack, folder / "made"), folder, {}, fetch=True, say=said.append)
        other = await member(host, address, "two", machine)

        def has_it() -> bool:
            packs = {one.name: one.packs for one in host.register.machines()}
            return pack.pack_hash in packs["two"]

        await until(has_it)
        assert machine.packs[pack.pack_hash].is_relative_to(tmp_path / "data")
        await leave(task, other)

    in_farm(tmp_path, do)
