"""Weight-free video measures on known answers, and the encoders that start as averaging."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from training.data.world import Scene, pose, render
from training.evaluation.detect import read
from training.evaluation.measures import outline_consistency, temporal_flickering, travel
from training.models.video_vae import CausalVideoVAE
from training.recipes import image_vae as train_image_vae
from training.recipes import video_vae as train_video_vae
from training.recipes.settings import MINI


def test_flicker() -> None:
    still = np.full((5, 4, 4, 3), 100, np.uint8)
    assert temporal_flickering(still) == 1
    blink = still.copy()
    blink[1::2] += 51  # a fifth of the range at every step
    assert temporal_flickering(blink) == pytest.approx(0.8)


def test_outline_consistency() -> None:
    outlines = np.zeros((3, 8, 8), bool)
    outlines[:, 2:6, 2:6] = True
    assert outline_consistency(outlines) == 1
    outlines[2] = False
    outlines[2, 4:8, 2:6] = True  # a third in common with the others
    assert outline_consistency(outlines) == pytest.approx((2 + 2 / 3) / 4)


def test_travel_leaves_lost_moments_out() -> None:
    track = np.array([[0, 0, 5], [np.nan, np.nan, 0], [30, 40, 5]], float)
    assert travel(track, 100) == pytest.approx(0.5)
    assert travel(track[:2], 100) == 0


def test_measures_of_a_real_clip() -> None:
    scene = Scene("red", "boat", "day", "sea", "right", 0.46, 0.42, 0.14, 0.3, 5)
    reading = read(render(scene, 128, 192))
    assert reading.consistency > 0.9
    assert reading.travel == pytest.approx(pose(scene, 48)[0] - pose(scene, 0)[0], abs=0.03)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


@torch.no_grad()
def test_an_untrained_video_encoder_gives_thumbnails_of_key_frames() -> None:
    torch.manual_seed(0)
    vae = CausalVideoVAE(**MINI["video_vae"])
    train_video_vae.initialise(vae)
    pool = train_video_vae.window_pool(MINI.world, 2, 1, 128, 192)
    video = pool.float() / 127.5 - 1
    mean, _ = train_video_vae.moments(vae, video, train_video_vae.reads_key_frames(vae))
    small = train_video_vae.thumbnail(video)
    assert mean.shape == small.shape == (2, 12, 3, 16, 24)
    for channel in range(12):
        assert correlation(mean[:, channel], small[:, channel]) > 0.98
    # Key frames alone give what the whole causal encoder gives while earlier taps are zero.
    torch.testing.assert_close(vae.encode(video).chunk(2, 1)[0], mean, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_an_untrained_image_encoder_gives_mean_colours() -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL(**MINI["image_vae"])
    train_image_vae.initialise(vae)
    image = train_image_vae.frame_pool(MINI.world, 2, 1, 128, 192).float() / 127.5 - 1
    mean = vae.encode(image).latent_dist.mean
    small = torch.nn.functional.avg_pool2d(image, 8)
    for channel in range(3):
        assert correlation(mean[:, channel], small[:, channel]) > 0.98
