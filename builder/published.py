"""The values of the published model and its script; docs/architecture.md says what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SETTINGS = "neodragon.json"  # in a checkpoint: a partial manifest, laid over these values
MULTISTEP_T2V = "_multistep_t2v"  # ends the names of the monolithic mode's own folders
MULTISTEP = "_multistep"  # and those of its components
CLIPS = ("text_encoder", "text_encoder_2")
LICENCES = ("LICENSE", "LICENCE", "NOTICE", "README")  # how their files' names begin
TRANSFORMER = "diffusion_transformer_320p"

PUBLISHED: dict[str, Any] = {
    "name": "neodragon",
    "version": "1.0.0",
    "licence": "BSD-3-Clause-Clear",
    "provenance": "",
    "geometry": {
        "height": 320,
        "width": 512,
        "frames": 49,
        "fps": 24,
        "stages": 3,
        "first_frame_height": 640,
        "first_frame_width": 1024,
        "upscale": 2,
    },
    "schedule": {
        "train_timesteps": 1000,
        "gamma": 1 / 3,
        "stage_range": [0.0, 1 / 3, 2 / 3, 1.0],
        "modes": {
            "hybrid": {
                "first_steps": None,
                "steps": [1, 1, 1],
                "first_guidance": None,
                "guidance": 1.0,
            },
            "monolithic": {
                "first_steps": [20, 20, 20],
                "steps": [10, 10, 10],
                "first_guidance": 7.0,
                "guidance": 5.0,
            },
        },
    },
    "first_frame": {
        "sampler": "lcm",
        "timesteps": [999, 749, 499, 249],
        "guidance": 1.0,
        "prediction": "epsilon",
        "train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
    },
    "vae": {"first_scale": 0.5430, "first_shift": 0.1490, "scale": 0.3031, "shift": -0.2343},
    "prompt": {
        "suffix": ", hyper quality, Ultra HD, 8K",
        "negative": "cartoon style, worst quality, low quality, blurry, absolute black, "
        "absolute white, low res, extra limbs, extra digits, misplaced objects, mutated anatomy, "
        "monochrome, horror",
    },
    "tokenizers": {"t5": {"length": 128}},
}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, table by table."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def without(entry: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A copy of `entry` that lacks `key`."""
    return {name: value for name, value in entry.items() if name != key}
