"""The commands that look after clips, on what the real engine makes with the mini pack."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname
from xml.etree import ElementTree as xml

import numpy as np
import pytest
from PIL import Image, ImageSequence

from engine.measures import psnr
from engine.pack import Pack
from studio.cli.main import main
from studio.jobs.spec import Work, content_key
from studio.library.restore import restore
from studio.library.store import BIN, EXPORTS, Library
from studio.media import sidecars
from studio.media.video import read_mp4, write_mp4
from studio.system import paths
from studio.system.settings import KNOWN, Settings, load, settings_file

Said = pytest.CaptureFixture[str]
Ffmpeg = Callable[..., tuple[bytes, str]]
POSIX = pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")

DAMAGED = (
    "The settings in settings.json are damaged; the file is kept as settings.damaged.json."
    " The last good settings are used.\n"
)
PROMPT = "a red ball bounces on the meadow"
REQUEST = [PROMPT, "--look-seed", "3", "--steps", "1,1,1"]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, mini_pack: Path) -> Path:
    """A folder with a clip and a first frame, and what the commands said of them."""
    folder = tmp_path_factory.mktemp("shelf")
    for name, arguments in (
        ("clip.mp4", ["render", *REQUEST, "--motion-seed", "4", "--no-upscale"]),
        ("frame.png", ["frame", *REQUEST]),
    ):
        command = [sys.executable, "-m", "studio.cli.main", *arguments, "-o", str(folder / name)]
        command += ["--pack", str(mini_pack), "--backend", "cpu", "--json"]
        done = subprocess.run(command, capture_output=True, check=True)
        (folder / f"{name}.said").write_bytes(done.stdout)
    return folder


@pytest.fixture(autouse=True)
def folder(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's videos, with a copy of what was made; every command runs elsewhere."""
    videos = tmp_path / "videos"
    shutil.copytree(shelf, videos, ignore=shutil.ignore_patterns("*.said"))
    monkeypatch.setattr("studio.system.paths.clips_folder", lambda: videos)
    monkeypatch.setenv(paths.DATA_VARIABLE, str(tmp_path / "data"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return videos


def listed(capsys: Said, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == code
    told = json.loads(capsys.readouterr().out)
    assert isinstance(told, list)
    return told


def names(capsys: Said, *arguments: str) -> list[str]:
    return sorted(Path(item["file"]).name for item in listed(capsys, "library", *arguments))


def refused(capsys: Said, *arguments: str) -> str:
    """What a command says that has nothing to begin with."""
    capsys.readouterr()
    try:
        code = main(list(arguments))
    except SystemExit as exit_:  # argparse
        code = int(exit_.code or 0)
    said = capsys.readouterr()
    assert code == 2 and said.out == ""
    assert said.err.startswith("nds: ") and said.err.endswith(".\n") and said.err.count("\n") == 1
    return said.err


def test_what_is_made_has_a_sidecar_as_a_job_has(shelf: Path, pack: Pack) -> None:
    asked = Work(PROMPT, 3, 4, pack=str(pack.path), backend="cpu", steps=(1, 1, 1), upscale=False)
    for name, kind in (("clip.mp4", "clip"), ("frame.png", "frame")):
        said = json.loads((shelf / f"{name}.said").read_bytes())
        beside = json.loads((shelf / name).with_suffix(".json").read_bytes())
        assert said["file"] == str(shelf / name) and said["stages"]["first_frame"] > 0
        assert {n: v for n, v in said.items() if n not in ("file", "stages")} == {
            n: v for n, v in beside.items() if n != "file"
        }
        assert (beside["file"], beside["kind"]) == (name, kind) and beside["seconds"] > 0
        assert sidecars.inside(shelf / name).items() <= beside.items()
        assert restore(shelf / name).request.look_seed == 3
    assert json.loads((shelf / "clip.json").read_bytes())["key"] == content_key(asked, pack)


def test_marks_of_a_clip_that_is_gone_are_kept(folder: Path) -> None:
    assert main(["library", "mark", "frame.png", "--note", "mine"]) == 0
    before = (folder / "frame.json").read_bytes()
    (folder / "frame.png").unlink()
    for name in ("frame-2", "frame-3"):
        assert main(["frame", *REQUEST, "-o", str(folder / "frame.png")]) == 0
        assert sidecars.read(folder / f"{name}.json")["file"] == f"{name}.png"
    assert (folder / "frame.json").read_bytes() == before
    assert main(["frame", *REQUEST, "-o", str(folder / "frame.png"), "--overwrite"]) == 0
    assert "marks" not in sidecars.read(folder / "frame.png")


def test_the_library_is_searched(capsys: Said, folder: Path) -> None:
    (folder / "other.mp4").write_bytes(b"not ours")
    clip, frame = sorted(listed(capsys, "library"), key=lambda item: str(item["file"]))
    assert (clip["file"], clip["kind"]) == (str(folder / "clip.mp4"), "clip")
    assert (clip["prompt"], clip["look_seed"], clip["motion_seed"]) == (PROMPT, 3, 4)
    assert (clip["stars"], clip["verdict"], clip["note"]) == (0, "", "")
    assert frame["kind"] == "frame"
    assert names(capsys, "BALL", "red") == ["clip.mp4", "frame.png"]
    assert names(capsys, "house") == names(capsys, "--since", "2999-01-01") == []
    assert names(capsys, "--seed", "4", "ball") == ["clip.mp4"]
    assert names(capsys, "--since", clip["created"][:10], "--until", clip["created"][:10])
    assert names(capsys, "--kind", "frame") == ["frame.png"]
    assert len(names(capsys, "--limit", "1")) == 1
    assert main(["library"]) == 0
    assert f"{folder / 'clip.mp4'}  {PROMPT}" in capsys.readouterr().out


def test_marks_and_the_bin(capsys: Said, folder: Path) -> None:
    (item,) = listed(
        capsys, "library", "mark", "clip.mp4", "--star", "4", "--note", "best", "--keep"
    )
    assert (item["stars"], item["note"], item["verdict"]) == (4, "best", "keep")
    assert names(capsys, "--star", "3") == names(capsys, "best") == ["clip.mp4"]
    (item,) = listed(capsys, "library", "mark", str(folder / "clip.mp4"), "--no-keep")
    assert (item["stars"], item["note"], item["verdict"]) == (4, "best", "")
    both = listed(capsys, "library", "reject", "clip.mp4", "frame.png")
    assert [item["verdict"] for item in both] == ["reject", "reject"]
    assert (folder / BIN / "clip.json").is_file() and not (folder / "clip.mp4").exists()
    assert names(capsys) == [] and names(capsys, "--rejected") == ["clip.mp4", "frame.png"]
    assert main(["library", "bring-back", "clip.mp4", str(folder / BIN / "frame.png")]) == 0
    assert f"****          {folder / 'clip.mp4'}" in capsys.readouterr().out
    assert names(capsys) == ["clip.mp4", "frame.png"]
    with Library(paths.jobs_file(), folder) as library:
        assert library.item(folder / "clip.mp4").stars == 4


def test_one_bad_name_does_not_stop_the_rest(capsys: Said, folder: Path) -> None:
    bad, good = listed(capsys, "library", "mark", "none.mp4", "clip.mp4", "--star", "1", code=1)
    assert "none.mp4 is not a clip" in bad["error"] and good["stars"] == 1
    assert "none.mp4 is not a clip" in refused(capsys, "library", "reject", "none.mp4")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["library", "mark"], "needs clips"),
        (["library", "mark", "clip.mp4"], "needs --star, --keep"),
        (["library", "reject", "clip.mp4", "--star", "3"], "has no option --star"),
        (["library", "mark", "clip.mp4", "--since", "2026-11-22"], "has no option --since"),
        (["library", "ball", "--note", "x"], "has no option --note"),
        (["library", "--star", "6"], "give 0 to 5 stars"),
        (["library", "--since", "yesterday"], "a day such as 2026-11-22"),
        (["verify"], "CLIP"),
        (["settings", "colour"], "'colour'"),
        (["settings", "colour", "red"], "'colour'"),
        (["settings", "battery", "101"], "battery cannot be '101'; choose 0 .. 100 %"),
        (["settings", "notify", "1"], "notify cannot be '1'; choose true, false"),
        (["settings", "clips", ""], "clips cannot be ''; choose a path"),
        (["export"], "CLIP"),
        (["export", "none.mp4"], "none.mp4"),
        (["export", "none.mp4", "--format", "avi"], "avi"),
        (["export", "none.mp4", "--loop", "0"], "whole number from 1"),
        (["export", "none.mp4", "--loop", "101"], "1 to 100 times"),
        (["export", "none.mp4", "-o", "none.gif"], "end in .mp4"),
        (["export", "none.mp4", "--fcpxml"], "works only with --join; add it"),
        (["export", "--join", "none.mp4"], "none.mp4"),
        (["export", "--join", "none.mp4", "--format", "gif"], "leave one of them out"),
        (["verify", "none.mp4"], "none.mp4"),
        (["verify", "none.mp4", "--pack", "none"], "There is no pack at none"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], words: str, capsys: Said) -> None:
    assert words in refused(capsys, *arguments)


def test_verify_says_identical_close_different(capsys: Said, folder: Path) -> None:
    clip = folder / "clip.mp4"
    frames, fps = read_mp4(clip)
    inside = sidecars.inside(clip)
    rounded = frames ^ 1  # each value off by one: 48 dB, and what the encoder adds
    write_mp4(folder / "close.mp4", rounded, fps, inside)
    write_mp4(folder / "different.mp4", frames[::-1], fps, inside)
    (folder / "none.mp4").write_bytes(b"no clip")
    said = listed(capsys, "verify", *(str(folder / f"{n}.mp4") for n in ("clip", "close")))
    assert [result["outcome"] for result in said] == ["identical", "close"]
    assert said[0]["psnr"] is None and 35 < said[1]["psnr"] < 60 and said[0]["notes"] == []
    capsys.readouterr()
    assert main(["verify", str(folder / "different.mp4"), str(folder / "none.mp4")]) == 1
    out, err = capsys.readouterr()
    assert f"{folder / 'different.mp4'}: Different (" in out and "none.mp4 is not a clip" in err


def test_a_frame_verifies(capsys: Said, folder: Path) -> None:
    (said,) = listed(capsys, "verify", str(folder / "frame.png"))
    assert said["outcome"] == "identical"


@POSIX
@pytest.mark.parametrize("arguments", [["--help"], ["library"], ["library", "--json"]])
def test_nobody_reads_to_the_end(arguments: list[str], folder: Path, tmp_path: Path) -> None:
    """As `| head -0` is, of which the reader has left before anything is written."""
    videos = tmp_path / "Videos"
    shutil.copytree(folder, videos / paths.APPLICATION)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "studio.cli.main", *arguments],
            stdout=writer,
            stderr=subprocess.PIPE,
            env=os.environ | {"XDG_VIDEOS_DIR": str(videos), "PYTHONUNBUFFERED": ""},
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("format", "codec", "least"),
    [("mp4", "h264", 99.0), ("webm", "vp9", 35), ("prores", "prores", 38), ("gif", "gif", 25)],
)
def test_exports_show_the_clip(
    format: str, codec: str, least: float, capsys: Said, folder: Path, ffmpeg: Ffmpeg
) -> None:
    clip = folder / "clip.mp4"
    (said,) = listed(capsys, "export", str(clip), "--format", format)
    export = Path(said["export"])
    assert export == folder / EXPORTS / f"clip.{'mov' if format == 'prores' else format}"
    _, words = ffmpeg("-i", export)
    assert f"Video: {codec}" in words and "192x128" in words
    before, _ = read_mp4(clip)
    if format == "gif":  # which counts in hundredths of a second
        with Image.open(export) as picture:
            after = np.stack(
                [np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(picture)]
            )
            assert picture.info["loop"] == 0
    else:
        after, fps = read_mp4(export)
        assert fps == 24
    assert psnr(before, after) >= least
    assert names(capsys) == ["clip.mp4", "frame.png"]  # an export is a copy


def test_webp_and_png_show_the_clip(capsys: Said, folder: Path) -> None:
    clip = folder / "clip.mp4"
    before, _ = read_mp4(clip)
    (said,) = listed(capsys, "export", str(clip), "--format", "webp", "-o", "a.webp")
    with Image.open("a.webp") as picture:
        assert (said["export"], picture.format) == (str(Path("a.webp").absolute()), "WEBP")
        after = np.stack([np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(picture)])
        assert picture.info["loop"] == 0 and psnr(before, after) > 30
    for name in ("pictures", "pictures-2"):
        (said,) = listed(
            capsys, "export", str(clip), "--format", "png", "-o", "pictures.d/pictures"
        )
        files = sorted(Path(said["export"]).iterdir())
        assert Path(said["export"]).name == name
        assert [file.name for file in files] == [f"{n:04}.png" for n in range(1, 50)]
        assert np.array_equal(before, [np.asarray(Image.open(file)) for file in files])


def test_several_times_there_and_back(capsys: Said, folder: Path) -> None:
    clip = folder / "clip.mp4"
    arguments = ["export", str(clip), "--loop", "2", "--ping-pong"]
    (said,) = listed(capsys, *arguments)
    export = Path(said["export"])
    assert export.name == "clip_ping-pong_x2.mp4"
    before, _ = read_mp4(clip)
    after, fps = read_mp4(export)
    once = [*range(49), *range(47, 0, -1)]
    assert fps == 24 and psnr(before[once * 2], after) > 35
    assert sidecars.inside(export)["export"] == {"of": "clip.mp4", "loops": 2, "ping_pong": True}
    whole = export.read_bytes()
    (said,) = listed(capsys, *arguments, "-o", str(export))
    assert Path(said["export"]).name == "clip_ping-pong_x2-2.mp4" and export.read_bytes() == whole
    assert "is an export" in refused(capsys, "verify", str(export))


def test_several_go_into_a_folder(capsys: Said, folder: Path) -> None:
    shutil.copy(folder / "clip.mp4", "b.mp4")
    clips = [str(folder / "clip.mp4"), "none.mp4", "b.mp4"]
    said = listed(capsys, "export", *clips, "-o", "out", code=1)
    assert "none.mp4" in said[1]["error"]
    for result in (said[0], said[2]):
        assert Path(result["export"]).read_bytes() == (folder / "clip.mp4").read_bytes()
    assert sorted(path.name for path in Path("out").iterdir()) == ["b.mp4", "clip.mp4"]


def test_clips_are_joined_and_are_a_timeline(capsys: Said, folder: Path) -> None:
    second = folder / "second & last.mp4"
    frames, fps = read_mp4(folder / "clip.mp4")
    write_mp4(second, frames[:25], fps, sidecars.inside(folder / "clip.mp4"))
    shots = [folder / "clip.mp4", second, folder / "clip.mp4"]
    (said,) = listed(capsys, "export", "--join", *map(str, shots), "--fcpxml", "--no-numbers")
    joined, joined_fps = read_mp4(Path(said["export"]))
    assert said["export"] == str(folder / EXPORTS / "clip_joined.mp4") and joined_fps == 24
    assert psnr(np.concatenate([frames, frames[:25], frames]), joined) > 35
    assert said["files"] == [str(shot) for shot in shots]

    root = xml.parse(said["timeline"]).getroot()
    assert (root.tag, root.get("version")) == ("fcpxml", "1.10")
    (format_,) = root.findall("resources/format")
    assert (format_.get("frameDuration"), format_.get("width")) == ("1/24s", "192")
    paths = {
        asset.get("id"): Path(url2pathname(urlparse(asset.find("media-rep").get("src")).path))  # type: ignore[union-attr, arg-type]
        for asset in root.findall("resources/asset")
    }
    clips = root.findall("library/event/project/sequence/spine/asset-clip")
    assert [paths[clip.get("ref")] for clip in clips] == shots
    assert [clip.get("offset") for clip in clips] == ["0/24s", "49/24s", "74/24s"]
    assert [clip.get("duration") for clip in clips] == ["49/24s", "25/24s", "49/24s"]
    assert [clip.findtext("note") for clip in clips] == [PROMPT] * 3
    (sequence,) = root.iter("sequence")
    assert sequence.get("duration") == "123/24s" and sequence.get("format") == format_.get("id")

    (numbered,) = listed(capsys, "export", "--join", *map(str, shots[:2]), "-o", "numbered.mp4")
    pictures, _ = read_mp4(Path(numbered["export"]))
    corner = np.abs(pictures.astype(int) - joined[:74])[:, -24:, :40].mean()
    rest = np.abs(pictures.astype(int) - joined[:74])[:, :96].mean()
    assert corner > 10 > 4 > rest and "timeline" not in numbered


def test_settings_are_shown_and_changed(capsys: Said, tmp_path: Path) -> None:
    def told(*arguments: str) -> dict[str, object]:
        assert main(["settings", *arguments, "--json"]) == 0
        content = json.loads(capsys.readouterr().out)
        assert isinstance(content, dict)
        return content

    assert told() == {name: getattr(Settings(), name) for name in KNOWN}
    assert not settings_file().exists()
    for name, value, stored in (
        ("battery", "35", 35),
        ("notify", "false", False),
        ("theme", "dark", "dark"),
        ("threads", "2", 2),
        ("threads", "null", None),
        ("clips", "my clips", str(tmp_path / "here" / "my clips")),
        ("pack", "7", str(tmp_path / "here" / "7")),
        ("pack", "null", None),
    ):
        assert told(name, value) == told(name) == {name: stored}
    assert (load(settings_file())[0].battery, told()["theme"]) == (35, "dark")
    assert main(["settings", "theme"]) == 0
    assert capsys.readouterr().out == "dark\n"
    settings_file().write_text("{trunc")
    assert main(["settings", "battery"]) == 0
    assert capsys.readouterr() == ("35\n", "nds: " + DAMAGED)
