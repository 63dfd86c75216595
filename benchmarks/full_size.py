"""The export of a full-size checkpoint for Snapdragon X Elite, and what it left of every graph.

`python -m benchmarks.full_size CHECKPOINT WORK -o docs/full_size.json`, with the checkpoint by
`python -m training.random_checkpoint CHECKPOINT --full`, runs `python -m training.export CHECKPOINT
-o WORK/pack --target snapdragon-x-elite` to its end and reads what that noted: each graph beside
its torch module, compiled, and in emulation beside itself on the CPU. A run that was cut off goes
on; `--read` only reads what there is; `--table FILE` prints a file as Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.cost import disk, memory, rows, stored
from engine.session import qnn_sdk
from training import export

Found = dict[str, Any]


def run(checkpoint: Path, pack: Path) -> Found:
    """The whole command; its seconds and the most memory that one of its processes had."""
    command = ["training.export", str(checkpoint), "-o", str(pack)]
    started = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", *command, "--target", "snapdragon-x-elite"], stdout=sys.stderr
    )
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"the export ended with {os.waitstatus_to_exitcode(status)}")
    seconds = round(time.perf_counter() - started)
    return {"seconds": seconds, "peak_gb": round(used.ru_maxrss * 1024 / 1e9, 2)}


def noted(file: Path) -> dict[str, Found]:
    """What the export wrote down of each graph, by component and graph."""
    return {key: next(iter(marks.values())) for key, marks in json.loads(file.read_text()).items()}


def size(entry: Found) -> int:
    return int(entry["size"]) + sum(int(file["size"]) for file in entry.get("data", []))


def graphs(checkpoint: Path, pack: Path) -> dict[str, Found]:
    """Every graph's figures, the portable ones and those of its context."""
    found: dict[str, Found] = {}
    for key, entry in noted(checkpoint / export.RECORD).items():
        if isinstance(entry, dict):
            found[key] = {
                "portable_db": entry["fidelity_db"],
                "portable_mb": round(size(entry) / 1e6, 1),
            }
    for key, entry in noted(pack.with_name(f"{pack.name}.portable") / "compiled.json").items():
        shared = key.endswith(" shared")
        every = list(entry.values()) if shared else [entry]
        one, files = every[0], {file["file"]: size(e) for e in every for file in e["data"]}
        told = {
            "precision": one["precision"],
            "nodes": sum(e["nodes"] for e in every),
            "compile_s": one["seconds"],
            "compile_peak_gb": round(one["peak"] / 1e9, 2),
            "context_mb": round(sum(files.values()) / 1e6, 1),
        }
        if not shared:
            told |= {"emulated_db": one["tried"], "spent_s": round(one["spent"])}
            told["eight_bit"] = round(one["eight_bit"], 3)
        found[key] = found.get(key, {}) | told
    return found


def table(told: Found) -> str:
    """Markdown of the file."""
    columns = {
        "portable_db": "portable, dB",
        "portable_mb": "MB",
        "precision": "compiled as",
        "nodes": "nodes, all on the NPU",
        "context_mb": "context, MB",
        "compile_s": "compiled in, s",
        "compile_peak_gb": "GB of it",
        "emulated_db": "emulated, dB",
    }
    lines = [f"| graph | {' | '.join(columns.values())} |", "|---" * (len(columns) + 1) + "|"]
    for name, one in told["graphs"].items():
        one = one | {"emulated_db": ", ".join(map(_tried, one.get("emulated_db", {}).items()))}
        cells = [str(one.get(key, "")) for key in columns]
        lines.append(f"| {name.removeprefix('transformer/')} | {' | '.join(cells)} |")
    found = rows(stored(told))
    held, most = disk(found)["stored_bytes"] / 1e9, memory(found)["peak_bytes"] / 1e9
    hours, peak = told["seconds"] / 3600, told["peak_gb"]
    lines += ["", f"A pack's graphs: {held:.2f} GB. Held at most, activations too: {most:.2f} GB."]
    lines += [f"The whole export took {hours:.1f} hours, with {peak:.1f} GB at most."]
    return "\n".join(lines)


def _tried(scheme: tuple[str, float]) -> str:
    return f"{scheme[1]} ({scheme[0]})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, help="print this file as Markdown, nothing else")
    parser.add_argument("checkpoint", type=Path, nargs="?", default=Path())
    parser.add_argument("work", type=Path, nargs="?", default=Path())
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--read", action="store_true", help="do not run the export")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.table.read_text())))
        return
    pack = options.work / "pack"
    told: Found = {"seconds": 0, "peak_gb": 0.0}
    if options.output.exists():
        told |= json.loads(options.output.read_text())
    if not options.read:
        options.work.mkdir(parents=True, exist_ok=True)
        spent = run(options.checkpoint, pack)
        told["seconds"] += spent["seconds"]
        told["peak_gb"] = max(told["peak_gb"], spent["peak_gb"])
    told |= {"qnn": qnn_sdk(), "graphs": graphs(options.checkpoint, pack)}
    options.output.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
