"""The compiler's own process, see `compiler.py`: reads JSON, prints JSON.

In: [[[graph, sizes, the .onnx to write], ..], whether their weights are kept once, QNN's options of
the chip]. Out: the seconds of each and the most memory this process had, in bytes.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort
import psutil

from engine.session import add_qnn, available, session_options


def compile_(
    graphs: Sequence[tuple[str, Mapping[str, int], str]], shared: bool, chip: Mapping[str, str]
) -> dict[str, Any]:
    """Compile graphs; every session lives until the last has written the weights.

    On Windows the compiler opens its file by a name in the system's encoding, which may lack
    letters of the folder: so it works in that folder, whose files have plain names.
    """
    seconds, alive = [], []
    graphs = [(str(Path(path).absolute()), sizes, target) for path, sizes, target in graphs]
    os.chdir(Path(graphs[0][2]).parent)
    for number, (path, sizes, target) in enumerate(graphs):
        options = session_options(None)
        for name, size in sizes.items():
            options.add_free_dimension_override_by_name(name, size)
        add_qnn(options, "npu" if "npu" in available() else "npu-emulated", **chip)
        entries = {"enable": "1", "embed_mode": "0", "file_path": Path(target).name}
        for name, value in entries.items():
            options.add_session_config_entry(f"ep.context_{name}", value)
        if shared:
            options.add_session_config_entry("ep.share_ep_contexts", "1")
            if number == len(graphs) - 1:
                options.add_session_config_entry("ep.stop_share_ep_contexts", "1")
        started = time.perf_counter()
        alive.append(ort.InferenceSession(path, options))
        seconds.append(round(time.perf_counter() - started, 2))
    return {"seconds": seconds, "peak": peak_bytes()}


def peak_bytes() -> int:
    """The most memory this process has had so far, in bytes."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    # getrusage counts the parent's memory, too
    status = Path("/proc/self/status").read_text("utf-8")
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(peak) * 1024


def main() -> None:
    """One job from stdin to stdout."""
    print(json.dumps(compile_(*json.loads(sys.stdin.read()))))


if __name__ == "__main__":
    main()
