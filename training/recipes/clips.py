"""Clips to learn from: latents with captions, of a world or of real videos.

A world's clips are rendered, encoded and kept in the run's folder; captions are worded afresh each
time. Real ones come from latent shards (`training.recipes.shards`).
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from webdataset.tariterators import group_by_keys, tar_file_iterator

from training.data.worlds import World, box_weights, scenes_of
from training.models.video_vae import CausalVideoVAE
from training.recipes.configuration import STRIDE, Configuration
from training.recipes.first_frame import DROPPED, captions
from training.recipes.precision import autocast
from training.recipes.video_vae import reads_key_frames

CACHE = "clip_latents.pt"
OPEN = 4  # shards held in memory at once
STAY = 64  # draws from them before one gives way to another

Drawn = tuple[Tensor, list[str], Tensor]


class Clips(Protocol):
    """What recipes draw from."""

    def draw(self, count: int, generator: torch.Generator, dropped: float = DROPPED) -> Drawn:
        """Normalised latents [count, C, T, h, w], captions (empty for a share of them) and loss
        weights [count, 1, T, h, w].
        """


@torch.no_grad()
def normalised(
    vae: CausalVideoVAE, video: Tensor, constants: dict[str, float], *, keys: bool = False
) -> Tensor:
    """Normalised latents [B, C, T', h, w] of a video [B, 3, T, H, W] in [-1, 1], encoded over time.

    Where the encoder reads key frames alone (`training.recipes.video_vae`), these are enough; with
    `keys` they are all there is of the video.
    """
    with autocast(video.device.type):
        if keys or reads_key_frames(vae):
            images = video if keys else video[:, :, ::STRIDE]
            folded = vae.encode_image(images.transpose(1, 2).flatten(0, 1))
            moments = torch.unflatten(folded, 0, (len(video), -1)).transpose(1, 2)
        else:
            moments = vae.encode(video)
    mean = moments.float().chunk(2, 1)[0]
    first = (mean[:, :, :1] - constants["first_shift"]) * constants["first_scale"]
    return torch.cat([first, (mean[:, :, 1:] - constants["shift"]) * constants["scale"]], 2)


def clip_latents(
    vae: CausalVideoVAE, scenes: Sequence[Any], constants: dict[str, float], config: Configuration
) -> Tensor:
    """Normalised latents of a world's clips, half [N, C, T, h, w]; only key frames are drawn where
    the encoder reads no others.
    """
    out, device = [], next(vae.parameters()).device
    keys = reads_key_frames(vae)
    times = range(0, config.frames, STRIDE if keys else 1)
    for scene in scenes:
        frames = torch.from_numpy(config.world.render(scene, config.height, config.width, times))
        video = frames.permute(3, 0, 1, 2)[None].to(device).float().div(127.5).sub(1)
        out.append(normalised(vae, video, constants, keys=keys).half().cpu())
    return torch.cat(out)


def cached_clips(run: Path, world: World) -> tuple[list[Any], Tensor]:
    """Scenes and latents of the training set in `run`; the file says which seed drew them."""
    seed, latents = torch.load(run / CACHE, weights_only=True)
    return scenes_of(world, seed, len(latents)), latents


def subject_weights(config: Configuration, scenes: Sequence[Any], times: float) -> Tensor:
    """Loss weights [N, 1, T, h, w]: `times` where a subject is or was one unit before, else 1."""
    units = []
    for unit in range(config.units):
        now, before = (
            box_weights(config.world, scenes, STRIDE * frame, *config.grid, times=times)
            for frame in (unit, max(unit - 1, 0))
        )
        units.append(torch.from_numpy(now).maximum(torch.from_numpy(before)))
    return torch.stack(units, 1)[:, None]


@dataclass(frozen=True)
class WorldClips:
    """The clips of a world in a run's folder."""

    world: World
    scenes: list[Any]
    latents: Tensor
    weights: Tensor

    def draw(self, count: int, generator: torch.Generator, dropped: float = DROPPED) -> Drawn:
        pick = torch.randint(len(self.latents), (count,), generator=generator)
        scenes = [self.scenes[i] for i in pick.tolist()]
        prompts = captions(self.world, scenes, generator, dropped)
        return self.latents[pick].float(), prompts, self.weights[pick]


def read_shard(shard: Path) -> list[tuple[np.ndarray, str]]:
    """Latents [C, T, h, w] and captions of a shard, in order."""
    with shard.open("rb") as stream:
        files = ({"__url__": str(shard), **file} for file in tar_file_iterator(stream))
        samples = list(group_by_keys(files))
    return [(np.load(io.BytesIO(s["npy"])), s["txt"].decode("utf-8")) for s in samples]


@dataclass
class ShardClips:
    """Clips of latent shards, a few shards in memory at a time, chosen by the draws' generators."""

    shards: list[Path]
    held: list[list[tuple[np.ndarray, str]]] = field(default_factory=list)
    draws: int = 0

    def draw(self, count: int, generator: torch.Generator, dropped: float = DROPPED) -> Drawn:
        if self.draws % STAY == 0 or len(self.held) < min(OPEN, len(self.shards)):
            which = int(torch.randint(len(self.shards), (1,), generator=generator))
            self.held = [*self.held, read_shard(self.shards[which])][-OPEN:]
        self.draws += 1
        samples = [sample for shard in self.held for sample in shard]
        pick = torch.randint(len(samples), (count,), generator=generator).tolist()
        left_out = (torch.rand(count, generator=generator) < dropped).tolist()
        prompts = ["" if out else samples[i][1] for i, out in zip(pick, left_out, strict=True)]
        latents = torch.from_numpy(np.stack([samples[i][0] for i in pick])).float()
        return latents, prompts, torch.ones_like(latents[:, :1])


def open_clips(options: argparse.Namespace, config: Configuration) -> Clips:
    """The clips of `--shards`, or else of the run's folder.

    Raises ValueError for a folder without shards.
    """
    if options.shards:
        shards = sorted(options.shards.glob("*.tar"))
        if not shards:
            raise ValueError(
                f"{options.shards} has no .tar shards; write them with training.recipes.shards."
            )
        return ShardClips(shards)
    scenes, latents = cached_clips(options.run, config.world)
    weights = subject_weights(config, scenes, options.subject)
    return WorldClips(config.world, scenes, latents, weights)
