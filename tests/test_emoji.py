"""The emoji theatre: what a seed draws, what is held out, what is said and what is seen."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tokenizers import Tokenizer

from training.data.drawings import CELL, NAMES, STYLES, drawing
from training.data.emoji import (
    COLOURS,
    GROUNDS,
    MOTIONS,
    SKIES,
    WEATHERS,
    Actor,
    Scene,
    held_out,
    mirrored,
    poses,
    sample_scene,
    settled,
)
from training.data.stage import PARTICLES, particles, render
from training.data.tokenizers import clip_tokenizer, t5_tokenizer
from training.data.wording import FORMS, NOUNS, TEST_FORMS, caption
from training.data.worlds import EmojiWorld, PaperWorld, box_weights, open_world
from training.recipes.configuration import FOLDER, Configuration

SUBJECTS = NAMES[:24]


def scene(motion: str = "still", weather: str | None = None, subject: str = "fox") -> Scene:
    actor = Actor(subject, None, 0.4, 0.75, 0.12, mirrored(subject, motion))
    return Scene((actor,), "day", "meadow", weather, motion, 3)


def test_every_subject_has_a_drawing_in_both_styles() -> None:
    assert len(set(NAMES)) == 120
    for style in STYLES:
        for name in NAMES:
            alpha = drawing(name, style)[..., 3]
            assert alpha.shape == (CELL, CELL)
            assert 0.1 < (alpha > 128).mean() < 0.95, name
            assert alpha[-CELL // 8 :].max() > 64, f"{name} does not stand on the bottom"


def test_a_seed_draws_the_same_scene_picture_and_words() -> None:
    one, two = (sample_scene(np.random.default_rng(5), SUBJECTS) for _ in range(2))
    assert one == two
    assert np.array_equal(render(one, 64, 96, range(2)), render(two, 64, 96, range(2)))
    words = {caption(one, np.random.default_rng(8)) for _ in range(2)}
    assert len(words) == 1


def test_training_never_sees_what_is_held_out() -> None:
    rng = np.random.default_rng(0)
    drawn = [sample_scene(rng, SUBJECTS) for _ in range(400)]
    assert not any(map(held_out, drawn))
    assert all(held_out(sample_scene(rng, SUBJECTS, test=True)) for _ in range(100))
    # Every word of the vocabulary occurs all the same.
    assert {a.subject for s in drawn for a in s.actors} == set(SUBJECTS)
    assert {a.colour for s in drawn for a in s.actors} == {None, *COLOURS}
    assert {s.motion for s in drawn} == set(MOTIONS)
    assert {s.sky for s in drawn} == set(SKIES) and {s.ground for s in drawn} == set(GROUNDS)
    assert {s.weather for s in drawn} == {None, *WEATHERS}
    assert {len(s.actors) for s in drawn} == {1, 2}
    sizes = [a.size for s in drawn for a in s.actors]
    assert 0.24 < min(sizes) < 0.3 and 0.45 < max(sizes) <= 0.5


def test_first_frames_are_drawn_on_whole_latents() -> None:
    rng = np.random.default_rng(8)
    sizes = set()
    for _ in range(200):
        drawn = sample_scene(rng, SUBJECTS)
        moved = settled(drawn)
        assert [a.subject for a in moved.actors] == [a.subject for a in drawn.actors]
        for before, after in zip(drawn.actors, moved.actors, strict=True):
            sizes.add(after.size)
            for name in ("size", "x", "y"):
                assert getattr(after, name) % (1 / 16) == 0
                assert abs(getattr(after, name) - getattr(before, name)) <= 1 / 32
    assert sizes == {n / 16 for n in (4, 5, 6, 7, 8)}


def test_captions_say_what_is_there_in_many_ways() -> None:
    rng = np.random.default_rng(1)
    assert len(FORMS) >= 12 and not set(FORMS) & set(TEST_FORMS)
    some = sample_scene(rng, SUBJECTS)
    assert len({caption(some, rng) for _ in range(100)}) > 50
    for _ in range(200):
        drawn = sample_scene(rng, SUBJECTS)
        text = caption(drawn, rng)
        for actor in drawn.actors:
            assert any(word in text for word in NOUNS.get(actor.subject, (actor.subject,)))
            assert actor.colour is None or actor.colour in text
        assert "  " not in text and " ," not in text and not text.endswith(",")


def test_captions_fit_the_text_encoders() -> None:
    text = Configuration.read(FOLDER / "emoji.json")["text"]
    world, rng = open_world("emoji", subjects=None), np.random.default_rng(2)
    captions = [world.caption(world.scene(rng), rng) for _ in range(3000)]
    for tokenizer, limit in (
        (clip_tokenizer(captions), text["clip_length"]),
        (t5_tokenizer(captions), text["t5_length"]),
    ):
        assert isinstance(tokenizer, Tokenizer)
        lengths = np.array([len(tokenizer.encode(caption).ids) for caption in captions])
        assert (lengths <= limit).mean() > 0.999


@pytest.mark.parametrize("motion", ["still", "right", "up", "jump", "closer", "spin", "pan"])
def test_stickers_move_as_told(motion: str) -> None:
    first, middle, last = (poses(scene(motion), frame)[0] for frame in (0, 24, 48))
    assert (last.x - first.x > 0.5) == (motion == "right")
    assert (last.y - first.y > 0.3) == (motion == "up")
    assert (last.size / first.size > 1.4) == (motion == "closer")
    assert (middle.width < 0) == (motion == "spin")
    assert (poses(scene(motion), 8)[0].y - first.y > 0.2) == (motion == "jump")
    pictures = render(scene(motion), 64, 96, np.array([0, 24]))
    moved = np.abs(pictures[0, :20].astype(int) - pictures[1, :20]).mean()  # the sky alone
    assert (moved > 2) == (motion == "pan")


@pytest.mark.parametrize("weather", WEATHERS)
def test_weather_is_drawn_afresh_for_each_unit(weather: str) -> None:
    snowy = scene(weather=weather)
    sets = [particles(snowy, key)[:, :2] for key in range(7)]
    assert all(len(places) == PARTICLES for places in sets)
    for one, other in zip(sets, sets[1:], strict=False):
        nearest = np.abs(one[:, None] - other).max(-1).min(1)
        assert np.median(nearest) > 0.03
    clear = render(scene(), 128, 192, np.array([0, 8]))
    with_it = render(snowy, 128, 192, np.array([0, 8]))
    changed = np.abs(clear.astype(int) - with_it).max(-1) > 30
    assert 0.02 < changed.mean() < 0.3
    both = changed[0] & changed[1]
    assert both.sum() < 0.5 * min(changed[0].sum(), changed[1].sum())


def test_a_named_colour_is_the_papers() -> None:
    rng = np.random.default_rng(0)
    for colour, value in COLOURS.items():
        actor = Actor("fox", colour, 0.45, 0.75, 0.12)
        frame = render(Scene((actor,), "day", "snow", None, "still", 1), 128, 192, range(1))[0]
        near = (np.abs(frame.astype(int) - value).max(-1) < 12).sum()
        assert near > 250, colour
        assert colour in caption(Scene((actor,), "day", "snow", None, "still", 1), rng)


def test_render_scales() -> None:
    drawn = sample_scene(np.random.default_rng(8), SUBJECTS)
    small = render(drawn, 128, 192, range(1))[0].astype(float)
    large = render(drawn, 256, 384, range(1))[0].astype(float)
    assert np.abs(large.reshape(128, 2, 192, 2, 3).mean((1, 3)) - small).mean() < 2.5


@pytest.mark.parametrize("world", [EmojiWorld(), PaperWorld()])
def test_worlds_tell_where_and_what_their_subjects_are(world: EmojiWorld | PaperWorld) -> None:
    rng = np.random.default_rng(4)
    scenes = [world.scene(rng) for _ in range(30)]
    weights = box_weights(world, scenes, 0, 16, 24, times=3)
    assert set(np.unique(weights)) == {1, 3}
    assert ((weights == 3).mean((1, 2)) > 0.03).all() and (weights == 3).mean() < 0.5
    for one in scenes:
        assert all(0 <= f < n for f, n in zip(world.facts(one), world.fact_sizes, strict=True))


def test_an_unknown_world_is_refused() -> None:
    with pytest.raises(ValueError, match="paper, emoji"):
        open_world("clay")


@pytest.mark.parametrize("name", ["mini", "emoji"])
def test_configurations_hold_together(name: str) -> None:
    config = Configuration.read(FOLDER / f"{name}.json")
    clip, unet, mmdit = config["clip"], config["unet"], config["mmdit"]
    assert unet["cross_attention_dim"] == 2 * clip["hidden_size"]
    assert mmdit["pooled_projection_dim"] == 2 * clip["projection_dim"]
    assert mmdit["caption_projection_dim"] == config["adapter"]["output_dims"]
    assert config["adapter"]["input_dims"] == config["t5"]["out_dim"]
    latent = config["image_vae"]["latent_channels"]
    assert unet["in_channels"] == unet["out_channels"] == latent
    assert mmdit["in_channels"] == config["video_vae"]["encoder_out_channels"]
    assert config.units == 7 and config.grid == (16, 24) and config.stages == 3
    assert json.dumps(config["pack"]["tokenizers"]).count(str(config["text"]["t5_length"])) == 1
