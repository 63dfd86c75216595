"""A whole clip from a compiled pack in the NPU's emulation, beside the portable pack on the CPU.

`python -m benchmarks.compiled_clip COMPILED PORTABLE` prints JSON: peak signal-to-noise ratio of
every frame at its least and of all, seconds of each, and the fidelity of every compiled graph. The
compiled pack needs `--unshared`. No graph has a node on the CPU, or it would not load.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.config import Request
from engine.events import Finished, UnitFrames
from engine.measures import psnr
from engine.pack import open_pack
from engine.pipeline import generate
from engine.session import Backend, qnn_sdk

REQUEST = Request("a green fish swims right under water at noon", 1, 2)


def clip(path: Path, backend: Backend) -> tuple[NDArray[np.uint8], Finished]:
    """The frames and what it took."""
    with open_pack(path) as pack:
        events = list(generate(pack, REQUEST, backend))
    frames = [event.frames for event in events if isinstance(event, UnitFrames)]
    (finished,) = [event for event in events if isinstance(event, Finished)]
    return np.concatenate(frames), finished


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("compiled", type=Path)
    parser.add_argument("portable", type=Path)
    parser.add_argument("-o", "--output", type=Path, help="also to this file")
    options = parser.parse_args()
    expected, on_cpu = clip(options.portable, "cpu")
    got, emulated = clip(options.compiled, "npu-emulated")
    graphs: dict[str, Any] = {}
    with open_pack(options.compiled) as pack:
        for component in pack.components.values():
            for graph in component.variants.get("context", {}).values():
                graphs[f"{component.name}/{graph.name}"] = graph.fidelity_db
    told = {
        "qnn": qnn_sdk(),
        "prompt": REQUEST.prompt,
        "frames": len(got),
        "psnr_db": round(psnr(expected, got), 2),
        "worst_frame_db": round(min(map(psnr, expected, got)), 2),
        "emulated": {"seconds": round(emulated.seconds, 1)},
        "cpu": {"seconds": round(on_cpu.seconds, 1)},
        "graphs_db": graphs,
    }
    text = json.dumps(told, indent=1)
    if options.output:  # the emulator writes a line of its own to the standard output
        options.output.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
