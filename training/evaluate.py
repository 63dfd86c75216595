"""Measure a mini pack on held-out prompts: `python -m training.evaluate --clips 64`.

Every prompt pairs a colour with a subject never seen together in training. Each clip is rendered by
the engine and read back by `training.detect`. Prints one JSON document; `--save` also keeps a strip
of frames per clip.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from PIL import Image

from engine.config import Request
from engine.pack import open_pack
from engine.pipeline import UnitFrames, generate
from training.detect import ATTRIBUTES, read
from training.world import caption, sample_scene

# Besides what the whole clip shows.
EXTRA = ("backdrop", "keeps_shape", "first_frame_colour", "first_frame_subject")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pack", type=Path, default=Path("assets/mini"))
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument(
        "--seed", type=int, default=2026, help="draws the prompts and the seeds of each clip"
    )
    parser.add_argument("--mode", default="hybrid")
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--save", type=Path, help="folder for one PNG strip per clip")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    pack = open_pack(options.pack)
    right = {name: 0 for name in (*ATTRIBUTES, *EXTRA)}
    wrong: list[dict[str, str]] = []
    start = time.monotonic()
    for clip in range(options.clips):
        scene = sample_scene(rng, held_out_pairs=True)
        prompt = caption(scene, rng)
        request = Request(
            prompt=prompt, look_seed=clip, motion_seed=clip, mode=options.mode, upscale=False
        )
        events = generate(pack, request, options.backend)
        frames = np.concatenate([e.frames for e in events if isinstance(e, UnitFrames)])
        reading = read(frames)
        marks = {name: getattr(scene, name) == getattr(reading, name) for name in ATTRIBUTES}
        marks["backdrop"] = marks["sky"] and marks["ground"]
        still = read(np.repeat(frames[:1], len(frames), 0))
        for name in ("colour", "subject"):
            marks[f"first_frame_{name}"] = getattr(scene, name) == getattr(still, name)
        marks["keeps_shape"] = all(
            shape == scene.subject
            for shape in (reading.shapes[0], reading.shapes[4], reading.shapes[-1])
        )
        for name, mark in marks.items():
            right[name] += mark
        misses = {
            name: f"{getattr(scene, name)} -> {getattr(reading, name)}"
            for name in ATTRIBUTES
            if not marks[name]
        }
        if misses:
            wrong.append({"clip": str(clip), "prompt": prompt} | misses)
        if options.save:
            options.save.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.concatenate(list(frames[::8]), 1)).save(
                options.save / f"{clip:03d}.png"
            )
    seconds = time.monotonic() - start
    report = {
        "pack": pack.name,
        "pack_hash": pack.pack_hash[:12],
        "mode": options.mode,
        "backend": options.backend,
        "clips": options.clips,
        "seconds_per_clip": round(seconds / options.clips, 2),
        "percent": {name: round(100 * count / options.clips, 1) for name, count in right.items()},
        "wrong": wrong,
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
