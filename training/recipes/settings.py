"""Write a checkpoint's `neodragon.json`: `python -m training.recipes.settings`.

The file is a partial `pack.json` (docs/architecture.md): frame size, steps of each mode,
first-frame sampler, latent statistics, example prompts and the words of its world.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from training.recipes.configuration import CONSTANTS, DEFAULT, Configuration

MINI = Configuration.read()
SETTINGS = MINI["pack"]
SCHEDULE = MINI.schedule


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=DEFAULT, help="world and sizes, JSON")
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/mini"))
    options = parser.parse_args()
    constants = json.loads((options.checkpoint / CONSTANTS).read_text(encoding="utf-8"))
    configuration = Configuration.read(options.config)
    settings = configuration["pack"] | {"vae": constants, "knows": configuration.world.knows}
    target = options.checkpoint / "neodragon.json"
    target.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
