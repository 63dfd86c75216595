"""Weights with which an image encoder starts as mere averaging: its first latents are mean colours.

An autoencoder from random weights hides colour in its group statistics: no linear map reads it back
from a position's latents (off by 70 of 255 for saturated colours), and a small network cannot
follow. Here averaging carries the colours past the residual branches, which start at zero, and
constant channels hold the last norm nearly still, so that it lets them through.

Works on 2-D convolutions and on the present tap of causal 3-D ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Conv = nn.Conv2d | nn.Conv3d

GAIN = 2.0  # latents per unit of colour, -1 to 1
BALLAST = 6.0
LIFT = 5.0  # where SiLU is nearly a straight line, of this slope and offset
SLOPE, OFFSET = 1.027, 4.967


def present(conv: Conv) -> Tensor:
    """Weights [out, in, k, k] of the tap that sees the present frame."""
    return conv.weight if conv.weight.ndim == 4 else conv.weight[:, :, -1]


@torch.no_grad()
def clear(conv: Conv, rows: slice | Sequence[int] = slice(None)) -> None:
    """Set the given output channels to zero."""
    conv.weight[rows] = 0
    if conv.bias is not None:
        conv.bias[rows] = 0


@torch.no_grad()
def carry(conv: Conv, count: int) -> None:
    """Let the first `count` channels pass as they are."""
    clear(conv, slice(count))
    centre = conv.kernel_size[-1] // 2
    for i in range(count):
        present(conv)[i, i, centre, centre] = 1


@torch.no_grad()
def steady(conv: Conv, norm: nn.GroupNorm, count: int) -> list[int]:
    """Give each group of `norm` constant channels, made by `conv`, and lift `count` others into
    SiLU's straight part. Returns these others; their weights in `conv` are the caller's to set.
    """
    width = norm.num_channels // norm.num_groups
    half = width // 4
    each = -(-count // norm.num_groups)
    places = [width * (i // each) + i % each for i in range(count)]
    for group in range(norm.num_groups):
        rows = slice(width * (group + 1) - 2 * half, width * (group + 1))
        clear(conv, rows)
        conv.bias[rows] = BALLAST * torch.tensor([1.0, -1.0]).repeat(half)
    clear(conv, places)
    norm.weight[places] = BALLAST * (2 * half / width) ** 0.5  # about the group's deviation
    norm.bias[places] = LIFT
    return places


@torch.no_grad()
def read(conv: Conv, places: Sequence[int]) -> None:
    """Make the first outputs of `conv` GAIN times the channels lifted by `steady`."""
    rows = slice(len(places))
    clear(conv, rows)
    for i, place in enumerate(places):
        present(conv)[i, place, 1, 1] = GAIN / SLOPE
    conv.bias[rows] = -GAIN * OFFSET / SLOPE
