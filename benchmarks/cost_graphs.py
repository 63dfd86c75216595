"""The graphs of the full-size model as torch modules on the meta device, and what a run of each is.

No weight is ever allocated. A function per graph, in our form or, where they differ, in the paper's
(`paper_...`, `published`).
Configurations are the published ones.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from builder.published import PUBLISHED
from engine.config import Geometry
from training.export.video import collapse_
from training.models.context_adapter import ContextAdapter
from training.models.distil_t5 import T5EncoderWithProjection, T5ProjectionConfig
from training.models.joint_blocks import AdaLN
from training.models.mmdit import PyramidMMDiT
from training.models.published import CLIP_G, CLIP_L, IMAGE_VAE, T5, UNET, UPSCALER
from training.models.quicksrnet import QuickSRNet
from training.models.video_vae import CausalConv, CausalVideoVAE, TGrow, fold, unfold

# Token counts of T5 and CLIP, and the widths that CLIP hands over (arXiv 2511.06055, code).
TEXT, CLIP_TEXT, CLIP_HIDDEN, CLIP_G_POOLED, POOLED, T5_STATES = 128, 77, 2048, 1280, 2048, 4096
GEOMETRY = Geometry(
    **PUBLISHED["geometry"],
    spatial_stride=8,
    temporal_stride=8,
    latent_channels=16,
    first_frame_stride=8,
    first_frame_channels=4,
)


@dataclass(frozen=True)
class Cost:
    """One run of a graph; bytes are those of the precision asked for, activations 16 bits each.

    macs: of matrix products and convolutions, nothing else counted.
    weights: bytes held; tables: those of them in embedding tables, of which a run reads a few rows.
    activations: written by all operators, nothing fused, views free.
    live: most of them held at once with the inputs, in the order the module computes them.
    """

    macs: int
    weights: int
    tables: int
    activations: int
    live: int

    @property
    def moved(self) -> int:
        """Bytes of weights read and activations written."""
        return self.weights - self.tables + self.activations


class Ledger(TorchDispatchMode):
    """Bytes of activations under it: written in all, and most at once; 2 bytes per element."""

    def __init__(self, weights: Iterable[Tensor], inputs: Iterable[Tensor]) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage()._cdata for tensor in weights}
        self.written = self.live = self.peak = 0
        for tensor in inputs:
            self._add(tensor)
        self.written = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self.known:  # a view, or changed in place
            return
        size = 2 * storage.nbytes() // tensor.element_size()
        self.known.add(storage._cdata)
        self.written += size
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, storage._cdata, size)

    def _free(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


@torch.no_grad()
def count(
    modules: Sequence[nn.Module], run: Callable[..., Any], inputs: Sequence[Any], eight_bit: bool
) -> Cost:
    """What `run(*inputs)` with the weights of `modules`, all on the meta device, costs.

    eight_bit: weights of linear layers and convolutions are 8-bit, all others 16-bit. Scales of
    the quantisation and the graph's code are not counted.
    """
    with torch.device("meta"), FlopCounterMode(display=False) as flops:
        tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
        held = [t for module in modules for t in (*module.parameters(), *module.buffers())]
        with Ledger(held, tensors) as ledger, sdpa_kernel(SDPBackend.MATH):
            run(*inputs)
    return Cost(
        flops.get_total_flops() // 2, *weight_bytes(modules, eight_bit), ledger.written, ledger.peak
    )


def weight_bytes(modules: Sequence[nn.Module], eight_bit: bool) -> tuple[int, int]:
    """Bytes of the weights of `modules`, and those of them in embedding tables."""
    parts = [part for module in modules for part in module.modules()]
    small = {
        id(part.weight)
        for part in parts
        if eight_bit and isinstance(part, nn.Linear | nn.Conv2d | nn.Conv3d)
    }
    looked_up = {id(part.weight) for part in parts if isinstance(part, nn.Embedding)}
    weights = {id(weight): weight for module in modules for weight in module.parameters()}
    sizes = {key: weight.numel() * (1 if key in small else 2) for key, weight in weights.items()}
    return sum(sizes.values()), sum(size for key, size in sizes.items() if key in looked_up)


def parameters(*modules: nn.Module) -> int:
    """Parameters, shared ones once."""
    return sum({id(w): w.numel() for m in modules for w in m.parameters()}.values())


def meta(*shape: int) -> Tensor:
    """A tensor without values."""
    return torch.empty(shape, device="meta")


def ids(length: int) -> Tensor:
    """Token ids [1, length] without values."""
    return torch.empty((1, length), dtype=torch.int64, device="meta")


def clip(config: dict[str, int]) -> nn.Module:
    """A CLIP text encoder with its projection."""
    return CLIPTextModelWithProjection(CLIPTextConfig(vocab_size=49408, **config))


MODULES: dict[str, Callable[[], nn.Module]] = {
    "clip_l": lambda: clip(CLIP_L),
    "clip_g": lambda: clip(CLIP_G),
    "t5": lambda: T5EncoderWithProjection(T5ProjectionConfig(**T5)),
    "adapter": ContextAdapter,
    "unet": lambda: UNet2DConditionModel(**UNET),
    "image_vae": lambda: AutoencoderKL(**IMAGE_VAE),
    "video_vae": CausalVideoVAE,
    "transformer": PyramidMMDiT,
    "upscaler": lambda: QuickSRNet(**UPSCALER),
}


@cache
def built(name: str) -> Any:
    """A full-size module on the meta device, as it is published."""
    with torch.device("meta"):
        return MODULES[name]().eval()


@cache
def exported() -> PyramidMMDiT:
    """The transformer rearranged for export."""
    with torch.device("meta"):
        return PyramidMMDiT().half_split_().eval()


def adaptive(net: PyramidMMDiT) -> list[nn.Module]:
    """The parts of the transformer that depend on prompt and timestep only."""
    return [net.time_text_embed, *(m for m in net.modules() if isinstance(m, AdaLN))]


def dense(net: PyramidMMDiT) -> list[nn.Module]:
    """All other parts of the transformer, which every step runs."""
    blocks = [
        part
        for block in net.transformer_blocks
        for part in (block.attn, block.ff, block.ff_context)
        if part is not None
    ]
    return [net.pos_embed, *blocks, net.proj_out]


def transformer_inputs(
    net: PyramidMMDiT, image: int, text: int, past: int = 0
) -> tuple[Tensor, ...]:
    """Patches, positions, rotary cosines and sines, and the mask of so many tokens."""
    config = net.token_config
    rope = (image + text, config.head_dim // 2)
    patches = meta(image, GEOMETRY.latent_channels * config.patch_size**2)
    mask = meta(image + text, past + image + text)
    return patches, meta(image, config.width), meta(*rope), meta(*rope), mask


@cache
def transformer(tokens: int) -> Cost:
    """The transformer over `tokens` image and all text tokens, modulation given."""
    net = exported()
    inputs = transformer_inputs(net, tokens, TEXT)
    inputs += (meta(TEXT, net.token_config.width),)
    inputs += (meta(net.modulation_rows, net.token_config.width),)
    return count(dense(net), net.forward_tokens, inputs, eight_bit=True)


def levels(unit: int, stage: int) -> list[int]:
    """The pyramid level of every frame that `unit` reads at `stage`, itself last.

    As `engine.latents.history` chooses them.
    """
    past = [max(0, stage - max(0, age)) for age in range(unit - 1, -1, -1)]
    return [*past, stage]


def frame_tokens(level: int) -> int:
    """Image tokens of a latent frame at a pyramid level."""
    height, width = GEOMETRY.stage_size(level)
    return height * width // exported().token_config.patch_size ** 2


def image_tokens(unit: int, stage: int) -> int:
    """Image tokens of `unit` at `stage`, its history included."""
    return sum(map(frame_tokens, levels(unit, stage)))


def remembered(unit: int, stage: int) -> int:
    """Frames whose tokens went through the transformer unchanged for the unit before.

    With one step a stage they meet the same timestep, and no token sees a later frame or, being
    text, more than the first one. So it is those that have kept their level, and all before them.
    """
    if unit == 1:
        return 0
    before, now = levels(unit - 1, stage)[:-1], levels(unit, stage)
    same = [a == b for a, b in zip(before, now, strict=False)]
    return same.index(False) if False in same else len(same)


def past_tokens(unit: int, stage: int) -> int:
    """Text and image tokens whose keys and values `unit` finds at `stage`."""
    frames = remembered(unit, stage)
    return sum(map(frame_tokens, levels(unit, stage)[:frames])) + TEXT * bool(frames)


def forgetful(stage: int) -> int:
    """The last unit that remembers nothing at `stage`."""
    return max(unit for unit in range(1, GEOMETRY.units) if not remembered(unit, stage))


def image_only(net: PyramidMMDiT) -> list[nn.Module]:
    """The parts of `dense` that image tokens go through."""
    found: list[nn.Module] = [net.pos_embed, net.proj_out]
    for block in net.transformer_blocks:
        attention: Any = block.attn
        found += [attention.to_q, attention.to_k, attention.to_v, attention.to_out, block.ff]
        found += [attention.norm_q, attention.norm_k]
    return found


@cache
def later_transformer(stage: int) -> Cost:
    """The transformer over only the tokens that a unit does not remember, as `export` has it.

    Padded to the last unit's memory.
    """
    net = exported()
    past = past_tokens(GEOMETRY.units - 1, stage)
    fresh = image_tokens(GEOMETRY.units - 1, stage) + TEXT - past
    inputs = transformer_inputs(net, fresh, 0, past)
    rows = meta(net.modulation_rows, net.token_config.width)
    heads, head_dim = net.config["num_attention_heads"], net.token_config.head_dim
    kept = [meta(heads, past, head_dim) for _ in range(2 * len(net.transformer_blocks))]

    def run(
        patches: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, *others: Tensor
    ) -> Tensor:
        chosen, last = others[0].split([len(others[0]) - 2, 2])
        pairs = list(zip(others[1::2], others[2::2], strict=True))
        image, _ = net.blocks(net.embed(patches, positions), None, chosen, cos, sin, mask, pairs)
        return net.project(image, last)

    return count(image_only(net), run, (*inputs, rows, *kept), eight_bit=True)


def modulation(timesteps: int = 1) -> Cost:
    """The modulation of the transformer at so many timesteps."""
    net = exported()
    inputs = (meta(timesteps), meta(timesteps, POOLED))
    return count(adaptive(net), net.modulate, inputs, eight_bit=True)


def text_encoder(adapter: bool = True) -> Cost:
    """DistilT5, and the context adapter behind it, in 16 bits."""
    parts = [built("t5"), *([built("adapter")] if adapter else [])]
    return count(parts, nn.Sequential(*parts), (ids(TEXT),), eight_bit=False)


def clip_encoder(name: str, eight_bit: bool = False) -> Cost:
    """One of the CLIP encoders."""
    net = built(name)
    return count([net], net, (ids(CLIP_TEXT),), eight_bit)


def unet() -> Cost:
    """One step of the first frame."""
    net = built("unet")
    height, width = first_frame_latent()
    latent = meta(1, GEOMETRY.first_frame_channels, height, width)
    conditions = {"text_embeds": meta(1, CLIP_G_POOLED), "time_ids": meta(1, 6)}
    inputs = (latent, meta(1), meta(1, CLIP_TEXT, CLIP_HIDDEN))

    def run(sample: Tensor, timestep: Tensor, hidden: Tensor) -> Any:
        return net(sample, timestep, hidden, added_cond_kwargs=conditions)

    return count([net], run, inputs, eight_bit=True)


def first_frame_latent() -> tuple[int, int]:
    """Height and width of the first frame's latent."""
    stride = GEOMETRY.first_frame_stride
    return GEOMETRY.first_frame_height // stride, GEOMETRY.first_frame_width // stride


def first_frame_decoder() -> Cost:
    """The decoder of the first frame."""
    vae = built("image_vae")
    latent = meta(1, GEOMETRY.first_frame_channels, *first_frame_latent())
    parts = [vae.post_quant_conv, vae.decoder]
    return count(parts, lambda z: vae.decode(z).sample, (latent,), eight_bit=True)


def video_encoder() -> Cost:
    """The encoder of one frame, collapsed to 2-D convolutions, in 16 bits."""
    with torch.device("meta"):
        vae = collapse_(CausalVideoVAE()).eval()
    return count([vae.encoder, vae.quant_conv], vae.encode_image, (frame(),), eight_bit=False)


def frame() -> Tensor:
    """A frame of the clip before it is enlarged, [1, 3, H, W]."""
    return meta(1, 3, GEOMETRY.height, GEOMETRY.width)


def video_decoder(published: bool = False) -> Cost:
    """One unit of the streaming decoder in 16 bits.

    `published` enlarges before a TGrow's 1x1 convolution, and has 8.
    """
    with torch.device("meta"):
        vae = collapse_(CausalVideoVAE()).eval()
        latent = meta(1, GEOMETRY.latent_channels, GEOMETRY.latent_height, GEOMETRY.latent_width)
        states = vae.zero_states(latent)
        for i, block in enumerate(vae.decoder.blocks):
            if published and isinstance(block, TGrow):
                grown = EnlargeFirst(block.conv.in_channels, block.time, block.space)
                vae.decoder.blocks[i] = grown
    return count([vae.decoder, vae.post_quant_conv], vae.step, (latent, states), published)


def upscaler() -> Cost:
    """One frame, in 16 bits."""
    return count([built("upscaler")], built("upscaler"), (frame(),), eight_bit=False)


class EnlargeFirst(TGrow):
    """The published order: the 1x1 convolution runs at the enlarged size."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """x [N, C, h, w] -> the frames in its place, in order."""
        return list(self.conv(self.enlarge(x)).chunk(self.time, 1))


class PaddedConv(nn.Module):
    """A causal convolution over the padded video, though it is one frame long."""

    def __init__(self, causal: CausalConv) -> None:
        super().__init__()
        self.conv = causal.conv

    def forward(self, x: Tensor, length: int) -> Tensor:
        taps, edge = self.conv.kernel_size[0], self.conv.kernel_size[1] // 2
        video = F.pad(unfold(x, length), (0, 0, 0, 0, taps - 1, 0))
        stride = self.conv.stride
        return fold(F.conv3d(video, self.conv.weight, self.conv.bias, stride, (0, edge, edge)))


def paper_video_encoder() -> Cost:
    """The encoder of one frame in its 3-D form, two frames of zeros before every convolution."""
    with torch.device("meta"):
        vae = CausalVideoVAE().eval()
        for parent in list(vae.modules()):
            for name, child in parent.named_children():
                if isinstance(child, CausalConv):
                    setattr(parent, name, PaddedConv(child))
    return count([vae.encoder, vae.quant_conv], vae.encode_image, (frame(),), eight_bit=True)


@cache
def paper_net() -> PyramidMMDiT:
    """The transformer without the layers of the timestep's embedding."""
    with torch.device("meta"):
        net = PyramidMMDiT().half_split_().eval()
    del net.time_text_embed.timestep_embedder
    return net


def paper_transformer(tokens: int) -> Cost:
    """The paper's "MMDiT+CA": text states in, context adapter and modulation in every step.

    The embedded timestep is an input (its section 4.1).
    """
    net, adapter = paper_net(), built("adapter")
    inputs = transformer_inputs(net, tokens, TEXT)
    inputs += (meta(TEXT, T5_STATES), meta(1, net.token_config.width), meta(1, POOLED))

    def run(
        patches: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, *text: Tensor
    ) -> Tensor:
        states, time, pooled = text
        x = F.silu(time + net.time_text_embed.text_embedder(pooled))
        rows = [row for block in net.transformer_blocks for row in block.modulate(x)]
        made = torch.cat([*rows, *net.norm_out(x)])
        return net.forward_tokens(patches, positions, cos, sin, mask, adapter(states), made)

    return count([net, adapter], run, inputs, eight_bit=True)
