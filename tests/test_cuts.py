"""Exports for what people post: parts of the frame, smooth, slow, in a loop, trimmed, a still."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from studio.cli import export as cli_export
from studio.cli.main import main
from studio.export.cuts import ASPECTS, FADE, PRESETS, Cut, ExportError, cut_frames
from studio.export.formats import export, still, target_of
from studio.media.pictures import read_picture
from studio.media.video import read_mp4, write_mp4

COUNT, HEIGHT, WIDTH, FPS = 49, 128, 192, 24


@pytest.fixture(scope="module")
def frames() -> NDArray[np.uint8]:
    """A white block moves right by two pixels a frame, on a ramp from black to red."""
    made = np.zeros((COUNT, HEIGHT, WIDTH, 3), np.uint8)
    made[..., 0] = np.linspace(0, 255, WIDTH).astype(np.uint8)
    for number, frame in enumerate(made):
        frame[40:80, 10 + 2 * number : 40 + 2 * number] = 255
    return made


@pytest.fixture
def clip(tmp_path: Path, frames: NDArray[np.uint8]) -> Path:
    recorded = {"software": "Neodragon Studio 0", "kind": "clip", "prompt": "a block"}
    return write_mp4(tmp_path / "clip.mp4", frames, FPS, recorded)


def place(frame: NDArray[np.uint8]) -> float:
    """Where the block is: the middle of what is white in its rows."""
    white = frame[60, :, 1] / 255.0
    return float((white * np.arange(WIDTH)).sum() / white.sum())


@pytest.mark.parametrize("crop", ASPECTS)
def test_a_part_of_the_frame(frames: NDArray[np.uint8], crop: str) -> None:
    for across in (0.0, 0.5, 1.0):
        part, fps = cut_frames(frames, FPS, Cut(crop=crop, across=across))
        height, width = part.shape[1:3]
        assert fps == FPS and len(part) == COUNT and height % 2 == width % 2 == 0
        assert width / height == pytest.approx(ASPECTS[crop], abs=0.03)
        left = round((WIDTH - width) * across)
        top = round((HEIGHT - height) * 0.5)
        assert np.array_equal(part, frames[:, top : top + height, left : left + width])
    closer, _ = cut_frames(frames, FPS, Cut(crop=crop, zoom=2))
    assert closer.shape[1] == pytest.approx(height / 2, abs=2)


@pytest.mark.parametrize(("cut", "times"), [(Cut(rate=2), 2), (Cut(slow=True), 2)])
def test_pictures_in_between_lie_in_between(
    frames: NDArray[np.uint8], cut: Cut, times: int
) -> None:
    made, fps = cut_frames(frames, FPS, cut)
    assert len(made) == times * COUNT and fps == FPS * cut.rate
    assert np.array_equal(made[::times], frames)
    for before, between, after in zip(made[0:90:2], made[1:90:2], made[2:90:2], strict=False):
        assert place(before) + 0.5 < place(between) < place(after) - 0.5


def test_a_loop_has_no_jump(frames: NDArray[np.uint8]) -> None:
    made, _ = cut_frames(frames, FPS, Cut(fade=FADE))
    assert len(made) == COUNT - FADE

    def step(pair: tuple[Any, Any]) -> float:
        return float(np.abs(pair[0].astype(int) - pair[1].astype(int)).mean())

    usual = max(map(step, pairwise(made)))
    assert step((made[-1], made[0])) <= 1.5 * usual < step((frames[-1], frames[0])) / 2


def test_a_trimmed_clip_and_a_still(clip: Path, tmp_path: Path, frames: Any) -> None:
    made = export(clip, tmp_path / "part.mp4", "mp4", Cut(start=10, end=19))
    shown, fps = read_mp4(made)
    assert len(shown) == 10 and fps == FPS
    assert np.abs(shown[0].astype(int) - frames[10]).mean() < 3
    picture = read_picture(still(clip, tmp_path, 48))
    assert np.array_equal(picture, read_mp4(clip)[0][48])
    for problem in (Cut(start=5, end=4), Cut(end=49), Cut(start=-1)):
        with pytest.raises(ExportError, match="choose frames from 0 to 48"):
            export(clip, tmp_path / "none.mp4", "mp4", problem)
    with pytest.raises(ExportError, match="frames 0 to 48, not 49"):
        still(clip, tmp_path, 49)


@pytest.mark.parametrize(
    "values", [{"loops": 0}, {"loops": 101}, {"crop": "2:1"}, {"rate": 3}, {"rate": 0}]
)
def test_a_cut_that_is_none_is_said(values: dict[str, Any]) -> None:
    with pytest.raises(ExportError, match="choose"):
        Cut(**values)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_on_the_command_line(
    clip: Path, tmp_path: Path, preset: str, capsys: Any, ffmpeg: Callable[..., tuple[bytes, str]]
) -> None:
    assert main(["export", str(clip), "--preset", preset, "-o", str(tmp_path)]) == 0
    format, cut = PRESETS[preset]
    made = target_of(clip, tmp_path, format, cut)
    assert made.is_file() and made.name in capsys.readouterr().out
    assert format.upper().replace("MP4", "h264").lower() in ffmpeg("-i", made)[1].lower()


def test_the_command_line_adds_to_a_preset(clip: Path, tmp_path: Path, capsys: Any) -> None:
    arguments = ["export", str(clip), "--preset", "square", "--end", "9", "--48", "-o"]
    assert main([*arguments, str(tmp_path / "out.mp4")]) == 0
    shown, fps = read_mp4(tmp_path / "out.mp4")
    assert shown.shape == (20, 128, 128, 3) and fps == 48
    assert main(["export", str(clip), "--still", "3", "-o", str(tmp_path)]) == 0
    assert (tmp_path / "clip_frame3.png").is_file()
    assert main(["export", str(clip), "--join", "--48"]) == 2
    assert "--48 works only without --join" in capsys.readouterr().err


def test_the_command_line_knows_every_cut() -> None:
    assert cli_export.ASPECTS == tuple(ASPECTS) and cli_export.PRESETS == tuple(PRESETS)
    assert cli_export.FADE == FADE
    assert {field.name for field in fields(Cut)} == {*cli_export.CUTS, "zoom"}
