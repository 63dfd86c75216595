"""Takes joined to one film with titles and sound, and the timelines of it."""

from __future__ import annotations

import math
import re
import struct
import wave
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as xml

import numpy as np
import pytest

from studio.cli.main import main
from studio.export.cuts import ExportError
from studio.export.timeline import Take, edl, film, timeline
from studio.media import sidecars
from studio.media.video import read_mp4, write_mp4

Ffmpeg = Callable[..., tuple[bytes, str]]
FPS, RATE = 24, 48_000


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    """Three clips of one colour each; the last one is larger."""
    made = []
    for number, size in enumerate([(128, 192), (128, 192), (256, 384)]):
        frames = np.full((49, *size, 3), 60 * number + 40, np.uint8)
        recorded = {"software": "Neodragon Studio 0", "kind": "clip", "prompt": f"p{number}"}
        made.append(write_mp4(tmp_path / f"clip {number}.mp4", frames, FPS, recorded))
    return made


def tone(path: Path, seconds: float) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        count = int(RATE * seconds)
        file.writeframes(
            b"".join(
                struct.pack("<h", int(20_000 * math.sin(2 * math.pi * 440 * n / RATE)))
                for n in range(count)
            )
        )
    return path


def heard(ffmpeg: Ffmpeg, path: Path) -> np.ndarray:
    raw, _ = ffmpeg("-i", path, "-map", "0:a", "-f", "s16le", "-ac", "1", "-ar", str(RATE), "-")
    return np.frombuffer(raw, "<i2").astype(float)


def loudness(samples: np.ndarray, at: float) -> float:
    part = samples[int(at * RATE) : int((at + 0.1) * RATE)]
    return float(np.sqrt((part**2).mean()))


@pytest.mark.parametrize("length", [1.0, 9.0])
def test_the_sound_is_as_long_as_the_film(
    clips: list[Path], tmp_path: Path, ffmpeg: Ffmpeg, length: float
) -> None:
    takes = [Take(clips[0], 10, 33), Take(clips[2], None, 23, "A title"), Take(clips[1])]
    made = film(takes, tmp_path / "film.mp4", sound=tone(tmp_path / "tone.wav", length))
    frames, fps = read_mp4(made)
    assert frames.shape == (24 + 24 + 49, 128, 192, 3) and fps == FPS
    assert sidecars.inside(made)["export"] == {"shots": [{"file": t.clip.name} for t in takes]}
    samples = heard(ffmpeg, made)
    seconds = len(frames) / FPS
    assert len(samples) / RATE == pytest.approx(seconds, abs=0.05)
    assert loudness(samples, 0) < loudness(samples, 0.7) / 2
    if length > seconds:
        assert loudness(samples, seconds - 0.1) < loudness(samples, seconds - 1) / 2
    else:
        assert loudness(samples, 2) < loudness(samples, 0.7) / 100
    middle = frames[[10, 30, 60], 20, 20].mean(axis=-1)
    assert np.abs(middle - [40, 160, 100]).max() < 4
    assert frames[30, 90:].max() > 215 and frames[60, 90:].max() < 110


def test_what_is_no_sound_is_said(clips: list[Path], tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.wav"
    nothing.write_bytes(b"RIFF....")
    with pytest.raises(ExportError, match="choose a WAV or MP3"):
        film([Take(clips[0])], tmp_path / "film.mp4", sound=nothing)
    assert not list(tmp_path.glob("film*")) and not list(tmp_path.glob(".film*"))


def test_timelines_count_in_frames(clips: list[Path], tmp_path: Path) -> None:
    takes = [Take(clips[0], 10, 33), Take(clips[1], title="Über den Wolken\n2")]
    text = edl(takes, tmp_path / "film.edl").read_text(encoding="ascii")
    assert re.findall(r"^00\d .*$", text, re.MULTILINE) == [
        "001  AX       V     C        00:00:00:10 00:00:01:10 00:00:00:00 00:00:01:00",
        "002  AX       V     C        00:00:00:00 00:00:02:01 00:00:01:00 00:00:03:01",
    ]
    assert "* FROM CLIP NAME: clip 0.mp4" in text and "* COMMENT: ?ber den Wolken 2" in text
    root = xml.parse(timeline(takes, tmp_path / "film.fcpxml")).getroot()
    first, second = root.iter("asset-clip")
    assert (first.get("start"), first.get("duration")) == ("10/24s", "24/24s")
    assert (second.get("offset"), second.get("duration")) == ("24/24s", "49/24s")
    assert {asset.get("duration") for asset in root.iter("asset")} == {"49/24s"}


def test_the_command_joins_with_sound(clips: list[Path], tmp_path: Path, ffmpeg: Ffmpeg) -> None:
    sound, target = tone(tmp_path / "tone.wav", 5), tmp_path / "out.mp4"
    arguments = ["export", *map(str, clips[:2]), "--join", "--sound", str(sound), "--edl"]
    assert main([*arguments, "--fcpxml", "-o", str(target)]) == 0
    assert len(read_mp4(target)[0]) == 98 and len(heard(ffmpeg, target)) > 4 * RATE
    assert target.with_suffix(".edl").is_file() and target.with_suffix(".fcpxml").is_file()
    assert main(["export", str(clips[0]), "--sound", str(sound)]) == 2
