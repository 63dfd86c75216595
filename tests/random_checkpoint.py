"""A checkpoint with random weights in the published layout, to export without training.

`python -m tests.random_checkpoint FOLDER` writes one of the mini model's sizes, with its tokenizers
from `checkpoints/mini`; the tests use a smaller one with tokenizers of their own.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from training.export import export_pack
from training.models.context_adapter import ContextAdapter
from training.models.distil_t5 import T5EncoderWithProjection, T5ProjectionConfig
from training.models.mmdit import PyramidMMDiT
from training.models.quicksrnet import QuickSRNet
from training.models.video_vae import CausalVideoVAE

LENGTH = 32
WORDS = "a the red green kite ball drifts rolls over slowly meadow blurry".split()

MINI: dict[str, Any] = {"layers": 6, "width": 192, "heads": 6, "clip": 64, "unet": (64, 128, 192)}
TINY: dict[str, Any] = {"layers": 2, "width": 192, "heads": 6, "clip": 32, "unet": (16, 32, 32)}

SETTINGS = {
    "name": "neodragon-random",
    "version": "0.0.1",
    "licence": "BSD-3-Clause-Clear",
    "provenance": "random weights",
    "geometry": {"height": 128, "width": 192, "first_frame_height": 128, "first_frame_width": 192},
    "schedule": {
        "modes": {
            "hybrid": {"steps": [1, 1, 1]},
            "monolithic": {"first_steps": [2, 1, 1], "steps": [1, 1, 1]},
        }
    },
    "first_frame": {
        "sampler": "ddim",
        "timesteps": [999, 749, 499, 249],
        "guidance": 3.0,
        "prediction": "v_prediction",
    },
    "prompt": {"suffix": "", "negative": "blurry"},
    "tokenizers": {"t5": {"length": LENGTH}},
}


def randomise(module: nn.Module, seed: int) -> nn.Module:
    """Random weights in half precision: no bias and no layer that starts at zero stays there."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in module.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.ndim > 1:
            noise = noise * 0.8 / weight[0].numel() ** 0.5
        elif name.endswith("weight"):
            noise = 1 + 0.1 * noise
        else:
            noise = 0.1 * noise
        weight.data = noise
    return module.half()


def word_tokenizer(start: str | None, end: str, pad: str) -> Tokenizer:
    """One token a word, one for all others."""
    pieces = dict.fromkeys([pad, "!", "<unk>", *WORDS, *([start] if start else []), end])
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = [mark for mark in (start, end) if mark]
    tokenizer.add_special_tokens(marks)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start + ' ' if start else ''}$A {end}",
        special_tokens=[(mark, vocabulary[mark]) for mark in marks],
    )
    return tokenizer


def save_tokenizers(root: Path) -> None:
    """Word tokenizers in the published folders."""
    for folder in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        (root / folder).mkdir(parents=True, exist_ok=True)
        pad = "!"
        if folder == "tokenizer_3":
            tokenizer = word_tokenizer(None, "</s>", "<pad>")
        else:
            tokenizer = word_tokenizer("<|startoftext|>", "<|endoftext|>", "!")
            pad = "<|endoftext|>" if folder == "tokenizer" else "!"
        tokenizer.save(str(root / folder / "tokenizer.json"))
        config = {"pad_token": pad, "model_max_length": LENGTH}
        (root / folder / "tokenizer_config.json").write_text(json.dumps(config))


def clip(tokenizer: Tokenizer, width: int, seed: int) -> CLIPTextModelWithProjection:
    """A CLIP text encoder with three layers."""
    config = CLIPTextConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.token_to_id("<|startoftext|>"),
        eos_token_id=tokenizer.token_to_id("<|endoftext|>"),
    )
    return randomise(CLIPTextModelWithProjection(config), seed)  # type: ignore[return-value]


def save(root: Path, sizes: dict[str, Any] = TINY, tokenizers: Path | None = None) -> Path:
    """Write the checkpoint to `root`, which is returned."""
    root.mkdir(parents=True, exist_ok=True)
    if tokenizers is None:
        save_tokenizers(root)
    else:
        for folder in ("tokenizer", "tokenizer_2", "tokenizer_3"):
            shutil.copytree(tokenizers / folder, root / folder, dirs_exist_ok=True)
    words = Tokenizer.from_file(str(root / "tokenizer" / "tokenizer.json"))
    pieces = Tokenizer.from_file(str(root / "tokenizer_3" / "tokenizer.json"))
    for seed, folder in enumerate(("text_encoder", "text_encoder_2")):
        model = clip(words, sizes["clip"], seed)
        model.save_pretrained(root / folder)
        if folder == "text_encoder":
            twin = CLIPTextModel(model.config).half()
            twin.load_state_dict(model.state_dict(), strict=False)
            twin.save_pretrained(root / f"ssd_1b_{folder}")
        else:
            model.save_pretrained(root / f"ssd_1b_{folder}")
    t5 = T5ProjectionConfig(
        vocab_size=pieces.get_vocab_size(),
        d_model=96,
        d_kv=32,
        d_ff=192,
        num_layers=2,
        num_heads=3,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        project_in_dim=96,
        project_out_dim=192,
    )
    width, heads = sizes["width"], sizes["heads"]
    modules: dict[str, Any] = {
        "text_encoder_3": T5EncoderWithProjection(t5),
        "context_adapter": ContextAdapter(192, width, [96, 96], [True, True]),
        "diffusion_transformer_320p": PyramidMMDiT(
            sample_size=32,
            in_channels=12,
            num_layers=sizes["layers"],
            attention_head_dim=width // heads,
            num_attention_heads=heads,
            caption_projection_dim=width,
            pooled_projection_dim=2 * sizes["clip"],
            pos_embed_max_size=48,
            joint_attention_dim=192,
        ),
        "causal_video_vae": CausalVideoVAE(
            encoder_out_channels=12,
            encoder_layers_per_block=[1, 1, 1, 1],
            encoder_block_out_channels=[8, 24, 48, 64],
            encoder_norm_num_groups=4,
            decoder_num_features=[64, 48, 24, 16],
        ),
        "ssd_1b_unet": UNet2DConditionModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            mid_block_type="UNetMidBlock2DCrossAttn",
            up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            block_out_channels=sizes["unet"],
            layers_per_block=1,
            attention_head_dim=[2, 4, 4],
            cross_attention_dim=2 * sizes["clip"],
            norm_num_groups=8,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=32,
            projection_class_embeddings_input_dim=sizes["clip"] + 6 * 32,
        ),
        "ssd_1b_vae": AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=[8, 16, 16, 16],
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            scaling_factor=0.5,
        ),
        "upscaler": QuickSRNet(2, 16, 2),
    }
    for seed, (folder, module) in enumerate(modules.items(), 10):
        if folder != "upscaler":  # which starts as a plain enlargement
            randomise(module, seed)
        module.half().save_pretrained(root / folder)
    (root / "neodragon.json").write_text(json.dumps(SETTINGS, indent=1))
    return root


@functools.cache
def exported() -> Path:
    """A pack of the small checkpoint, made once and removed at exit; not to be written to."""
    root = Path(tempfile.mkdtemp(prefix="neodragon-random-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    export_pack(save(root / "checkpoint"), root / "pack", emulate=False, report=lambda line: None)
    return root / "pack"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    save(parser.parse_args().folder, MINI, Path("checkpoints/mini"))
