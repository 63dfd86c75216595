"""What Windows does otherwise: pipes in its code page, device names, 8.3 names, no SIGTERM."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from studio.cli.main import main
from studio.library.index import LibraryError, LibraryIndex
from studio.page import server
from studio.system import splash, streams
from studio.system.files import OutputError, prepare
from studio.system.instance import end, single
from studio.system.privacy import redacted
from studio.system.settings import change

PATIENCE = 120.0  # seconds
PROMPT = "红色的球 и дом 🐉"
on_windows = pytest.mark.skipif(sys.platform != "win32", reason="Windows' alone")


def test_json_in_a_pipe_is_utf8(tmp_path: Path) -> None:
    """Whatever code page the system has: here the one of Western Windows."""
    env = os.environ | {"PYTHONIOENCODING": "cp1252", "NEODRAGON_DATA": str(tmp_path / "data")}
    command = [sys.executable, "-m", "studio.cli", "frame", PROMPT, "--json", "--backend", "cpu"]
    command += ["-o", str(tmp_path / "кадр.png")]
    done = subprocess.run(command, env=env, capture_output=True, check=True, timeout=PATIENCE)
    made = json.loads(done.stdout)
    assert made["prompt"] == PROMPT and Path(made["file"]).name == "кадр.png"


def test_complaints_in_a_pipe_are_utf8(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONIOENCODING": "cp1252", "NEODRAGON_DATA": str(tmp_path / "data")}
    command = [sys.executable, "-m", "studio.cli", "export", str(tmp_path / "нет.mp4")]
    done = subprocess.run(command, env=env, capture_output=True, timeout=PATIENCE)
    assert done.returncode == 2 and "нет.mp4" in done.stderr.decode("utf-8")


@pytest.mark.parametrize(
    "name", ["con.png", "NUL.png", "aux.x.png", "com1.png", "LPT9.png", "con .png"]
)
def test_a_device_is_no_file(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / name
    assert main(["frame", "a red ball", "--backend", "cpu", "-o", str(path)]) == 2
    said = capsys.readouterr().err
    assert "is a device on Windows; choose another name" in said and said.count("\n") == 1
    assert not any(tmp_path.rglob("*.png"))


@pytest.mark.parametrize("name", ["console.png", "icon.png", "com.png", "null.png", "lpt10.png"])
def test_a_name_that_only_begins_so_is_a_file(name: str, tmp_path: Path) -> None:
    assert prepare(tmp_path / name, ".png") == tmp_path / name
    assert list(tmp_path.iterdir()) == []


def test_a_name_the_disk_cannot_store_is_found_before_the_work(tmp_path: Path) -> None:
    names = ["a" * 300 + ".png"]
    names += [f"ab{mark}c.png" for mark in '<>:"|?*'] if sys.platform == "win32" else []
    for name in names:
        with pytest.raises(OutputError, match="a file name has at most|cannot store"):
            prepare(tmp_path / name, ".png")
    assert list(tmp_path.iterdir()) == []


def test_the_library_names_the_file_that_is_open_elsewhere(tmp_path: Path) -> None:
    """Not the `.part` that should take its place."""
    part, target = tmp_path / ".x.part", tmp_path / "clip.json"
    with (
        LibraryIndex(tmp_path / "jobs.sqlite", tmp_path) as index,
        pytest.raises(LibraryError, match=r"clip\.json in .* cannot be used"),
        index._sentences(),
    ):
        raise PermissionError(13, "in use", str(part), 32, str(target))


@on_windows
def test_a_sidecar_that_is_open_elsewhere(tmp_path: Path) -> None:
    part, target = tmp_path / ".x.part", tmp_path / "clip.json"
    part.write_text("new")
    target.write_text("old")
    with (
        target.open(),
        LibraryIndex(tmp_path / "jobs.sqlite", tmp_path) as index,
        pytest.raises(LibraryError, match=r"clip\.json in .* cannot be used"),
        index._sentences(),
    ):
        part.replace(target)


def test_redacted_however_it_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "Мария (work) +1"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    path = home / "clips" / "a.mp4"
    for text in (str(path), path.as_posix(), json.dumps(str(path), ensure_ascii=False)):
        assert "Мария" not in redacted(text) and "~" in redacted(text)


@on_windows
def test_redacted_in_its_short_form(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "Mariana Trench"
    home.mkdir()
    monkeypatch.setenv("USERPROFILE", str(home))
    short = ctypes.create_unicode_buffer(1024)
    ctypes.WinDLL("kernel32").GetShortPathNameW(str(home), short, 1024)
    for text in (short.value, short.value.lower(), str(home).upper()):
        assert "MARI" not in redacted(rf"{text}\clip.mp4").upper()


def test_only_a_terminal_is_drawn_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        assert not streams.is_drawn_on(file)
    if sys.platform != "win32":
        import pty  # noqa: PLC0415

        ours, theirs = pty.openpty()
        with os.fdopen(ours, "rb"), os.fdopen(theirs, "w") as terminal:
            monkeypatch.setenv("TERM", "xterm")
            assert streams.is_drawn_on(terminal)
            monkeypatch.setenv("TERM", "dumb")
            assert not streams.is_drawn_on(terminal)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    data = tmp_path / "Daten é"
    data.mkdir()
    monkeypatch.setenv("NEODRAGON_DATA", str(data))
    change(data / "settings.json", clips=str(tmp_path / "clips"), awake=False)
    return data


@pytest.fixture
def studio(data: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """An open studio in a process group of its own, and its address."""
    command = [sys.executable, "-m", "studio.launcher", "ui", "--no-browser", "--backend", "cpu"]
    flags = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
    if sys.platform == "win32":
        ctypes.WinDLL("kernel32").AllocConsole()  # Ctrl+Break reaches the processes of a console
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, encoding="utf-8", creationflags=flags
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().split(" at ")[1].split()[0]
        finally:
            if process.poll() is None:
                process.kill()


def test_nds_quit_ends_the_studio_and_its_worker(
    studio: tuple[subprocess.Popen[str], str], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process, _ = studio
    workers = psutil.Process(process.pid).children(recursive=True)
    assert main(["quit"]) == 0
    assert "has ended" in capsys.readouterr().out
    assert process.wait(PATIENCE) == 0
    assert psutil.wait_procs(workers, PATIENCE)[1] == []
    assert main(["quit"]) == 0
    assert "is not open" in capsys.readouterr().out
    assert not end(data)


def test_quit_needs_the_token_and_a_post(studio: tuple[subprocess.Popen[str], str]) -> None:
    process, address = studio
    page, _, token = address.partition("?token=")
    assert httpx.post(f"{page}quit").status_code == 401
    assert httpx.get(f"{page}quit", headers={"X-Token": token}).status_code == 405
    elsewhere = {"X-Token": token, "Origin": "http://example.com"}
    assert httpx.post(f"{page}quit", headers=elsewhere).status_code == 403
    assert process.poll() is None
    assert httpx.post(f"{page}quit", headers={"X-Token": token}).status_code == 202
    assert process.wait(PATIENCE) == 0


def test_every_signal_from_outside_is_a_clean_end() -> None:
    """SIGTERM, on Windows Ctrl+Break."""
    for name in server.ENDS:
        if number := getattr(signal, name, None):
            quit_ = threading.Event()
            before = signal.getsignal(number)
            with server.terminating(quit_):
                signal.raise_signal(number)
                assert quit_.wait(5)
            assert signal.getsignal(number) is before


@on_windows
def test_ctrl_break_ends_the_studio(studio: tuple[subprocess.Popen[str], str], data: Path) -> None:
    process, _ = studio
    try:
        process.send_signal(getattr(signal, "CTRL_BREAK_EVENT"))  # noqa: B009
    except OSError:
        pytest.skip("no console, which Ctrl+Break goes through; Wine without a screen has none")
    assert process.wait(PATIENCE) == 0
    with single(data) as found:
        assert found is not None and found.is_first


@on_windows
def test_the_splash_window_is_there_at_once_and_goes() -> None:
    find = ctypes.WinDLL("user32").FindWindowW
    words = f"Neodragon Studio is starting … {os.getpid()}"

    def until(there: bool) -> float:
        started = time.monotonic()
        while bool(find("STATIC", words)) != there:
            assert time.monotonic() < started + 10
            time.sleep(0.01)
        return time.monotonic() - started

    with splash.shown(words) as ready:
        assert until(there=True) < 1
        ready()
        until(there=False)
    with splash.shown(words):
        until(there=True)
    until(there=False)
