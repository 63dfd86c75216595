"""Keep what is trained so far, small: `python -m training.recipes.milestone --run RUN --checkpoint
OUT --to KEPT`.

Writes the checkpoint's folders (half precision, averaged weights) and `progress.json`, each
stage's cost, to KEPT. `runs/mini.sh` on another machine goes on from there: stages that are done
stay done, one that was under way starts with its weights and a fresh optimiser. With `--rows ROWS
NAME...` it keeps rows of `runs/chain.sh` that are done: what of each is not the teacher's.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

PROGRESS = "progress.json"
TEACHER = "teacher"  # the row that all others begin as


def keep(run: Path, checkpoint: Path, kept: Path) -> dict[str, dict[str, object]]:
    """Copy `checkpoint` over `kept`; returns each stage's cost (`training.recipes.loop`)."""
    costs = {
        p.parent.name: json.loads(p.read_text("utf-8")) for p in sorted(run.glob("*/cost.json"))
    }
    shutil.copytree(checkpoint, kept, dirs_exist_ok=True)
    forget_paths(kept)
    file = kept / PROGRESS
    progress = (json.loads(file.read_text("utf-8")) if file.exists() else {}) | costs
    file.write_text(json.dumps(progress, indent=1) + "\n", encoding="utf-8")
    return progress


def forget_paths(folder: Path) -> None:
    """Take out of every `config.json` where diffusers had read the weights from."""
    for file in folder.rglob("config.json"):
        config = json.loads(file.read_text("utf-8"))
        if config.pop("_name_or_path", None) is not None:
            file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def same(one: Path, other: Path) -> bool:
    """Whether a file or folder is byte for byte another."""
    if one.is_file():
        return other.is_file() and filecmp.cmp(one, other, shallow=False)
    files = [sorted(f.relative_to(root) for f in root.rglob("*")) for root in (one, other)]
    whole = (same(one / f, other / f) for f in files[0] if (one / f).is_file())
    return files[0] == files[1] and all(whole)


def keep_rows(rows: Path, names: Sequence[str], kept: Path) -> None:
    """Copy to `kept`/rows/NAME what of each row is not the teacher's."""
    for name in names:
        target = kept / "rows" / name
        shutil.rmtree(target, ignore_errors=True)
        for part in sorted((rows / name).iterdir()):
            if not same(part, rows / TEACHER / part.name):
                copy = shutil.copytree if part.is_dir() else shutil.copy2
                target.mkdir(parents=True, exist_ok=True)
                copy(part, target / part.name)
        forget_paths(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of the stages")
    parser.add_argument("--checkpoint", type=Path, required=True, help="as the stages wrote it")
    parser.add_argument("--to", type=Path, required=True, help="folder to commit")
    parser.add_argument("--rows", nargs="+", default=[], help="folder of the chain's, and which")
    options = parser.parse_args()
    if options.rows:
        keep_rows(Path(options.rows[0]), options.rows[1:], options.to)
    for stage, cost in keep(options.run, options.checkpoint, options.to).items():
        print(f"{stage}: {cost['steps']} of {cost['of']} steps, loss {cost['loss']}")


if __name__ == "__main__":
    main()
