"""What each distillation cost and kept: `python -m benchmarks.distillation ROWS.json`.

ROWS.json is a list of objects: `name`, `checkpoint` (published layout), `transformer` (another
checkpoint to take that from, if any), `decoder` (`native` or `streaming`), and, where they are not
the checkpoint's own, `mode` with `steps`, `guidance`, `first_steps`, `first_guidance`. Each row's
clips of the same held-out prompts and seeds are made by plain PyTorch in float32, in one process,
in turns, so that the times can be compared; times are medians, as ratios to the first row's. Prints
JSON; parameters and MACs are those of what a clip runs, measured on its first one. `truth` is the
PSNR in dB of the last eight frames to those of the world's own clip, where its first frame is
given: what a unit loses adds up there.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.torch_clip import TorchClip
from engine.config import Mode, ModeConfig, Request
from engine.measures import psnr
from engine.pack import Pack, open_pack
from engine.sampler import evaluations
from training.data.world import FRAMES, Scene, caption, render, sample_scene
from training.evaluation.detect import read
from training.evaluation.measures import temporal_flickering
from training.export.source import Source
from training.models.mmdit import PyramidMMDiT

MODE: Mode = "hybrid"  # the name a row's mode goes by, whatever it does
# Parts of a clip beside those that depend on the mode or the decoder.
ALWAYS = ("clip_l", "clip_g", "t5", "adapter", "mmdit")


class Row:
    """One line of the table: the clips it made so far, and what they show."""

    def __init__(self, given: dict[str, Any], pack: Pack) -> None:
        self.name, checkpoint = given["name"], Path(given["checkpoint"])
        settings = json.loads((checkpoint / "neodragon.json").read_text(encoding="utf-8"))
        mode = settings["schedule"]["modes"]["hybrid"] | given.get("mode", {})
        self.mode = ModeConfig(
            **{k: tuple(v) if isinstance(v, list) else v for k, v in mode.items()}
        )
        first = settings["first_frame"]
        assert pack.first_frame is not None
        first_frame = replace(
            pack.first_frame,
            **{k: tuple(v) if isinstance(v, list) else v for k, v in first.items()},
        )
        schedule = replace(pack.schedule, modes={MODE: self.mode})
        own = replace(pack, schedule=schedule, first_frame=first_frame)
        self.native = given.get("decoder", "streaming") == "native"
        self.clip = TorchClip(checkpoint, own, self.native)
        if "transformer" in given:
            other = Source(Path(given["transformer"]))
            self.clip.mmdit = other.load(PyramidMMDiT, "diffusion_transformer_320p")
        self.seconds: list[float] = []
        self.right: dict[str, int] = {}
        self.means: dict[str, float] = {}
        self.macs = 0

    @property
    def monolithic(self) -> bool:
        """Whether the transformer draws the first frame too."""
        return self.mode.first_steps is not None

    def parameters(self) -> dict[str, int]:
        """Of each part that a clip runs, and of them all."""
        clip = self.clip
        decoder: list[nn.Module] = [clip.vae.decoder, clip.vae.post_quant_conv]
        parts = {name: [getattr(clip, name)] for name in ALWAYS} | {
            "video_decoder": [clip.decoder] if clip.decoder is not None else decoder
        }
        if not self.monolithic:
            parts["unet"] = [clip.unet]
            parts["image_decoder"] = [clip.image_vae.decoder, clip.image_vae.post_quant_conv]
            parts["video_encoder"] = [clip.vae.encoder, clip.vae.quant_conv]
        sizes = {
            name: sum(weight.numel() for module in modules for weight in module.parameters())
            for name, modules in parts.items()
        }
        return sizes | {"all": sum(sizes.values())}

    def make(self, scene: Scene, prompt: str, seed: int) -> None:
        """One clip, timed (the first is only counted and not timed), read and added up."""
        request = Request(prompt=prompt, look_seed=seed, motion_seed=seed, mode=MODE, upscale=False)
        if not self.macs:
            with FlopCounterMode(display=False) as counter:
                self.clip(request)
            self.macs = counter.get_total_flops() // 2
        started = time.perf_counter()
        frames = self.clip(request)
        self.seconds.append(time.perf_counter() - started)
        for name, mark in marks(scene, frames).items():
            self.right[name] = self.right.get(name, 0) + mark
        reading = read(frames)
        geometry = self.clip.pack.geometry
        truth = render(scene, geometry.height, geometry.width, (0, *range(FRAMES - 8, FRAMES)))
        drawn = self.clip(replace(request, image=truth[0]))[-8:]
        measured = {
            "truth": psnr(drawn, truth[1:]),
            "flicker": temporal_flickering(frames),
            "consistency": reading.consistency,
            "travel": reading.travel,
        }
        for name, value in measured.items():
            self.means[name] = self.means.get(name, 0.0) + value

    def report(self, first: Row) -> dict[str, Any]:
        """The row's figures; time as a ratio to that of `first`."""
        clips, units = len(self.seconds), self.clip.pack.geometry.units
        return {
            "name": self.name,
            "parameters": self.parameters(),
            "evaluations": evaluations(self.mode, units, not self.monolithic),
            "macs": self.macs,
            "seconds": round(statistics.median(self.seconds), 3),
            "time_ratio": round(
                statistics.median(self.seconds) / statistics.median(first.seconds), 4
            ),
            "percent": {name: round(100 * n / clips, 1) for name, n in self.right.items()},
            "means": {name: round(total / clips, 4) for name, total in self.means.items()},
        }


def marks(scene: Scene, frames: NDArray[np.uint8]) -> dict[str, bool]:
    """Which attributes of the scene the clip shows."""
    reading = read(frames)
    right = {
        name: getattr(scene, name) == getattr(reading, name)
        for name in ("colour", "subject", "motion")
    }
    right["backdrop"] = scene.sky == reading.sky and scene.ground == reading.ground
    moments = (reading.shapes[0], reading.shapes[4], reading.shapes[-1])
    right["keeps_shape"] = all(shape == scene.subject for shape in moments)
    return right


def table(report: dict[str, Any]) -> str:
    """Markdown of a report."""
    head = (
        "row | parameters, M | evaluations | GMACs | time | colour | subject | backdrop | motion"
        " | shape kept | flicker | consistency | last frames, dB"
    )
    lines = [f"| {head} |", "|---" * (head.count("|") + 1) + "|"]
    for row in report["rows"]:
        cells = [
            row["name"],
            f"{row['parameters']['all'] / 1e6:.2f}",
            str(row["evaluations"]),
            f"{row['macs'] / 1e9:.0f}",
            f"{row['time_ratio']:.3f}",
            *(
                f"{row['percent'][name]:.1f}"
                for name in ("colour", "subject", "backdrop", "motion", "keeps_shape")
            ),
            *(f"{row['means'][name]:.3f}" for name in ("flicker", "consistency")),
            f"{row['means'].get('truth', math.nan):.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path)
    parser.add_argument("--pack", type=Path, default=Path("assets/mini"), help="for tokenizers")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--seed", type=int, default=2026, help="as of training.evaluate")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--table", action="store_true", help="print a saved report, given as ROWS.json, as Markdown"
    )
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.rows.read_text(encoding="utf-8"))))
        return
    torch.set_num_threads(options.threads)
    with open_pack(options.pack) as pack:
        rows = [Row(given, pack) for given in json.loads(options.rows.read_text(encoding="utf-8"))]
        rng = np.random.default_rng(options.seed)
        for seed in range(options.clips):
            scene = sample_scene(rng, held_out_pairs=True)
            prompt = caption(scene, rng)
            for row in rows:
                row.make(scene, prompt, seed)
        reports = [row.report(rows[0]) for row in rows]
    print(
        json.dumps({"clips": options.clips, "threads": options.threads, "rows": reports}, indent=1)
    )


if __name__ == "__main__":
    main()
