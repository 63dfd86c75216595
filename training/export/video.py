"""The graphs around the transformer: video encoder, video decoder and upscaler."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from training.export.source import Source, Traced, picture, sample
from training.models.quicksrnet import QuickSRNet
from training.models.video_vae import CausalConv, CausalVideoVAE


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
    image = picture((source.geometry.height, source.geometry.width))

    def reference() -> Tensor:  # a video of one frame
        return vae.encode(image[:, :, None])[:, :, 0]

    encoder = collapse_(copy.deepcopy(vae))
    names = ("moments",)
    return Traced(encoder, lambda net, x: net.encode_image(x), {"image": image}, names, reference)


def video_decoder(source: Source) -> Traced:
    g, vae = source.geometry, source.load(CausalVideoVAE, "causal_video_vae")
    statistics = source.manifest["vae"]
    latents = sample("video_decoder", (3, 1, g.latent_channels, g.latent_height, g.latent_width))
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


def upscaler(source: Source) -> Traced:
    image = (picture((source.geometry.height, source.geometry.width)) + 1) / 2
    return Traced(
        source.load(QuickSRNet, "upscaler"), nn.Module.__call__, {"image": image}, ("image_2x",)
    )
