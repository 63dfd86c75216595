"""Write the mini checkpoint's `neodragon.json`: `python -m training.recipes.settings`.

The file is a partial `pack.json` (docs/architecture.md): frame size, steps of each mode,
first-frame sampler and latent statistics.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from engine.config import ModeConfig, ScheduleConfig

MODES = {
    "hybrid": {"first_steps": None, "steps": [4, 4, 4], "first_guidance": None, "guidance": 1.0},
    "monolithic": {
        "first_steps": [20, 20, 20],
        "steps": [10, 10, 10],
        "first_guidance": 7.0,
        "guidance": 5.0,
    },
}
SETTINGS: dict[str, Any] = {
    "name": "neodragon-mini",
    "version": "0.1.0",
    "licence": "BSD-3-Clause-Clear",
    "provenance": "trained from scratch on procedural clips by the recipes in training/",
    "geometry": {"height": 128, "width": 192, "first_frame_height": 128, "first_frame_width": 192},
    "schedule": {"modes": MODES},
    "first_frame": {
        "sampler": "ddim",
        "timesteps": [
            999,
            937,
            874,
            812,
            749,
            687,
            624,
            562,
            499,
            437,
            374,
            312,
            249,
            187,
            124,
            62,
        ],
        "guidance": 3.0,
        "prediction": "v_prediction",
    },
    "prompt": {"suffix": "", "negative": ""},
    "tokenizers": {"t5": {"length": 32}},
}
SCHEDULE = ScheduleConfig(
    1000, 1 / 3, (0.0, 1 / 3, 2 / 3, 1.0), {k: ModeConfig(**v) for k, v in MODES.items()}
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/mini"))
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/mini"))
    options = parser.parse_args()
    constants = json.loads((options.run / "video_vae" / "constants.json").read_text())
    (options.checkpoint / "neodragon.json").write_text(
        json.dumps(SETTINGS | {"vae": constants}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
