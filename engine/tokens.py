"""From latents to what the transformer reads: patches, positions, rotary tables and the mask.

The attention sequence is the text tokens, then the image tokens, oldest history frame first and
the unit being denoised last (Pyramidal Flow Matching, arXiv 2410.05954, sections 3.3 and 3.4;
position table of Stable Diffusion 3, arXiv 2403.03206).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.config import TransformerConfig

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

ROPE_THETA = 10000.0
MASKED = -100.0


@dataclass(frozen=True)
class TransformerInputs:
    """Inputs of the `transformer` graph besides `context` and `modulation`.

    N text tokens, T image tokens, P = channels * patch_size**2.
    patches: float32 [T, P]; positions: float32 [T, width];
    rope_cos, rope_sin: float32 [N + T, head_dim / 2]; mask: float32 [N + T, N + T], 0 or -100;
    current: shape (C, t, h, w) of the latent whose patches are the last rows.
    """

    patches: Floats
    positions: Floats
    rope_cos: Floats
    rope_sin: Floats
    mask: Floats
    current: tuple[int, int, int, int]

    def current_latent(self, flow: Floats) -> Floats:
        """The flow of the current unit, float32 [C, t, h, w], from the graph's `flow` [T, P]."""
        channels, frames, height, width = self.current
        patch = round((flow.shape[1] / channels) ** 0.5)
        count = frames * (height // patch) * (width // patch)
        return unpatchify(flow[-count:], self.current)


def patchify(latent: Floats, patch_size: int) -> Floats:
    """A latent [C, t, h, w] as patches [t * h/p * w/p, C * p * p], values in (c, ph, pw) order.

    The order of the values is that of a flattened Conv2d patch embedding; tokens run over time,
    rows, columns. Raises ValueError where the sides are not multiples of `patch_size`.
    """
    channels, frames, height, width = latent.shape
    p = patch_size
    if height % p or width % p:
        raise ValueError(f"latent {height}x{width} is not a multiple of the patch size {p}")
    blocks = latent.reshape(channels, frames, height // p, p, width // p, p)
    return np.ascontiguousarray(blocks.transpose(1, 2, 4, 0, 3, 5)).reshape(-1, channels * p * p)


def unpatchify(patches: Floats, shape: tuple[int, int, int, int]) -> Floats:
    """Inverse of `patchify`: patches [T, C * p * p] back to a latent of `shape` [C, t, h, w]."""
    channels, frames, height, width = shape
    p = round((patches.shape[1] / channels) ** 0.5)
    blocks = patches.reshape(frames, height // p, width // p, channels, p, p)
    return np.ascontiguousarray(blocks.transpose(3, 0, 1, 4, 2, 5)).reshape(shape)


def _sincos(coordinates: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Sines then cosines of coordinates [n] at `width / 2` frequencies: [n, width]."""
    frequencies = 10000.0 ** (-np.arange(width // 2) / (width / 2))
    angles = coordinates[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


@lru_cache(maxsize=64)
def _axis(full: int, size: int, config: TransformerConfig) -> NDArray[np.float64]:
    """One axis of the position crop of `full` cells, resized to `size`: [size, width / 2].

    The crop is the centre of the table; resizing is bilinear at cell centres, which is linear per
    axis because each half of the table depends on one axis only. Every unit asks for the same few.
    """
    base = config.sample_size // config.patch_size
    first = (config.pos_embed_max_size - full) // 2
    cells = _sincos((first + np.arange(full)) * base / config.pos_embed_max_size, config.width // 2)
    centre = np.clip((np.arange(size) + 0.5) * full / size - 0.5, 0, full - 1)
    low = np.floor(centre).astype(np.int64)
    high = np.minimum(low + 1, full - 1)
    share = (centre - low)[:, None]
    resized: NDArray[np.float64] = cells[low] * (1 - share) + cells[high] * share
    return resized


def positions(crop: tuple[int, int], grid: tuple[int, int], config: TransformerConfig) -> Floats:
    """Positions of one frame of `grid` (rows, columns) tokens: float32 [rows * columns, width].

    `crop` is the token grid of the current stage: the table's centre of that size is taken and
    resized to `grid`, so that a coarse history frame covers the same ground as the current one.
    Columns fill the first half of the width, rows the second. Raises ValueError where the crop is
    larger than the table.
    """
    if max(crop) > config.pos_embed_max_size:
        raise ValueError(f"a {crop} token grid exceeds the {config.pos_embed_max_size} table")
    rows = _axis(crop[0], grid[0], config)
    columns = _axis(crop[1], grid[1], config)
    half = config.width // 2
    table = np.empty((*grid, config.width), dtype=np.float32)
    table[:, :, :half] = columns[None]
    table[:, :, half:] = rows[:, None]
    return table.reshape(-1, config.width)


def position_table(config: TransformerConfig) -> Floats:
    """The published buffer `pos_embed.pos_embed`: float32 [1, max * max, width]."""
    size = (config.pos_embed_max_size, config.pos_embed_max_size)
    return positions(size, size, config)[None]


def frame_shapes(shapes: Sequence[tuple[int, ...]], patch_size: int) -> list[tuple[int, int]]:
    """Token grid (rows, columns) of every frame of latents of `shapes` (C, t, h, w), in order."""
    return [(h // patch_size, w // patch_size) for _, t, h, w in shapes for _ in range(t)]


def temporal_ids(shapes: Sequence[tuple[int, ...]], patch_size: int) -> Ints:
    """The frame index of every image token, 0 for the oldest frame: int64 [T].

    `shapes` are those of the latents, oldest history first and the current one last.
    """
    counts = [rows * columns for rows, columns in frame_shapes(shapes, patch_size)]
    return np.repeat(np.arange(len(counts), dtype=np.int64), counts)


def rope(ids: Ints, head_dim: int) -> tuple[Floats, Floats]:
    """Rotary cosines and sines of temporal ids [n]: two float32 [n, head_dim / 2]."""
    frequencies = ROPE_THETA ** (-np.arange(0, head_dim, 2) / head_dim)
    angles = ids[:, None] * frequencies
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def attention_mask(ids: Ints, sample_ids: Ints) -> Floats:
    """Additive mask of a sequence of n tokens: float32 [n, n], row = query, 0 or -100.

    A query sees a key of the same sample whose temporal id is not later than its own.
    """
    visible = (sample_ids[:, None] == sample_ids[None]) & (ids[:, None] >= ids[None])
    return np.where(visible, np.float32(0), np.float32(MASKED))


def transformer_inputs(
    history: Sequence[Floats],
    current: Floats,
    text_mask: NDArray[Any],
    config: TransformerConfig,
    history_tokens: int | None = None,
) -> TransformerInputs:
    """Everything the transformer graph reads about the latents.

    history: float32 [C, t, h, w] each, oldest first, possibly empty; current: float32 [C, t, h, w];
    text_mask: [N], 1 for a real text token and 0 for padding. With `history_tokens` the history is
    padded in front to that many tokens, for graphs of static length: the padding is masked and the
    real tokens keep their temporal ids, so the flow of the current unit does not change.
    Raises ValueError where the history is already longer than `history_tokens`.
    """
    latents = [*history, current]
    shapes = [latent.shape for latent in latents]
    grids = frame_shapes(shapes, config.patch_size)
    patches = np.concatenate([patchify(latent, config.patch_size) for latent in latents])
    places = np.concatenate([positions(grids[-1], grid, config) for grid in grids])
    image_ids = temporal_ids(shapes, config.patch_size)
    padding = 0
    if history_tokens is not None:
        count = current.shape[1] * grids[-1][0] * grids[-1][1]
        padding = history_tokens - (len(patches) - count)
        if padding < 0:
            raise ValueError(f"{len(patches) - count} history tokens exceed {history_tokens}")
        patches = np.pad(patches, ((padding, 0), (0, 0)))
        places = np.pad(places, ((padding, 0), (0, 0)))
    text = (np.asarray(text_mask).reshape(-1) != 0).astype(np.int64)
    ids = np.concatenate([np.zeros(len(text) + padding, dtype=np.int64), image_ids])
    image = np.repeat(np.array([0, 1], dtype=np.int64), [padding, len(image_ids)])
    cosines, sines = rope(ids, config.head_dim)
    channels, frames, height, width = current.shape
    return TransformerInputs(
        patches=patches.astype(np.float32, copy=False),
        positions=places,
        rope_cos=cosines,
        rope_sin=sines,
        mask=attention_mask(ids, np.concatenate([text, image])),
        current=(channels, frames, height, width),
    )
