"""A checkpoint's modules on the CPU, and the inputs that graphs are traced with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MethodType
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from builder.errors import BuildError
from builder.layout import Layout
from builder.published import CLIPS
from engine.noise import normal, stream
from training.checkpoint import Checkpoint, CheckpointError, load_weights, tensors_of
from training.models.mmdit import PyramidMMDiT

SAMPLE_PROMPT = "a red kite drifts slowly over a green meadow"
SEED = 7
# Whose weights are neither scaled nor folded here, so that they need not be widened before they are
# used; layers of KEPT weights and more.
AS_STORED = (CLIPTextModel, CLIPTextModelWithProjection, PyramidMMDiT, UNet2DConditionModel)
KEPT, HALVES = 2**20, (torch.float16, torch.bfloat16)


class ExportError(BuildError):
    """A graph strays from its module, or there is no room to export it."""


@dataclass
class Traced:
    """One graph about to be exported.

    module: called with `inputs` in order by `function`; reference: the same from the weights as
    published, where they were rearranged; dynamic: names of dynamic dimensions by input or output;
    opset as in `trace.write`.
    """

    module: nn.Module
    function: Callable[..., Any]
    inputs: dict[str, Tensor]
    outputs: Sequence[str]
    reference: Callable[[], Any] | None = None
    dynamic: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    opset: int = 20


class Source(Layout):
    """A checkpoint in the published layout, its modules on the CPU."""

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
            load_weights(module, tensors_of(home), str(home))
        elif issubclass(kind, Checkpoint):
            module = kind.from_pretrained(home)
        else:
            module = _of_library(kind, home)
        module = module.eval().requires_grad_(False)
        return widen_(module) if issubclass(kind, AS_STORED) else module.float()

    @cached_property
    def conditions(self) -> dict[tuple[str, int], tuple[Tensor, Tensor]]:
        """Context and rows of modulation of the sample prompt, by suffix and stage, once made."""
        return {}

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

    def sketch(self, compute: Callable[[], Any]) -> Any:
        """What `compute` gives, tensors or tables of them: example inputs of graphs."""
        with torch.no_grad():
            return compute()

    @cached_property
    def clip_states(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Hidden states and pooled embedding of the sample prompt by each CLIP encoder."""
        states = {}
        for folder in CLIPS:
            model, ids = self.load(CLIPTextModelWithProjection, folder), self.clip_ids(folder)
            states[folder] = self.sketch(lambda m=model, i=ids: clip_outputs(m, i))  # type: ignore[misc]
        return states

    @property
    def pooled(self) -> Tensor:
        """Pooled embeddings of the sample prompt, [1, P]."""
        return torch.cat([pooled for _, pooled in self.clip_states.values()], -1)


def _of_library(kind: Any, home: Path) -> nn.Module:
    """A module that diffusers or transformers load; raises CheckpointError as `Source.load`."""
    own = {"low_cpu_mem_usage": False} if issubclass(kind, AutoencoderKL) else {"dtype": "auto"}
    own |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        module, report = kind.from_pretrained(home, **own)
    except (OSError, RuntimeError, ValueError) as error:
        line = str(error).strip().splitlines()[0].strip()
        raise CheckpointError(
            f"{home} does not load as a {kind.__name__} ({line}); copy the checkpoint again."
        ) from error
    wrong = {
        "lacks the tensor {}": report["missing_keys"],
        "holds the tensor {}, which its model does not have": report["unexpected_keys"],
        "holds {} of another shape than its config.json says": [
            name for name, *_ in report["mismatched_keys"]
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


def sample(purpose: str, shape: Sequence[int]) -> Tensor:
    """Seeded standard normal numbers."""
    return torch.from_numpy(normal(stream(SEED, purpose), tuple(shape)))


def picture(shape: Sequence[int]) -> Tensor:
    """A seeded smooth picture in [-1, 1], [1, 3, H, W]."""
    small = sample("picture", (1, 3, *(max(2, size // 16) for size in shape)))
    return torch.nn.functional.interpolate(small, tuple(shape), mode="bicubic").clamp(-2, 2) / 2


def clip_outputs(model: nn.Module, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The hidden states before the last layer, and the pooled embedding."""
    states = model(ids, output_hidden_states=True)
    pooled = states.text_embeds if "text_embeds" in states else states.pooler_output
    return states.hidden_states[-2], pooled
