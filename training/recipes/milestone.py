"""Keep what is trained so far, small: `python -m training.recipes.milestone --run RUN --checkpoint
OUT --to KEPT`.

Writes the checkpoint's folders (half precision, averaged weights) and `progress.json`, each
stage's cost, to KEPT. `runs/mini.sh` on another machine goes on from there: stages that are done
stay done, one that was under way starts with its weights and a fresh optimiser.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

PROGRESS = "progress.json"


def keep(run: Path, checkpoint: Path, kept: Path) -> dict[str, dict[str, object]]:
    """Copy `checkpoint` over `kept`; returns each stage's cost (`training.recipes.loop`)."""
    costs = {
        p.parent.name: json.loads(p.read_text("utf-8")) for p in sorted(run.glob("*/cost.json"))
    }
    shutil.copytree(checkpoint, kept, dirs_exist_ok=True)
    file = kept / PROGRESS
    progress = (json.loads(file.read_text("utf-8")) if file.exists() else {}) | costs
    file.write_text(json.dumps(progress, indent=1) + "\n", encoding="utf-8")
    return progress


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of the stages")
    parser.add_argument("--checkpoint", type=Path, required=True, help="as the stages wrote it")
    parser.add_argument("--to", type=Path, required=True, help="folder to commit")
    options = parser.parse_args()
    for stage, cost in keep(options.run, options.checkpoint, options.to).items():
        print(f"{stage}: {cost['steps']} of {cost['of']} steps, loss {cost['loss']}")


if __name__ == "__main__":
    main()
