"""What comes from a machine gets a name only when it is what was asked for, whole."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.pack import Pack, open_pack
from studio.farm.checks import Checks
from studio.farm.desk import Desk
from studio.farm.local_worker import LocalWorker
from studio.farm.orders import BLOCK
from studio.farm.register import Register
from studio.jobs.leases import LeasingTable
from studio.jobs.render import record
from studio.jobs.spec import Entry, Work, content_key
from studio.media.pictures import write_png
from studio.media.video import write_mp4

IMAGE = np.zeros((16, 24, 3), np.uint8)


class Place:
    """A desk with one row and the file that a machine would make of it."""

    def __init__(self, root: Path, pack: Pack) -> None:
        self.table = LeasingTable(root / "jobs.sqlite")
        self.register = Register(root / "farm.sqlite")
        self.clips, self.pack = root / "clips", pack
        known = {pack.pack_hash: pack}
        checks = Checks(self.table, self.register, root / "checks", self.clips, lambda path: pack)
        self.desk = Desk(self.table, self.register, self.clips, 30, known.get, checks, {})
        self.work = Work(
            **{"prompt": "a star", "look_seed": 1, "motion_seed": 2, "kind": "frame"},
            **{"pack": str(pack.path), "backend": "cpu"},
        )
        key = content_key(self.work, pack)
        [self.row] = self.table.add([Entry(self.work, key)])
        metadata = record(pack, self.work, "cpu") | {"key": key, "kind": "frame"}
        self.data = write_png(root / "made.png", IMAGE, metadata).read_bytes()
        self.other = write_png(root / "x.png", IMAGE, metadata | {"key": "other"}).read_bytes()

    def lease(self, machine: str) -> str:
        found = self.table.reserve(machine, [self.work.engine], 30)
        assert found is not None
        assert self.ask(machine, "begin", token=found[1]) == {"go": True}
        return found[1]

    def ask(self, machine: str, ask: str, **values: Any) -> dict[str, Any]:
        return self.desk.answer(machine, ask, values)

    def send(self, machine: str, token: str, data: bytes, said: bytes | None = None) -> Any:
        middle = len(data) // 2
        assert self.ask(machine, "part", token=token, offset=0, data=data[:middle]) == {
            "have": middle
        }
        again = self.ask(machine, "part", token=token, offset=0, data=data[:middle])
        assert again == {"have": middle}, "a part that comes twice is there once"
        self.ask(machine, "part", token=token, offset=middle, data=data[middle:])
        receipt = {
            "size": len(data),
            "sha256": hashlib.sha256(said or data).hexdigest(),
            "stages": {"clip": 0.5},
            "seconds": 1.5,
            "notices": "",
        }
        return self.ask(machine, "done", token=token, offset=len(data), data=b"", receipt=receipt)[
            "taken"
        ]

    @property
    def state(self) -> str:
        return self.table.job(self.row).state


@pytest.fixture
def place(tmp_path: Path, pack: Pack) -> Iterator[Place]:
    place = Place(tmp_path, pack)
    yield place
    place.table.close()
    place.register.close()


def test_a_file_comes_in_parts_and_gets_its_name_last(place: Place) -> None:
    token = place.lease("one")
    assert place.send("one", token, place.data) is True
    job = place.table.job(place.row)
    assert job.state == "done" and job.result is not None
    assert job.result.read_bytes() == place.data
    beside = json.loads(job.result.with_suffix(".json").read_text("utf-8"))
    assert (beside["key"], beside["machine"], beside["seconds"]) == (job.key, "one", 1.5)
    assert sorted(path.suffix for path in place.clips.iterdir()) == [".json", ".png"]
    assert place.register.machines() == [], "who is not enrolled is not counted"
    assert place.ask("one", "part", token=token, offset=0, data=b"x") == {"have": None}


@pytest.mark.parametrize("what", ["cut off", "of another row", "changed on the way"])
def test_a_damaged_file_costs_an_attempt_and_two_the_row(place: Place, what: str) -> None:
    data = {"cut off": place.data[:-20], "of another row": place.other}.get(what, place.data)
    said = b"else" if what == "changed on the way" else None
    assert place.send("one", place.lease("one"), data, said) is False
    assert place.state == "interrupted"
    assert place.send("two", place.lease("two"), data, said) is False
    job = place.table.job(place.row)
    assert (job.state, str(job.error)) == (
        "failed",
        "two sent a damaged file; check that machine.",
    )
    assert list(place.clips.iterdir()) == [], "nothing of it stays"


def test_a_machine_that_cannot_hands_the_row_back(place: Place) -> None:
    token = place.lease("one")
    trouble = '[{"template": "The battery is low.", "values": {}}]'
    place.register.enrol("one")
    assert place.ask("one", "back", token=token, stop="", trouble=trouble) == {}
    job = place.table.job(place.row)
    assert (job.state, job.attempts) == ("interrupted", 0)
    assert str(place.register.machines()[0].problem) == "The battery is low."
    assert "one" in place.desk.resting


def test_nonsense_is_answered_and_harms_nothing(place: Place) -> None:
    for ask, values in (
        ("nothing", {}),
        ("part", {}),
        ("done", {"token": "?", "receipt": {}}),
        ("progress", {"token": 5}),
        ("file", {"pack": "?", "name": "../x", "offset": 0}),
        ("manifest", {"pack": "?"}),
    ):
        answer = place.ask("one", ask, **values)
        assert "error" in answer or answer == {"taken": False}
    outside = place.ask("one", "file", pack=place.pack.pack_hash, name="../x", offset=0)
    assert "error" in outside, "only files that the manifest names"
    assert place.state == "waiting"


def test_a_pack_in_a_zip_is_sent_from_any_offset(place: Place, tmp_path: Path) -> None:
    file = max(place.pack.files, key=lambda file: file.size)
    archive = shutil.make_archive(str(tmp_path / "pack"), "zip", place.pack.path)
    with open_pack(archive) as zipped:
        place.desk.packs = {zipped.pack_hash: zipped}.get
        for offset in (0, 5, file.size - 3, file.size):
            data = place.ask("one", "file", pack=zipped.pack_hash, name=file.name, offset=offset)
            whole = (place.pack.path / file.name).read_bytes()
            assert data == {"data": whole[offset : offset + BLOCK]}


def test_a_workshop_makes_rows_in_a_queue_of_its_own(place: Place, tmp_path: Path) -> None:
    worker = LocalWorker(tmp_path / "worker", 1)
    try:
        worker.begin(place.work, place.table.job(place.row).key)
        while not (state := worker.look()).is_over:
            time.sleep(0.05)
        assert state.file is not None and state.file.is_relative_to(tmp_path / "worker")
        assert place.send("one", place.lease("one"), state.file.read_bytes()) is True
        worker.clear(state.file)
        assert not list((tmp_path / "worker" / "clips").iterdir())
    finally:
        worker.close()


def test_a_clip_comes_as_a_first_frame_does(place: Place, tmp_path: Path) -> None:
    clip = replace(place.work, kind="clip")
    key = content_key(clip, place.pack)
    [row] = place.table.add([Entry(clip, key)])
    frames = np.zeros((9, 32, 48, 3), np.uint8)
    metadata = record(place.pack, clip, "cpu") | {"key": key, "kind": "clip"}
    data = write_mp4(tmp_path / "made.mp4", frames, 24, metadata).read_bytes()
    place.desk.checks.every = 1
    found = place.table.reserve("one", [clip.engine], 30)
    assert found is not None
    place.ask("one", "begin", token=found[1])
    assert place.send("one", found[1], data) is True
    job = place.table.job(row)
    assert job.result is not None and job.result.read_bytes() == data
    assert place.desk.checks.next("one", lambda engine: True) is None, "not by who made it"
    again = place.desk.checks.next("two", lambda engine: True)
    assert again is not None and place.ask("two", "begin", token=again[1]) == {"go": True}
    assert place.send("two", again[1], data) is True
    assert [str(found) for _, found in place.desk.checks.results] == ["Identical."]
    assert place.ask("two", "begin", token=again[1]) == {"go": False}
