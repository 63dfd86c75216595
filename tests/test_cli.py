"""The command line with the real engine and the mini pack: what it writes, says and refuses."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine import pipeline
from engine.pack import Pack
from studio.cli.main import main
from studio.jobs.supervisor import Keeper
from studio.jobs.table import JobTable
from studio.media import pictures
from studio.media.video import read_metadata
from studio.system import paths

Decode = Callable[[Path], np.ndarray]

PROMPT = "a red ball bounces on the meadow"
SEEDS = ["--look-seed", "3", "--motion-seed", "4294967295"]


@pytest.fixture(autouse=True)
def elsewhere(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Every command runs in an empty folder, with data of its own."""
    monkeypatch.setenv(paths.DATA_VARIABLE, str(tmp_path_factory.mktemp("data")))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, mini_pack: Path) -> Path:
    """One clip that several tests look at."""
    path = tmp_path_factory.mktemp("render") / "clip.mp4"
    assert main(["render", PROMPT, "-o", str(path), *SEEDS, "--pack", str(mini_pack)]) == 0
    return path


def test_a_prompt_becomes_a_clip(clip: Path, pack: Pack, decode: Decode) -> None:
    geometry = pack.geometry
    frames = decode(clip)
    height, width = geometry.upscale * geometry.height, geometry.upscale * geometry.width
    assert frames.shape == (geometry.frames, height, width, 3)
    assert frames.std() > 4  # it shows something


def test_a_clip_knows_how_it_was_made(clip: Path, pack: Pack) -> None:
    metadata = read_metadata(clip)
    assert metadata["software"].startswith("Neodragon Studio ")
    assert metadata["prompt"] == PROMPT
    assert (metadata["look_seed"], metadata["motion_seed"]) == (3, 4294967295)
    assert metadata["pack"] == {
        "name": pack.name,
        "version": pack.version,
        "hash": pack.pack_hash,
    }
    assert metadata["steps"] == list(pack.schedule.modes["hybrid"].steps)
    assert metadata["upscale"] is True
    assert {"mode", "negative_prompt", "image", "backend"} <= set(metadata)


def test_the_same_request_makes_the_same_file(clip: Path, mini_pack: Path) -> None:
    assert main(["render", PROMPT, "-o", "again.mp4", *SEEDS, "--pack", str(mini_pack)]) == 0
    assert Path("again.mp4").read_bytes() == clip.read_bytes()


def test_random_seeds_are_said_and_stored(
    decode: Decode, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("clip.mp4", "clip-2.mp4"):  # the first one is not overwritten
        assert main(["render", PROMPT, "--no-upscale"]) == 0
        said = capsys.readouterr().out
        seeds = [int(seed) for seed in re.findall(r"look seed (\d+), motion seed (\d+)", said)[0]]
        metadata = read_metadata(Path(name))
        assert [metadata["look_seed"], metadata["motion_seed"]] == seeds
        assert f"{name}: 49 frames, 192 x 128" in said
        assert metadata["upscale"] is False
    assert decode(Path("clip.mp4")).shape == (49, 128, 192, 3)


def test_first_frame_alone_is_that_of_the_clip(
    clip: Path, decode: Decode, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["frame", PROMPT, "--look-seed", "3"]) == 0
    with Image.open("frame.png") as picture:
        first = np.asarray(picture)
        metadata = json.loads(picture.info["Comment"])
    assert (metadata["prompt"], metadata["look_seed"]) == (PROMPT, 3)
    assert "look seed 3 " in capsys.readouterr().out
    clip_first = decode(clip)[0]
    height, width = clip_first.shape[:2]
    larger = np.asarray(Image.fromarray(first).resize((width, height)), float)
    error = larger - clip_first
    assert np.sqrt((error**2).mean()) < 40


@pytest.mark.parametrize("state", ["idle", "paused", "gone"])
def test_the_open_studio_draws_a_first_frame(
    pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """By its worker, where that has nothing else to do; the same picture as without."""
    drawn_here: list[str] = []
    generate = pipeline.generate

    def watched(*arguments: Any, **options: Any) -> Any:
        drawn_here.append(state)
        return generate(*arguments, **options)

    command = ["frame", PROMPT, "--look-seed", "3", "--pack", str(pack.path), "--backend", "cpu"]
    assert main([*command, "-o", "alone.png"]) == 0
    monkeypatch.setattr(pipeline, "generate", watched)
    clips = tmp_path / "clips"
    with JobTable(paths.jobs_file()) as table:
        with Keeper(table, clips, tmp_path / "cache") as keeper:
            keeper.look()
            deadline = time.monotonic() + 120
            while not table.has_worker():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            if state == "paused":
                table.pause()
            if state != "gone":
                assert main([*command, "-o", "asked.png"]) == 0
        if state == "gone":
            assert main([*command, "-o", "asked.png"]) == 0
        assert table.jobs() == [], "nothing of it stays"
    assert drawn_here == ([] if state == "idle" else [state])
    assert not list(clips.glob("*"))
    pictures = [Image.open(name) for name in ("alone.png", "asked.png")]
    assert len({picture.tobytes() for picture in pictures}) == 1
    assert len({picture.info["Comment"] for picture in pictures}) == 1
    asked = json.loads(Path("asked.json").read_text(encoding="utf-8"))
    assert (asked["look_seed"], asked["kind"]) == (3, "frame")


def test_a_picture_begins_the_clip(pack: Pack, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGBA", (300, 200), (36, 84, 214, 255)).save("blue.png")
    arguments = ["--image", "blue.png", "--no-upscale", "--steps", "1,1,1", "--profile"]
    assert main(["render", "a blue sky", *arguments]) == 0
    metadata = read_metadata(Path("clip.mp4"))
    assert (metadata["image"], metadata["steps"]) == ("blue.png", [1, 1, 1])
    said = capsys.readouterr().out
    for stage in ("start", "clip", "video_encoder", "transformer", "video_decoder", "mp4"):
        assert re.search(rf"^  {stage} +\d+\.\d+ s$", said, re.MULTILINE)
    assert "first_frame" not in said


def test_what_was_not_read_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    prompt = "a red ball " * 200 + "zebra"
    assert main(["frame", prompt]) == 0
    said = capsys.readouterr().err
    assert "The prompt is too long for CLIP, which did not read: " in said
    assert "zebra" in said


def test_pack_info_and_verify(pack: Pack, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack", "info"]) == 0
    said = capsys.readouterr().out
    assert f"{pack.name} {pack.version}" in said
    assert pack.pack_hash in said
    assert all(name in said for name in pack.components)
    assert main(["pack", "verify"]) == 0
    said = capsys.readouterr().out
    assert said.endswith(f"{pack.name} {pack.version} is sound\n")
    assert all(f"ok  {file.name}\n" in said for file in pack.files)


def test_a_damaged_pack_is_not_sound(
    mini_pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "pack"
    shutil.copytree(mini_pack, damaged)
    graph = next(damaged.rglob("*.onnx"))
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    assert main(["pack", "verify", str(damaged)]) == 2
    assert_one_sentence(capsys, graph.name)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["render", ""], "Write a prompt first"),
        (["render", "  \n"], "Write a prompt first"),
        (["render", PROMPT, "--look-seed", "-1"], "whole number from 0 to 4294967295"),
        (["render", PROMPT, "--motion-seed", "4294967296"], "whole number from 0 to 4294967295"),
        (["render", PROMPT, "--look-seed", "1.5"], "whole number from 0 to 4294967295"),
        (["render", PROMPT, "--steps", "4"], "three whole numbers"),
        (["render", PROMPT, "--steps", "1,1,x"], "three whole numbers"),
        (["render", PROMPT, "--steps", "0,1,1"], "three whole numbers"),
        (["render", PROMPT, "--image", "missing.png"], "missing.png"),
        (["render", PROMPT, "--image", "text.png"], "text.png"),
        (["render", PROMPT, "--pack", "missing"], "There is no pack at missing"),
        (["render", PROMPT, "--pack", "text.png"], "text.png"),
        (["render", PROMPT, "-o", "clip.avi"], "end in .mp4"),
        (["render", PROMPT, "-o", "text.png/clip.mp4"], "choose another folder"),
        (["render", PROMPT, "--backend", "npu"], "--backend cpu"),
        (["render", PROMPT, "--mode", "other"], "monolithic"),
        (["render"], "prompt"),
        (["frame", PROMPT, "-o", "clip.mp4"], "end in .png"),
        (["pack", "info", "missing"], "There is no pack at missing"),
        ([], "COMMAND"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("text.png").write_text("no picture", encoding="utf-8")
    try:
        code = main(arguments)
    except SystemExit as exit_:  # argparse
        code = exit_.code
    assert code == 2
    assert_one_sentence(capsys, words)
    assert [path.name for path in tmp_path.iterdir()] == ["text.png"]


def assert_one_sentence(capsys: pytest.CaptureFixture[str], words: str) -> None:
    said = capsys.readouterr().err
    assert said.startswith("nds: ")
    assert words in said
    assert said.count("\n") == 1
    assert said.endswith(".\n")


def test_ctrl_c_stops_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr("studio.jobs.render.Meter.update", interrupt)
    assert main(["render", PROMPT]) == 130
    assert capsys.readouterr().err == "nds: stopped.\n"
    assert list(tmp_path.iterdir()) == []


def test_pictures_are_upright_and_on_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    picture.save("turned.png", exif=exif)
    pixels = pictures.read_picture(Path("turned.png"))
    assert pixels.shape == (4, 2, 3)
    assert (pixels == 255).all()


@pytest.mark.parametrize(
    "prompt", ["CON", 'a/b:c?*"<>|\\', "龙 🐉", "." * 300, "w" * 300, "Red ball"]
)
def test_clip_names_are_short_and_safe(prompt: str) -> None:
    name = paths.clip_name(prompt, 2**32 - 1, 2**32 - 1, datetime(2026, 11, 22, 9, 5))
    assert re.fullmatch(r"2026-11-22_0905_look4294967295_motion4294967295[a-z0-9_-]*\.mp4", name)
    assert len(name) < 110


def test_what_native_libraries_print_is_not_on_stdout() -> None:
    """As QNN's does on some processors, in front of the JSON."""
    code = (
        "import os, sys; from studio.cli.main import main; from studio.system import packs;"
        "listed = packs.installed;"
        "packs.installed = lambda *home: os.write(1, b'native') and listed(*home);"
        "sys.exit(main(['pack', 'list', '--json']))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120)
    assert run.returncode == 0 and b"native" in run.stderr
    assert json.loads(run.stdout)[0]["in_use"]
