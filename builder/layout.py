"""A folder in the published layout: its configs and tokenizers, and the manifest they make.

What the folders do not say is in `neodragon.json` at the root, a partial `pack.json` that is laid
over the published values.
"""

from __future__ import annotations

import json
import math
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from tokenizers import Tokenizer

from builder.errors import BuildError
from builder.published import (
    CLIPS,
    MULTISTEP_T2V,
    PUBLISHED,
    SETTINGS,
    TRANSFORMER,
    merge,
    without,
)
from builder.tokenizers import END, load_tokenizer
from builder.weights import Weights
from engine.config import Geometry, TransformerConfig
from engine.latents import history, image_pyramid
from engine.pack import FORMAT
from engine.tokens import frame_shapes

BLOCKS = 6  # of the transformer in one graph: more fit neither the compiler's memory nor the NPU's
COPIES_DIFFER = 0.05  # published copies of CLIP differ by 0.027 (bfloat16 beside float16)
PREFIX = "text_model."  # which some releases write before the names of CLIP's tensors


class Config(dict[str, Any]):
    """The settings in a file, which says what it lacks."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self.path = path

    def __missing__(self, key: str) -> NoReturn:
        raise BuildError(
            "{path} lacks {key}; copy the weights again.",
            path=self.path,
            key=key,
        )


class Layout:
    """A checkpoint in the published layout.

    multistep: with the weights of the monolithic mode, where it has any of its own; blocks: of the
    transformer in one graph.
    """

    def __init__(self, root: Path, multistep: bool = True, blocks: int = BLOCKS) -> None:
        """Raises BuildError where the folder holds no such checkpoint."""
        self.root = root
        self.multistep = multistep
        self.blocks = blocks
        if not self.has(TRANSFORMER):
            raise BuildError(
                "{root} has no folder {transformer}; choose the folder with the published weights.",
                root=root,
                transformer=TRANSFORMER,
            )
        settings = root / SETTINGS
        self.settings = _json(settings) if settings.exists() else {}

    def has(self, folder: str) -> bool:
        """Whether the checkpoint has this folder, and it is wanted."""
        left_out = folder.endswith(MULTISTEP_T2V) and not self.multistep
        return (self.root / folder).is_dir() and not left_out

    def weights(self, folder: str) -> int:
        """Bytes of a folder's files."""
        return sum(file.stat().st_size for file in (self.root / folder).glob("*"))

    def config(self, folder: str) -> dict[str, Any]:
        """A folder's `config.json`; raises BuildError without one, and for keys it has not."""
        path = self.root / folder / "config.json"
        return Config(path, _json(path))

    def tokenizer(self, folder: str) -> Tokenizer:
        """The tokenizer of a folder; raises BuildError where it holds none."""
        return load_tokenizer(self.root / folder)

    def pad_id(self, folder: str) -> int:
        """The id a CLIP tokenizer pads with, as the files beside it say."""
        token: Any = END  # as transformers has it where no file says so
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            if (self.root / folder / name).is_file():
                token = _json(self.root / folder / name).get("pad_token") or token
        token = token["content"] if isinstance(token, dict) else token
        number = self.tokenizer(folder).token_to_id(str(token))
        if number is None:
            raise BuildError(
                "The vocabulary of {folder} lacks its pad token {token!r}; copy the weights again.",
                folder=folder,
                token=token,
            )
        return int(number)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Published values, then what the folders' configs say, then `neodragon.json`."""
        vae, mmdit = self.config("causal_video_vae"), self.config(TRANSFORMER)
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
        twins = {f"ssd_1b_{folder}": folder for folder in CLIPS if self.has(f"ssd_1b_{folder}")}
        return {twin: self._same(folder, twin) for twin, folder in twins.items()}

    def _same(self, folder: str, twin: str) -> bool:
        """Whether the tensors that two folders have in common are the same, one by one."""
        ours, theirs = (
            (weights, {name.removeprefix(PREFIX): name for name in weights.places})
            for weights in (Weights(self.root / name) for name in (folder, twin))
        )
        for name in ours[1].keys() & theirs[1].keys():
            a, b = (weights.array(names[name]) for weights, names in (ours, theirs))
            if a.shape != b.shape:
                return False
            if a.size and np.abs(a.astype(np.float32) - b.astype(np.float32)).max() > COPIES_DIFFER:
                return False
        return True

    @cached_property
    def parts(self) -> int:
        """Graphs that the transformer is cut into."""
        return -(-int(self.config(TRANSFORMER)["num_layers"]) // self.blocks)

    @cached_property
    def geometry(self) -> Geometry:
        """Sizes of frames and latents."""
        return Geometry(**self.manifest["geometry"])

    @cached_property
    def transformer_config(self) -> TransformerConfig:
        """Sizes of the transformer's tokens."""
        return TransformerConfig(**self.manifest["transformer"])

    def history_grids(self, unit: int, stage: int) -> list[tuple[int, int]]:
        """Token rows and columns of every frame that `unit` reads at `stage` before itself."""
        g = self.geometry
        latents = np.zeros((1, g.units - 1, g.latent_height, g.latent_width), np.float32)
        past = history(image_pyramid(latents, g.stages), unit, stage)
        return frame_shapes([part.shape for part in past], self.transformer_config.patch_size)

    def static_tokens(self, stage: int, unit: int | None = None) -> int:
        """Image tokens of `unit`, the last where it is None, at `stage`: history and current."""
        unit = self.geometry.units - 1 if unit is None else unit
        rows, columns = self.geometry.stage_size(stage)
        current = rows * columns // self.transformer_config.patch_size**2
        return current + sum(map(math.prod, self.history_grids(unit, stage)))

    def known_tokens(self, unit: int, stage: int) -> int:
        """Tokens of a unit's history that the unit before has had at the same size."""
        before, now = (self.history_grids(max(u, 1), stage) for u in (unit - 1, unit))
        same = takewhile(lambda pair: pair[0] == pair[1], zip(before, now, strict=False))
        return sum(math.prod(grid) for grid, _ in same) if unit > 1 else 0

    def forgetful(self, stage: int) -> int:
        """The last unit that finds nothing of its history at `stage` done by the unit before."""
        units = range(1, self.geometry.units)
        return max(unit for unit in units if not self.known_tokens(unit, stage))

    @cached_property
    def oldest_tokens(self) -> int:
        """Tokens of the oldest frame, by which what units remember grows; 0 where it does not so.

        Then the transformer has no graphs that remember.
        """
        last, oldest = self.geometry.units - 1, math.prod(self.geometry.stage_size(0))
        oldest //= self.transformer_config.patch_size**2
        for stage in range(self.geometry.stages):
            start = self.forgetful(stage)
            known = [self.known_tokens(unit, stage) for unit in range(start, last + 1)]
            if start == last or known != [oldest * number for number in range(len(known))]:
                return 0
        return oldest


def _json(path: Path) -> dict[str, Any]:
    """A table in a file; raises BuildError where it is missing or damaged."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError, TypeError) as error:
        raise BuildError(
            "{path} is missing or is not valid JSON; copy the weights again.", path=path
        ) from error
