"""Clips for elsewhere: in other formats, several times over, there and back.

An export is a copy: the clip stays as it is, a file of the export's name is kept, and what is
half-written never carries that name. An MP4 that was encoded again says what the clip was made by,
and that it is an export.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.errors import NeodragonError
from studio.media import sidecars
from studio.media.pictures import marked, write_png
from studio.media.provenance import SOURCE, mark
from studio.media.video import COLOURS, TAGS, failure, ffmpeg, read_mp4, stream_mp4
from studio.system.files import fitted, prepare, publish, writing

Bytes = NDArray[np.uint8]
Format = Literal["mp4", "gif", "webp", "webm", "mov", "png"]

FORMATS: tuple[Format, ...] = get_args(Format)
LOOPS = 100
PALETTE = "split[one][two];[one]palettegen[colours];[two][colours]paletteuse=dither=sierra2_4a"
ENCODERS = {  # GIF and WebP are played for ever
    "gif": ["-vf", PALETTE, "-loop", "0"],
    "webp": ["-c:v", "libwebp_anim", "-quality", "90", "-loop", "0"],
    "webm": [
        *("-vf", COLOURS, *TAGS, "-c:v", "libvpx-vp9", "-crf", "18", "-b:v", "0"),
        *("-row-mt", "1", "-cpu-used", "3"),
        *("-metadata", f"DIGITAL_SOURCE_TYPE={SOURCE}"),
    ],
    "mov": [  # ProRes 422 HQ
        *("-vf", COLOURS.replace("yuv420p", "yuv422p10le"), *TAGS),
        *("-c:v", "prores_ks", "-profile:v", "hq", "-vendor", "apl0"),
    ],
}
OWN = ("marks", "file", "created", "seconds", "key")  # what a sidecar says of its own clip only


class ExportError(NeodragonError):
    """A clip cannot be exported as asked."""


@dataclass(frozen=True, eq=False)
class Shot:
    """A clip that was read: its frames, uint8 [T, H, W, 3], and what it was made by."""

    path: Path
    frames: Bytes
    fps: int
    recorded: dict[str, Any]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.frames.shape[1], self.frames.shape[2]


def read_shot(clip: Path) -> Shot:
    """A clip of ours; raises OutputError."""
    recorded = sidecars.read(clip)
    frames, fps = read_mp4(clip)
    return Shot(clip, frames, fps, {k: v for k, v in recorded.items() if k not in OWN})


def target_of(
    clip: Path, folder: Path, format: Format, *, loops: int = 1, ping_pong: bool = False
) -> Path:
    """What an export is called in `folder`, unless one says otherwise."""
    tail = ("_ping-pong" if ping_pong else "") + (f"_x{loops}" if loops > 1 else "")
    return fitted(folder / clip.stem, tail + ("" if format == "png" else f".{format}"))


def export(
    clip: Path, target: Path, format: Format, *, loops: int = 1, ping_pong: bool = False
) -> Path:
    """Write a clip in another format and return where: `target` or, where taken, `target-2`..

    format: `png` is a folder of pictures, `mov` ProRes, `mp4` as it is a copy to the byte. loops:
    how often the clip is in it; ping_pong: there and back, the turning points once.
    Raises ExportError, OutputError.
    """
    if format not in FORMATS:
        raise ExportError(
            "There is no format {format!r}; choose one of {names}.",
            names=", ".join(FORMATS),
            format=format,
        )
    if not isinstance(loops, int) or not 1 <= loops <= LOOPS:
        raise ExportError(
            "A clip can be repeated 1 to {most} times, not {loops!r}; choose a number.",
            most=LOOPS,
            loops=loops,
        )
    target = prepare(target, target.suffix.lower() if format == "png" else f".{format}")
    shot = read_shot(clip)
    numbers = order(len(shot.frames), loops, ping_pong)
    frames = (shot.frames[number] for number in numbers)
    if format == "mp4" and len(numbers) > len(shot.frames):
        how = {"of": clip.name, "loops": loops, "ping_pong": ping_pong}
        return stream_mp4(target, frames, shot.size, shot.fps, shot.recorded | {"export": how})
    with writing(target) as part:
        if format == "mp4":
            shutil.copyfile(clip, part)
        elif format == "png":
            _pictures(part, frames)
        else:
            _encode(part, format, frames, shot)
            mark(part, format)
        return publish(part, target, overwrite=False)


def still(clip: Path, folder: Path, frame: int) -> Path:
    """Write a frame of a clip, counted from 0, as a PNG into `folder`; where it is.

    Raises ExportError, OutputError.
    """
    shot = read_shot(clip)
    if not 0 <= frame < len(shot.frames):
        raise ExportError(
            "{name} has frames 0 to {last}, not {frame}; choose one of these.",
            name=clip.name,
            last=len(shot.frames) - 1,
            frame=frame,
        )
    how = {"of": clip.name, "frame": frame}
    target = fitted(folder / clip.stem, f"_frame{frame}.png")
    return write_png(target, shot.frames[frame], shot.recorded | {"export": how})


def order(frames: int, loops: int, ping_pong: bool) -> list[int]:
    """The numbers of a clip's frames as they are shown."""
    once = list(range(frames))
    return (once + once[-2:0:-1] if ping_pong else once) * loops


def _pictures(part: Path, frames: Iterator[Bytes]) -> None:
    """A folder of PNG, `0001.png` and on."""
    part.mkdir()
    for number, frame in enumerate(frames, 1):
        Image.fromarray(frame).save(part / f"{number:04}.png", pnginfo=marked())


def _encode(part: Path, format: Format, frames: Iterator[Bytes], shot: Shot) -> None:
    """Let ffmpeg write the frames; raises OSError with its words."""
    height, width = shot.size
    command = [ffmpeg(), "-hide_banner", "-v", "error", "-y", "-f", "rawvideo"]
    command += ["-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(shot.fps), "-i", "-"]
    command += [*ENCODERS[format], "-f", format, str(part)]
    with tempfile.TemporaryFile() as log:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log) as process:
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # its words are in the log
                for frame in frames:
                    process.stdin.write(frame.tobytes())
                process.stdin.close()
        if process.returncode:
            log.seek(0)
            raise failure(log.read().decode("utf-8", "replace"), process.returncode, part)
