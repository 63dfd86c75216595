"""What says "made by a trained algorithm" is found where each format has it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from studio.export import formats as exports
from studio.export.formats import Format
from studio.media.pictures import write_png
from studio.media.provenance import PACKET, PNG_KEYWORD, SOURCE
from studio.media.sidecars import SOFTWARE
from studio.media.video import read_mp4, write_mp4

Ffmpeg = Callable[..., tuple[bytes, str]]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shades = np.linspace(0, 255, 5 * 32 * 48 * 3).reshape(5, 32, 48, 3).astype(np.uint8)
    made_by = {"software": f"{SOFTWARE}0", "prompt": "a ball"}
    return write_mp4(tmp_path_factory.mktemp("clip") / "clip.mp4", shades, 24, made_by)


@pytest.mark.parametrize("format", ["mp4", "mov", "webm"])
def test_a_clip_says_so_to_ffmpeg(
    clip: Path, tmp_path: Path, format: Format, ffmpeg: Ffmpeg
) -> None:
    file = exports.export(clip, tmp_path / f"out.{format}", format)
    reader = [] if format == "webm" else ["-export_xmp", "1"]
    said = ffmpeg(*reader, "-i", file, "-f", "ffmetadata", "-")[0].decode()
    assert SOURCE in said.replace("\\", "")
    assert len(read_mp4(file)[0]) == 5


def test_webp_gif_and_png_say_so_to_pillow(clip: Path, tmp_path: Path) -> None:
    with Image.open(exports.export(clip, tmp_path / "out.webp", "webp")) as image:
        assert image.info["xmp"] == PACKET
        assert image.n_frames == 5  # type: ignore[attr-defined]
    with Image.open(exports.export(clip, tmp_path / "out.gif", "gif")) as image:
        assert image.n_frames == 5  # type: ignore[attr-defined]
        image.seek(4)
        image.load()
    assert b"\x21\xff\x0bXMP DataXMP" + PACKET in (tmp_path / "out.gif").read_bytes()
    picture = next(exports.export(clip, tmp_path / "out", "png").iterdir())
    frame = write_png(tmp_path / "frame.png", np.zeros((8, 8, 3), np.uint8), {})
    for path in (picture, frame):
        with Image.open(path) as image:
            assert image.info[PNG_KEYWORD] == PACKET.decode()
