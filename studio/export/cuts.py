"""The cut of an export: trimmed, cropped, looped, smoother or slower."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import NeodragonError
from studio.media.video import failure, ffmpeg

Bytes = NDArray[np.uint8]

LOOPS = 100
SPEEDS = (1, 2)  # times the clip's frames a second
FADE = 12  # frames
SIDE = 16  # pixels, of the smallest part that is shown
ASPECTS = {"9:16": 9 / 16, "4:5": 4 / 5, "1:1": 1.0, "16:9": 16 / 9}
# ffmpeg's own: motion is estimated both ways, and blocks overlap.
BETWEEN = "minterpolate=fps={fps}:mi_mode=mci:mc_mode=aobmc:me_mode=bidir:vsbmc=1:scd=none"


class ExportError(NeodragonError):
    """A clip cannot be exported as asked."""


@dataclass(frozen=True)
class Cut:
    """How an export differs from its clip.

    start, end: its first and last frame, counted from 0, None for the clip's own. crop: one of
    `ASPECTS`, None for the whole frame; across, down: where the part lies in what is left over, 0
    to 1; zoom: 1 shows as much as fits, 4 a quarter of its height. rate: so many times the clip's
    frames a second, 1 or 2; slow: half as fast, with pictures in between. fade: so many frames of
    the end become the beginning, for a loop without a jump; ping_pong: there and back, the turning
    points once; loops: how often it is shown. Raises ExportError.
    """

    start: int | None = None
    end: int | None = None
    crop: str | None = None
    across: float = 0.5
    down: float = 0.5
    zoom: float = 1.0
    rate: int = 1
    slow: bool = False
    fade: int = 0
    ping_pong: bool = False
    loops: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.loops, int) or not 1 <= self.loops <= LOOPS:
            raise ExportError(
                "A clip can be repeated 1 to {most} times, not {loops!r}; choose a number.",
                most=LOOPS,
                loops=self.loops,
            )
        for name, known in (("crop", (None, *ASPECTS)), ("rate", SPEEDS)):
            value = getattr(self, name)
            if value not in known:
                raise ExportError(
                    "The {name} is {value!r}; choose one of {known}.",
                    name=name,
                    value=value,
                    known=", ".join(str(one) for one in known if one),
                )

    def to_dict(self) -> dict[str, Any]:
        """What is not as in the clip."""
        return {
            field.name: value
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        }

    @property
    def tail(self) -> str:
        """What it adds to a file's name."""
        parts = [
            f"_f{self.start or 0}-{'end' if self.end is None else self.end}"
            * (self.start is not None or self.end is not None),
            "_" + (self.crop or "").replace(":", "x") if self.crop else "",
            f"_{self.rate}x-fps" if self.rate > 1 else "",
            "_slow" * self.slow,
            "_loop" * bool(self.fade),
            "_ping-pong" * self.ping_pong,
            f"_x{self.loops}" if self.loops > 1 else "",
        ]
        return "".join(parts)


PRESETS: Mapping[str, tuple[str, Cut]] = {  # a format and a cut
    "story": ("mp4", Cut(crop="9:16")),
    "portrait": ("mp4", Cut(crop="4:5")),
    "square": ("mp4", Cut(crop="1:1")),
    "loop": ("gif", Cut(fade=FADE)),
    "smooth": ("mp4", Cut(rate=2)),
    "slow": ("mp4", Cut(slow=True)),
}


def cut_frames(frames: Bytes, fps: int, cut: Cut) -> tuple[Bytes, int]:
    """The frames of an export, uint8 [T, H, W, 3], and how many are shown in a second.

    Raises ExportError, OSError with ffmpeg's words.
    """
    count = len(frames)
    start, end = cut.start or 0, count - 1 if cut.end is None else cut.end
    if not 0 <= start <= end < count:
        raise ExportError(
            "The part of the clip is frame {start} to {end}; choose frames from 0 to {last}, the"
            " first one first.",
            start=start,
            end=end,
            last=count - 1,
        )
    frames = frames[start : end + 1]
    if cut.crop:
        frames = _part(frames, ASPECTS[cut.crop], cut)
    if cut.fade:
        frames = _faded(frames, cut.fade)
    if cut.rate > 1 or cut.slow:
        times = cut.rate * (2 if cut.slow else 1)
        frames = _between(frames, fps, times, closed=bool(cut.fade))
        fps *= cut.rate
    return frames[order(len(frames), cut.loops, cut.ping_pong)], fps


def order(frames: int, loops: int, ping_pong: bool) -> list[int]:
    """The numbers of a clip's frames as they are shown."""
    once = list(range(frames))
    return (once + once[-2:0:-1] if ping_pong else once) * loops


def _part(frames: Bytes, aspect: float, cut: Cut) -> Bytes:
    """The part of that aspect, of even height and width."""
    height, width = frames.shape[1:3]
    tall = min(height, width / aspect) / max(1.0, cut.zoom)
    rows, columns = int(tall) // 2 * 2, int(tall * aspect + 0.5) // 2 * 2
    if min(rows, columns) < SIDE:
        raise ExportError(
            "The part shown is {columns} x {rows} pixels; show {side} x {side} or more.",
            columns=columns,
            rows=rows,
            side=SIDE,
        )
    top, left = round((height - rows) * cut.down), round((width - columns) * cut.across)
    return frames[:, top : top + rows, left : left + columns]


def _faded(frames: Bytes, count: int) -> Bytes:
    """Without the first frames, into which the last ones fade, so that it goes round."""
    count = min(count, len(frames) // 2)
    share = np.arange(1, count + 1, dtype=np.float32)[:, None, None, None] / (count + 1)
    out = frames[count:].copy()
    if count:
        end = (1 - share) * frames[-count:] + share * frames[:count]
        out[-count:] = np.rint(end).astype(np.uint8)
    return out


def _between(frames: Bytes, fps: int, times: int, *, closed: bool) -> Bytes:
    """So many times as many frames, by ffmpeg; closed: the last one leads to the first."""
    height, width = frames.shape[1:3]
    # It looks two frames ahead, and leaves out what it cannot see the end of.
    ahead = frames[[n % len(frames) for n in range(3)]] if closed else frames[[-1] * 3]
    command = [ffmpeg(), "-hide_banner", "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    command += ["-vf", BETWEEN.format(fps=fps * times), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    pixels = np.concatenate([frames, ahead]).tobytes()
    done = subprocess.run(command, input=pixels, capture_output=True, check=False)
    made = np.frombuffer(done.stdout, np.uint8)
    wanted = times * len(frames)
    if done.returncode or made.size < wanted * height * width * 3:
        log = done.stderr.decode("utf-8", "replace")
        raise failure(log, done.returncode, Path(tempfile.gettempdir()))
    out = made[: made.size // (height * width * 3) * height * width * 3]
    out = out.reshape(-1, height, width, 3)[:wanted].copy()
    out[::times] = frames  # those that were there stay as they are
    return out
