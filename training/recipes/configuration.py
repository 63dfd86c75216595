"""A training's configuration: one JSON file names the world, all sizes and the pack's settings.

`training/configs/mini.json` is the shipped mini, `emoji.json` the emoji theatre. Every recipe takes
`--config FILE`; nothing else says how large anything is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from engine.config import ModeConfig, ScheduleConfig
from training.data.worlds import World, open_world

FOLDER = Path(__file__).parents[1] / "configs"
DEFAULT = FOLDER / "mini.json"
CONSTANTS = "latent_constants.json"  # in a checkpoint: scale and shift of the video latents
STRIDE = 8  # of both autoencoders, pixels and frames to one latent position


@dataclass(frozen=True)
class Configuration:
    """What is in the file, and what follows from it."""

    values: dict[str, Any]

    @classmethod
    def read(cls, file: Path = DEFAULT) -> Configuration:
        """Raises OSError or ValueError for a file that is missing or no JSON."""
        return cls(json.loads(file.read_text(encoding="utf-8")))

    def __getitem__(self, part: str) -> Any:
        """The settings of one part, such as `unet`. Raises KeyError with the file's parts."""
        if part not in self.values:
            raise KeyError(
                f"the configuration lacks {part!r}, and has {sorted(self.values)}; add it"
            )
        return self.values[part]

    @cached_property
    def world(self) -> World:
        """The world to draw from."""
        return open_world(**self["world"])

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self["data"]["height"])

    @property
    def width(self) -> int:
        """Pixels."""
        return int(self["data"]["width"])

    @property
    def frames(self) -> int:
        """Frames of a clip, 8 n + 1."""
        return int(self["data"].get("frames", 49))

    @property
    def units(self) -> int:
        """Latent frames of a clip."""
        return (self.frames - 1) // STRIDE + 1

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a latent frame."""
        return self.height // STRIDE, self.width // STRIDE

    @property
    def schedule(self) -> ScheduleConfig:
        """Stages and modes of the sampler."""
        settings = self["pack"]["schedule"]
        modes = {name: ModeConfig(**mode) for name, mode in settings["modes"].items()}
        ranges = tuple(settings.get("stage_range", (0.0, 1 / 3, 2 / 3, 1.0)))
        return ScheduleConfig(1000, 1 / 3, ranges, modes)

    @property
    def stages(self) -> int:
        """Sizes of the pyramid."""
        return len(self.schedule.stage_range) - 1
