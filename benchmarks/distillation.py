"""What each distillation cost and kept: `python -m benchmarks.distillation ROWS.json --out FOLDER`.

ROWS.json is a list of objects: `name`, `checkpoint` (published layout, below `--rows`), `decoder`
(`native` or `streaming`), and, where they are not the checkpoint's own, `mode` with `steps`,
`guidance`, `first_steps`, `first_guidance`. All rows make clips of the same held-out prompts and
seeds: the engine on a pack exported from the row, or plain PyTorch where the decoder is the native
one, which no pack has. Every clip's verdict is kept in FOLDER at once, so a run that was stopped
goes on. Prints JSON: shares with Wilson's 95 % intervals; `truth` is the PSNR in dB of the last
eight frames to those of the world's own clip, where its first frame is given (what a unit loses
adds up there), over the first fifty clips. Times are those of plain PyTorch in float32, in turns in
one process, medians as ratios to the first row's; parameters and MACs are those of what its clip
runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.torch_clip import TorchClip
from engine.config import Mode, ModeConfig, Request
from engine.events import UnitFrames
from engine.graph_cache import GraphCache
from engine.measures import psnr
from engine.pack import open_pack
from engine.pipeline import generate
from engine.sampler import evaluations
from training.evaluation.judges import Judge, Verdict, judge_of, summary
from training.export.pack import export_pack
from training.recipes.configuration import DEFAULT, Configuration

MODE: Mode = "hybrid"  # the name a row's mode goes by, whatever it does
LAST = 8  # frames that are compared with the true clip's
TRUE = 50  # clips of which they are
# Parts of a clip beside those that depend on the mode or the decoder.
ALWAYS = ("clip_l", "clip_g", "t5", "adapter", "mmdit")
SHOWN = ("strict_shape", "keeps_shape", "subject", "colour", "backdrop", "motion", "binding")
MEANS = ("sky_detail", "weather_contrast", "flicker", "consistency", "truth")


def tuples(settings: dict[str, Any]) -> dict[str, Any]:
    """JSON's lists as the engine's settings have them."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()}


def weights(checkpoint: Path) -> str:
    """SHA-256 of all weights of a checkpoint, by name."""
    digest = hashlib.sha256()
    for file in sorted(checkpoint.rglob("*.safetensors")):
        digest.update(file.relative_to(checkpoint).as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


class Row:
    """One line of the table: the clips it made so far, and what they show."""

    def __init__(self, given: dict[str, Any], rows: Path, kept: Path, threads: int) -> None:
        """kept: file of its verdicts, one a line after a first line that says of what; its pack
        lies beside it.

        Raises ValueError where they are of other weights or another mode.
        """
        self.name, self.checkpoint, self.threads = (
            given["name"],
            rows / given["checkpoint"],
            threads,
        )
        self.native = given.get("decoder", "streaming") == "native"
        about = json.dumps(given | {"weights": weights(self.checkpoint)}, sort_keys=True)
        self.kept, self.clips = kept, list[dict[str, Any]]()
        if kept.exists():
            before, *lines = kept.read_text(encoding="utf-8").splitlines()
            if before != about:
                raise ValueError(
                    f"{kept} is of other weights or settings than {self.name} has now; move it away"
                )
            self.clips = [json.loads(line) for line in lines]
        folder = kept.with_suffix("")
        if not kept.exists() or not (folder / "pack.json").exists():
            export_pack(self.checkpoint, folder, emulate=False, report=lambda line: None)
            kept.write_text(about + "\n", encoding="utf-8")
        pack = open_pack(folder)
        mode = asdict(pack.schedule.modes[MODE]) | given.get("mode", {})
        self.mode = ModeConfig(**tuples(mode))
        self.pack = replace(pack, schedule=replace(pack.schedule, modes={MODE: self.mode}))
        self.torch: TorchClip | None = None
        self.cache = GraphCache(2**28)

    @property
    def monolithic(self) -> bool:
        """Whether the transformer draws the first frame too."""
        return self.mode.first_steps is not None

    def parameters(self) -> dict[str, int]:
        """Of each part that a clip runs, and of them all."""
        clip = self.plain()
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

    def plain(self) -> TorchClip:
        """The row in PyTorch."""
        if self.torch is None:
            self.torch = TorchClip(self.checkpoint, self.pack, self.native)
        return self.torch

    def frames(self, request: Request) -> NDArray[np.uint8]:
        """A clip, uint8 [T, H, W, 3]."""
        if self.native:
            return self.plain()(request)
        events = generate(self.pack, request, threads=self.threads, cache=self.cache)
        return np.concatenate([event.frames for event in events if isinstance(event, UnitFrames)])

    def make(self, judge: Judge, scene: Any, prompt: str, number: int, truth: np.ndarray) -> None:
        """Clip `number`, judged and kept; truth: the world's own first and last frames of it."""
        verdict = judge.verdict(scene, self.frames(request(prompt, number)), number)
        if number < TRUE:
            drawn = self.frames(request(prompt, number, truth[0]))[-LAST:]
            verdict.numbers["truth"] = psnr(drawn, truth[1:])
        self.clips.append(asdict(verdict))
        with self.kept.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.clips[-1]) + "\n")

    def seconds(self, prompt: str, number: int) -> float:
        """What a clip takes in PyTorch."""
        started = time.perf_counter()
        self.plain()(request(prompt, number))
        return time.perf_counter() - started

    def macs(self, prompt: str) -> int:
        """Of a clip in PyTorch."""
        with FlopCounterMode(display=False) as counter:
            self.plain()(request(prompt, 0))
        return counter.get_total_flops() // 2

    def report(self, prompt: str, seconds: float, reference: float) -> dict[str, Any]:
        """The row's figures; time as a ratio to `reference`."""
        return {
            "name": self.name,
            "pack_hash": self.pack.pack_hash[:12],
            "parameters": self.parameters(),
            "evaluations": evaluations(self.mode, self.pack.geometry.units, not self.monolithic),
            "macs": self.macs(prompt),
            "seconds": round(seconds, 3),
            "time_ratio": round(seconds / reference, 4),
            **summary([Verdict(line["right"], line["numbers"]) for line in self.clips]),
        }


def request(prompt: str, number: int, image: NDArray[np.uint8] | None = None) -> Request:
    """What is asked for clip `number`."""
    return Request(
        prompt=prompt, look_seed=number, motion_seed=number, mode=MODE, image=image, upscale=False
    )


def share(row: dict[str, Any], name: str) -> str:
    """A percentage with its interval, where there is one."""
    if name not in row["percent"]:
        return "–"
    low, high = row.get("intervals", {}).get(name, (None, None))
    between = "" if low is None else f" ({low:.0f}–{high:.0f})"
    return f"{row['percent'][name]:.1f}{between}"


def table(report: dict[str, Any]) -> str:
    """Markdown of a report, with the columns it has something for."""
    rows = report["rows"]
    shown = [name for name in SHOWN if any(name in row["percent"] for row in rows)]
    means = [name for name in MEANS if any(name in row["means"] for row in rows)]
    head = ["row", "parameters, M", "evaluations", "GMACs", "time", *shown, *means]
    lines = [f"| {' | '.join(head).replace('_', ' ')} |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [
            row["name"],
            f"{row['parameters']['all'] / 1e6:.2f}",
            str(row["evaluations"]),
            f"{row['macs'] / 1e9:.0f}",
            f"{row['time_ratio']:.3f}",
            *(share(row, name) for name in shown),
            *(f"{row['means'][name]:.2f}" if name in row["means"] else "–" for name in means),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("given", metavar="ROWS.json", type=Path)
    parser.add_argument("--rows", type=Path, default=Path(), help="folder of the checkpoints")
    parser.add_argument("--config", type=Path, default=DEFAULT, help="the pack's world, JSON")
    parser.add_argument("--out", type=Path, help="folder to keep the verdicts in")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=2026, help="as of training.evaluate")
    parser.add_argument("--timed", type=int, default=3, help="clips that are timed in PyTorch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--table", action="store_true", help="print a saved report, given as ROWS.json, as Markdown"
    )
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.given.read_text(encoding="utf-8"))))
        return
    if not options.out:
        parser.error("--out is missing; name the folder to keep the verdicts in.")
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    config = Configuration.read(options.config)
    judge, times = judge_of(config), (0, *range(config.frames - LAST, config.frames))
    given = json.loads(options.given.read_text(encoding="utf-8"))
    rows = [
        Row(one, options.rows, options.out / f"{options.seed}-{number}.jsonl", options.threads)
        for number, one in enumerate(given)
    ]
    rng, prompts = np.random.default_rng(options.seed), []
    for clip in range(options.clips):
        scene, prompt = judge.scene(rng, clip)
        prompts.append(prompt)
        behind = [row for row in rows if len(row.clips) == clip]
        if behind:
            truth = config.world.render(scene, config.height, config.width, np.array(times))
        for row in behind:
            row.make(judge, scene, prompt, clip, truth)
    timed = [[row.seconds(prompts[n], n) for row in rows] for n in range(options.timed + 1)]
    seconds = [statistics.median(row) for row in zip(*timed[1:], strict=True)]
    reports = [
        row.report(prompts[0], own, seconds[0]) for row, own in zip(rows, seconds, strict=True)
    ]
    about = {"clips": options.clips, "seed": options.seed, "threads": options.threads}
    print(json.dumps(about | {"rows": reports}, indent=1))


if __name__ == "__main__":
    main()
