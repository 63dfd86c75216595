"""Every figure that the documents name, measured again: `python -m benchmarks`.

Writes `docs/benchmarks.json`: for each benchmark what it printed, and of what pack, with which
versions, on what machine and under what load. `--only NAME` measures some of them again and keeps
the others where the pack and the versions are the same.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engine.pack import open_pack

TARGET = Path("docs/benchmarks.json")
PACK = "assets/mini"
BENCHMARKS = {
    "clip_1": ["benchmarks.clip", "--pack", PACK, "--threads", "1"],
    "clip_2": ["benchmarks.clip", "--pack", PACK, "--threads", "2"],
    "many_clips": ["benchmarks.many_clips", "--pack", PACK],
    "evaluation": ["training.evaluate", "--pack", PACK],
}
PACKAGES = ("numpy", "onnxruntime", "torch")


def machine() -> str:
    """The processor, its cores, and how busy the machine is beside the benchmark."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        name = next(iter(names), name)
    load = f", load {os.getloadavg()[0]:.1f} before" if hasattr(os, "getloadavg") else ""
    return f"{name}, {os.cpu_count()} cores, {platform.system()}{load}"


def measured(name: str) -> dict[str, Any]:
    """What a benchmark prints, and the machine as it found it."""
    found = machine()
    done = subprocess.run(
        [sys.executable, "-m", *BENCHMARKS[name]],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        sys.exit(f"{name} ended with {done.returncode}")
    return dict(json.loads(done.stdout)) | {"machine": found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    given = parser.parse_args()
    with open_pack(PACK) as pack:
        of = {"pack_hash": pack.pack_hash[:12], "python": platform.python_version()}
    of |= {name: version(name) for name in PACKAGES}
    before = json.loads(TARGET.read_text(encoding="utf-8")) if TARGET.exists() else {}
    figures = before.get("figures", {}) if before.get("of") == of else {}
    for name in given.only:
        print(f"{name} ..", file=sys.stderr, flush=True)
        figures[name] = measured(name)
        result = {
            "of": of,
            "figures": {name: figures[name] for name in BENCHMARKS if name in figures},
        }
        TARGET.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
