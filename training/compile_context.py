"""The compiler's own process: `python -m training.compile_context JSON`, see `contexts.py`.

JSON: [[[graph, sizes, the .onnx to write], ..], whether their weights are kept once]. Prints the
seconds of each and the most memory this process had, in bytes.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from engine.session import add_qnn, session_options


def compile_(graphs: Sequence[tuple[str, Mapping[str, int], str]], shared: bool) -> dict[str, Any]:
    """Every session lives until the last has written the weights."""
    seconds, alive = [], []
    for number, (path, sizes, target) in enumerate(graphs):
        options = session_options(None)
        for name, size in sizes.items():
            options.add_free_dimension_override_by_name(name, size)
        add_qnn(options, "npu-emulated")
        entries = {"enable": "1", "embed_mode": "0", "file_path": target}
        for name, value in entries.items():
            options.add_session_config_entry(f"ep.context_{name}", value)
        if shared:
            options.add_session_config_entry("ep.share_ep_contexts", "1")
            if number == len(graphs) - 1:
                options.add_session_config_entry("ep.stop_share_ep_contexts", "1")
        started = time.perf_counter()
        alive.append(ort.InferenceSession(path, options))
        seconds.append(round(time.perf_counter() - started, 2))
    status = Path("/proc/self/status").read_text()  # getrusage counts the parent's memory, too
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return {"seconds": seconds, "peak": int(peak) * 1024}


if __name__ == "__main__":
    print(json.dumps(compile_(*json.loads(sys.argv[1]))))
