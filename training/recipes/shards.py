"""Real videos with captions as latent shards: `python -m training.recipes.shards LIST --out OUT`.

LIST is a text file of lines `VIDEO<tab>CAPTION`, paths relative to it. Each video is decoded
(PyAV), brought to the configuration's frame rate, cropped to its shape, cut into clips, and encoded
over time by a checkpoint's video autoencoder; what is kept are the normalised latents in half
precision and the caption, as samples `npy` and `txt` of WebDataset `.tar` shards. A shard covers a
part of the list and is written completely or not at all, so a restarted command continues where it
was. Several machines may each take their own (`--part 2/8`). A video that cannot
be read is named and left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
import webdataset
from PIL import Image
from torch import Tensor

from training.models.video_vae import CausalVideoVAE
from training.recipes.clips import normalised
from training.recipes.configuration import CONSTANTS, DEFAULT, Configuration

Encode = Callable[[Tensor], Tensor]  # video [1, 3, T, H, W] in [-1, 1] -> latents [1, C, T', h, w]


def frames(video: Path, fps: int, height: int, width: int) -> Iterator[np.ndarray]:
    """Frames uint8 [H, W, 3] of a video at `fps`, by time, scaled to cover the shape and cropped in
    the middle. Raises av.FFmpegError for a file that is no video.
    """
    with av.open(str(video)) as container:
        if not container.streams.video:
            raise av.InvalidDataError(0, "no video stream", str(video))
        stream, due = container.streams.video[0], Fraction(0)
        for frame in container.decode(stream):
            if frame.pts is None or frame.time_base is None:
                continue
            start = frame.pts * frame.time_base
            end = start + 1 / Fraction(stream.average_rate or fps)
            if end <= due:
                continue
            picture = None
            while due < end:  # once for each moment it is shown at
                if picture is None:
                    picture = _cover(frame.to_image(), height, width)
                yield picture
                due += Fraction(1, fps)


def _cover(image: Image.Image, height: int, width: int) -> np.ndarray:
    scale = max(height / image.height, width / image.width)
    size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    scaled = image.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(scaled.crop((left, top, left + width, top + height)).convert("RGB"))


def clips(video: Path, count: int, fps: int, height: int, width: int) -> Iterator[np.ndarray]:
    """Whole clips of `count` frames, one after the other, uint8 [count, H, W, 3]."""
    kept: list[np.ndarray] = []
    for frame in frames(video, fps, height, width):
        kept.append(frame)
        if len(kept) == count:
            yield np.stack(kept)
            kept = []


def listed(file: Path) -> list[tuple[Path, str]]:
    """Videos and captions of a list. Raises ValueError for a line without a tab."""
    out = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        path, tab, caption = line.partition("\t")
        if not tab or not caption.strip():
            raise ValueError(
                f"line {number} of {file} is {line!r}; write a video, a tab and a caption"
            )
        out.append((file.parent / path.strip(), caption.strip()))
    return out


def write(
    rows: list[tuple[Path, str]],
    out: Path,
    encode: Encode,
    each: int,
    shape: tuple[int, int, int],
    fps: int,
    part: tuple[int, int] = (1, 1),
) -> int:
    """Write the shards of `rows`, `each` videos to a shard, that are not there yet; how many clips
    they have. shape: frames, height and width of a clip. part: which of how many machines this is.
    """
    out.mkdir(parents=True, exist_ok=True)
    total = 0
    for shard, start in enumerate(range(0, len(rows), each)):
        target = out / f"{shard:06d}.tar"
        if target.exists() or shard % part[1] != part[0] - 1:
            continue
        half = target.with_suffix(".part")
        with webdataset.TarWriter(str(half)) as tar:
            for index, (video, caption) in enumerate(rows[start : start + each], start):
                try:
                    for clip, pictures in enumerate(clips(video, shape[0], fps, *shape[1:])):
                        images = torch.from_numpy(pictures).permute(3, 0, 1, 2)[None]
                        latents = encode(images.float().div(127.5).sub(1))[0]
                        sample = {
                            "__key__": f"{index:08d}-{clip:04d}",
                            "npy": latents.half().cpu().numpy(),
                            "txt": caption,
                        }
                        tar.write(sample)
                        total += 1
                except (av.FFmpegError, OSError) as error:
                    print(f"{video} cannot be read and is left out: {error}", file=sys.stderr)
        half.replace(target)
        print(f"{target.name}: clips {total} so far", flush=True)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("list", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=DEFAULT, help="shape of the clips, JSON")
    parser.add_argument("--checkpoint", type=Path, required=True, help="whose autoencoder")
    parser.add_argument("--each", type=int, default=256, help="videos to a shard")
    parser.add_argument("--fps", type=int, default=24)
    parser.add_argument("--part", default="1/1", help="which of how many machines, as 2/8")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    config = Configuration.read(options.config)
    constants = json.loads((options.checkpoint / CONSTANTS).read_text(encoding="utf-8"))
    vae = CausalVideoVAE.from_pretrained(options.checkpoint / "causal_video_vae").float().eval()
    vae.to(options.device)

    @torch.no_grad()
    def encode(video: Tensor) -> Tensor:
        return normalised(vae, video.to(options.device), constants)

    rank, count = map(int, options.part.split("/"))
    shape = (config.frames, config.height, config.width)
    write(
        listed(options.list), options.out, encode, options.each, shape, options.fps, (rank, count)
    )


if __name__ == "__main__":
    main()
