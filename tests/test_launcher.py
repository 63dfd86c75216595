"""The studio as a program: one at a time, for its own user, and gone when it is told to go."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from stderr import ours

from studio import launcher
from studio.system import instance
from studio.system.instance import single
from studio.system.settings import change

PATIENCE = 120.0  # seconds


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    data = tmp_path / "Daten é"
    data.mkdir()
    monkeypatch.setenv("NEODRAGON_DATA", str(data))
    monkeypatch.setenv("NEODRAGON_NO_BROWSER", "1")
    change(data / "settings.json", clips=str(tmp_path / "clips"), awake=False)
    return data


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "studio.launcher", "ui", "--no-browser", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def end(process: subprocess.Popen[str], address: str) -> None:
    """End a studio from outside: by a signal, or as Windows, which has none, needs it."""
    if os.name == "posix":
        return process.send_signal(signal.SIGTERM)
    page, _, token = address.partition("?token=")
    httpx.post(f"{page}quit", headers={"X-Token": token})


def address_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().split(" at ")[1].split()[0]


def test_two_starts_are_one_studio(data: Path) -> None:
    with started() as first:
        address = address_of(first)
        with started() as second:
            assert address_of(second) == address
            assert second.wait(PATIENCE) == 0
        told = json.loads((data / "studio.json").read_text("utf-8"))
        assert told == {"process": first.pid, "address": address}
        assert os.name != "posix" or (data / "studio.json").stat().st_mode & 0o077 == 0
        deadline = time.monotonic() + PATIENCE
        while not (workers := psutil.Process(first.pid).children(recursive=True)):
            assert time.monotonic() < deadline
        end(first, address)
        assert first.wait(PATIENCE) == 0
        assert psutil.wait_procs(workers, PATIENCE)[1] == []
    assert not (data / "studio.json").exists()


def test_one_that_was_killed_is_not_in_the_way(data: Path) -> None:
    with started() as first:
        old = address_of(first)
        first.kill()
        first.wait()
    assert (data / "studio.json").exists()
    with started() as second:
        new = address_of(second)
        assert new != old
        end(second, new)
        assert second.wait(PATIENCE) == 0


def test_who_does_not_know_the_token_is_not_let_in(data: Path) -> None:
    with started() as process:
        address = address_of(process)
        page, _, token = address.partition("?token=")
        assert len(token) == 32
        for wrong in (page, f"{page}?token=x", f"{page}config", f"{page}gradio_api/info"):
            assert httpx.get(wrong).status_code == 401
        assert httpx.get(page, headers={"X-Token": "x"}).status_code == 401
        assert httpx.get(f"{page}config", headers={"X-Token": token}).status_code == 200
        with httpx.Client(follow_redirects=True) as browser:
            answer = browser.get(address)
            assert answer.status_code == 200 and "token" not in str(answer.url)
            assert browser.get(f"{answer.url}config").status_code == 200
            assert browser.get(f"{page}config").status_code == 401  # no cookie goes there
        end(process, address)
        assert process.wait(PATIENCE) == 0


def test_a_port_that_is_taken_is_one_sentence(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with started() as first:
        address = address_of(first)
        port = address.split(":")[2].split("/")[0]
        monkeypatch.setenv("NEODRAGON_DATA", str(data / "other"))  # it is another studio then
        with started("--port", port) as second:
            out, said = second.communicate(timeout=PATIENCE)
        assert second.returncode == 2
        assert "choose another with --port" in said and ours(said).count("\n") == 1
        end(first, address)
        first.wait(PATIENCE)


def test_a_folder_that_takes_no_lock_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with single(tmp_path / "data") as found:
        assert found is None


def test_the_other_studio_is_waited_for(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance, "PATIENCE", 0.5)
    with single(data) as first, single(data) as second:
        assert first is not None and second is not None
        assert first.is_first and not second.is_first
        with pytest.raises(instance.InstanceError, match="end it in the task manager"):
            second.other()
        first.publish("http://127.0.0.1:1/?token=é")
        assert second.other() == "http://127.0.0.1:1/?token=é"


def test_what_goes_wrong_is_a_report_that_names_nobody(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "USERPROFILE"):  # elsewhere, and on Windows
        monkeypatch.setenv(name, str(data))
    change(data / "settings.json", pack=str(data / "gone"))
    assert launcher.main([]) == 2
    assert "There is no pack at" in capsys.readouterr().err
    (report,) = (data / "reports").glob("*.html")
    sentence, words = report.read_text("utf-8").split("<pre>")
    assert str(Path("~", "gone")) in words and str(data) not in words and "Copy report" in sentence
