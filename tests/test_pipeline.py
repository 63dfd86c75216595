"""The whole generation on a pack with random weights: events, seeds, modes, pictures, prompts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from random_pack import exported

from engine import pipeline, vae
from engine.config import Request
from engine.errors import RequestError
from engine.events import Event, Finished, FirstFrame, Progress, StageDone, Truncated, UnitFrames
from engine.pack import Pack, open_pack
from engine.pipeline import generate
from engine.scheduler import stage_schedule
from engine.session import open_session, placement
from engine.transformer import Conditioning, Transformer, timesteps

PROMPT = "a red kite drifts slowly over the green meadow"
REQUEST = Request(PROMPT, 1, 2, upscale=False)


@pytest.fixture(scope="module")
def pack() -> Iterator[Pack]:
    with open_pack(exported()) as opened:
        yield opened


@cache
def events(**changes: Any) -> tuple[Event, ...]:
    """The events of `REQUEST` with changes, generated once."""
    with open_pack(exported()) as opened:
        return tuple(generate(opened, replace(REQUEST, **changes), threads=1))


def frames(generated: tuple[Event, ...]) -> NDArray[np.uint8]:
    """The clip, uint8 [T, H, W, 3]."""
    return np.concatenate([event.frames for event in generated if isinstance(event, UnitFrames)])


def first(generated: tuple[Event, ...]) -> NDArray[np.uint8]:
    """The first frame."""
    return next(event.image for event in generated if isinstance(event, FirstFrame))


def test_events_in_order() -> None:
    generated = events()
    units = [event for event in generated if isinstance(event, UnitFrames)]
    assert [event.unit for event in units] == list(range(7))
    assert [len(event.frames) for event in units] == [1, 8, 8, 8, 8, 8, 8]
    clip = frames(generated)
    assert clip.shape == (49, 128, 192, 3) and clip.dtype == np.uint8
    assert [event.stage for event in generated if isinstance(event, StageDone)] == [
        *("clip", "first_frame", "safety", "video_encoder", "text", "transformer", "video_decoder"),
    ]
    progress = [event for event in generated if isinstance(event, Progress)]
    assert [p.done for p in progress if p.stage == "first_frame"] == [1, 2, 3, 4]
    assert [p.done for p in progress if p.stage == "transformer"] == list(range(19))
    assert all(p.total == 18 for p in progress if p.stage == "transformer")
    kinds = [type(event) for event in generated]
    assert kinds.index(FirstFrame) < kinds.index(UnitFrames) and kinds[-1] is Finished
    finished = generated[-1]
    assert isinstance(finished, Finished)
    assert 0 < finished.graph_seconds < finished.seconds
    assert 0 < finished.load_seconds < finished.seconds - finished.graph_seconds


def test_the_clip_moves_and_is_no_noise() -> None:
    clip = frames(events()).astype(np.float32)
    assert clip.std() > 5
    assert np.abs(np.diff(clip, axis=0)).mean() > 0.1


def test_upscaled_frames_are_twice_as_large() -> None:
    generated = events(upscale=True)
    clip = frames(generated)
    assert clip.shape == (49, 256, 384, 3)
    assert "upscaler" in [event.stage for event in generated if isinstance(event, StageDone)]


def test_the_same_request_gives_the_same_bytes(pack: Pack) -> None:
    again = tuple(generate(pack, REQUEST, threads=1))
    assert frames(again).tobytes() == frames(events()).tobytes()
    assert first(again).tobytes() == first(events()).tobytes()


def test_the_motion_seed_changes_the_motion_only() -> None:
    other = events(motion_seed=3)
    assert np.array_equal(first(other), first(events()))
    assert np.array_equal(frames(other)[0], frames(events())[0])
    assert not np.array_equal(frames(other)[1:], frames(events())[1:])


def test_the_look_seed_changes_the_first_frame() -> None:
    other = events(look_seed=3)
    assert not np.array_equal(first(other), first(events()))
    assert not np.array_equal(frames(other)[0], frames(events())[0])


def test_a_first_frame_given_back_leads_to_the_same_clip(pack: Pack) -> None:
    request = replace(REQUEST, image=first(events()))
    generated = tuple(generate(pack, request, threads=1))
    assert "first_frame" not in [e.stage for e in generated if isinstance(e, StageDone)]
    assert np.array_equal(frames(generated), frames(events()))


def test_any_picture_can_be_animated(pack: Pack) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (300, 310, 3), np.uint8)
    for mode in ("hybrid", "monolithic"):
        request = replace(REQUEST, image=picture, mode=mode, steps=(1, 1, 1))
        generated = tuple(generate(pack, request, threads=1))
        assert first(generated).shape == (128, 192, 3)
        assert frames(generated).shape == (49, 128, 192, 3)


@pytest.mark.parametrize("size", [(640, 960), (64, 96), (129, 193), (500, 300), (128, 192)])
def test_fitting_is_a_centred_lanczos(size: tuple[int, int]) -> None:
    small = np.random.default_rng(1).integers(0, 256, (8, 12, 3), np.uint8)
    picture = Image.fromarray(small).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    height, width = 128, 192
    scale = min(size[0] / height, size[1] / width)
    left, top = (size[1] - width * scale) / 2, (size[0] - height * scale) / 2
    box = (left, top, left + width * scale, top + height * scale)
    expected = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS, box))
    got = vae.fit(np.asarray(picture), height, width)
    assert np.array_equal(got, expected)


def test_monolithic_generates_the_first_frame_too() -> None:
    generated = events(mode="monolithic")
    assert np.array_equal(first(generated), frames(generated)[0])
    progress = [e for e in generated if isinstance(e, Progress) and e.stage == "transformer"]
    assert progress[-1].done == progress[-1].total == 2 * (4 + 6 * 3)  # two passes a step
    assert frames(generated).shape == (49, 128, 192, 3)


def test_the_negative_prompt_matters_where_there_is_guidance() -> None:
    # The random pack's own negative prompt is "blurry".
    assert np.array_equal(first(events(negative_prompt="blurry")), first(events()))
    assert not np.array_equal(first(events(negative_prompt="green")), first(events()))


def test_steps_can_be_chosen() -> None:
    generated = events(steps=(2, 1, 3))
    progress = [e for e in generated if isinstance(e, Progress) and e.stage == "transformer"]
    assert progress[-1].total == 6 * 6
    assert not np.array_equal(frames(generated)[1:], frames(events())[1:])


def test_a_long_prompt_says_what_was_cut() -> None:
    words = ["kite", "ball"] * 20
    cut = [event for event in events(prompt=" ".join(words)) if isinstance(event, Truncated)]
    assert [event.encoder for event in cut] == ["CLIP", "T5"]
    # Of 32 tokens CLIP spends two on start and end, T5 one on the end.
    assert [event.text for event in cut] == [" ".join(words[30:]), " ".join(words[31:])]
    assert not [event for event in events() if isinstance(event, Truncated)]


def test_a_prompt_is_never_an_instruction(pack: Pack) -> None:
    tokenize = pipeline.PromptTokenizers(pack)
    tokens = tokenize("kite <|endoftext|> ball \ud800")
    end = tokenize("kite").clip_l[0, 2]
    assert (tokens.clip_g == end).sum() == 1


def test_a_mode_the_pack_lacks(pack: Pack) -> None:
    schedule = replace(pack.schedule, modes={"hybrid": pack.schedule.modes["hybrid"]})
    with pytest.raises(RequestError, match="monolithic"):
        next(generate(replace(pack, schedule=schedule), replace(REQUEST, mode="monolithic")))


def test_a_pack_without_a_first_frame_needs_a_picture(pack: Pack) -> None:
    bare = replace(pack, first_frame=None)
    with pytest.raises(RequestError, match="picture"):
        next(generate(bare, REQUEST))
    generated = tuple(generate(bare, replace(REQUEST, image=first(events())), threads=1))
    assert np.array_equal(frames(generated), frames(events()))


def test_closing_cancels_and_frees(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def remember(*arguments: Any, **options: Any) -> Any:
        opened.append(open_session(*arguments, **options))
        return opened[-1]

    monkeypatch.setattr(placement, "open_session", remember)
    running = generate(pack, REQUEST, threads=1)
    for event in running:
        if isinstance(event, UnitFrames) and event.unit == 1:
            break
    running.close()
    names = [session.name for session in opened]
    assert names[-2:] == ["transformer", "video_decoder"]
    assert all(session._session is None for session in opened)


def test_only_the_loops_graphs_are_loaded_together(
    pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def remember(*arguments: Any, **options: Any) -> Any:
        opened.append(open_session(*arguments, **options))
        return opened[-1]

    monkeypatch.setattr(placement, "open_session", remember)
    most = 0
    for _ in generate(pack, replace(REQUEST, upscale=True), threads=1):
        loaded = [session.name for session in opened if session._session is not None]
        most = max(most, len(loaded))
        assert len(loaded) <= 1 or loaded == ["transformer", "video_decoder", "upscaler"]
    assert most == 3


def test_padding_does_not_change_the_flow(pack: Pack) -> None:
    """A graph of static size, front-padded, gives the flow that the one of dynamic size gives."""
    graph = pack.graphs("transformer", "portable")["transformer"]
    stages = stage_schedule(pack.schedule)
    mode = pack.schedule.modes["hybrid"]
    rng = np.random.default_rng(0)
    mask = np.arange(32) < 7
    rows = graph.inputs["modulation"].shape
    modulation = {
        timestep: rng.standard_normal([int(size) for size in rows], np.float32)
        for timestep in timesteps(stages, mode, True)
    }
    context = rng.standard_normal((32, pack.transformer.width), np.float32)
    prompt = Conditioning(context, mask.astype(np.int64), modulation)
    history = [
        rng.standard_normal((12, t, h, w), np.float32) for t, h, w in ((1, 4, 6), (1, 8, 12))
    ]
    current = rng.standard_normal((12, 1, 8, 12), np.float32)
    flows = []
    with open_session(pack, graph) as dynamic:
        static_graph = pack.graphs("transformer", "htp")["transformer_1"]
        with open_session(pack, static_graph) as static:
            for graphs in ({"transformer": dynamic}, {"transformer_1": static}):
                flow = Transformer(graphs, pack.transformer, prompt)
                timestep = next(iter(stages[1].timesteps(1)))
                where = {"unit": 2, "stage": 1, "negative": False}
                flows.append(flow(history, current, float(timestep), **where))  # type: ignore[arg-type]
    assert np.abs(flows[0] - flows[1]).max() <= 1e-4 * np.abs(flows[0]).max()
