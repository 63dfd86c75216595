"""The streaming decoder beside the native one: `python -m benchmarks.decoders CHECKPOINT`.

Parameters, MACs and the median seconds of one clip's latents, in turns, plain PyTorch in float32,
as JSON. The native decoder's weights are random where the checkpoint has none: they do not change
what it costs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from training.models.native_decoder import NativeDecoder
from training.models.video_vae import CausalVideoVAE
from training.recipes.settings import MINI


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    vae = CausalVideoVAE.from_pretrained(options.checkpoint / "causal_video_vae").float()
    native = NativeDecoder(**MINI["native_decoder"]).float()
    settings = json.loads((options.checkpoint / "neodragon.json").read_text("utf-8"))["geometry"]
    size = (settings["height"] // 8, settings["width"] // 8)
    latents = torch.randn(1, 12, 7, *size, generator=torch.Generator().manual_seed(0))
    forms: dict[str, tuple[Any, Any]] = {
        "native": (native, native),
        "streaming": (vae.decoder, vae.decode),
    }
    report: dict[str, dict[str, Any]] = {}
    with torch.inference_mode():
        for name, (module, run) in forms.items():
            with FlopCounterMode(display=False) as counter:
                run(latents)
            parameters = sum(p.numel() for p in module.parameters())
            report[name] = {
                "parameters": parameters,
                "gmacs": round(counter.get_total_flops() / 2e9, 1),
            }
        seconds: dict[str, list[float]] = {name: [] for name in forms}
        for _ in range(options.runs):
            for name, (_, run) in forms.items():
                started = time.monotonic()
                run(latents)
                seconds[name].append(time.monotonic() - started)
    for name, times in seconds.items():
        report[name]["seconds"] = round(statistics.median(times), 3)
    one, other = report["native"], report["streaming"]
    ratios = {key: round(one[key] / other[key], 1) for key in ("parameters", "gmacs", "seconds")}
    print(json.dumps(report | {"native_over_streaming": ratios}, indent=1))


if __name__ == "__main__":
    main()
