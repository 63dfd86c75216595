"""A pack of a small checkpoint with random weights, made once in a run and shared by its tests."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from filelock import FileLock
from onnx import numpy_helper

from engine.pack import MANIFEST
from training.recipes.settings import SETTINGS as MINI_SETTINGS

LAYERS = 3
CLIP = {"hidden_size": 32, "intermediate_size": 128, "projection_dim": 32}
CONFIGS: dict[str, dict[str, Any]] = {
    "text_encoder": CLIP,
    "text_encoder_2": CLIP,
    "text_encoder_3": {"num_layers": 2},
    "diffusion_transformer_320p": {"num_layers": LAYERS, "pooled_projection_dim": 64},
    "ssd_1b_unet": {
        "block_out_channels": [16, 32, 32],
        "attention_head_dim": [2, 2, 2],
        "norm_num_groups": 8,
        "cross_attention_dim": 64,
        "projection_class_embeddings_input_dim": 32 + 6 * 32,
    },
    "ssd_1b_vae": {"block_out_channels": [8, 16, 16, 16], "norm_num_groups": 4},
    "upscaler": {"num_channels": 16},
    "safety_checker": {
        "projection_dim": 16,
        "vision_config": {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 32,
        },
    },
}
SETTINGS: dict[str, Any] = {
    **MINI_SETTINGS,
    "schedule": {
        "modes": {
            "hybrid": {"steps": [1, 1, 1]},
            "monolithic": {"first_steps": [2, 1, 1], "steps": [1, 1, 1]},
        }
    },
    "first_frame": {**MINI_SETTINGS["first_frame"], "timesteps": [999, 749, 499, 249]},
    "prompt": {"suffix": "", "negative": "blurry"},
}


SHARED = "TESTS_SHARED_FOLDER"  # of all processes of a run (conftest.py)


def _once(name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first process to ask for it makes, not to be written to."""
    folder = Path(os.environ[SHARED], name)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            make(unfinished := folder.with_name(f"{name}.part"))
            unfinished.rename(folder)
    return folder


@functools.cache
def checkpoint() -> Path:
    """The checkpoint."""

    def make(folder: Path) -> None:
        from training.random_checkpoint import save  # noqa: PLC0415 (packs are used without torch)

        save(folder, CONFIGS, SETTINGS)

    return _once("checkpoint", make)


@functools.cache
def exported() -> Path:
    """The pack."""

    def make(folder: Path) -> None:
        from training.export.pack import export_pack  # noqa: PLC0415

        export_pack(checkpoint(), folder, emulate=False, report=lambda line: None)

    return _once("pack", make)


@functools.cache
def strict() -> Path:
    """The same with a safety checker that withholds everything."""
    return _once("strict", _withholding)


def _withholding(folder: Path) -> None:
    shutil.copytree(exported(), folder)
    path = folder / "portable" / "safety_checker.onnx"
    model = onnx.load(path)
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    (limits,) = [t for t in model.graph.initializer if np.array_equal(arrays[t.name], [2.0] * 17)]
    limits.CopyFrom(numpy_helper.from_array(arrays[limits.name] - 4, limits.name))
    onnx.save(model, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    for variant in manifest["components"]["safety_checker"]["variants"].values():
        entry = variant["graphs"]["safety_checker"]
        entry |= {"size": path.stat().st_size, "sha256": digest}
    (folder / MANIFEST).write_text(json.dumps(manifest))
