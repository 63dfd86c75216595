"""Graphs that stay loaded: the same clip, nothing loaded twice, never more than the budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from random_pack import exported

from engine import graph_cache
from engine.config import Request
from engine.errors import BackendError
from engine.events import Finished, UnitFrames
from engine.graph_cache import GraphCache
from engine.pack import Pack, open_pack
from engine.pipeline import generate, prewarm
from engine.session import available, open_graphs

REQUEST = Request("a red kite", 1, 2, upscale=False)
ROLES = (
    9  # clip_l, clip_g, unet and its decoder, video encoder, text, modulation, transformer, decoder
)


@pytest.fixture
def pack() -> Iterator[Pack]:
    with open_pack(exported()) as opened:
        yield opened


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each role's graphs are loaded."""
    counted: Counter[str] = Counter()

    def counting(pack: Pack, component: str, role: str, *others: Any, **more: Any) -> Any:
        counted[role] += 1
        return open_graphs(pack, component, role, *others, **more)

    monkeypatch.setattr(graph_cache, "open_graphs", counting)
    return counted


def clip(pack: Pack, cache: GraphCache, threads: int = 1) -> Any:
    events = list(generate(pack, REQUEST, threads=threads, checked=False, cache=cache))
    finished = events[-1]
    assert isinstance(finished, Finished) and 0 < finished.graph_seconds < finished.seconds
    return np.concatenate([event.frames for event in events if isinstance(event, UnitFrames)])


def test_the_next_clip_loads_nothing(pack: Pack, loads: Counter[str]) -> None:
    cache = GraphCache(budget=10**9)
    first = clip(pack, cache)
    assert len(loads) == loads.total() == ROLES
    assert np.array_equal(clip(pack, cache), first)
    assert loads.total() == ROLES
    clip(pack, cache, threads=2)
    assert loads.total() == 2 * ROLES, "with other threads they are others"
    cache.clear()
    clip(pack, cache)
    assert loads.total() == 3 * ROLES


def test_without_a_budget_nothing_is_kept(pack: Pack, loads: Counter[str]) -> None:
    cache = GraphCache(budget=0)
    assert np.array_equal(clip(pack, cache), clip(pack, cache))
    assert loads.total() == 2 * ROLES


def test_what_is_prewarmed_is_not_loaded_again(pack: Pack, loads: Counter[str]) -> None:
    cache = GraphCache(budget=10**9)
    warmed = list(prewarm(pack, "cpu", 1, cache))
    assert len(warmed) == loads.total() == ROLES + 1, "and the upscaler"
    assert list(prewarm(pack, "cpu", 1, cache)) == warmed
    clip(pack, cache)
    assert loads.total() == ROLES + 1
    few = GraphCache(budget=sum(cache._sizes.values()) // 2)
    assert list(prewarm(pack, "cpu", 1, few)) == warmed[: len(few._sizes)]
    assert 0 < len(few._sizes) < ROLES, "nothing goes to make room"


@pytest.mark.skipif("npu-emulated" not in available(), reason="no NPU emulation here")
def test_the_npu_is_at_full_speed_only_with_work(
    pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    ask = ort.InferenceSession.set_ep_dynamic_options

    def asked(session: Any, options: dict[str, str]) -> None:
        told.extend(options.values())
        ask(session, options)  # which the emulation takes

    monkeypatch.setattr(ort.InferenceSession, "set_ep_dynamic_options", asked)
    cache, role = GraphCache(budget=10**9), ("upscaler", "upscaler", "npu-emulated", 1)
    cache.give_back(*cache.take(pack, *role))
    assert told == ["low_power_saver"], "it was loaded at full speed"
    kept = cache.take(pack, *role)
    assert told[1:] == ["burst"]
    cache.give_back(*kept)
    assert told[2:] == ["low_power_saver"]
    cache.give_back(*cache.take(pack, "upscaler", "upscaler", "cpu", 1))
    assert len(told) == 3


def test_the_longest_unused_goes_first(pack: Pack, loads: Counter[str]) -> None:
    sizes = {}
    for component, role in (("clip_l", "clip_l"), ("clip_g", "clip_g"), ("upscaler", "upscaler")):
        (graph,) = pack.graphs(component, "portable").values()
        sizes[role] = graph_cache.WIDENED * sum(file.size for file in graph.files)
    cache = GraphCache(budget=sum(sizes.values()) - 1)
    for role in ("clip_l", "clip_g", "clip_l", "upscaler", "clip_l", "clip_g"):
        cache.give_back(*cache.take(pack, role, role, "cpu", 1))
    assert loads == {"clip_l": 1, "clip_g": 2, "upscaler": 1}


def test_what_failed_is_loaded_afresh(
    pack: Pack, loads: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = GraphCache(budget=10**9)
    clip(pack, cache)

    def fail(key: Any, sessions: Any) -> None:
        raise BackendError("the device is gone")

    with monkeypatch.context() as patch, pytest.raises(BackendError):
        patch.setattr(cache, "give_back", fail)
        clip(pack, cache)
    loads.clear()
    clip(pack, cache)
    assert loads.total() == ROLES


def test_where_the_device_is_full_others_make_room(
    pack: Pack, loads: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = GraphCache(budget=10**9)
    cache.give_back(*cache.take(pack, "clip_l", "clip_l", "cpu", 1))
    counting = graph_cache.open_graphs

    def full(*where: Any, **more: Any) -> Any:
        if cache._idle:
            raise BackendError("no room")
        return counting(*where)

    monkeypatch.setattr(graph_cache, "open_graphs", full)
    for _ in range(2):
        cache.give_back(*cache.take(pack, "clip_g", "clip_g", "cpu", 1))
    assert loads == {"clip_l": 1, "clip_g": 1}
    with pytest.raises(BackendError, match="there is no Hexagon NPU"):
        cache.take(pack, "clip_l", "clip_l", "npu", 1)
