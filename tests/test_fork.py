"""A clip that goes on otherwise from one of its units: what is kept is kept to the byte."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.config import Fork, Request
from engine.errors import RequestError
from engine.events import UnitFrames
from engine.pack import Pack
from engine.pipeline import generate
from engine.session import Backend, available
from studio.jobs.render import record
from studio.jobs.spec import Work, content_key
from studio.library.restore import restore
from studio.library.verify import verify
from studio.media.video import write_mp4

REQUEST = Request("a red ball rolls right over a green meadow", 1, 2, upscale=False)
OTHER = "a red ball jumps over a green meadow"


def units(
    pack: Pack, request: Request, backend: Backend = "cpu", upto: int = 6
) -> list[NDArray[np.uint8]]:
    """The frames of each unit, as far as unit `upto`."""
    found = []
    with closing(generate(pack, request, backend)) as events:
        for event in events:
            if isinstance(event, UnitFrames):
                found.append(event.frames)
                if event.unit == upto:
                    break
    return found


def kept(before: list[NDArray[np.uint8]], after: list[NDArray[np.uint8]]) -> list[bool]:
    return [np.array_equal(a, b) for a, b in zip(before, after, strict=True)]


def test_units_before_a_fork_are_the_same_and_those_after_are_not(pack: Pack) -> None:
    whole = units(pack, REQUEST)
    seed = units(pack, replace(REQUEST, forks=(Fork(3, 77),)))
    assert kept(whole, seed) == [True] * 3 + [False] * 4
    words = units(pack, replace(REQUEST, forks=(Fork(5, 2, OTHER),)))
    assert kept(whole, words) == [True] * 5 + [False] * 2
    both = units(pack, replace(REQUEST, forks=(Fork(3, 77), Fork(5, 78, OTHER))))
    assert kept(seed, both) == [True] * 5 + [False] * 2
    assert kept(whole, units(pack, replace(REQUEST, forks=(Fork(3, 2),)))) == [True] * 7


@pytest.mark.skipif("npu-emulated" not in available(), reason="no NPU emulation here")
def test_the_kept_units_are_the_same_on_the_emulated_npu(pack: Pack) -> None:
    whole = units(pack, REQUEST, "npu-emulated", 2)
    fork = units(pack, replace(REQUEST, forks=(Fork(2, 9, OTHER),)), "npu-emulated", 2)
    assert kept(whole, fork) == [True, True, False]


@pytest.fixture
def forked() -> Iterator[Request]:
    yield replace(REQUEST, forks=(Fork(2, 2**32 - 1), Fork(4, 0, "ein Fisch 🐟")))


def test_a_fork_is_stored_restored_and_verified(
    tmp_path: Path, pack: Pack, forked: Request
) -> None:
    frames = np.concatenate(units(pack, forked))
    clip = write_mp4(tmp_path / "a.mp4", frames, 24, record(pack, forked, "cpu"))
    assert restore(clip).request.forks == forked.forks
    assert verify(clip, pack).outcome == "identical"
    plain = write_mp4(tmp_path / "b.mp4", frames, 24, record(pack, REQUEST, "cpu"))
    assert verify(plain, pack).outcome == "different"


def test_a_fork_decides_the_frames_of_a_clip_and_nothing_of_its_first_frame(
    pack: Pack, forked: Request
) -> None:
    made_by = {"pack": str(pack.path), "backend": "cpu"}

    def key(request: Request, kind: str) -> str:
        stored = json.loads(json.dumps(request.to_dict() | made_by | {"kind": kind}))
        return content_key(Work.from_dict(stored), pack)

    assert key(forked, "clip") != key(REQUEST, "clip")
    assert key(forked, "frame") == key(REQUEST, "frame")


@pytest.mark.parametrize(
    ("forks", "problem"),
    [
        ([{"unit": 0, "motion_seed": 1}], "unit 0"),
        ([{"unit": 1.5, "motion_seed": 1}], "unit 1.5"),
        ([{"unit": 1, "motion_seed": -1}], "motion seed is -1"),
        ([{"unit": 1, "motion_seed": 1, "prompt": " "}], "Write a prompt"),
        ([{"unit": 3, "motion_seed": 1}, {"unit": 3, "motion_seed": 2}], "units 3, 3"),
        ([{"unit": 3}], "give each a unit"),
        ("half", "give each a unit"),
        (7, "give each a unit"),
    ],
)
def test_a_fork_that_is_none_is_said(forks: Any, problem: str) -> None:
    with pytest.raises(RequestError, match=problem):
        Request.from_dict(REQUEST.to_dict() | {"forks": forks})


def test_a_fork_behind_the_last_unit_is_said(pack: Pack) -> None:
    with pytest.raises(RequestError, match="unit 7; .* has units 1 to 6"):
        next(generate(pack, replace(REQUEST, forks=(Fork(7, 1),))))
