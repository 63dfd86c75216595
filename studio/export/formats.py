"""Export clips: other formats, loops, forwards and backwards.

An export is a copy: the clip stays as it is, and an existing file is kept. A half-written file
never has the final name. A re-encoded MP4 has the clip's settings inside, and says that it is an
export.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from studio.export.cuts import Cut, ExportError, cut_frames
from studio.media import sidecars
from studio.media.pictures import marked, write_png
from studio.media.provenance import SOURCE, mark
from studio.media.video import COLOURS, TAGS, failure, ffmpeg, read_mp4, stream_mp4
from studio.system.files import fitted, prepare, publish, writing

Bytes = NDArray[np.uint8]
Format = Literal["mp4", "gif", "webp", "webm", "mov", "png"]

FORMATS: tuple[Format, ...] = get_args(Format)
WHOLE = Cut()
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


def target_of(clip: Path, folder: Path, format: Format, cut: Cut = WHOLE) -> Path:
    """What an export is called in `folder`, unless one says otherwise."""
    return fitted(folder / clip.stem, cut.tail + ("" if format == "png" else f".{format}"))


def export(clip: Path, target: Path, format: Format, cut: Cut = WHOLE) -> Path:
    """Write a clip in another format and return where: `target` or, where taken, `target-2`..

    format: `png` is a folder of pictures, `mov` ProRes, `mp4` as it is a copy to the byte.
    Raises ExportError, OutputError.
    """
    if format not in FORMATS:
        raise ExportError(
            "There is no format {format!r}; choose one of {names}.",
            names=", ".join(FORMATS),
            format=format,
        )
    target = prepare(target, target.suffix.lower() if format == "png" else f".{format}")
    shot = read_shot(clip)
    frames, fps = cut_frames(shot.frames, shot.fps, cut)
    if format == "mp4" and cut != WHOLE:
        how = {"of": clip.name} | cut.to_dict()
        size = frames.shape[1:3]
        return stream_mp4(target, frames, size, fps, shot.recorded | {"export": how})
    with writing(target) as part:
        if format == "mp4":
            shutil.copyfile(clip, part)
        elif format == "png":
            _pictures(part, frames)
        else:
            _encode(part, format, frames, fps)
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


def _pictures(part: Path, frames: Bytes) -> None:
    """A folder of PNG, `0001.png` and on."""
    part.mkdir()
    for number, frame in enumerate(frames, 1):
        Image.fromarray(frame).save(part / f"{number:04}.png", pnginfo=marked())


def _encode(part: Path, format: Format, frames: Bytes, fps: int) -> None:
    """Let ffmpeg write the frames; raises OSError with its words."""
    height, width = frames.shape[1:3]
    command = [ffmpeg(), "-hide_banner", "-v", "error", "-y", "-f", "rawvideo"]
    command += ["-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
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
