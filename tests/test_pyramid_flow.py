"""Pyramid-Flow's transformer becomes a teacher in the published layout."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from training.checkpoint import CONFIG, WEIGHTS, CheckpointError
from training.models.mmdit import PyramidMMDiT
from training.recipes import pyramid_flow
from training.recipes.transformer import TextConditioned

SIZES = {
    "sample_size": 8,
    "in_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 6,
    "pos_embed_max_size": 12,
    "joint_attention_dim": 10,
}
FIXED = {
    "temp_pos_embed_type": "rope",
    "use_temporal_causal": True,
    "use_t5_mask": True,
    "add_temp_pos_embed": True,
    "interp_condition_pos": True,
    "pos_embed_type": "sincos",
}


def folder_of(root: Path, **more: object) -> tuple[Path, PyramidMMDiT, nn.Linear]:
    """As Pyramid-Flow saves it: flash attention among the settings, the embedder in the file."""
    torch.manual_seed(0)
    model, embedder = PyramidMMDiT(**SIZES), nn.Linear(10, 16)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(0.1 * torch.randn(weight.shape))
    folder = root / "diffusion_transformer_384p"
    folder.mkdir()
    config = {"_class_name": "PyramidDiffusionMMDiT", "use_flash_attn": False, **SIZES, **FIXED}
    (folder / CONFIG).write_text(json.dumps(config | more))
    state = model.state_dict() | {
        f"context_embedder.{name}": weight for name, weight in embedder.state_dict().items()
    }
    save_file({name: weight.contiguous() for name, weight in state.items()}, folder / WEIGHTS)
    return folder, model, embedder


def test_it_is_the_same_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, model, embedder = folder_of(tmp_path)
    arguments = ["pyramid_flow", str(folder), "--checkpoint", str(tmp_path / "teacher")]
    monkeypatch.setattr(sys, "argv", arguments)
    pyramid_flow.main()
    read = PyramidMMDiT.from_pretrained(tmp_path / "teacher" / "diffusion_transformer_320p")
    adapter = pyramid_flow.ContextAdapter.from_pretrained(tmp_path / "teacher" / "context_adapter")
    states, mask = torch.randn(2, 5, 10), torch.ones(2, 5, dtype=torch.long)
    latents = [torch.randn(2, 4, 1, 4, 4), torch.randn(2, 4, 1, 8, 8)]
    rest = torch.tensor([700.0, 20.0]), mask, torch.randn(2, 6)
    with torch.no_grad():
        theirs = model(latents, rest[0], embedder(states), *rest[1:])
        ours = read(latents, rest[0], adapter(states), *rest[1:])
    torch.testing.assert_close(ours, theirs, atol=0, rtol=0)
    assert TextConditioned(nn.Identity(), adapter, read)  # what the distillations take


def test_what_is_no_teacher_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "flux").mkdir()
    folder, *_ = folder_of(tmp_path / "flux", num_single_layers=16)
    with pytest.raises(CheckpointError, match="miniFLUX"):
        pyramid_flow.read(folder)
    (tmp_path / "sincos").mkdir()
    folder, *_ = folder_of(tmp_path / "sincos", temp_pos_embed_type="sincos")
    with pytest.raises(CheckpointError, match="Stable Diffusion 3 variant"):
        pyramid_flow.read(folder)
    with pytest.raises(CheckpointError, match="cannot be read"):
        pyramid_flow.read(tmp_path / "nothing")
