"""An MP4 of ours, probed back: tags and times by ffmpeg, order of boxes by a walk over the file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from studio.media.video import boxes, read_metadata, read_mp4, write_mp4
from studio.system.files import OutputError

Ffmpeg = Callable[..., tuple[bytes, str]]

FPS = 24
HEIGHT, WIDTH = 128, 192
PATCHES = [
    *[(214, 32, 38), (24, 140, 60), (36, 84, 214), (250, 214, 30)],
    *[(255, 255, 255), (0, 0, 0), (128, 128, 128), (130, 50, 170)],
]
PATCH = WIDTH // len(PATCHES)
METADATA = {
    "prompt": 'a "red" ball = 1; # \\ \n über 龙 🐉 ' + "and on " * 9000,
    "look_seed": 2**32 - 1,
    "steps": [1, 1, 1],
}


def patches() -> np.ndarray:
    """49 frames, uint8 [T, H, W, 3]: upright stripes of known colours, a white dot moving below."""
    frames = np.repeat(np.array(PATCHES, np.uint8), PATCH, axis=0)
    frames = np.broadcast_to(frames, (49, HEIGHT, WIDTH, 3)).copy()
    for number, frame in enumerate(frames):
        frame[-16:, 3 * number : 3 * number + 16] = 255
    return frames


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mp4(tmp_path_factory.mktemp("clip") / "a clip.mp4", patches(), FPS, METADATA)


def test_stream_is_h264_420_tagged_bt709(clip: Path, ffmpeg: Ffmpeg) -> None:
    probe = ffmpeg("-i", clip)[1]
    assert re.search(r"Video: h264 .*yuv420p\(tv, bt709, progressive\), 192x128", probe)
    assert "24 fps" in probe


def test_every_frame_has_its_exact_time(clip: Path, ffmpeg: Ffmpeg) -> None:
    shown = ffmpeg("-i", clip, "-vf", "showinfo", "-f", "null", "-")[1]
    timescale = int(re.findall(r"config in time_base: 1/(\d+)", shown)[0])
    times = [int(time) for time in re.findall(r"\] n: *\d+ pts: *(\d+)", shown)]
    assert timescale % FPS == 0
    assert times == [frame * timescale // FPS for frame in range(49)]


def test_index_comes_before_the_frames(clip: Path) -> None:
    with clip.open("rb") as stream:
        order = [kind for kind, _ in boxes(stream, clip.stat().st_size)]
    assert order.index(b"moov") < order.index(b"mdat")


def test_duration_is_49_frames_exactly(clip: Path) -> None:
    """In the movie's header too, whose time scale ffmpeg would otherwise make 1/1000 s."""
    with clip.open("rb") as stream:
        for kind, end in boxes(stream, clip.stat().st_size):
            if kind == b"moov":
                assert next(boxes(stream, end))[0] == b"mvhd"
                header = stream.read(20)
    timescale, duration = (int.from_bytes(header[start : start + 4]) for start in (12, 16))
    assert duration * FPS == 49 * timescale


def test_colours_survive(clip: Path, decode: Callable[[Path], np.ndarray]) -> None:
    frames = decode(clip)
    centres = frames[:, HEIGHT // 2, PATCH // 2 :: PATCH].astype(int)
    assert np.abs(centres - np.array(PATCHES)).max() <= 4
    dots = frames[[0, 24, 48], -8, [8, 80, 152]].astype(int)  # each frame shows its own moment
    assert (dots > 240).all()


def test_metadata_comes_back(clip: Path) -> None:
    assert read_metadata(clip) == METADATA


def test_the_same_frames_make_the_same_file(clip: Path, tmp_path: Path) -> None:
    again = write_mp4(tmp_path / "again.mp4", patches(), FPS, METADATA)
    assert again.read_bytes() == clip.read_bytes()


def test_nothing_is_overwritten_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"precious")
    frames = patches()[:2]
    assert write_mp4(path, frames, FPS, {}).name == "clip-2.mp4"
    assert write_mp4(path, frames, FPS, {}).name == "clip-3.mp4"
    assert path.read_bytes() == b"precious"
    assert write_mp4(path, frames, FPS, {"n": 1}, overwrite=True) == path
    assert read_metadata(path) == {"n": 1}
    assert {file.name for file in tmp_path.iterdir()} == {"clip.mp4", "clip-2.mp4", "clip-3.mp4"}


def test_a_failed_encoder_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = "moviepy.video.io.ffmpeg_writer.FFMPEG_BINARY"
    for binary in (sys.executable, tmp_path / "missing"):  # Python knows none of the options
        monkeypatch.setattr(writer, str(binary))
        with pytest.raises(OutputError, match="cannot be written"):
            write_mp4(tmp_path / "clip.mp4", patches(), FPS, {})
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_takes_no_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another folder"):
        write_mp4(tmp_path / "file" / "clip.mp4", patches(), FPS, {})
    with pytest.raises(OutputError, match="end in .mp4"):
        write_mp4(tmp_path / "clip.avi", patches(), FPS, {})


@pytest.mark.parametrize(
    "content",
    [b"", b"no clip", b"\0\0\0\x08moov", b"\0\0\0\x10moov\xff\xff\xff\xffudta", b"\0\0\0\1moov"],
)
def test_a_file_without_metadata_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    with pytest.raises(OutputError, match="choose one made by Neodragon Studio"):
        read_metadata(path)


def test_no_env_file_is_read(tmp_path: Path) -> None:
    """moviepy would read `.env` files from its own folder upwards, and run the ffmpeg they name."""
    script = (
        "import os, dotenv\n"
        "dotenv.find_dotenv = lambda *a, **k: '.env'\n"
        "from studio.media.video import _moviepy_writer\n"
        "_moviepy_writer()\n"
        "assert 'EVIL' not in os.environ, 'read'\n"
        "assert 'PYTHON_DOTENV_DISABLED' not in os.environ\n"
    )
    (tmp_path / ".env").write_text("EVIL=1\n")
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)


def test_wrong_frames_are_a_mistake_of_ours(tmp_path: Path) -> None:
    wrong: list[Any] = [
        patches().astype(np.float32),
        patches()[0],
        patches()[:, :-1],
        patches()[:0],
    ]
    for frames in wrong:
        with pytest.raises(ValueError, match="expected"):
            write_mp4(tmp_path / "clip.mp4", frames, FPS, {})


def test_a_killed_process_leaves_no_prompt_behind(tmp_path: Path) -> None:
    script = (
        "import itertools, sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from studio.media.video import stream_mp4\n"
        "def frames():\n"
        "    for number in itertools.count():\n"
        "        yield np.full((64, 64, 3), number % 256, np.uint8)\n"
        "        if number == 200:\n"
        "            print('going', flush=True)\n"
        "stream_mp4(Path(sys.argv[1]), frames(), (64, 64), 24, {'prompt': 'a secret fox'})\n"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", script, str(tmp_path / "clip.mp4")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        try:
            assert process.stdout is not None and process.stdout.readline().strip() == b"going"
        finally:
            process.kill()
    for path in filter(Path.is_file, tmp_path.rglob("*")):
        deadline = time.monotonic() + 60
        while True:
            try:
                assert b"secret fox" not in path.read_bytes(), path
                break
            except FileNotFoundError:
                break
            except PermissionError:  # on Windows, until its ffmpeg has ended, too
                assert time.monotonic() < deadline, path
                time.sleep(0.2)


def test_a_long_comment_moves_every_frame_along(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (30, 64, 64, 3), np.uint8)
    long = {"prompt": "🐉" * 60_000}
    one = write_mp4(tmp_path / "one.mp4", frames, 24, {})
    other = write_mp4(tmp_path / "other.mp4", frames, 24, long)
    assert read_metadata(other) == long
    assert np.array_equal(read_mp4(one)[0], read_mp4(other)[0])
