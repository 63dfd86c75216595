"""A pack of a small checkpoint with random weights, exported once for all tests that need one."""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from engine.pack import MANIFEST
from training.export.pack import export_pack
from training.random_checkpoint import save
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


@functools.cache
def exported() -> Path:
    """The pack, not to be written to; its checkpoint is beside it."""
    root = Path(tempfile.mkdtemp(prefix="neodragon-random-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    checkpoint = save(root / "checkpoint", CONFIGS, SETTINGS)
    export_pack(checkpoint, root / "pack", emulate=False, report=lambda line: None)
    return root / "pack"


@functools.cache
def strict() -> Path:
    """The same with a safety checker that withholds everything; not to be written to."""
    folder = Path(tempfile.mkdtemp(prefix="neodragon-strict-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shutil.copytree(exported(), folder, dirs_exist_ok=True)
    path = folder / "portable" / "safety_checker.onnx"
    model = onnx.load(path)
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    (limits,) = [t for t in model.graph.initializer if np.array_equal(arrays[t.name], [2.0] * 17)]
    limits.CopyFrom(numpy_helper.from_array(arrays[limits.name] - 4, limits.name))
    onnx.save(model, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest = json.loads((folder / MANIFEST).read_text())
    for variant in manifest["components"]["safety_checker"]["variants"].values():
        entry = variant["graphs"]["safety_checker"]
        entry |= {"size": path.stat().st_size, "sha256": digest}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder
