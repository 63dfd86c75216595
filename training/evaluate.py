"""Measure a pack on held-out prompts: `python -m training.evaluate --clips 200 --seed S`.

Every scene has a combination that training never saw. Each clip is rendered by the engine and read
back (`training.evaluation`). Prints one JSON document with shares, Wilson's 95 % intervals and
means; `--save` keeps a strip of frames per clip, `--sheet` one picture of the first sixteen,
`--moving` the first four as one animated picture. `--style noto` gives each clip its first frame,
in a drawing style never seen. With `--prompts FILE --videos FOLDER` it writes clips of any prompt
suite instead, five seeds each, under the names VBench expects (`{prompt}-{i}.mp4`).
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
from engine.events import UnitFrames
from engine.graph_cache import GraphCache
from engine.pack import Pack, open_pack
from engine.pipeline import generate
from training.data.drawings import STYLES
from training.evaluation.judges import Judge, Verdict, judge_of, summary
from training.recipes.configuration import DEFAULT, Configuration

VBENCH_SEEDS = 5
SHEET = 16  # clips
MOVING = 4


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


def clips(
    pack: Pack, judge: Judge, config: Configuration, options: argparse.Namespace
) -> tuple[list[Verdict], list[dict[str, str]], list[np.ndarray], list[np.ndarray]]:
    """Verdicts on all clips, what was wrong with some, a strip of frames of each, and all frames of
    the first few.
    """
    rng = np.random.default_rng(options.seed)
    size = pack.geometry.height, pack.geometry.width
    verdicts, wrong, strips, moving = [], [], [], []
    cache = GraphCache(2**30)
    for clip in range(options.clips):
        scene, prompt = judge.scene(rng, clip)
        if options.truth:
            frames = config.world.render(scene, *size, range(config.frames))
        else:
            request = Request(
                prompt=prompt,
                look_seed=clip,
                motion_seed=clip,
                mode=options.mode,
                image=judge.picture(scene, *size),
                upscale=False,
            )
            events = generate(pack, request, options.backend, cache=cache)
            frames = np.concatenate([e.frames for e in events if isinstance(e, UnitFrames)])
        verdicts.append(judge.verdict(scene, frames, clip))
        if verdicts[-1].wrong:
            wrong.append({"clip": str(clip), "prompt": prompt} | verdicts[-1].wrong)
        strips.append(np.concatenate(list(frames[::8]), 1))
        if clip < MOVING:
            moving.append(frames)
        if options.save:
            options.save.mkdir(parents=True, exist_ok=True)
            Image.fromarray(strips[-1]).save(options.save / f"{clip:03d}.png")
    return verdicts, wrong, strips, moving


def save_moving(file: Path, clips: list[np.ndarray], fps: int) -> None:
    """An animated picture of clips, each uint8 [T, H, W, 3], two beside each other if even."""
    columns = 2 - len(clips) % 2
    rows = [np.concatenate(clips[i : i + columns], 2) for i in range(0, len(clips), columns)]
    first, *rest = (Image.fromarray(frame) for frame in np.concatenate(rows, 1))
    first.save(file, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pack", type=Path, default=Path("assets/mini"))
    parser.add_argument("--config", type=Path, default=DEFAULT, help="the pack's world, JSON")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument(
        "--seed", type=int, default=2026, help="draws the prompts and the seeds of each clip"
    )
    parser.add_argument("--mode", default="hybrid")
    parser.add_argument("--style", default=STYLES[0], choices=STYLES, help="of the drawings")
    parser.add_argument(
        "--truth", action="store_true", help="judge the world's own clips: the detectors' limit"
    )
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--save", type=Path, help="folder for one PNG strip per clip")
    parser.add_argument("--sheet", type=Path, help="PNG of the first sixteen clips' strips")
    parser.add_argument("--moving", type=Path, help="animated WebP of the first four clips")
    parser.add_argument("--prompts", type=Path, help="text file of one prompt a line")
    parser.add_argument("--videos", type=Path, help="folder for the clips of --prompts")
    options = parser.parse_args()
    pack = open_pack(options.pack)
    if options.prompts:
        if not options.videos:
            parser.error("--prompts needs --videos, the folder to write to.")
        lines = options.prompts.read_text(encoding="utf-8").splitlines()
        prompts = [line.strip() for line in lines if line.strip()]
        return vbench_videos(pack, prompts, options.videos, options.mode, options.backend)
    start = time.monotonic()
    config = Configuration.read(options.config)
    judge = judge_of(config, options.style)
    verdicts, wrong, strips, moving = clips(pack, judge, config, options)
    if options.sheet:
        Image.fromarray(np.concatenate(strips[:SHEET])).save(options.sheet)
    if options.moving:
        save_moving(options.moving, moving, pack.geometry.fps)
    report = {
        "pack": pack.name,
        "pack_hash": pack.pack_hash[:12],
        "mode": options.mode,
        "backend": options.backend,
        "style": options.style,
        "clips": options.clips,
        "seed": options.seed,
        "seconds_per_clip": round((time.monotonic() - start) / options.clips, 2),
        **summary(verdicts),
        "wrong": wrong,
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
