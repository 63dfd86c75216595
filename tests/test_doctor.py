"""The doctor finds what is wrong, says it in one line and names one thing to do."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from engine.canary import Score, canary
from engine.errors import Message
from engine.pack import open_pack
from engine.session import available
from studio.cli.main import main
from studio.health import doctor
from studio.health.doctor import Line
from studio.system import paths
from studio.system.settings import change

Said = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    data = tmp_path / "data"
    monkeypatch.setenv(paths.DATA_VARIABLE, str(data))
    change(data / "settings.json", clips=str(tmp_path / "clips"))
    return data


def lines() -> dict[str, Line]:
    found = {line.code: line for line in doctor.examine(golden=False)}
    for line in found.values():
        assert bool(line.action) == (line.state != "ok") and "\n" not in str(line.sentence)
    return found


def test_all_is_well_here(capsys: Said) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == [f"D{n:02}" for n in range(1, 16)]
    assert not [line for line in said if line.split()[1] == "fail"]
    # It was made on another processor, whose kernels may round otherwise.
    assert re.search(r"clip, made again on the CPU: (Identical|Close \(\d+\.\d dB\))\.$", said[-2])


def test_a_damaged_pack(mini_pack: Path, data: Path, tmp_path: Path, capsys: Said) -> None:
    pack = tmp_path / "pack"
    shutil.copytree(mini_pack, pack)
    graph = pack / "portable" / "modulation.onnx"
    content = bytearray(graph.read_bytes())
    content[-1] ^= 1
    graph.write_bytes(content)
    change(data / "settings.json", pack=str(pack))
    line = lines()["D12"]
    assert line.state == "fail" and "modulation.onnx has the SHA-256" in str(line.sentence)
    assert "nds pack repair" in str(line.action)
    graph.unlink()
    assert main(["doctor", "--no-golden", "--json"]) == 1
    (fault,) = [line for line in json.loads(capsys.readouterr().out) if line["state"] == "fail"]
    assert fault["code"] == "D12" and "missing" in fault["sentence"]


def test_folders_that_take_nothing(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    change(data / "settings.json", clips=str(tmp_path / "file" / "clips"))
    line = lines()["D03"]
    assert line.state == "fail" and "takes no files" in str(line.sentence)
    assert "Settings" in str(line.action)


def test_a_folder_that_onedrive_uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OneDrive", str(tmp_path))
    assert lines()["D06"].state == "warn"


def test_files_that_are_damaged(data: Path) -> None:
    (data / "settings.json").write_text("{")
    (data / "settings.last-good.json").unlink()
    (data / "jobs.sqlite").write_bytes(b"no database" * 100)
    found = lines()
    assert found["D09"].state == "warn" and "damaged" in str(found["D09"].sentence)
    assert found["D10"].state == "fail" and "clips are not in it" in str(found["D10"].action)


def test_an_ffmpeg_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ffmpeg", lambda: os.devnull)
    assert lines()["D07"].state == "fail"


def test_a_golden_clip_that_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["render", "a blue star", "-o", str(tmp_path / "a.mp4"), "--no-upscale"]) == 0
    blue = (tmp_path / "a.mp4").read_bytes()
    prompts = [b"a blue star", b"a grey star"]
    (tmp_path / "b.mp4").write_bytes(blue.replace(*prompts))
    monkeypatch.setattr(doctor, "GOLDEN", tmp_path / "b.mp4")
    assert [line.state for line in doctor.examine() if line.code == "D14"] == ["fail"]
    monkeypatch.setattr(doctor, "GOLDEN", tmp_path / "absent.mp4")
    assert [line.state for line in doctor.examine() if line.code == "D14"] == ["fail"]


def test_a_report_names_nobody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Said
) -> None:
    for name in ("HOME", "USERPROFILE"):  # elsewhere, and on Windows
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("LOGNAME", "maria")
    assert main(["doctor", "--no-golden", "--report"]) == 0
    said = capsys.readouterr().out
    assert str(tmp_path) not in said and str(Path("~", "clips")) in said
    assert "maria" not in doctor.report([Line("D01", "ok", Message("of maria"))])


def test_the_canary(mini_pack: Path) -> None:
    with open_pack(mini_pack) as pack:
        score = canary(pack, "cpu")
        assert score.is_sound and score.db > 100
        if "npu-emulated" in available():
            score = canary(pack, "npu-emulated")
            assert score.is_sound and 40 < score.db < 100 and score.run_seconds > 0
        score = canary(pack, "npu")
        assert not score.is_sound and "there is no Hexagon NPU" in str(score.problem)
    assert not Score("a", "b", db=12.0).is_sound
