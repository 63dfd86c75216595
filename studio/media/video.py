"""Frames to an MP4 that every player shows alike, with the settings it was made by inside.

H.264 yuv420p with the index in front, colours converted to BT.709 and tagged so, every frame
exactly 1/fps s long. moviepy encodes, with the ffmpeg that imageio-ffmpeg carries. It knows
nothing of prompts or packs: the metadata is any JSON object.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import Message, reason_of
from studio.media.provenance import mark
from studio.system.files import OutputError, open_regular, prepare, publish, writing

Bytes = NDArray[np.uint8]

QUALITY = "16"  # x264's constant rate factor: invisible losses
METADATA_LIMIT = 2**24  # bytes
EXPLAINED = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EIO,
)  # in ffmpeg's log
SIGXFSZ = getattr(signal, "SIGXFSZ", 0)  # ends what writes more than it may
ROOM = 2**18  # bytes: a disk with less is full
# RGB has no matrix; what the filters leave are limited-range BT.709 frames, and the tags say so.
COLOURS = (
    "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int+full_chroma_inp,"
    "format=yuv420p,setparams=color_primaries=bt709:color_trc=bt709:colorspace=bt709:range=tv"
)
PICTURES = "scale=in_color_matrix=bt709:in_range=tv:flags=accurate_rnd+full_chroma_int"
SAFE = {"PYTHON_DOTENV_DISABLED": "1", "FFMPEG_BINARY": "ffmpeg-imageio"}  # for moviepy
TAGS = "-colorspace bt709 -color_primaries bt709 -color_trc bt709 -color_range tv".split()
PLACE = "neodragon"  # what the comment of a file is until it is whole
TABLES = (b"moov", b"trak", b"mdia", b"minf", b"stbl")  # of where the frames are
BOXES_TO_COMMENT = (b"moov", b"udta", b"meta", b"ilst", b"\xa9cmt", b"data")


def write_mp4(
    path: Path,
    frames: Bytes,
    fps: int,
    metadata: Mapping[str, Any],
    *,
    overwrite: bool = False,
    accept: Callable[[Path], bool] = lambda path: True,
) -> Path:
    """Write frames, uint8 [T, H, W, 3] with even H and W, and return the file they are in.

    A file of that name is kept: the clip is then called `name-2.mp4` and so on, unless `overwrite`.
    accept: as of `publish`. Raises OutputError.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        raise ValueError(f"expected frames uint8 [T, H, W, 3], got {frames.dtype} {frames.shape}")
    if 0 in frames.shape or frames.shape[1] % 2 or frames.shape[2] % 2:
        raise ValueError(f"expected an even height and width, got {frames.shape}")
    size = frames.shape[1:3]
    return stream_mp4(path, frames, size, fps, metadata, overwrite=overwrite, accept=accept)


def stream_mp4(
    path: Path,
    frames: Iterable[Bytes],
    size: tuple[int, int],
    fps: int,
    metadata: Mapping[str, Any],
    *,
    overwrite: bool = False,
    accept: Callable[[Path], bool] = lambda path: True,
) -> Path:
    """The same with frames, uint8 [H, W, 3] of one even `size` (H, W), that come one by one."""
    path = prepare(path, ".mp4")
    with writing(path) as part:
        _encode(part, frames, size, fps)
        # After the frames, with what was noted while they came.
        _set_comment(part, json.dumps(metadata, ensure_ascii=False).encode("utf-8", "replace"))
        mark(part, "mp4")
        return publish(part, path, overwrite, accept)


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata `write_mp4` put into a file; raises OutputError where there is none."""
    problem: object = Message("it has none")
    try:
        with open_regular(path) as stream:
            comment = _find(stream, BOXES_TO_COMMENT, path.stat().st_size)
        if comment is not None:
            metadata = json.loads(comment[8:])  # after the type and the locale
            if isinstance(metadata, dict):
                return metadata
    except OSError as error:
        problem = reason_of(error)
    except (ValueError, RecursionError, struct.error):
        problem = Message("it cannot be read")
    raise OutputError(
        "{name} is not a clip with its settings inside ({problem}); choose one made by Neodragon "
        "Studio.",
        name=path.name,
        problem=problem,
    )


def read_mp4(path: Path) -> tuple[Bytes, int]:
    """The frames of a clip, uint8 [T, H, W, 3], and how many are shown in a second.

    Raises OutputError.
    """
    with tempfile.TemporaryFile() as log:
        frames = b""
        try:
            open_regular(path).close()
            command = [ffmpeg(), "-nostdin", "-hide_banner", "-i", str(path.absolute())]
            command += ["-map", "0:v:0", "-fps_mode", "passthrough", "-vf", PICTURES]
            command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
            frames = subprocess.run(command, stdout=subprocess.PIPE, stderr=log).stdout
        except OSError as error:
            log.write(str(error).encode())
        log.seek(0)
        output = log.read().decode("utf-8", "replace")
    shown = re.search(r"Video: rawvideo.*?, (\d+)x(\d+).*?, (\d+) fps", output)
    if not frames or shown is None:
        raise OutputError(
            "{name} cannot be read as a clip ({reason}); choose another.",
            name=path.name,
            reason=_last_line(output) or Message("it has no pictures"),
        )
    width, height, fps = map(int, shown.groups())
    return np.frombuffer(frames, np.uint8).reshape(-1, height, width, 3), fps


def ffmpeg() -> str:
    """The program that imageio-ffmpeg carries and moviepy uses."""
    with _environment(**SAFE):
        from moviepy.config import FFMPEG_BINARY  # noqa: PLC0415
    return str(FFMPEG_BINARY)


def boxes(stream: IO[bytes], end: int) -> Iterator[tuple[bytes, int]]:
    """The MP4 boxes from here to byte `end`: type and end, the stream standing at the content."""
    start = stream.tell()
    while start + 8 <= end:
        stream.seek(start)
        size, kind = struct.unpack(">I4s", stream.read(8))
        header = 8
        if size == 1:
            (size,) = struct.unpack(">Q", stream.read(8))
            header = 16
        elif size == 0:
            size = end - start
        if size < header or start + size > end:
            raise ValueError(f"the box {kind!r} has {size} bytes")
        yield kind, start + size
        start += size


def _find(stream: IO[bytes], names: tuple[bytes, ...], end: int) -> bytes | None:
    """The content of the first box found by going down `names`."""
    if not names:
        size = end - stream.tell()
        return stream.read(size) if size <= METADATA_LIMIT else None
    for kind, box_end in boxes(stream, end):
        if kind == names[0]:
            if kind == b"meta":
                stream.read(4)  # version and flags
            return _find(stream, names[1:], box_end)
    return None


def _encode(part: Path, frames: Iterable[Bytes], size: tuple[int, int], fps: int) -> None:
    """Run moviepy's writer; raises OSError with ffmpeg's words."""
    writer_class = _moviepy_writer()
    height, width = size
    timescale = str(fps * 1000)  # a multiple of fps: every time stamp is exact
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log,
    ):
        # The comment comes later: it may be longer than a command line, which others can read, and
        # a file for it would stay behind where this process is killed.
        options = ["-vf", COLOURS, *TAGS, "-crf", QUALITY, "-metadata", f"comment={PLACE}"]
        options += ["-movflags", "+faststart", "-f", "mp4"]
        options += ["-video_track_timescale", timescale, "-movie_timescale", timescale]
        broken: OSError | None = None
        with writer_class(
            str(part), (width, height), fps, logfile=log, ffmpeg_params=options
        ) as writer:
            process = writer.proc  # moviepy forgets it, and does not look at its exit code
            for frame in frames:
                try:
                    writer.write_frame(np.ascontiguousarray(frame))
                except OSError as error:
                    broken = error  # that the pipe is; why is in the log
                    break
        if process.returncode or broken:
            log.seek(0)
            raise failure(log.read(), process.returncode, part) from broken


def _set_comment(part: Path, comment: bytes) -> None:
    """Put the comment of a finished MP4 into its place; raises OSError.

    The boxes around it grow, and the offsets of the frames behind it move along.
    """
    content = bytearray(part.read_bytes())
    with part.open("rb") as stream:
        around = list(_path(stream, BOXES_TO_COMMENT, len(content)))
        offsets = [
            box
            for names in (b"stco", b"co64")
            for box in _all(stream, (*TABLES, names), 0, len(content))
        ]
    *_, (start, end) = around
    if content[start + 16 : end] != PLACE.encode():
        raise OSError(f"the comment of {part.name} is not where it should be")
    grown = len(comment) - len(PLACE)
    for at, _ in around:
        struct.pack_into(">I", content, at, struct.unpack_from(">I", content, at)[0] + grown)
    for at, _ in offsets:
        form = ">I" if content[at + 4 : at + 8] == b"stco" else ">Q"
        (count,) = struct.unpack_from(">I", content, at + 12)
        for place in range(at + 16, at + 16 + count * struct.calcsize(form), struct.calcsize(form)):
            (offset,) = struct.unpack_from(form, content, place)
            if offset >= end:
                struct.pack_into(form, content, place, offset + grown)
    content[start + 16 : end] = comment
    part.write_bytes(content)


def _path(stream: IO[bytes], names: tuple[bytes, ...], end: int) -> Iterator[tuple[int, int]]:
    """Start and end of the first box of each name, each inside the one before."""
    at = 0
    for name in names:
        at, end = next(_all(stream, (name,), at, end))
        yield at, end
        at += 12 if name == b"meta" else 8


def _all(
    stream: IO[bytes], names: tuple[bytes, ...], at: int, end: int
) -> Iterator[tuple[int, int]]:
    """Start and end of every box that is reached by going down `names` from byte `at`."""
    while at + 8 <= end:
        stream.seek(at)
        size, kind = struct.unpack(">I4s", stream.read(8))
        header = 8
        if size == 1:
            (size,) = struct.unpack(">Q", stream.read(8))
            header = 16
        if kind == names[0]:
            if names[1:]:
                yield from _all(stream, names[1:], at + header, at + size)
            else:
                yield at, at + size
        at += size or end


def failure(log: str, code: int, part: Path) -> OSError:
    """Why ffmpeg ended with `code` while it wrote `part`, as the system would say it.

    said: what is in its log, where a full disk is not the last word.
    """
    for number in EXPLAINED:
        if os.strerror(number) in log:
            return OSError(number, os.strerror(number))
    if code == -SIGXFSZ:
        return OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    if shutil.disk_usage(part.parent).free < ROOM:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return OSError(_last_line(log) or f"ffmpeg ended with {code}")


def _moviepy_writer() -> Any:
    """moviepy's writer, imported so that it reads no `.env` file and takes no other ffmpeg."""
    with _environment(**SAFE):
        from moviepy.video.io.ffmpeg_writer import FFMPEG_VideoWriter  # noqa: PLC0415
    return FFMPEG_VideoWriter


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _last_line(log: str) -> str:
    return (log.strip().splitlines() or [""])[-1].rstrip(".")
