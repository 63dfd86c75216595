"""Measure a mini pack on held-out prompts: `python -m training.evaluate --clips 64`.

Every prompt pairs a colour with a subject never seen together in training. Each clip is rendered by
the engine and read back by `training.evaluation.detect`. Prints one JSON document; `--save` keeps
a strip of frames per clip, `--sheet` one picture of the first eight. With `--prompts FILE
--videos FOLDER` it writes clips of any prompt suite instead, five seeds each, under the names
VBench expects (`{prompt}-{i}.mp4`).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from moviepy import ImageSequenceClip
from PIL import Image

from engine.config import Request
from engine.pack import Pack, open_pack
from engine.pipeline import UnitFrames, generate
from training.data.world import caption, sample_scene
from training.evaluation.detect import ATTRIBUTES, read
from training.evaluation.measures import temporal_flickering

# Besides what the whole clip shows.
EXTRA = ("backdrop", "keeps_shape", "first_frame_colour", "first_frame_subject")


VBENCH_SEEDS = 5
SHEET = 8  # clips


def vbench_videos(pack: Pack, prompts: list[str], folder: Path, mode: str, backend: str) -> None:
    """Write `{prompt}-{i}.mp4` for i = 0..4; clips that are there already are left as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for prompt in prompts:
        for seed in range(VBENCH_SEEDS):
            path = folder / f"{prompt.replace('/', ' ')}-{seed}.mp4"
            if path.exists():
                continue
            request = Request(prompt=prompt, look_seed=seed, motion_seed=seed, mode=mode)
            events = generate(pack, request, backend)
            frames = [frame for e in events if isinstance(e, UnitFrames) for frame in e.frames]
            part = path.with_suffix(".part.mp4")
            video = ImageSequenceClip(frames, fps=pack.geometry.fps)
            video.write_videofile(str(part), codec="libx264", audio=False, logger=None)
            part.replace(path)


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
    parser.add_argument("--sheet", type=Path, help="PNG of the first eight clips' strips")
    parser.add_argument("--prompts", type=Path, help="text file of one prompt a line")
    parser.add_argument("--videos", type=Path, help="folder for the clips of --prompts")
    options = parser.parse_args()
    if options.prompts:
        if not options.videos:
            parser.error("--prompts needs --videos, the folder to write to.")
        lines = options.prompts.read_text(encoding="utf-8").splitlines()
        prompts = [line.strip() for line in lines if line.strip()]
        pack = open_pack(options.pack)
        return vbench_videos(pack, prompts, options.videos, options.mode, options.backend)
    rng = np.random.default_rng(options.seed)
    pack = open_pack(options.pack)
    right = {name: 0 for name in (*ATTRIBUTES, *EXTRA)}
    means = {"flicker": 0.0, "consistency": 0.0, "travel": 0.0}
    wrong: list[dict[str, str]] = []
    strips = []
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
        means["flicker"] += temporal_flickering(frames)
        means["consistency"] += reading.consistency
        means["travel"] += reading.travel
        misses = {
            name: f"{getattr(scene, name)} -> {getattr(reading, name)}"
            for name in ATTRIBUTES
            if not marks[name]
        }
        if misses:
            wrong.append({"clip": str(clip), "prompt": prompt} | misses)
        strips.append(np.concatenate(list(frames[::8]), 1))
        if options.save:
            options.save.mkdir(parents=True, exist_ok=True)
            Image.fromarray(strips[-1]).save(options.save / f"{clip:03d}.png")
    seconds = time.monotonic() - start
    if options.sheet:
        Image.fromarray(np.concatenate(strips[:SHEET])).save(options.sheet)
    report = {
        "pack": pack.name,
        "pack_hash": pack.pack_hash[:12],
        "mode": options.mode,
        "backend": options.backend,
        "clips": options.clips,
        "seconds_per_clip": round(seconds / options.clips, 2),
        "percent": {name: round(100 * count / options.clips, 1) for name, count in right.items()},
        "means": {name: round(total / options.clips, 4) for name, total in means.items()},
        "wrong": wrong,
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
