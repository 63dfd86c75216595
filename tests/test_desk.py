"""What the page does without a page: pictures are kept, and looking after the worker goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from engine.pack import Pack
from studio.jobs.supervisor import Keeper, WorkerError
from studio.page import desk as page_desk
from studio.page.desk import Desk

ASKED = {"prompt": "a ball", "look_seed": 1, "motion_seed": 2, "mode": "hybrid", "upscale": False}


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Exception | None]:
    """What the next looks at the worker raise; no worker is started."""
    coming: list[Exception | None] = []

    def look(_: Keeper) -> None:
        if coming and (error := coming.pop(0)):
            raise error

    monkeypatch.setattr(Keeper, "look", look)
    monkeypatch.setattr(page_desk, "LOOK", 0.01)
    monkeypatch.setattr(page_desk, "RETRY", 0.01)
    return coming


@pytest.fixture
def desk(tmp_path: Path, pack: Pack, looks: list[Exception | None]) -> Iterator[Desk]:
    assert looks == []
    with Desk(pack, "cpu", tmp_path / "clips", tmp_path / "data", tmp_path / "cache") as desk:
        yield desk


def test_a_queued_picture_outlives_its_temporary_file(desk: Desk, tmp_path: Path) -> None:
    picture = tmp_path / "temporary.png"
    Image.new("RGB", (30, 20), "red").save(picture)
    content = picture.read_bytes()
    (number,) = desk.ask([desk.work(ASKED | {"image": str(picture)}, "clip")])
    picture.unlink()
    image = desk.table.job(number).work.image
    assert isinstance(image, Path) and image.parent == desk.data / "pictures"
    assert image.read_bytes() == content
    picture.write_bytes(content)  # the same once more is the same job
    assert desk.ask([desk.work(ASKED | {"image": str(picture)}, "clip")]) == [number]
    assert list(image.parent.iterdir()) == [image]


def test_a_look_that_fails_is_not_the_last(desk: Desk, looks: list[Exception | None]) -> None:
    for error in (OSError("No."), WorkerError("It ended."), RuntimeError("A mistake.")):
        looks += [error] * 10_000
        deadline = time.monotonic() + 60
        while desk.trouble is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        looks.clear()
        while desk.trouble is not None:
            assert time.monotonic() < deadline and desk._thread.is_alive()
            time.sleep(0.01)
