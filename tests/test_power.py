"""Power, on what this machine has: its files of batteries, its notifier, a real worker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.pack import Pack
from studio.jobs.spec import Entry, Work, content_key
from studio.jobs.table import JobTable
from studio.system.settings import change, settings_file

PATIENCE = 600.0
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /sys")


def battery(root: Path, percent: int, plugged: bool) -> Path:
    """A folder like /sys/class/power_supply of a laptop."""
    supply = root / "supply"
    for name, values in {
        "BAT0": {
            "capacity": percent,
            "status": "Charging" if plugged else "Discharging",
            "energy_now": percent * 1000,
            "energy_full": 100_000,
            "power_now": 10_000,
            "type": "Battery",
        },
        "AC0": {"online": int(plugged), "type": "Mains"},
    }.items():
        (supply / name).mkdir(parents=True)
        for key, value in values.items():
            (supply / name / key).write_text(f"{value}\n")
    return supply


def on(supply: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a machine with that battery."""
    script = f'mount --bind "{supply}" /sys/class/power_supply && exec "$@"'
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *command],
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
    )


@pytest.fixture
def mounts(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    if sys.platform != "linux" or on(empty, "true").returncode:
        pytest.skip("only root may put a folder over /sys")


@pytest.mark.usefixtures("mounts")
@pytest.mark.parametrize(
    ("percent", "plugged", "paused"), [(12, False, True), (12, True, False), (60, False, False)]
)
def test_low_battery(tmp_path: Path, percent: int, plugged: bool, paused: bool) -> None:
    program = "from studio.system.power import low_battery; print(low_battery(20) or '')"
    done = on(battery(tmp_path, percent, plugged), sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr
    assert (f"{percent} % left, less than 20 %; plug" in done.stdout) == paused
    assert bool(done.stdout.strip()) == paused


@pytest.mark.usefixtures("mounts")
def test_a_worker_on_a_low_battery_pauses_the_queue_and_loses_nothing(
    tmp_path: Path, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEODRAGON_DATA", str(tmp_path / "data"))
    with JobTable(tmp_path / "jobs.sqlite") as table:
        work = Work("a red ball bounces", 3, 4, pack=str(pack.path), backend="cpu", kind="frame")
        table.add([Entry(work, content_key(work, pack))])
        worker = [sys.executable, "-m", "studio.jobs.worker", "--drain", "--jobs", str(table.path)]
        worker += ["--clips", str(tmp_path / "clips"), "--cache", str(tmp_path / "cache")]
        done = on(battery(tmp_path, 12, False), *worker)
        assert done.returncode == 0, done.stderr
        assert table.queue().paused and "12 % left" in str(table.queue().reason)
        assert [job.state for job in table.jobs()] == ["waiting"]
        change(settings_file(), battery=10)
        table.resume()
        done = on(tmp_path / "supply", *worker)
        assert done.returncode == 0, done.stderr
        assert [job.state for job in table.jobs()] == ["done"]


@linux
@pytest.mark.parametrize("notify", [True, False])
def test_one_word_when_the_queue_is_done(
    tmp_path: Path, pack: Pack, monkeypatch: pytest.MonkeyPatch, notify: bool
) -> None:
    said = tmp_path / "said"
    notifier = tmp_path / "bin" / "notify-send"
    notifier.parent.mkdir()
    notifier.write_text(f'#!/bin/sh\necho "$@" >> "{said}"\n')
    notifier.chmod(0o755)
    monkeypatch.setenv("PATH", f"{notifier.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("NEODRAGON_DATA", str(tmp_path / "data"))
    change(settings_file(), notify=notify)
    with JobTable(tmp_path / "jobs.sqlite") as table:
        works = [
            Work("a red ball bounces", seed, 4, pack=str(pack.path), backend="cpu", kind="frame")
            for seed in (3, 4)
        ]
        table.add(Entry(work, content_key(work, pack)) for work in works)
        worker = [sys.executable, "-m", "studio.jobs.worker", "--drain", "--jobs", str(table.path)]
        worker += ["--clips", str(tmp_path / "clips"), "--cache", str(tmp_path / "cache")]
        subprocess.run(worker, check=True, timeout=PATIENCE)
        assert [job.state for job in table.jobs()] == ["done", "done"]
    assert said.exists() == notify
    if notify:
        assert said.read_text("utf-8").splitlines() == [
            "--app-name Neodragon Studio Neodragon Studio The queue is done: 2 jobs."
        ]
