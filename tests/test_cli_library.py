"""`nds library`, `nds verify` and `nds export` on real files; every export is probed back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

import numpy as np
import pytest
from PIL import Image

from studio import places, settings
from studio.cli import main
from studio.exports import order
from studio.video import read_metadata, read_mp4, write_mp4

Said = pytest.CaptureFixture[str]
Probe = Callable[..., tuple[bytes, str]]
FRAMES = 49


def moving() -> np.ndarray:
    """A grey square that goes right: every frame is another, uint8 [49, 64, 96, 3]."""
    frames = np.full((FRAMES, 64, 96, 3), 40, np.uint8)
    for number, frame in enumerate(frames):
        frame[20:44, number : number + 24] = 200
    return frames


def recorded(prompt: str, look: int) -> dict[str, Any]:
    return {
        "software": "Neodragon Studio 0.1.0",
        "prompt": prompt,
        "negative_prompt": "",
        "look_seed": look,
        "motion_seed": 2,
        "mode": "hybrid",
        "steps": [1, 1, 1],
        "upscale": False,
        "picture": None,
        "pack": {"name": "neodragon-mini", "version": "0.1.0", "hash": "ab" * 32},
        "backend": "cpu",
    }


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two clips in the folder that the settings name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(places.DATA_VARIABLE, str(tmp_path / "data"))
    folder = tmp_path / "Videos é"
    settings.change(settings.settings_file(), clips=str(folder))
    return [
        write_mp4(folder / f"{name}.mp4", moving(), 24, recorded(f"a {name} ball", seed))
        for seed, name in enumerate(("red", "blue"))
    ]


def listed(capsys: Said, *more: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["library", *more, "--json"]) == 0
    items: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return items


def test_the_library_is_searched_marked_and_culled(clips: list[Path], capsys: Said) -> None:
    assert {item["file"] for item in listed(capsys)} == set(map(str, clips))
    assert [item["prompt"] for item in listed(capsys, "search", "blue")] == ["a blue ball"]
    assert listed(capsys, "mark", str(clips[0]), "--stars", "4", "--note", "x")[0]["stars"] == 4
    assert [i["file"] for i in listed(capsys, "search", "--stars", "3")] == [str(clips[0])]
    assert [i["file"] for i in listed(capsys, "search", "--seed", "1")] == [str(clips[1])]
    assert listed(capsys, "search", "--until", "2020-01-01") == []
    (gone,) = listed(capsys, "reject", str(clips[1]))
    assert Path(gone["file"]).is_file() and not clips[1].exists()
    assert [item["file"] for item in listed(capsys)] == [str(clips[0])]
    assert [item["file"] for item in listed(capsys, "search", "--bin")] == [gone["file"]]
    listed(capsys, "bring-back", gone["file"])
    assert clips[1].is_file()
    capsys.readouterr()
    assert main(["library"]) == 0
    assert "****" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["library", "reject", "/etc/hosts"],
        ["library", "mark", "no.mp4", "--stars", "3"],
        ["library", "mark", "{clip}", "--stars", "9"],
        ["export", "no.mp4"],
        ["export", "{clip}", "--loop", "1000"],
        ["verify", "no.mp4"],
    ],
)
def test_mistakes_are_one_sentence(clips: list[Path], capsys: Said, arguments: list[str]) -> None:
    assert main([part.format(clip=clips[0]) for part in arguments]) == 2
    said = capsys.readouterr()
    words = (said.err or said.out).strip()
    assert words.endswith(".") and len(words.splitlines()) == 1


@pytest.mark.parametrize(
    ("format", "codec"),
    [("gif", "gif"), ("webp", "webp"), ("webm", "vp9"), ("mov", "prores"), ("mp4", "h264")],
)
def test_every_format_is_what_it_says(
    clips: list[Path], capsys: Said, ffmpeg: Probe, format: str, codec: str
) -> None:
    capsys.readouterr()
    assert main(["export", str(clips[0]), "--format", format, "-o", f"out.{format}"]) == 0
    target = Path(capsys.readouterr().out.strip())
    if format in ("gif", "webp"):
        with Image.open(target) as image:
            assert image.n_frames == FRAMES and image.size == (96, 64)
        return
    said = ffmpeg("-i", str(target))[1]
    assert codec in said and "96x64" in said and "24 fps" in said
    frames, _ = read_mp4(target)
    assert len(frames) == FRAMES
    assert np.abs(frames.astype(int) - moving()).mean() < 4


def test_there_and_back_again_and_again(clips: list[Path], capsys: Said) -> None:
    capsys.readouterr()
    assert main(["export", str(clips[0]), "--loop", "2", "--ping-pong", "--json"]) == 0
    (path,) = json.loads(capsys.readouterr().out)
    frames, fps = read_mp4(Path(path))
    assert len(frames) == 2 * (2 * FRAMES - 2) == len(order(FRAMES, 2, True)) and fps == 24
    assert np.abs(frames[FRAMES].astype(int) - moving()[FRAMES - 2]).mean() < 4
    assert read_metadata(Path(path))["export"]["ping_pong"] is True


def test_pictures(clips: list[Path], capsys: Said) -> None:
    assert main(["export", str(clips[0]), "--format", "png", "-o", "shots"]) == 0
    assert len(list(Path("shots").glob("*.png"))) == FRAMES


def test_several_become_an_animatic_and_a_timeline(clips: list[Path], capsys: Said) -> None:
    assert main(["export", *map(str, clips), "--join", "-o", "all.mp4"]) == 0
    frames, _ = read_mp4(Path("all.mp4"))
    assert len(frames) == 2 * FRAMES
    assert np.abs(frames[-1].astype(int) - frames[0]).mean() > 1
    assert main(["export", *map(str, clips), "--fcpxml", "-o", "all.fcpxml"]) == 0
    tree = xml.parse("all.fcpxml")
    shots = tree.findall(".//asset-clip")
    assert [shot.get("duration") for shot in shots] == ["49/24s", "49/24s"]
    assert [shot.get("offset") for shot in shots] in (["0s", "49/24s"], ["0/24s", "49/24s"])
    sources = [rep.get("src") for rep in tree.findall(".//media-rep")]
    assert sources == [clip.as_uri() for clip in clips]


def test_a_clip_is_made_again_and_compared(clips: list[Path], capsys: Said) -> None:
    render = ["render", "a red ball", "-o", "made.mp4", "--look-seed", "3", "--motion-seed", "4"]
    assert main([*render, "--no-upscale", "--backend", "cpu"]) == 0
    capsys.readouterr()
    assert main(["verify", "made.mp4", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["outcome"] == "identical"
    assert main(["verify", "made.mp4", str(clips[0])]) == 1
    words = capsys.readouterr().out.splitlines()
    assert words[0] == "made.mp4: Identical."
    assert "Different" in words[1] and "was made with the pack" in words[1]


def test_a_closed_pipe_is_not_a_mistake(clips: list[Path], tmp_path: Path) -> None:
    program = "from studio.cli import main; raise SystemExit(main(['library']))"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert done.returncode == 0 and done.stderr == ""
