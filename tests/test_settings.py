"""The user's settings: kept through damage, newer versions, several windows and full disks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from engine import session
from studio.system import settings
from studio.system.settings import Settings, SettingsError, change, load, save

MINE = Settings(
    *("de", "dark", True, "C:\\Vidéos 🐉", "packs/full.zip", "npu", 3, "monolithic"),
    *(False, False, False, 0, False, False),
    rest={"from the future": {"a": [1, None]}},
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "settings.json"


def test_settings_come_back(path: Path) -> None:
    assert load(path) == (Settings(), None)
    save(path, MINE)
    assert load(path) == (MINE, None)
    assert {file.name for file in path.parent.iterdir()} == {
        "settings.json",
        "settings.last-good.json",
    }
    assert all(getattr(MINE, name) != getattr(Settings(), name) for name in settings.KNOWN)


def test_what_is_unknown_is_kept(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('\ufeff{"theme": "dark", "from the future": {"a": [1, null]}}', "utf-8")
    assert load(path)[0].theme == "dark"
    assert change(path, language="zh") == Settings("zh", "dark", rest=MINE.rest)
    assert json.loads(path.read_text("utf-8"))["from the future"] == {"a": [1, None]}


@pytest.mark.parametrize(
    "damage", [b"", b'{"theme": "da', b"[]", b"\xff\xfe\0", b"null", b"[" * 10**5, b" " * 2**21]
)
def test_a_damaged_file_gives_the_last_good_ones(path: Path, damage: bytes) -> None:
    save(path, MINE)
    path.write_bytes(damage)
    read, sentence = load(path)
    assert read == MINE
    assert "The last good settings are used." in str(sentence)
    assert (path.parent / "settings.damaged.json").read_bytes() == damage
    assert load(path) == (MINE, None)  # mended
    path.write_bytes(damage + b"x")
    assert load(path)[0] == MINE
    assert (path.parent / "settings.damaged-2.json").read_bytes() == damage + b"x"
    assert (path.parent / "settings.damaged.json").read_bytes() == damage


def test_both_damaged_gives_the_studios_own(path: Path) -> None:
    save(path, MINE)
    for file in path.parent.iterdir():
        file.write_text("{")
    read, sentence = load(path)
    assert read == Settings() and "The standard settings are used." in str(sentence)
    assert (path.parent / "settings.damaged.json").read_text("utf-8") == "{"
    assert load(path) == (Settings(), None)


def test_a_folder_in_its_place_is_one_sentence(path: Path) -> None:
    path.mkdir(parents=True)
    read, sentence = load(path)
    assert read == Settings() and "cannot be read" in str(sentence)
    with pytest.raises(
        SettingsError, match=r"^The settings in [^\n]* nothing was changed[^\n]*\.$"
    ):
        change(path, theme="dark")


WRONG: list[dict[str, Any]] = [
    *({"theme": "sepia"}, {"theme": 7}, {"language": None}, {"expert": 1}, {"expert": "yes"}),
    *({"clips": ""}, {"clips": 5}, {"backend": "abacus"}, {"threads": 0}, {"threads": True}),
    *({"threads": 1.5}, {"mode": "none"}, {"battery": -1}, {"battery": 101}, {"battery": "20"}),
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_wrong_value_costs_only_itself(path: Path, wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(SettingsError, match=rf"^The setting {name} cannot be [^\n]*\.$"):
        change(path, **wrong)
    assert not path.exists()
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"suffix": False, "x": 1} | wrong), encoding="utf-8")
    read, sentence = load(path)
    assert read == Settings(suffix=False, rest={"x": 1})
    assert str(sentence).startswith(f"settings.json: The setting {name} cannot be ")


def test_an_unknown_setting_is_refused(path: Path) -> None:
    for name in ("colour", "rest"):
        with pytest.raises(SettingsError, match="There is no setting"):
            change(path, **{name: {}})


def test_changes_of_two_windows_meet(path: Path) -> None:
    """Each reads what the other has saved, and changes only its own."""
    change(path, theme="dark")
    script = (
        "import sys; from pathlib import Path; from studio.system.settings import change\n"
        "change(Path(sys.argv[1]), language='de')\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    assert change(path, battery=5) == Settings("de", "dark", battery=5)


@pytest.mark.skipif(os.name != "posix", reason="limits what a process may write")
def test_a_file_that_cannot_be_written_keeps_the_old_ones(path: Path) -> None:
    save(path, MINE)
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from studio.system.settings import SettingsError, change\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))\n"
        "try:\n"
        "    change(Path(sys.argv[1]), theme='light')\n"
        "except SettingsError as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, encoding="utf-8"
    )
    assert run.stdout.startswith("The settings cannot be saved in ")
    assert load(path) == (MINE, None)
    assert not list(path.parent.glob(".*"))


def test_the_backends_are_the_engines() -> None:
    assert settings.BACKENDS == session.BACKENDS == get_args(session.Backend)


def test_they_are_read_quickly() -> None:
    script = (
        "import sys, studio.system.settings; assert not {'onnxruntime', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_two_processes_that_change_settings_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    script = (
        "import sys, pathlib\n"
        "from studio.system.settings import change\n"
        "sys.stdin.readline()\n"
        "for number in range(1, 31):\n"
        "    change(pathlib.Path(sys.argv[1]), **{sys.argv[2]: number})\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(path), name], stdin=subprocess.PIPE)
        for name in ("threads", "battery")
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.close()
    assert [process.wait(120) for process in processes] == [0, 0]
    settings, complaint = load(path)
    assert (settings.threads, settings.battery, complaint) == (30, 30, None)


def test_settings_that_cannot_be_read_are_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.mkdir()
    (path / "mine").touch()
    with pytest.raises(SettingsError, match=r"cannot be read .* nothing was changed"):
        change(path, theme="dark")
    assert (path / "mine").exists()


def test_a_folder_that_takes_no_settings_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="cannot be saved"):
        change(tmp_path / "file" / "settings.json", theme="dark")
