"""One request: its fields are named in one place, and everything else follows that list."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pytest

from engine.config import Request
from engine.errors import RequestError
from engine.pack import Pack
from studio.jobs.render import record
from studio.jobs.spec import Entry, Work, content_key
from studio.jobs.table import JobTable
from studio.library.restore import restore
from studio.media import sidecars
from studio.media.video import write_mp4

ROOT = Path(__file__).parents[1]
NAMES = [field.name for field in fields(Request)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Longer(Work):
    """A work with a field that nothing knows of."""

    seconds: int = 2


def test_the_fields_are_written_out_in_four_places_at_most() -> None:
    found = set()
    for path in (*ROOT.glob("engine/**/*.py"), *ROOT.glob("studio/**/*.py")):
        text = path.read_text(encoding="utf-8")
        if all(re.search(rf"\b{field}\b['\"]?\s*[:=,]", text) for field in NAMES):
            found.add(path.relative_to(ROOT).as_posix())
    assert "engine/config.py" in found and len(found) <= 4, found


def test_a_new_field_goes_everywhere(tmp_path: Path, pack: Pack) -> None:
    work = Longer("a red ball", 1, 2, pack=str(pack.path), backend="cpu", seconds=5)
    again = Longer.from_dict(json.loads(json.dumps(work.to_dict())))
    assert again == work and again.seconds == 5
    assert content_key(work, pack) != content_key(
        Longer.from_dict(work.to_dict() | {"seconds": 6}), pack
    )
    usual = Longer.from_dict(work.to_dict() | {"seconds": 2})
    assert content_key(usual, pack) == content_key(Work.from_dict(work.to_dict()), pack)
    with JobTable(tmp_path / "jobs.sqlite") as table:
        (number,) = table.add([Entry(work, "k")])
        (row,) = table._rows("SELECT work FROM jobs WHERE id = ?", number)
        assert json.loads(row["work"])["seconds"] == 5
        assert table.job(number).work == Work.from_dict(work.to_dict())  # older: ignores it


def test_a_request_survives_every_store(tmp_path: Path, pack: Pack) -> None:
    request = Request(
        *("ein Fisch 🐟 {a|b}", 2**32 - 1, 0, "monolithic", (1, 2, 3), "blurry"),
        image=Path("mine.png"),
        upscale=False,
        suffix=False,
    )
    assert Request.from_dict(request.to_dict()).to_dict() == request.to_dict()
    clip = write_mp4(
        tmp_path / "a.mp4", np.zeros((2, 64, 64, 3), np.uint8), 24, record(pack, request, "cpu")
    )
    assert restore(clip).request.to_dict() == request.to_dict()
    sidecars.write(clip, sidecars.inside(clip) | {"kind": "clip"})
    assert restore(clip).request.to_dict() == request.to_dict()


def test_old_spellings_are_read_and_no_longer_written() -> None:
    old = {"prompt": "a", "look_seed": 1, "motion_seed": 2, "negative": "b", "picture": "c.png"}
    request = Request.from_dict(old | {"what came later": 1})
    assert (request.negative_prompt, request.image) == ("b", Path("c.png"))
    assert set(request.to_dict()) == set(NAMES)


def test_what_is_missing_is_said() -> None:
    with pytest.raises(RequestError, match="The motion seed is None"):
        Request.from_dict({"prompt": "a", "look_seed": 1})
