"""Requests and manifest parts refuse what cannot work, in one sentence."""

from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest

from engine.config import (
    FirstFrameConfig,
    Geometry,
    ModeConfig,
    Request,
    ScheduleConfig,
    TransformerConfig,
)
from engine.errors import PackError, RequestError

GEOMETRY = {
    "height": 128,
    "width": 192,
    "frames": 49,
    "fps": 24,
    "spatial_stride": 8,
    "temporal_stride": 8,
    "latent_channels": 12,
    "stages": 3,
    "first_frame_height": 128,
    "first_frame_width": 192,
    "first_frame_stride": 8,
    "first_frame_channels": 4,
    "upscale": 2,
}


def test_request_defaults() -> None:
    request = Request("a fox", 0, 2**32 - 1)
    assert (request.mode, request.steps, request.image, request.upscale) == (
        "hybrid",
        None,
        None,
        True,
    )
    with pytest.raises(FrozenInstanceError):
        request.prompt = "another"  # type: ignore[misc]


def test_request_accepts_everything_optional() -> None:
    image = np.zeros((5, 7, 3), np.uint8)
    request = Request("a fox", 1, 2, "monolithic", (1, 2, 3), "blur", image, False)
    assert request.steps == (1, 2, 3)
    assert request.image is image


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": "  "}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"look_seed": -1}, "look seed"),
        ({"look_seed": True}, "look seed"),
        ({"motion_seed": 2**32}, "motion seed"),
        ({"motion_seed": 1.0}, "motion seed"),
        ({"mode": "fast"}, "mode"),
        ({"steps": (1, 1)}, "steps"),
        ({"steps": (1, 0, 1)}, "steps"),
        ({"steps": (1, 1, 101)}, "steps"),
        ({"steps": 4}, "steps"),
        ({"negative_prompt": 3}, "negative prompt"),
        ({"image": np.zeros((4, 4), np.uint8)}, "image"),
        ({"image": np.zeros((4, 4, 3), np.float32)}, "image"),
        ({"image": np.zeros((4, 0, 3), np.uint8)}, "image"),
        ({"image": "fox.png"}, "image"),
        ({"upscale": "yes"}, "upscale"),
    ],
)
def test_request_refuses(change: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        Request(**{"prompt": "a fox", "look_seed": 1, "motion_seed": 2, **change})
    assert str(caught.value).count(".") <= 2 and str(caught.value).endswith(".")


def test_geometry_sizes() -> None:
    geometry = Geometry(**GEOMETRY)
    assert (geometry.units, geometry.latent_height, geometry.latent_width) == (7, 16, 24)
    assert [geometry.stage_size(s) for s in range(3)] == [(4, 6), (8, 12), (16, 24)]


@pytest.mark.parametrize(
    "change", [{"height": 120}, {"frames": 48}, {"fps": 0}, {"width": 192.0}, {"stages": "3"}]
)
def test_geometry_refuses(change: dict[str, Any]) -> None:
    with pytest.raises(PackError):
        Geometry(**{**GEOMETRY, **change})


def test_manifest_parts_refuse() -> None:
    mode = ModeConfig(None, (1, 1, 1), None, 1.0)
    with pytest.raises(PackError):
        TransformerConfig(100, 32, 2, 48, 32)
    with pytest.raises(PackError):
        ModeConfig((1, 1, 1), (1, 1, 1), None, 1.0)
    with pytest.raises(PackError):
        ScheduleConfig(1000, 0.5, (0, 1 / 3, 2 / 3, 1), {"hybrid": mode})
    with pytest.raises(PackError):
        ScheduleConfig(1000, 0.3, (0, 0.5, 1), {"hybrid": mode})
    with pytest.raises(PackError):
        ScheduleConfig(1000, 0.3, (0, 0.6, 0.5, 1), {"hybrid": mode})
    with pytest.raises(PackError):
        FirstFrameConfig("lcm", (249, 999), 1.0, "epsilon", 1000, 0.00085, 0.012, 0.13)
    with pytest.raises(PackError):
        FirstFrameConfig("lcm", (1000,), 1.0, "epsilon", 1000, 0.00085, 0.012, 0.13)
