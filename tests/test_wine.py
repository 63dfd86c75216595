"""The Windows of packaging/wine: said where it cannot be had, set up step by step and once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WINE = Path(__file__).parents[1] / "packaging" / "wine"
sys.path.insert(0, str(WINE))
import box as boxes  # noqa: E402


def test_where_it_cannot_be_had_that_is_said_and_no_failure(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    command = [sys.executable, str(WINE / "check.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Windows not run: ") and done.stdout.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_step_is_done_once_and_anew_when_it_changes(tmp_path: Path) -> None:
    box = boxes.Box(tmp_path / "box")
    done: list[str] = []

    def step(box: boxes.Box) -> None:
        done.append("first")

    box.once(step, "lock")
    box.once(step, "lock")
    assert done == ["first"]
    box.once(step, "another lock")
    assert done == ["first"] * 2

    def other(box: boxes.Box) -> None:
        done.append("second")

    other.__name__ = "step"
    box.once(other, "another lock")
    assert done[-1] == "second"


def test_a_step_that_was_cut_off_is_done_again(tmp_path: Path) -> None:
    box = boxes.Box(tmp_path / "box")
    tries: list[int] = []

    def step(box: boxes.Box) -> None:
        tries.append(1)
        if len(tries) == 2:
            raise KeyboardInterrupt

    box.once(step, "a")
    with pytest.raises(KeyboardInterrupt):
        box.once(step, "b")
    box.once(step, "a")
    assert len(tries) == 3


def test_nothing_of_microsofts_is_in_the_repository() -> None:
    root = WINE.parents[1]
    listed = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True)
    suffixes = {Path(name).suffix.lower() for name in listed.stdout.splitlines()}
    assert listed.stdout and not suffixes & {".dll", ".exe", ".pyd", ".msi", ".cab"}
