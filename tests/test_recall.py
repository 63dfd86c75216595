"""Clips of a queue: what an earlier one has drawn is not drawn again, and memory stays bounded."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.config import Request
from engine.events import FirstFrame, UnitFrames
from engine.graph_cache import GraphCache
from engine.pack import Pack
from engine.pipeline import generate
from engine.recall import Recall, key_of
from engine.session import OrtSession

REQUEST = Request("a red ball bounces on the meadow", 1, 2, upscale=False)
LOOP = {"transformer": 18, "video_decoder": 7}
BEFORE = {"clip_l": 1, "clip_g": 1, "unet": 4, "first_frame_decoder": 1, "video_encoder": 1}
BEFORE |= {"text_encoder": 1, "modulation": 3}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each graph has run."""
    counted: Counter[str] = Counter()
    work = OrtSession.work

    def counting(session: OrtSession, do: Any) -> Any:
        counted[session.name] += 1
        return work(session, do)

    monkeypatch.setattr(OrtSession, "work", counting)
    return counted


def clip(pack: Pack, request: Request, cache: GraphCache) -> Any:
    events = list(generate(pack, request, threads=1, checked=False, cache=cache))
    (first,) = (event.image for event in events if isinstance(event, FirstFrame))
    frames = np.concatenate([event.frames for event in events if isinstance(event, UnitFrames)])
    first[:] = 0  # what a caller does with its picture is its own affair
    return frames


def test_a_clip_of_the_same_look_only_moves_it_anew(pack: Pack, runs: Counter[str]) -> None:
    cache = GraphCache(budget=10**9)
    clip(pack, REQUEST, cache)
    assert runs == LOOP | BEFORE
    runs.clear()
    other = replace(REQUEST, motion_seed=3)
    frames = clip(pack, other, cache)
    assert runs == LOOP
    assert np.array_equal(frames, clip(pack, other, GraphCache(budget=0)))


def test_what_differs_is_drawn(pack: Pack, runs: Counter[str]) -> None:
    cache = GraphCache(budget=10**9)
    clip(pack, REQUEST, cache)
    runs.clear()
    clip(pack, replace(REQUEST, look_seed=9), cache)
    look = {"unet": 4, "first_frame_decoder": 1, "video_encoder": 1}
    assert runs == LOOP | look, "the prompt is known"
    runs.clear()
    cache.clear()
    clip(pack, REQUEST, cache)
    assert runs == LOOP | BEFORE


def test_the_longest_unused_is_forgotten() -> None:
    recall, kilobyte = Recall(3 * 1024), np.zeros(1024, np.uint8)
    keys = [key_of("clip", number) for number in range(4)]
    for key in keys[:3]:
        recall.keep(key, (kilobyte,))
    assert recall.get(keys[0]) is not None
    recall.keep(keys[3], (kilobyte,))
    assert [recall.get(key) is not None for key in keys] == [True, False, True, True]
    recall.keep(keys[0], (np.zeros(4096, np.uint8),))
    assert recall.size <= recall.room
    empty = Recall(0)
    empty.keep(keys[0], (kilobyte,))
    assert empty.get(keys[0]) is None


def test_keys_differ_where_content_does() -> None:
    ids = np.arange(6)
    contents: list[tuple[Any, ...]] = [
        (ids,),
        (ids.astype(np.int32),),
        (ids.reshape(2, 3),),
        (ids[::-1],),
        (ids[:3], ids[3:]),
        ("a", "b"),
        ("ab",),
        ("a", 1),
        ("a", 1.5),
        ("a", "1"),
    ]
    assert len({key_of(*content) for content in contents}) == len(contents)
    assert key_of(ids) == key_of(ids.copy())
