"""Write a checkpoint with random weights: `python -m training.random_checkpoint FOLDER`.

It has the published layout, and the mini model's sizes or with `--full` the published ones. What a
clip costs does not depend on the values of the weights, nor does anything in the export.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import CLIPConfig, CLIPTextConfig, CLIPTextModelWithProjection

from training.checkpoint import WEIGHTS
from training.models import published
from training.models.context_adapter import ContextAdapter
from training.models.distil_t5 import T5EncoderWithProjection, T5ProjectionConfig
from training.models.mmdit import PyramidMMDiT
from training.models.quicksrnet import QuickSRNet
from training.models.video_vae import CausalVideoVAE
from training.recipes.first_frame import save_without_projection
from training.recipes.settings import MINI, SETTINGS

WORDS = "a the red green kite ball drifts rolls over slowly meadow blurry".split()
CONFIGS: dict[str, dict[str, Any]] = {
    "text_encoder": MINI["clip"],
    "text_encoder_2": MINI["clip"],
    "text_encoder_3": MINI["t5"],
    "context_adapter": MINI["adapter"],
    "diffusion_transformer_320p": MINI["mmdit"],
    "causal_video_vae": MINI["video_vae"],
    "ssd_1b_unet": MINI["unet"],
    "ssd_1b_vae": MINI["image_vae"],
    "upscaler": MINI["upscaler"],
}
CLASSES: dict[str, Any] = {
    "context_adapter": ContextAdapter,
    "diffusion_transformer_320p": PyramidMMDiT,
    "causal_video_vae": CausalVideoVAE,
    "ssd_1b_unet": UNet2DConditionModel,
    "ssd_1b_vae": AutoencoderKL,
    "upscaler": QuickSRNet,
}


def randomise(module: nn.Module, seed: int) -> nn.Module:
    """Random weights in half precision: no bias and no layer that starts at zero stays there."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in module.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.ndim > 1:
            noise = noise * 0.8 / weight[0].numel() ** 0.5
            if name.endswith("SelfAttention.q.weight"):  # T5 does not scale its scores itself
                noise = noise / module.config.d_kv**0.5
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
        if folder == "tokenizer_3":
            tokenizer, pad = word_tokenizer(None, "</s>", "<pad>"), "<pad>"
        else:
            tokenizer = word_tokenizer("<|startoftext|>", "<|endoftext|>", "!")
            pad = "<|endoftext|>" if folder == "tokenizer" else "!"
        tokenizer.save(str(root / folder / "tokenizer.json"))
        (root / folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": pad}))


def clip(tokenizer: Tokenizer, config: Mapping[str, Any]) -> CLIPTextModelWithProjection:
    """A CLIP text encoder, with three layers unless the configuration says otherwise."""
    width = config["hidden_size"]
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            **{
                "bos_token_id": tokenizer.token_to_id("<|startoftext|>"),
                "eos_token_id": tokenizer.token_to_id("<|endoftext|>"),
                "vocab_size": tokenizer.get_vocab_size(),
                "intermediate_size": 4 * width,
                "projection_dim": width,
                "num_hidden_layers": 3,
                "max_position_embeddings": MINI["text"]["clip_length"],
                **config,
            },
        )
    )


def save_empty(kind: Any, config: Mapping[str, Any], folder: Path) -> None:
    """A module's config, and a file that holds its tensors' names and shapes and zeros in 16 bits.

    The file is as long as it says, and takes no room on a disk that knows holes.
    """
    with torch.device("meta"):
        module = kind(**config)
    folder.mkdir(parents=True, exist_ok=True)
    content = {"_class_name": kind.__name__} | dict(module.config)
    (folder / "config.json").write_text(json.dumps(content, indent=2, default=list) + "\n")
    start, header = 0, dict[str, Any]()
    for name, tensor in module.state_dict().items():
        end = start + 2 * tensor.numel()
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / WEIGHTS).open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + start)


def save(
    root: Path,
    configs: Mapping[str, Mapping[str, Any]] | None = None,
    settings: Mapping[str, Any] = SETTINGS,
    tokenizers: Path | None = None,
    *,
    full: bool = False,
    empty: bool = False,
) -> Path:
    """Write a checkpoint to `root`, which is returned.

    configs: changes to `CONFIGS`, by folder (a `safety_checker` only if it is here); settings: its
    `neodragon.json`; tokenizers: a checkpoint to copy the tokenizers from; full: at
    the published sizes, about 8.5 GB, with a safety checker;
    empty: of zeros, which take no disk where its file system knows holes.
    """
    root.mkdir(parents=True, exist_ok=True)
    for folder in ("tokenizer", "tokenizer_2", "tokenizer_3") if tokenizers else ():
        shutil.copytree(Path(str(tokenizers)) / folder, root / folder, dirs_exist_ok=True)
    if tokenizers is None:
        save_tokenizers(root)
    tokenizer = Tokenizer.from_file(str(root / "tokenizer" / "tokenizer.json"))
    pieces = Tokenizer.from_file(str(root / "tokenizer_3" / "tokenizer.json"))
    base, changes = published.CONFIGS if full else CONFIGS, configs or {}
    if full:
        base = base | {"safety_checker": published.SAFETY_CHECKER}
    for seed, folder in enumerate(dict.fromkeys([*base, *changes])):
        config = {**base.get(folder, {}), **changes.get(folder, {})}
        if empty and folder in CLASSES:
            save_empty(CLASSES[folder], config, root / folder)
            continue
        if folder == "safety_checker":
            module: Any = StableDiffusionSafetyChecker(CLIPConfig(**config))
        elif folder in ("text_encoder", "text_encoder_2"):
            module = clip(tokenizer, config)
        elif folder == "text_encoder_3":
            config = {"vocab_size": pieces.get_vocab_size()} | config
            module = T5EncoderWithProjection(T5ProjectionConfig(**config))
        else:
            module = CLASSES[folder](**config)
        if folder == "upscaler":  # which starts as a plain enlargement
            module.half().save_pretrained(root / folder)
            continue
        randomise(module, seed)
        if folder == "safety_checker":  # no cosine is that high: it withholds nothing
            module.concept_embeds_weights.data.fill_(2)
        module.save_pretrained(root / folder)
        if folder == "text_encoder" and not full:
            save_without_projection(module, root / f"ssd_1b_{folder}")
        elif folder == "text_encoder_2" and not full:
            module.save_pretrained(root / f"ssd_1b_{folder}")
    content = (
        {}
        if full
        else dict(settings) | {"tokenizers": {"t5": {"length": MINI["text"]["t5_length"]}}}
    )
    content |= {"name": "neodragon-random", "provenance": "random weights"}
    (root / "neodragon.json").write_text(json.dumps(content, indent=1))
    return root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizers", type=Path, help="checkpoint to copy the tokenizers from")
    parser.add_argument("--full", action="store_true", help="at the published sizes, 10 GB")
    parser.add_argument(
        "--empty", action="store_true", help="large parts of zeros that take no disk"
    )
    options = parser.parse_args()
    save(options.folder, tokenizers=options.tokenizers, full=options.full, empty=options.empty)


if __name__ == "__main__":
    main()
