"""The graphs of the first frame: UNet, decoder, and the safety checker that looks at it."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from torch import Tensor, nn
from torch.nn import functional as F

from engine.safety import SIZE as SAFETY_SIZE
from training.export.source import Source, Traced, picture, sample

STREAM = 16.0  # what the decoder's residual stream is divided by, a power of two


def unet(source: Source) -> Traced:
    g = source.geometry
    stride, (hidden_l, _), (hidden_g, pooled) = g.first_frame_stride, *source.clip_states.values()
    height, width = g.first_frame_height, g.first_frame_width
    inputs = {
        "sample": sample("unet", (1, g.first_frame_channels, height // stride, width // stride)),
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
            inputs = channel_order(layer.weight.shape[1], groups)
            layer.weight.data = layer.weight.data[order][:, inputs]
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
    latent = sample("first_frame", (1, g.first_frame_channels, *size)) / scale
    vae = source.load(AutoencoderKL, "ssd_1b_vae")
    vae.encoder = None

    def reference() -> Any:
        return source.load(AutoencoderKL, "ssd_1b_vae").decode(latent).sample

    _smaller(vae)
    interleave_(vae, vae.config.norm_num_groups)

    def decode(net: Any, latent: Tensor) -> Any:
        return net.decode(latent).sample

    return Traced(vae, decode, {"latent": latent}, ("image",), reference)


def _cosines(rows: Tensor) -> Tensor:
    """Of the angles between the first row and each of the others."""
    first, *_ = directions = F.normalize(rows)
    return directions[1:] @ first


def safety_checker(source: Source) -> Traced:
    """CLIP's picture encoder, and by how much each concept is nearer than it may be."""
    net = source.load(StableDiffusionSafetyChecker, "safety_checker")

    def margins(net: Any, image: Tensor) -> tuple[Tensor, Tensor]:
        seen = net.visual_projection(net.vision_model(image)[1])
        concepts, special = (
            # normalised together, so that no norm of weights is folded into a constant
            _cosines(torch.cat([seen, getattr(net, f"{name}_embeds")]))
            - getattr(net, f"{name}_embeds_weights")
            for name in ("concept", "special_care")
        )
        return concepts, special

    image = picture((SAFETY_SIZE, SAFETY_SIZE))
    return Traced(net, margins, {"image": image}, ("concepts", "special"))
