"""Export a checkpoint to a pack: `python -m training.export CHECKPOINT -o PACK`.

The checkpoint is a folder of the published folders. What those do not say is in `neodragon.json` at
its root, a partial `pack.json` that is laid over the published values. Every graph is compared with
its torch module; the export fails below FLOOR_DB (or, for an NPU graph in emulation against the
portable one, below HTP_FLOOR_DB). A graph whose weights, settings and exporter have not changed is
kept. It knows nothing of training.
"""

from __future__ import annotations

import argparse
import copy
import gc
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from shutil import disk_usage
from types import MethodType
from typing import Any, cast

import diffusers
import numpy as np
import psutil
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPTextModel, CLIPTextModelWithProjection

from engine.config import Geometry, TransformerConfig
from engine.errors import NeodragonError, first_line
from engine.latents import history, image_pyramid
from engine.noise import normal, stream
from engine.pack import FORMAT, MANIFEST, Graph, open_pack
from engine.safety import SIZE as SAFETY_SIZE
from engine.sentencepieces import load_sentencepieces
from engine.session import Backend, available, load_graph
from engine.tokens import frame_shapes, transformer_inputs
from engine.transformer import waves
from training import contexts, onnx_graphs
from training.checkpoint import WEIGHTS, Checkpoint, CheckpointError, load_weights
from training.models.context_adapter import ContextAdapter
from training.models.distil_t5 import T5EncoderWithProjection
from training.models.mmdit import TIME_CHANNELS, KeysValues, PyramidMMDiT
from training.models.quicksrnet import QuickSRNet
from training.models.video_vae import CausalConv, CausalVideoVAE

FLOOR_DB = 60.0  # float32 sums at full size leave 84; the mini has 119 and more
HTP_FLOOR_DB = 35.0
SETTINGS = "neodragon.json"
MULTISTEP_T2V = "_multistep_t2v"  # ends the names of their folders
CLIPS = ("text_encoder", "text_encoder_2")
MULTISTEP = "_multistep"  # components with weights of their own for the monolithic mode
EXAMPLES = Path(__file__).parents[1] / "assets" / "examples.txt"
RECORD = "export.json"  # in the checkpoint: what was exported from which weights
SAMPLE_PROMPT = "a red kite drifts slowly over a green meadow"
SEED = 7
BLOCKS = 6  # of the transformer in one graph: more fit neither the compiler's memory nor the NPU's
STREAM = 16.0  # what its residual stream is divided by, a power of two
# Whose weights are neither scaled nor folded here, so that they need not be widened before they are
# used; layers of KEPT weights and more.
AS_STORED = (CLIPTextModel, CLIPTextModelWithProjection, PyramidMMDiT, UNet2DConditionModel)
KEPT, HALVES = 2**20, (torch.float16, torch.bfloat16)
COPIES_DIFFER = 0.05  # published copies of CLIP differ by 0.027 (bfloat16 beside float16)

# The values of the published model and its script; see docs/architecture.md for their meaning.
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


class ExportError(Exception):
    """The checkpoint cannot be exported as it is, or a graph strays from its module."""


@dataclass
class Traced:
    """One graph about to be exported.

    module: called with `inputs` in order by `function`; reference: the same from the weights as
    published, where they were rearranged; dynamic: names of dynamic dimensions by input or output;
    opset as in `onnx_graphs.export`.
    """

    module: nn.Module
    function: Callable[..., Any]
    inputs: dict[str, Tensor]
    outputs: Sequence[str]
    reference: Callable[[], Any] | None = None
    dynamic: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    opset: int = 20


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, table by table."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


class Source:
    """A checkpoint in the published layout, its modules on the CPU.

    multistep: with the weights of the monolithic mode, where it has any of its own.
    """

    def __init__(self, root: Path, multistep: bool = True) -> None:
        self.root = root
        self.multistep = multistep
        if not self.has("diffusion_transformer_320p"):
            raise ExportError(
                f"{root} should hold the published folders,"
                " but there is no diffusion_transformer_320p."
            )
        settings = root / SETTINGS
        self.settings = json.loads(settings.read_text()) if settings.exists() else {}

    def has(self, folder: str) -> bool:
        left_out = folder.endswith(MULTISTEP_T2V) and not self.multistep
        return (self.root / folder).is_dir() and not left_out

    def weights(self, folder: str) -> int:
        """Bytes of a folder's files."""
        return sum(file.stat().st_size for file in (self.root / folder).glob("*"))

    def config(self, folder: str) -> dict[str, Any]:
        return dict(json.loads((self.root / folder / "config.json").read_text()))

    def load(self, kind: Any, folder: str) -> Any:
        """The module of a folder, which computes in float32, in evaluation mode.

        The large kinds keep their weights as stored, in one copy that is mapped from the file.
        Raises CheckpointError where a tensor is missing, unknown or misshapen.
        """
        home = self.root / folder
        if issubclass(kind, UNet2DConditionModel):
            # whose own `from_pretrained` draws random weights in float32 first
            with torch.device("meta"):
                module = kind.from_config(kind.load_config(home))
            load_weights(module, load_file(home / WEIGHTS), str(home / WEIGHTS))
        elif issubclass(kind, Checkpoint):
            module = kind.from_pretrained(home)
        else:
            module = _of_library(kind, home)
        module = module.eval().requires_grad_(False)
        return widen_(module) if issubclass(kind, AS_STORED) else module.float()

    def tokenizer(self, folder: str) -> Tokenizer:
        file = self.root / folder / "tokenizer.json"
        if file.exists():
            return Tokenizer.from_file(str(file))
        pieces = self.root / folder / "spiece.model"
        if pieces.exists():
            return load_sentencepieces(pieces)
        try:
            return AutoTokenizer.from_pretrained(self.root / folder).backend_tokenizer
        except (ImportError, OSError, ValueError) as error:
            raise ExportError(
                f"{folder} should hold tokenizer.json, spiece.model or vocab.json with merges.txt,"
                f" but it cannot be read ({first_line(error)}); copy the folder again."
            ) from error

    def pad_id(self, folder: str) -> int:
        """The id a CLIP tokenizer pads with, as its `tokenizer_config.json` says."""
        token = json.loads((self.root / folder / "tokenizer_config.json").read_text())["pad_token"]
        found = self.tokenizer(folder).token_to_id(
            token["content"] if isinstance(token, dict) else token
        )
        if found is None:
            raise ExportError(
                f"{folder} should know its pad token, but {token!r} is not in its vocabulary."
            )
        return int(found)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Published values, then what the folders' configs say, then `neodragon.json`."""
        vae, mmdit = self.config("causal_video_vae"), self.config("diffusion_transformer_320p")
        geometry = {
            "spatial_stride": vae["spatial_downsample_scale"],
            "temporal_stride": vae["temporal_downsample_scale"],
            "latent_channels": vae["encoder_out_channels"],
            "first_frame_stride": 8,
            "first_frame_channels": 4,
        }
        transformer = {
            "width": mmdit["num_attention_heads"] * mmdit["attention_head_dim"],
            "head_dim": mmdit["attention_head_dim"],
            "patch_size": mmdit["patch_size"],
            "pos_embed_max_size": mmdit["pos_embed_max_size"],
            "sample_size": mmdit["sample_size"],
        }
        derived: dict[str, Any] = {"geometry": geometry, "transformer": transformer}
        if self.has("ssd_1b_vae"):
            image_vae = self.config("ssd_1b_vae")
            geometry["first_frame_stride"] = 2 ** (len(image_vae["block_out_channels"]) - 1)
            geometry["first_frame_channels"] = image_vae["latent_channels"]
            derived["first_frame"] = {"latent_scale": image_vae["scaling_factor"]}
        if self.has("upscaler"):
            geometry["upscale"] = self.config("upscaler")["scaling_factor"]
        derived["prompt"] = {
            "clip_l_pad": self.pad_id("tokenizer"),
            "clip_g_pad": self.pad_id("tokenizer_2"),
        }
        derived["tokenizers"] = {
            "clip": {"length": self.config("text_encoder")["max_position_embeddings"]}
        }
        merged = {"format": FORMAT} | merge(merge(PUBLISHED, derived), self.settings)
        if not self.has("ssd_1b_unet"):
            merged["first_frame"] = None
        if not self.multistep and next(self.root.glob(f"*{MULTISTEP_T2V}"), None):
            schedule = merged["schedule"]  # whose many steps are not for one-step weights
            modes = without(schedule["modes"], "monolithic")
            merged["schedule"] = schedule | {"modes": modes}
        return merged

    @cached_property
    def copies(self) -> dict[str, bool]:
        """The first frame's own copies of CLIP's folders, and whether they say the same."""
        found = {}
        for folder in CLIPS:
            twin = f"ssd_1b_{folder}"
            if self.has(twin):
                ours, theirs = (
                    {
                        name.removeprefix("text_model."): weight.float()
                        for name, weight in self.load(_clip_kind(f), f).state_dict().items()
                    }
                    for f in (folder, twin)
                )
                found[twin] = all(
                    ours[name].shape == theirs[name].shape
                    and (ours[name] - theirs[name]).abs().max() <= COPIES_DIFFER
                    for name in ours.keys() & theirs.keys()
                )
        return found

    @cached_property
    def parts(self) -> int:
        """Graphs that the transformer is cut into."""
        return -(-int(self.config("diffusion_transformer_320p")["num_layers"]) // BLOCKS)

    @cached_property
    def geometry(self) -> Geometry:
        return Geometry(**self.manifest["geometry"])

    @cached_property
    def transformer_config(self) -> TransformerConfig:
        return TransformerConfig(**self.manifest["transformer"])

    def clip_ids(self, folder: str) -> Tensor:
        """The sample prompt for a CLIP encoder, [1, L]."""
        pad = self.manifest["prompt"]["clip_l_pad" if folder == "text_encoder" else "clip_g_pad"]
        ids = self.tokenizer("tokenizer").encode(SAMPLE_PROMPT).ids
        length = self.manifest["tokenizers"]["clip"]["length"]
        return torch.tensor([[*ids, *[pad] * (length - len(ids))]])

    def t5_ids(self) -> tuple[Tensor, Tensor]:
        """The sample prompt for T5 and its mask, [1, N] each."""
        ids = self.tokenizer("tokenizer_3").encode(SAMPLE_PROMPT).ids
        pad = self.manifest["tokenizers"]["t5"]["length"] - len(ids)
        return torch.tensor([[*ids, *[0] * pad]]), torch.tensor([[1] * len(ids) + [0] * pad])

    @cached_property
    def clip_states(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Hidden states and pooled embedding of the sample prompt by each CLIP encoder."""
        states = {}
        for folder in CLIPS:
            with torch.no_grad():
                states[folder] = _clip(
                    self.load(CLIPTextModelWithProjection, folder), self.clip_ids(folder)
                )
        return states


def _of_library(kind: Any, home: Path) -> nn.Module:
    """A module that diffusers or transformers load; raises CheckpointError as `Source.load`."""
    own = {"low_cpu_mem_usage": False} if issubclass(kind, AutoencoderKL) else {"dtype": "auto"}
    own |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        module, told = kind.from_pretrained(home, **own)
    except (OSError, RuntimeError, ValueError) as error:
        line = str(error).strip().splitlines()[0].strip()
        raise CheckpointError(
            f"{home} should hold a {kind.__name__}, but it does not load ({line});"
            " copy the checkpoint again."
        ) from error
    wrong = {
        "lacks the tensor {}": told["missing_keys"],
        "holds the tensor {}, which its model has no place for": told["unexpected_keys"],
        "holds {} of another shape than its config.json says": [
            name for name, *_ in told["mismatched_keys"]
        ],
    }
    for what, names in wrong.items():
        if names:
            raise CheckpointError(f"{home} {what.format(min(names))}; copy the checkpoint again.")
    return cast(nn.Module, module)


def _wide_linear(layer: nn.Linear, x: Tensor) -> Tensor:
    if x.ndim == 2:
        return F.linear(x, layer.weight.float(), layer.bias)
    product = x @ layer.weight.t().float()  # the exporter folds a transposition, not a cast
    return product if layer.bias is None else product + layer.bias


def _wide_conv(layer: Any, x: Tensor) -> Tensor:
    return cast(Tensor, layer._conv_forward(x, layer.weight.float(), layer.bias))


def _wide_embedding(layer: nn.Embedding, ids: Tensor) -> Tensor:
    return F.embedding(ids, layer.weight).float()


def widen_(module: nn.Module) -> nn.Module:
    """Let large layers keep half precision and widen it when they run, in place; returns `module`.

    All other weights become float32. The exporter stores such a layer's weights as they are, with
    the Cast behind them that the graph needs.
    """
    wide = {nn.Linear: _wide_linear, nn.Conv2d: _wide_conv, nn.Embedding: _wide_embedding}
    for layer in module.modules():
        run = wide.get(type(layer))
        keep = run is not None and layer.weight.numel() >= KEPT and layer.weight.dtype in HALVES
        for name, weight in layer.named_parameters(recurse=False):
            if not (keep and name == "weight"):
                weight.data = weight.data.float()
        if keep:
            layer.forward = MethodType(run, layer)
    return module


def _sample(purpose: str, shape: Sequence[int]) -> Tensor:
    """Seeded standard normal numbers."""
    return torch.from_numpy(normal(stream(SEED, purpose), tuple(shape)))


def _picture(shape: Sequence[int]) -> Tensor:
    """A seeded smooth picture in [-1, 1], [1, 3, H, W]."""
    small = _sample("picture", (1, 3, *(max(2, size // 16) for size in shape)))
    return torch.nn.functional.interpolate(small, tuple(shape), mode="bicubic").clamp(-2, 2) / 2


def _clip_kind(folder: str) -> Any:
    """The class of a CLIP folder: the first frame's CLIP-L comes without a projection."""
    return CLIPTextModel if folder == "ssd_1b_text_encoder" else CLIPTextModelWithProjection


def _clip(model: nn.Module, ids: Tensor) -> tuple[Tensor, Tensor]:
    states = model(ids, output_hidden_states=True)
    pooled = states.text_embeds if "text_embeds" in states else states.pooler_output
    return states.hidden_states[-2], pooled


def clip(source: Source, folder: str) -> Traced:
    """One of the CLIP encoders."""
    model = source.load(_clip_kind(folder), folder)
    ids = source.clip_ids(folder.removeprefix("ssd_1b_"))
    return Traced(model, _clip, {"ids": ids}, ("hidden", "pooled"))


T5_SCALE = 16.0  # a power of two: dividing by it is exact
MASKED = -100.0  # leaks exp(-100); -1e9 would be minus infinity in half precision


class RMSNorm(nn.Module):
    """T5's norm as one operator, which half precision does not overflow."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon / T5_SCALE**2

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.rms_norm(x, x.shape[-1:], self.weight, self.eps)


def rescale_(t5: T5EncoderWithProjection) -> T5EncoderWithProjection:
    """Divide T5's residual stream by T5_SCALE, in place, which no norm notices; returns `t5`.

    The full-size encoder's peaks at 329,510, five times what half precision holds.
    """
    stack = t5.encoder.encoder
    stack.embed_tokens.weight.data /= T5_SCALE
    for block in stack.block:
        attention, feed_forward = block.layer[0], block.layer[-1]
        attention.SelfAttention.o.weight.data /= T5_SCALE
        feed_forward.DenseReluDense.wo.weight.data /= T5_SCALE
        for layer in (attention, feed_forward):
            layer.layer_norm = RMSNorm(layer.layer_norm)
    stack.final_layer_norm = RMSNorm(stack.final_layer_norm)
    return t5


class TextEncoder(nn.Module):
    """T5 with projection, then the context adapter."""

    def __init__(self, source: Source, suffix: str = "") -> None:
        super().__init__()
        self.t5 = source.load(T5EncoderWithProjection, "text_encoder_3")
        self.adapter = source.load(ContextAdapter, f"context_adapter{suffix}")

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask [1, N] to context tokens [N, W]."""
        context: Tensor = self.adapter(self.t5(ids, mask))[0]
        return context


def text_encoder(source: Source, suffix: str) -> Traced:
    ids, mask = source.t5_ids()
    plain, scaled = TextEncoder(source, suffix), TextEncoder(source, suffix)
    rescale_(scaled.t5)

    def run(net: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
        bias = (1 - mask[:, None, None, :].float()) * MASKED
        states = net.t5.encoder(input_ids=ids, attention_mask=bias).last_hidden_state  # type: ignore[operator, union-attr]
        context: Tensor = net.adapter(net.t5.final_projection(states))[0]  # type: ignore[operator, union-attr]
        return context

    return Traced(
        scaled,
        run,
        {"ids": ids, "mask": mask},
        ("context",),
        lambda: plain(ids, mask),
        opset=23,
    )


def unet(source: Source) -> Traced:
    g = source.geometry
    stride, (hidden_l, _), (hidden_g, pooled) = g.first_frame_stride, *source.clip_states.values()
    height, width = g.first_frame_height, g.first_frame_width
    inputs = {
        "sample": _sample("unet", (1, g.first_frame_channels, height // stride, width // stride)),
        "timestep": torch.tensor([499.0]),
        "hidden": torch.cat([hidden_l, hidden_g], -1),
        "pooled": pooled,
        "time_ids": torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32),
    }

    def run(
        net: nn.Module,
        sample: Tensor,
        timestep: Tensor,
        hidden: Tensor,
        pooled: Tensor,
        time_ids: Tensor,
    ) -> Any:
        conditions = {"text_embeds": pooled, "time_ids": time_ids}
        return net(
            sample, timestep, encoder_hidden_states=hidden, added_cond_kwargs=conditions
        ).sample

    return Traced(source.load(UNet2DConditionModel, "ssd_1b_unet"), run, inputs, ("prediction",))


def _smaller(vae: AutoencoderKL) -> None:
    """Divide the decoder's residual stream by STREAM.

    SDXL's grows beyond what fp16 holds. Exact, as every branch starts with a norm.
    """
    decoder = vae.decoder
    scaled, norms = [decoder.conv_in], [decoder.conv_norm_out]
    for block in (decoder.mid_block, *decoder.up_blocks):
        for resnet in block.resnets:
            scaled.append(resnet.conv2)
            norms.append(resnet.norm1)
            if resnet.conv_shortcut is not None:
                resnet.conv_shortcut.bias.data /= STREAM
        for upsampler in getattr(block, "upsamplers", None) or ():
            upsampler.conv.bias.data /= STREAM
    for attention in filter(None, decoder.mid_block.attentions):
        scaled.append(attention.to_out[0])
        norms.append(attention.group_norm)
    for layer in scaled:
        layer.weight.data /= STREAM
        layer.bias.data /= STREAM
    for norm in norms:
        norm.eps /= STREAM**2


def channel_order(channels: int, groups: int) -> Tensor:
    """Channels with those of a group `groups` apart; as they are where there are no groups."""
    order = torch.arange(channels)
    return order if channels % groups else order.view(groups, -1).t().reshape(-1)


def interleave_(net: nn.Module, groups: int) -> None:
    """Give every layer of `net` the channel order above, in place, and its group norms one form.

    Channels last, as the NPU has them, H x W x C is then H x (W C / groups) x groups without a
    value moved, and the instance norm of that is the group norm. With neighbouring channels in a
    group the compiler moves every feature map twice a norm, and cannot take the decoder as a whole.
    """
    for layer in net.modules():
        if isinstance(layer, nn.GroupNorm):
            order = channel_order(layer.num_channels, groups)
            layer.weight.data = layer.weight.data[order]
            layer.forward = MethodType(_interleaved_norm, layer)
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            order = channel_order(layer.weight.shape[0], groups)
            given = channel_order(layer.weight.shape[1], groups)
            layer.weight.data = layer.weight.data[order][:, given]
        else:
            continue
        if layer.bias is not None:
            layer.bias.data = layer.bias.data[order]


def _interleaved_norm(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    if x.ndim == 3:
        return _interleaved_norm(norm, x[..., None])[..., 0]
    batch, channels, height, width = x.shape
    last = x.permute(0, 2, 3, 1).reshape(batch, height, -1, norm.num_groups)
    last = F.instance_norm(last.permute(0, 3, 1, 2), eps=norm.eps).permute(0, 2, 3, 1)
    normed = last.reshape(batch, height, width, channels).permute(0, 3, 1, 2)
    return normed * norm.weight[:, None, None] + norm.bias[:, None, None]


def first_frame_decoder(source: Source) -> Traced:
    g = source.geometry
    size = (
        g.first_frame_height // g.first_frame_stride,
        g.first_frame_width // g.first_frame_stride,
    )
    scale = source.manifest["first_frame"]["latent_scale"]
    latent = _sample("first_frame", (1, g.first_frame_channels, *size)) / scale
    vae = source.load(AutoencoderKL, "ssd_1b_vae")
    vae.encoder = None
    with torch.no_grad():
        expected = vae.decode(latent).sample
    _smaller(vae)
    interleave_(vae, vae.config.norm_num_groups)

    def decode(net: Any, latent: Tensor) -> Any:
        return net.decode(latent).sample

    return Traced(vae, decode, {"latent": latent}, ("image",), lambda: expected)


def safety_checker(source: Source) -> Traced:
    """CLIP's picture encoder, and by how much each concept is nearer than it may be."""
    net = source.load(StableDiffusionSafetyChecker, "safety_checker")

    def margins(net: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
        seen = net.visual_projection(net.vision_model(image)[1])  # type: ignore[operator]
        concepts, special = (
            torch.cosine_similarity(seen, getattr(net, f"{name}_embeds"))
            - getattr(net, f"{name}_embeds_weights")
            for name in ("concept", "special_care")
        )
        return concepts, special

    image = _picture((SAFETY_SIZE, SAFETY_SIZE))
    return Traced(net, margins, {"image": image}, ("concepts", "special"))


class FrameConv(nn.Module):
    """What a causal 3-D convolution is for one frame: a 2-D one with its last temporal tap."""

    def __init__(self, causal: CausalConv) -> None:
        super().__init__()
        conv = causal.conv
        out, into, _, kernel, _ = conv.weight.shape
        self.conv = nn.Conv2d(into, out, kernel, conv.stride[1:], kernel // 2)
        self.conv.weight = nn.Parameter(conv.weight[:, :, -1].clone(), False)
        self.conv.bias = conv.bias

    def forward(self, x: Tensor, count: int) -> Tensor:
        return self.conv(x)


def collapse_(module: nn.Module) -> nn.Module:
    """Replace every causal convolution by its 2-D form, in place; returns `module`."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, CausalConv):
                setattr(parent, name, FrameConv(child))
    return module


def video_encoder(source: Source) -> Traced:
    vae = source.load(CausalVideoVAE, "causal_video_vae")
    image = _picture((source.geometry.height, source.geometry.width))

    def reference() -> Tensor:  # a video of one frame
        return vae.encode(image[:, :, None])[:, :, 0]

    encoder = collapse_(copy.deepcopy(vae))
    names = ("moments",)
    return Traced(encoder, lambda net, x: net.encode_image(x), {"image": image}, names, reference)


def video_decoder(source: Source) -> Traced:
    g, vae = source.geometry, source.load(CausalVideoVAE, "causal_video_vae")
    statistics = source.manifest["vae"]
    latents = _sample("video_decoder", (3, 1, g.latent_channels, g.latent_height, g.latent_width))
    latents = latents / statistics["scale"] + statistics["shift"]
    states = vae.zero_states(latents[0])
    with torch.no_grad():
        for latent in latents[:2]:
            _, states = vae.step(latent, states)
    inputs = {"latent": latents[2]} | {f"state_{i}": state for i, state in enumerate(states)}

    def run(net: nn.Module, latent: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        frames, following = net.step(latent, states)  # type: ignore[operator]
        return (frames[0], *following)

    names = ("frames", *(f"next_state_{i}" for i in range(len(states))))
    return Traced(collapse_(vae), run, inputs, names)


def modulation(source: Source, suffix: str) -> Traced:
    net = source.load(PyramidMMDiT, f"diffusion_transformer_320p{suffix}")
    pooled = torch.cat([pooled for _, pooled in source.clip_states.values()], -1)
    inputs = {"waves": torch.from_numpy(waves(744.0, TIME_CHANNELS)), "pooled": pooled}

    with torch.no_grad():
        expected = net.modulate(torch.tensor([744.0]), pooled)[0]
    for block in net.transformer_blocks:  # most of the weights
        block.attn = block.ff = block.ff_context = None
    return Traced(
        widen_(net.half_split_()),
        lambda net, *x: net.modulate_by(net.time_text_embed.of_waves(*x))[0],
        inputs,
        ("modulation",),
        lambda: expected,
    )


def transformer_sample(
    source: Source, suffix: str, unit: int, stage: int, padded: bool, longest: int | None = None
) -> dict[str, Tensor]:
    """Inputs of the transformer at `unit` and `stage`: sample prompt, unit-variance latents.

    With `padded` the history is padded to that of unit `longest`, the last where it is None, and
    the text to its full length, as static graphs need it.
    """
    g = source.geometry
    net = source.load(PyramidMMDiT, f"diffusion_transformer_320p{suffix}")
    ids, mask = source.t5_ids()
    with torch.no_grad():
        context = TextEncoder(source, suffix)(ids, mask).numpy()
        pooled = torch.cat([pooled for _, pooled in source.clip_states.values()], -1)
        rows = net.modulate(torch.tensor([(1000.0, 744.0, 386.0)[stage % 3]]), pooled)[0]
    real = mask[0].numpy() != 0
    latents = _sample(
        "history", (g.latent_channels, g.units, g.latent_height, g.latent_width)
    ).numpy()
    past = history(image_pyramid(latents, g.stages), unit, stage)
    current = _sample("current", (g.latent_channels, 1, *g.stage_size(stage))).numpy()
    patch = source.transformer_config.patch_size
    tokens = static_tokens(source, stage, longest) - current[0].size // patch**2
    if not padded:
        context, real = context[real], real[real]
    made = transformer_inputs(
        past, current, real, source.transformer_config, tokens if padded else None
    )
    names = ("patches", "positions", "rope_cos", "rope_sin", "mask")
    arrays = {name: torch.from_numpy(getattr(made, name)) for name in names}
    return arrays | {"context": torch.from_numpy(context), "modulation": rows}


def history_grids(source: Source, unit: int, stage: int) -> list[tuple[int, int]]:
    """Token rows and columns of every frame that `unit` reads at `stage` before itself."""
    g = source.geometry
    latents = np.zeros((1, g.units - 1, g.latent_height, g.latent_width), np.float32)
    past = history(image_pyramid(latents, g.stages), unit, stage)
    return frame_shapes([part.shape for part in past], source.transformer_config.patch_size)


def static_tokens(source: Source, stage: int, unit: int | None = None) -> int:
    """Image tokens of `unit`, the last where it is None, at `stage`: history and current."""
    unit = source.geometry.units - 1 if unit is None else unit
    rows, columns = source.geometry.stage_size(stage)
    current = rows * columns // source.transformer_config.patch_size**2
    return current + sum(map(math.prod, history_grids(source, unit, stage)))


def known_tokens(source: Source, unit: int, stage: int) -> int:
    """Tokens of a unit's history that the unit before has had at the same size."""
    before, now = (history_grids(source, max(u, 1), stage) for u in (unit - 1, unit))
    same = takewhile(lambda pair: pair[0] == pair[1], zip(before, now, strict=False))
    return sum(math.prod(grid) for grid, _ in same) if unit > 1 else 0


def forgetful(source: Source, stage: int) -> int:
    """The last unit that finds nothing of its history at `stage` done by the unit before."""
    units = range(1, source.geometry.units)
    return max(unit for unit in units if not known_tokens(source, unit, stage))


def oldest_tokens(source: Source) -> int:
    """Tokens of the oldest frame, by which what units remember grows; 0 where it does not so.

    Then the transformer has no graphs that remember.
    """
    last, oldest = source.geometry.units - 1, math.prod(source.geometry.stage_size(0))
    oldest //= source.transformer_config.patch_size**2
    for stage in range(source.geometry.stages):
        start = forgetful(source, stage)
        known = [known_tokens(source, unit, stage) for unit in range(start, last + 1)]
        if start == last or known != [oldest * number for number in range(len(known))]:
            return 0
    return oldest


def transformer(
    source: Source,
    suffix: str,
    part: int = 0,
    static_stage: int | None = None,
    form: str = "",
) -> Traced:
    """The transformer, or one part of it: BLOCKS blocks and what is before or behind them.

    static_stage: with inputs as the graph of that stage has them, else those of an early unit.
    form: "first" also gives keys and values of text and the oldest frame, "later" takes those and
    gives its own; both are what `engine.transformer` says.
    """
    stage, last_unit = static_stage, source.geometry.units - 1
    if stage is None:
        unit, stage = last_unit if form == "later" else min(2, last_unit), 1
        inputs = transformer_sample(source, suffix, unit, stage, padded=False)
    else:
        unit = forgetful(source, stage) if form == "first" else last_unit
        inputs = transformer_sample(source, suffix, unit, stage, padded=True, longest=unit)
    net = source.load(PyramidMMDiT, f"diffusion_transformer_320p{suffix}")
    first, last, later = part == 0, part == source.parts - 1, form == "later"
    image, text, names = None, inputs["context"], ("rope_cos", "rope_sin", "mask")
    known = known_tokens(source, unit, stage) if later else 0
    past = len(text) + known if later else 0
    oldest = oldest_tokens(source)
    seen: list[KeysValues] = []
    tables = {name: inputs[name] for name in names}
    with torch.no_grad():
        rows = inputs["modulation"]
        image = net.embed(inputs["patches"], inputs["positions"])
        blocks = net.transformer_blocks
        for number in range(part + 1):
            net.transformer_blocks = blocks[number * BLOCKS : (number + 1) * BLOCKS]
            count = sum(block.rows for block in net.transformer_blocks)
            own, rows = rows.split([count, len(rows) - count])
            if number < part:
                image, text = net.blocks(image, text, own, *tables.values())
        if later:
            net.blocks(image, text, own, *tables.values(), own=seen)
    del blocks  # the other parts' weights
    if last:
        own = torch.cat([own, rows])
    tables = {name: table[past:] for name, table in tables.items()}
    texts = {} if later else {"context" if first else "text": text}
    if first:
        before = {name: inputs[name][known:] for name in ("patches", "positions")}
        given = before | tables | texts | {"modulation": own}
    else:
        given = {"image": image[known:]} | tables | texts | {"modulation": own}
    if later:
        for name, pair in zip(("past_keys", "past_values"), zip(*seen, strict=True), strict=True):
            given[name] = torch.stack([x[:, :past] for x in pair])
    passed_on = ("next_image",) if later else ("next_image", "next_text")
    outputs = ("flow",) if last else passed_on
    outputs += ("keys", "values") if form else ()

    def run(net: Any, *tensors: Tensor) -> Any:
        passed = dict(zip(given, tensors, strict=True))
        image = net.embed(passed["patches"], passed["positions"]) if first else passed["image"]
        text, rows = passed.get("context" if first else "text"), passed["modulation"]
        if last:
            rows, end = rows.split([len(own) - 2, 2], -2)
        made: list[KeysValues] = []
        before = zip(passed["past_keys"], passed["past_values"], strict=True) if later else None
        kept = oldest + (0 if text is None else text.shape[-2])
        image, text = net.blocks(image, text, rows, *(passed[n] for n in names), before, made)
        result = [net.project(image, end)] if last else [image] if later else [image, text]
        if form:
            result += [
                torch.stack([x.narrow(1, 0, kept) for x in pair])
                for pair in zip(*made, strict=True)
            ]
        return tuple(result)

    with torch.no_grad():
        expected = run(net, *given.values())
    rearranged = widen_(net.half_split_())
    rearranged.time_text_embed = None
    dynamic: dict[str, tuple[str | None, ...]] = {
        **dict.fromkeys(("patches", "positions", "image", "next_image", "flow"), ("T", None)),
        **dict.fromkeys(("context", "text", "next_text"), ("N", None)),
        **dict.fromkeys(("rope_cos", "rope_sin"), ("T" if later else "A", None)),
        "mask": ("T", "A") if later else ("A", "A"),
        **dict.fromkeys(("past_keys", "past_values"), (None, None, "P", None)),
        **dict.fromkeys(("keys", "values"), (None, None, None if later else "K", None)),
    }
    taken = {name: dynamic[name] for name in (*given, *outputs) if name in dynamic}
    return Traced(rearranged, run, given, outputs, lambda: expected, taken, opset=23)


def upscaler(source: Source) -> Traced:
    image = (_picture((source.geometry.height, source.geometry.width)) + 1) / 2
    return Traced(
        source.load(QuickSRNet, "upscaler"), nn.Module.__call__, {"image": image}, ("image_2x",)
    )


@dataclass(frozen=True)
class Plan:
    """A graph of a component, the folders it is made of, and how."""

    component: str
    graph: str
    folders: tuple[str, ...]
    trace: Callable[[Source], Traced]
    optional: bool = False


def transformer_plans(
    source: Source, suffix: str = "", component: str = "transformer", form: str = ""
) -> Iterator[Plan]:
    """The transformer's graphs in order, or those of a `form` that remembers."""
    folders = (f"diffusion_transformer_320p{suffix}", "text_encoder_3", f"context_adapter{suffix}")
    for part in range(source.parts):
        name = "transformer" + (f"_{form}" if form else "")
        yield Plan(
            component,
            f"{name}_part{part}" if source.parts > 1 else name,
            (*folders, *CLIPS),
            lambda s, p=part: transformer(s, suffix, p, form=form),  # type: ignore[misc]
            optional=bool(suffix),
        )


def remembering(source: Source) -> list[Plan]:
    """Graphs for the NPU that take the transformer's place there: a unit's own tokens alone.

    For the one component whose modes may have a step a stage; with many steps and guidance there
    would be too much to remember.
    """
    if not oldest_tokens(source):
        return []
    return [p for form in ("first", "later") for p in transformer_plans(source, form=form)]


def plans(source: Source) -> Iterator[Plan]:
    """The graphs this checkpoint can give, in the order of use."""
    for component, folder in zip(("clip_l", "clip_g"), CLIPS, strict=True):
        twin = f"ssd_1b_{folder}"
        copies = (folder, *filter(source.has, [twin]))
        yield Plan(component, component, copies, lambda s, f=folder: clip(s, f))  # type: ignore[misc]
        if not source.copies.get(twin, True):
            own = f"first_frame_{component}"
            yield Plan(own, own, (twin,), lambda s, f=twin: clip(s, f))  # type: ignore[misc]
    if source.has("ssd_1b_unet"):
        yield Plan("first_frame", "unet", ("ssd_1b_unet", *CLIPS), unet)
        yield Plan("first_frame", "first_frame_decoder", ("ssd_1b_vae",), first_frame_decoder)
    if source.has("safety_checker"):
        checker = ("safety_checker",)
        yield Plan("safety_checker", "safety_checker", checker, safety_checker, optional=True)
    yield Plan("video_encoder", "video_encoder", ("causal_video_vae",), video_encoder)
    for suffix, short in (("", ""), (MULTISTEP_T2V, MULTISTEP)):
        net, adapter = f"diffusion_transformer_320p{suffix}", f"context_adapter{suffix}"
        if not source.has(net):
            continue
        texts = ("text_encoder_3", adapter)
        optional = bool(suffix)
        yield Plan(
            f"text_encoder{short}",
            "text_encoder",
            texts,
            lambda s, x=suffix: text_encoder(s, x),
            optional,  # type: ignore[misc]
        )
        yield Plan(
            f"transformer{short}",
            "modulation",
            (net, *CLIPS),
            lambda s, x=suffix: modulation(s, x),
            optional,  # type: ignore[misc]
        )
        yield from transformer_plans(source, suffix, f"transformer{short}")
    yield Plan("video_decoder", "video_decoder", ("causal_video_vae",), video_decoder)
    if source.has("upscaler"):
        yield Plan("upscaler", "upscaler", ("upscaler",), upscaler, optional=True)


def fidelity(
    reference: Sequence[np.ndarray],
    graph: Graph,
    path: Path,
    inputs: Mapping[str, Tensor],
    backend: Backend,
) -> float:
    """The worst output's signal-to-noise ratio against `reference`, in dB."""
    with load_graph(graph, path, backend, torch.get_num_threads()) as session:
        outputs = session.run(**{name: tensor.numpy() for name, tensor in inputs.items()})
    ratios = [onnx_graphs.snr_db(a, b) for a, b in zip(reference, outputs.values(), strict=True)]
    return round(min(ratios), 1)


def _arrays(outputs: Any) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in (outputs if isinstance(outputs, tuple) else (outputs,))]


def export_portable(source: Source, plan: Plan, pack: Path) -> dict[str, Any]:
    """Write one portable graph, measure it and return its manifest entry; raises ExportError."""
    traced = plan.trace(source)
    call = onnx_graphs.Call(traced.module, traced.function)
    what = call, traced.inputs, traced.outputs, traced.dynamic, traced.opset
    weights = 4 * sum(weight.numel() for weight in traced.module.parameters())
    multistep = MULTISTEP if plan.component.endswith(MULTISTEP) else ""
    home = "npu" if "_first" in plan.graph or "_later" in plan.graph else "portable"
    path = pack / home / f"{plan.graph}{multistep}.onnx"
    if weights > onnx_graphs.LARGE:
        model, files = onnx_graphs.export_large(*what, path)
    else:
        model = onnx_graphs.export(*what)
        files = onnx_graphs.write(model, path)
    entry = onnx_graphs.file_entry(files[0], pack)
    if files[1:]:
        entry["data"] = [onnx_graphs.file_entry(file, pack) for file in files[1:]]
    entry["inputs"] = onnx_graphs.tensor_specs(model.graph.input)
    entry["outputs"] = onnx_graphs.tensor_specs(model.graph.output)
    del model, call, what
    with torch.no_grad():
        if traced.reference is None:
            outputs = traced.function(traced.module, *traced.inputs.values())
        else:
            outputs = traced.reference()
    graph, expected = onnx_graphs.graph_of(plan.graph, entry), _arrays(outputs)
    entry["fidelity_db"] = fidelity(expected, graph, path, traced.inputs, "cpu")
    if entry["fidelity_db"] < FLOOR_DB:
        raise ExportError(
            f"{plan.graph} should match its module at {FLOOR_DB} dB,"
            f" but it has {entry['fidelity_db']} dB."
        )
    return entry


def htp_variant(source: Source, component: str, portable: Mapping[str, Any]) -> dict[str, Any]:
    """The NPU's graphs of a component: the portable files, at no cost of disk, with sizes fixed."""
    fixed = {
        name: without(entry, "fidelity_db")
        for name, entry in portable.items()
        if not name.startswith("transformer")
    }
    if component.removesuffix(MULTISTEP) != "transformer":
        return fixed
    text = source.manifest["tokenizers"]["t5"]["length"]
    graphs = fixed
    forms = {whole: _form(whole) for whole in portable if whole.startswith("transformer")}
    for stage in range(source.geometry.stages):
        last_unit, first_unit = source.geometry.units - 1, forgetful(source, stage)
        known = known_tokens(source, last_unit, stage)
        for whole, dynamic in portable.items():
            if whole not in forms or (any(forms.values()) and not forms[whole]):
                continue
            past = text + known if forms[whole] == "later" else 0
            tokens = static_tokens(source, stage, first_unit if forms[whole] == "first" else None)
            tokens -= past - text if past else 0
            sizes = {"T": tokens, "N": text, "A": tokens + (past or text)}
            sizes |= {"P": past, "K": text + oldest_tokens(source)}
            named = {
                size
                for side in ("inputs", "outputs")
                for spec in dynamic[side].values()
                for size in spec["shape"]
            }
            sizes = {name: size for name, size in sizes.items() if name in named}
            entry = without(dynamic, "fidelity_db") | {"dimensions": sizes}
            for side in ("inputs", "outputs"):
                entry[side] = {
                    name: spec | {"shape": [sizes.get(size, size) for size in spec["shape"]]}
                    for name, spec in entry[side].items()
                }
            graphs[whole.replace("transformer", f"transformer_{stage}")] = entry
    return graphs


def _form(graph: str) -> str:
    """Which of the transformer's forms a graph is of: "", first or later."""
    return next((form for form in ("first", "later") if f"_{form}" in graph), "")


def without(entry: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A copy of `entry` that lacks `key`."""
    return {name: value for name, value in entry.items() if name != key}


def measure_htp(
    source: Source, component: str, name: str, entry: Mapping[str, Any], pack: Path
) -> float:
    """An NPU graph in emulation, nothing on the CPU, against the portable one, in dB."""
    suffix = MULTISTEP_T2V if component.endswith(MULTISTEP) else ""
    if not name.startswith("transformer_"):
        (plan,) = [p for p in plans(source) if (p.component, p.graph) == (component, name)]
        inputs = plan.trace(source).inputs
    else:
        stage, last = int(name.rsplit("_", 1)[1]), source.geometry.units - 1
        inputs = transformer_sample(source, suffix, unit=last, stage=stage, padded=True)
    graph, path = onnx_graphs.graph_of(name, entry), pack / entry["file"]
    with load_graph(graph, path, "cpu", torch.get_num_threads()) as session:
        expected = session.run(**{key: tensor.numpy() for key, tensor in inputs.items()})
    return fidelity(list(expected.values()), graph, path, inputs, "npu-emulated")


def export_tokenizers(source: Source, pack: Path) -> dict[str, Any]:
    """Copy the tokenizers and return their manifest entries."""
    if source.tokenizer("tokenizer").get_vocab() != source.tokenizer("tokenizer_2").get_vocab():
        raise ExportError("tokenizer and tokenizer_2 should have one vocabulary, but they differ.")
    entries = {}
    for name, folder in (("clip", "tokenizer"), ("t5", "tokenizer_3")):
        path = pack / "tokenizers" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source.tokenizer(folder).to_str(), encoding="utf-8")
        length = source.manifest["tokenizers"][name]["length"]
        entries[name] = onnx_graphs.file_entry(path, pack) | {"length": length}
    return entries


def fingerprint(source: Source, plan: Plan) -> str:
    """What a graph depends on: its folders' files, the settings and the exporter."""
    files = [file for folder in plan.folders for file in sorted((source.root / folder).iterdir())]
    files += [Path(__file__), Path(onnx_graphs.__file__)]
    files += sorted((Path(__file__).parent / "models").glob("*.py"))
    settings = ("geometry", "transformer", "first_frame", "vae", "prompt", "tokenizers")
    digest = hashlib.sha256(json.dumps([source.manifest[key] for key in settings]).encode())
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def unchanged(entry: Mapping[str, Any] | None, pack: Path) -> bool:
    """Whether a recorded graph is still in the pack, byte for byte."""
    if entry is None:
        return False
    files = [entry, *entry.get("data", [])]
    return all(
        (pack / file["file"]).is_file()
        and onnx_graphs.file_entry(pack / file["file"], pack)["sha256"] == file["sha256"]
        for file in files
    )


def _check_room(source: Source, pack: Path, compiled: bool) -> None:
    """Raise ExportError where disk or memory will not do; factors as measured at full size."""
    folders = [source.weights(path.name) for path in source.root.iterdir() if path.is_dir()]
    home = next(path for path in (pack.absolute(), *pack.absolute().parents) if path.exists())
    there = sum(file.stat().st_size for file in pack.rglob("*") if file.is_file())
    room = {
        "free disk": (sum(folders) * (5.5 if compiled else 1.5) - there, disk_usage(home).free),
        "memory": (max(folders) * (6.0 if compiled else 4.0), _memory()),
    }
    for what, (wanted, found) in room.items():
        if found < wanted:
            raise ExportError(
                f"The export to {pack} should have {wanted / 1e9:.1f} GB of {what}, but there are"
                f" {found / 1e9:.1f} GB; use another disk or machine."
            )


def _memory() -> int:
    """Bytes of memory the machine has."""
    return int(psutil.virtual_memory().total)


def export_pack(
    root: Path,
    pack: Path,
    emulate: bool = True,
    report: Callable[[str], None] = print,
    remember: bool = False,
    multistep: bool = True,
) -> None:
    """Export the checkpoint at `root` to the folder `pack`; raises ExportError.

    emulate: also measure the NPU's graphs where their emulation is available. remember: give the
    NPU graphs of its own for the transformer, which take more disk. multistep: with the monolithic
    mode's own weights.
    """
    source = Source(root, multistep)
    record_file = root / RECORD
    record: dict[str, Any] = json.loads(record_file.read_text()) if record_file.exists() else {}
    emulate = emulate and "npu-emulated" in available()
    manifest = source.manifest | {"tokenizers": export_tokenizers(source, pack), "components": {}}
    components: dict[str, Any] = manifest["components"]
    _check_room(source, pack, compiled=remember)
    own = remembering(source) if remember else []
    entries: dict[str, dict[str, Any]] = {}
    every = [*plans(source), *own]
    begun, done, kept_weights = time.monotonic(), 0, 0
    weights = [sum(source.weights(folder) for folder in plan.folders[:1]) for plan in every]
    for plan, size in zip(every, weights, strict=True):
        key = f"{plan.component}/{plan.graph}"
        started, mark = time.monotonic(), fingerprint(source, plan)
        kept = record.get(key, {}).get(mark)
        if kept is None or not unchanged(kept, pack):
            kept = export_portable(source, plan, pack)
            gc.collect()
            done += size
            left = sum(weights) - kept_weights - done
            minutes = (time.monotonic() - begun) * left / max(done, 1) / 60
            files = (kept["size"] + sum(file["size"] for file in kept.get("data", []))) / 1e6
            spent = f"{time.monotonic() - started:.0f} s"
            report(
                f"{key}: {kept['fidelity_db']} dB, {files:.1f} MB, {spent}; about"
                f" {math.ceil(minutes)} min left"
            )
        else:
            kept_weights += size
            report(f"{key}: kept")
        record[key] = {mark: kept}
        record_file.write_text(json.dumps(record, indent=1))
        part = components.setdefault(
            plan.component, {"optional": plan.optional, "variants": {"portable": {"graphs": {}}}}
        )
        entries.setdefault(plan.component, {})[plan.graph] = kept
        if plan not in own:
            part["variants"]["portable"]["graphs"][plan.graph] = kept
    for component, part in components.items():
        graphs = htp_variant(source, component, entries[component])
        for name, entry in graphs.items():
            key = f"{component}/htp/{name}"
            mark = json.dumps([entry["sha256"], entry.get("dimensions")])
            measured = record.get(key, {}).get(mark)
            if measured is None and emulate and "_part" not in name and not _form(name):
                started = time.monotonic()
                measured = measure_htp(source, component, name, entry, pack)
                report(f"{key}: {measured} dB in emulation, {time.monotonic() - started:.0f} s")
                if measured < HTP_FLOOR_DB:
                    raise ExportError(
                        f"{name} should keep {HTP_FLOOR_DB} dB on the NPU,"
                        f" but it has {measured} dB."
                    )
                record[key] = {mark: measured}
                record_file.write_text(json.dumps(record, indent=1))
            entry["fidelity_db"] = measured
        if graphs:
            part["variants"]["htp"] = {"graphs": graphs}
    (pack / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    with open_pack(pack) as opened:
        named = {pack / file.name for file in opened.files}
        for file in (*pack.glob("portable/*"), *pack.glob("npu/*")):  # of an earlier export
            if file not in named:
                file.unlink()
        size = sum(file.size for file in opened.files)
        title = f"{opened.name} {opened.version}"
        report(f"{pack}: {title}, {size / 1e6:.1f} MB, pack {opened.pack_hash[:12]}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="folder of published folders")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the pack's folder")
    parser.add_argument(
        "--target",
        choices=["portable", "snapdragon-x-elite"],
        default="portable",
        help="ONNX for any machine, or compiled for that NPU (docs/snapdragon.md)",
    )
    parser.add_argument(
        "--no-emulation", action="store_true", help="do not measure the NPU's graphs"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    compiled = parser.add_argument_group("for snapdragon-x-elite")
    compiled.add_argument("--components", nargs="+", default=(), help="compile only these")
    compiled.add_argument(
        "--precision",
        choices=contexts.PRECISIONS,
        default="w8a16",
        help="fp16: quantise nothing",
    )
    compiled.add_argument(
        "--calibration", type=Path, default=EXAMPLES, help="prompts, one a line, for the ranges"
    )
    compiled.add_argument("--clips", type=int, default=6, help="how many of them to make")
    compiled.add_argument(
        "--multistep",
        action="store_true",
        help="with the monolithic mode's own weights: 1.7 GB more, and hours",
    )
    compiled.add_argument("--portable", action="store_true", help="keep what runs on the CPU, too")
    compiled.add_argument(
        "--unshared",
        action="store_true",
        help="add the transformer's graphs each with its own weights, for a device that refuses"
        " shared ones and for the emulation",
    )
    compiled.add_argument(
        "--patience",
        type=float,
        default=contexts.PATIENCE / 60,
        metavar="MINUTES",
        help="a graph that takes longer in emulation is measured on the CPU (default: 10)",
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for library in (transformers.utils.logging, diffusers.utils.logging):
        library.disable_progress_bar()
    try:
        if options.target == "portable":
            export_pack(options.checkpoint, options.output, not options.no_emulation)
            return
        work = options.output.with_name(f"{options.output.name}.portable")
        export_pack(
            options.checkpoint, work, emulate=False, remember=True, multistep=options.multistep
        )
        lines = options.calibration.read_text(encoding="utf-8").splitlines()
        prompts = [line for line in lines if line.strip()][: options.clips]
        contexts.compile_pack(
            work,
            options.output,
            prompts,
            options.precision,
            options.components,
            portable=options.portable,
            unshared=options.unshared,
            patience=60 * options.patience,
        )
    except (ExportError, NeodragonError, RuntimeError, OSError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
