"""The emoji theatre's detectors: the truth is right, and what is spoiled is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from training.data.drawings import NAMES
from training.data.emoji import Actor, Scene, mirrored, sample_scene
from training.data.stage import render
from training.evaluation.judges import EmojiJudge, Verdict, interval, judge_of, summary
from training.evaluation.theatre import Reading, marks, read
from training.recipes.configuration import FOLDER, Configuration

SUBJECTS = NAMES[:24]


def seen(scene: Scene, frames: np.ndarray | None = None) -> tuple[dict[str, bool], Reading]:
    reading = read(render(scene, 128, 192) if frames is None else frames, scene, SUBJECTS)
    return marks(scene, reading), reading


def scene(
    motion: str = "right",
    subject: str = "fox",
    colour: str | None = "blue",
    weather: str | None = None,
) -> Scene:
    actor = Actor(subject, colour, 0.4, 0.5, 0.12, mirrored(subject, motion))
    return Scene((actor,), "rainbow", "meadow", weather, motion, 11)


def pair() -> Scene:
    fox, owl = Actor("fox", "red", 0.34, 0.5, 0.1), Actor("owl", "blue", 0.34, 1.0, 0.1)
    return Scene((fox, owl), "day", "stage", None, "jump", 5)


def test_the_truth_is_right() -> None:
    rng = np.random.default_rng(42)
    for _ in range(10):
        drawn = sample_scene(rng, SUBJECTS, test=True)
        right, reading = seen(drawn)
        assert all(right.values()), (drawn, right, reading)
        assert reading.sky_detail is None or reading.sky_detail > 0.95
        assert reading.dots is None or reading.dots > 0.85


@pytest.mark.parametrize("motion", ["still", "left", "up", "closer", "spin", "pan", "zoom"])
def test_each_motion_is_told_from_the_others(motion: str) -> None:
    assert seen(scene(motion))[1].motion == motion


def blurred(frames: np.ndarray, radius: int) -> np.ndarray:
    total = np.zeros(frames.shape)
    for shift in range(-radius, radius + 1):
        total += np.roll(frames, shift, 2)
    rows = np.zeros(frames.shape)
    for shift in range(-radius, radius + 1):
        rows += np.roll(total, shift, 1)
    return (rows / (2 * radius + 1) ** 2).astype(np.uint8)


def test_a_blurred_clip_keeps_no_shape_and_no_weather() -> None:
    snowy = scene("still", weather="snow")
    clean = seen(snowy)
    spoiled = seen(snowy, blurred(render(snowy, 128, 192), 5))
    assert clean[0]["strict_shape"] and not spoiled[0]["strict_shape"]
    assert clean[1].dots is not None and spoiled[1].dots is not None
    assert clean[1].dots > 0.85 and spoiled[1].dots < 0.6


def test_one_that_shrinks_or_swells_keeps_no_shape() -> None:
    whole = scene("still")
    for change in (-0.3, 0.4):
        frames = []
        for frame in range(49):
            size = whole.actors[0].size * (1 + change * frame / 48)
            there = replace(whole, actors=(replace(whole.actors[0], size=size),))
            frames.append(render(there, 128, 192, np.array([frame]))[0])
        assert not seen(whole, np.stack(frames))[0]["strict_shape"]


def test_a_swapped_subject_or_paper_is_wrong() -> None:
    whole = scene()
    other = seen(whole, render(scene(subject="lion"), 128, 192))[0]
    assert not other["subject"] and not other["strict_shape"] and other["colour"]
    assert not seen(whole, render(scene(colour="red"), 128, 192))[0]["colour"]
    assert not seen(whole, render(scene(colour=None), 128, 192))[0]["colour"]
    # From the middle on another: the first frame alone would not tell.
    turned = np.concatenate(
        [render(whole, 128, 192, range(20)), render(scene(subject="lion"), 128, 192, range(20, 49))]
    )
    assert not seen(whole, turned)[0]["strict_shape"]


def test_two_that_changed_papers_or_places_are_not_bound() -> None:
    both = pair()
    assert seen(both)[0]["binding"]
    fox, owl = both.actors
    papers = (replace(fox, colour="blue"), replace(owl, colour="red"))
    places = (replace(fox, x=owl.x), replace(owl, x=fox.x))
    for actors in (papers, places, (fox, replace(owl, subject="penguin"))):
        assert not seen(both, render(replace(both, actors=actors), 128, 192))[0]["binding"]


def test_a_frozen_clip_does_not_move() -> None:
    moving = scene("right")
    still = np.repeat(render(moving, 128, 192, range(1)), 49, 0)
    right, _ = seen(moving, still)
    assert not right["motion"] and right["subject"] and right["colour"]


def test_the_backdrop_is_the_last_frames() -> None:
    whole = scene("still")
    frames = render(whole, 128, 192)
    frames[40:] = render(replace(whole, ground="moon"), 128, 192, range(40, 49))
    assert not seen(whole, frames)[0]["backdrop_last"]
    frames = render(whole, 128, 192)
    assert seen(whole, frames)[1].sky_detail == pytest.approx(1)
    flat = frames[-1, :58]
    frames[-1, :58] = np.median(flat, 1, keepdims=True)  # sun and clouds dissolve
    assert float(seen(whole, frames)[1].sky_detail or 0) < 0.3


def test_weather_that_does_not_fall_has_no_contrast() -> None:
    for weather in ("snow", "rain", "confetti", "glitter"):
        wet = scene("still", weather=weather)
        reading = seen(wet)[1]
        assert reading.dots is not None and reading.dot_count is not None
        assert reading.dots > 0.85 and reading.dot_count > 20
        dry = seen(wet, render(replace(wet, weather=None), 128, 192))[1]
        assert dry.dots is not None and dry.dots < 0.2


def test_another_style_is_found_by_its_own_drawings() -> None:
    whole = replace(scene("jump", subject="automobile"), style="noto")
    right, _ = seen(whole)
    assert right["subject"] and right["strict_shape"]


def test_wilsons_interval() -> None:
    assert interval(50, 100) == pytest.approx((40.4, 59.6), abs=0.05)
    assert interval(100, 100)[0] == pytest.approx(96.3, abs=0.05) and interval(100, 100)[1] == 100


def test_a_summary_counts_what_was_asked() -> None:
    some = [Verdict({"a": True, "b": False}, {"x": 1.0}), Verdict({"a": False}, {})]
    found = summary(some)
    assert found["percent"] == {"a": 50.0, "b": 0.0} and found["counts"] == {"a": 2, "b": 1}
    assert found["means"] == {"x": 1.0}


def test_the_judge_of_a_world_words_every_second_clip_anew() -> None:
    judge = judge_of(Configuration.read(FOLDER / "emoji.json"))
    assert isinstance(judge, EmojiJudge) and len(judge.subjects) == 24
    rng = np.random.default_rng(0)
    drawn, words = judge.scene(rng, 1)
    verdict = judge.verdict(drawn, render(drawn, 128, 192), 1)
    assert words and verdict.right["paraphrase"] and not verdict.wrong
    assert judge.picture(drawn, 128, 192) is None
    picture = replace(judge, style="noto").picture(replace(drawn, style="noto"), 128, 192)
    assert picture is not None and picture.shape == (128, 192, 3)
