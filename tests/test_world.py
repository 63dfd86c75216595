"""The paper theatre and its detectors: what is drawn can be read back."""

from __future__ import annotations

import numpy as np

from training.data.world import COLOURS, SUBJECTS, caption, held_out, render, sample_scene
from training.evaluation.detect import ATTRIBUTES, read


def test_detectors_read_ground_truth() -> None:
    rng = np.random.default_rng(11)
    right = {name: 0 for name in ATTRIBUTES}
    for i in range(60):
        scene = sample_scene(rng, held_out_pairs=i % 2 == 0)
        reading = read(render(scene, 128, 192))
        for name in ATTRIBUTES:
            right[name] += getattr(scene, name) == getattr(reading, name)
    assert all(count >= 0.98 * 60 for count in right.values()), right


def test_detectors_see_what_is_missing() -> None:
    rng = np.random.default_rng(3)
    frames = np.full((49, 128, 192, 3), 128, np.uint8)
    assert read(frames).motion == "lost"
    scene = sample_scene(rng)
    clip = render(scene, 128, 192)
    assert read(clip[::-1]).colour == scene.colour
    assert read(np.repeat(clip[:1], 49, 0)).motion == "still"


def test_scenes_are_deterministic_and_hold_pairs_out() -> None:
    scenes = [sample_scene(np.random.default_rng(5)) for _ in range(2)]
    assert scenes[0] == scenes[1]
    assert np.array_equal(render(scenes[0], 64, 96, range(2)), render(scenes[1], 64, 96, range(2)))
    assert sum(held_out(c, s) for c in COLOURS for s in SUBJECTS) == 6
    rng = np.random.default_rng(0)
    for _ in range(50):
        drawn = sample_scene(rng, held_out_pairs=True)
        assert held_out(drawn.colour, drawn.subject)


def test_render_scales() -> None:
    """A render at twice the size is the same picture: their difference after pooling is small."""
    scene = sample_scene(np.random.default_rng(8))
    small = render(scene, 128, 192, range(1))[0].astype(float)
    large = render(scene, 256, 384, range(1))[0].astype(float)
    pooled = large.reshape(128, 2, 192, 2, 3).mean((1, 3))
    assert np.abs(pooled - small).mean() < 2


def test_caption_names_everything() -> None:
    rng = np.random.default_rng(1)
    scene = sample_scene(rng)
    words = caption(scene, rng)
    assert scene.colour in words and scene.subject in words
    assert len({caption(scene, rng) for _ in range(40)}) > 10
