"""What version 0.2.0 wrote loads unchanged: its job table, settings, sidecars and lists.

The fixtures were made by that version: `nds batch list.csv`, then marks in the library, two jobs
that wait and one whose worker was killed.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.config import Request
from engine.pack import Pack
from studio.batch import lists as batch
from studio.jobs.spec import as_json, content_key
from studio.jobs.table import JobTable
from studio.library.restore import restore
from studio.library.store import Library
from studio.system.settings import load

FIXTURES = Path(__file__).parent / "fixtures" / "0.2.0"
NAME = "/lists/random.csv"  # seeds are drawn by the list's path
DRAWN = [(3771173822, 3941919644), (2633889440, 3584097936), (493800706, 3992398321)]
KEYS = ["1adb3e6e", "1f8f5f12", "7bb76bbc", "72a22f6d", "455bca4d", "110e9ee2", "110e9ee2"]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of the fixtures."""
    return shutil.copytree(FIXTURES, tmp_path / "0.2.0")


@pytest.fixture(params=[1, 2])
def table(old: Path, request: Any) -> Iterator[JobTable]:
    """The job table, as version 2 and as version 1 (without the column `suffix`)."""
    path = old / "data" / "jobs.sqlite"
    if request.param == 1:
        db = sqlite3.connect(path)
        db.execute("ALTER TABLE jobs DROP COLUMN suffix")
        db.execute("PRAGMA user_version = 1")
        db.close()
    with JobTable(path) as table:
        yield table


def pack_of_then() -> Any:
    """What the mini pack of version 0.2.0 said that a content key depends on."""
    steps = SimpleNamespace(steps=(1, 1, 1))
    return SimpleNamespace(
        name="neodragon-mini",
        pack_hash="0ffe5551c16deb2b1883ea659108202242caca1b43695ad70f27bc66cca30d56",
        schedule=SimpleNamespace(modes={"hybrid": steps, "monolithic": steps}),
        prompt=SimpleNamespace(suffix="", negative=""),
        has=lambda name: name == "upscaler",
    )


def test_the_job_table_loads(table: JobTable) -> None:
    jobs = table.jobs()
    assert [job.id for job in jobs] == [1, 2, 3, 4, 5, 8, 6, 7]
    assert [job.state for job in jobs] == [*["done"] * 4, "failed", "running", *["waiting"] * 2]
    assert [job.key[:8] for job in jobs[:7]] == KEYS
    ball, fish, star, cube, broken, running, house, cloud = (job.work for job in jobs)
    assert (ball.prompt, ball.look_seed, ball.motion_seed) == ("a red ball bounces", 3, 4)
    assert (fish.prompt, fish.negative_prompt) == ("ein grüner Fisch 🐟 schwimmt", "blurry")
    assert (fish.steps, fish.upscale, ball.negative_prompt) == ((1, 1, 1), False, None)
    assert (star.kind, star.steps, star.upscale) == ("frame", None, True)
    assert (cube.image, ball.image) == (Path("/tmp/fix020/mine.png"), None)
    assert (house.mode, house.steps, house.upscale) == ("monolithic", (1, 2, 3), True)
    assert (running, cloud.kind) == (house, "frame")
    assert str(jobs[4].error).startswith("The image /tmp/fix020/broken.png should be")
    assert broken.prompt == "a broken picture"
    assert (jobs[5].stage, jobs[5].fraction, jobs[5].units) == ("transformer", 0.4, 2)
    assert [str(notice)[-12:] for notice in jobs[5].notices] == ["'a {brace}'."]
    assert str(table.queue().reason).startswith("The studio was closed while jobs")
    assert jobs[0].result is not None and jobs[0].size == 23951 and jobs[0].stages.keys() > {"clip"}
    assert as_json(jobs[3])["image"] == str(Path("/tmp/fix020/mine.png"))


def test_the_job_table_goes_on(table: JobTable) -> None:
    assert table.estimate(table.job(1).work).seconds is not None
    (number,) = table.add([batch.Entry(table.job(1).work, "new")])
    assert number == 9
    with table.lease():
        assert [job.id for job in table.recover()] == [8]
        table.resume()
        job = table.claim()
        assert job is not None and (job.id, job.attempts) == (8, 2)
    with JobTable(table.path) as again:  # of this version now
        assert again.jobs() == table.jobs()


def test_content_keys_are_what_they_were(old: Path) -> None:
    with JobTable(old / "data" / "jobs.sqlite") as table:
        for job in table.jobs(["done", "waiting"]):
            work = job.work
            if work.image is not None:
                work = replace(work, image=old / "mine.png")
            assert content_key(work, pack_of_then()) == job.key, work


def test_the_settings_load(old: Path) -> None:
    settings, complaint = load(old / "data" / "settings.json")
    assert (settings.theme, settings.battery, complaint) == ("dark", 35, None)
    assert (settings.clips, settings.rest) == ("/tmp/fix020/clips", {})


def test_the_library_shows_the_clips(old: Path) -> None:
    with Library(old / "data" / "jobs.sqlite", old / "clips") as library:
        assert library.scan() == 4
        shown = {item.prompt: item for item in library.search()}
        assert set(shown) == {
            *("a red ball bounces", "ein grüner Fisch 🐟 schwimmt"),
            "a blue cube begins with a picture",
        }
        fish = shown["ein grüner Fisch 🐟 schwimmt"]
        assert (fish.stars, fish.note, fish.look_seed, fish.motion_seed) == (4, "schön", 5, 6)
        (star,) = library.search(verdict="reject")
        assert (star.prompt, star.kind) == ("a yellow star", "frame")


@pytest.mark.parametrize("part", ["sidecar", "inside"])
def test_clips_are_restored(old: Path, part: str) -> None:
    (clip,) = (old / "clips").glob("*look8*.mp4")
    if part == "inside":
        clip.with_suffix(".json").unlink()
    origin = restore(clip)
    made = Request(
        *("a blue cube begins with a picture", 8, 9, "hybrid", (1, 1, 1), ""),
        image=Path("mine.png"),
        upscale=False,
    )
    assert origin.request.to_dict() == made.to_dict()
    assert origin.key is not None and origin.key.startswith("72a22f6d")


def test_a_list_means_what_it_did(old: Path, pack: Pack) -> None:
    listed = batch.read(old / "list-filled.csv", pack, "cpu")
    assert [entry.work.look_seed for entry in listed.entries] == [
        3,
        5,
        7,
        8,
    ]
    assert [entry.work.negative_prompt for entry in listed.entries[:2]] == [None, "blurry"]
    assert listed.entries[3].work.image == old / "mine.png"
    assert len(listed.bad) == 1  # one picture is no more
    drawn = batch.read(old / "random.csv", pack, "cpu", name=NAME).entries
    assert [(entry.work.look_seed, entry.work.motion_seed) for entry in drawn] == DRAWN
