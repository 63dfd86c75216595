"""The Windows of packaging/wine: said where it cannot be had, set up step by step and once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WINE = Path(__file__).parents[1] / "packaging" / "wine"
sys.path.insert(0, str(WINE))
import box as boxes  # noqa: E402
import check  # noqa: E402


def test_where_it_cannot_be_had_that_is_said_and_no_failure(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    command = [sys.executable, str(WINE / "check.py")]
    done = subprocess.run(
        command, env=environment, capture_output=True, encoding="utf-8", timeout=120
    )
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


def test_what_follows_a_step_is_done_again_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(boxes, "needs", lambda: None)
    names = ["debian", "wine", "python", "wheels", "test_wheels", "prefix"]
    for name in names:

        def step(box: boxes.Box, name: str = name) -> None:
            done.append(name)

        step.__name__ = name
        monkeypatch.setattr(boxes, name, step)
    box = boxes.make()
    assert done == names
    (box.marks / "wine").write_text("as it was once", encoding="utf-8")
    boxes.make()
    assert done == [*names, *names[1:]]
    boxes.make()
    assert len(done) == 11


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("E: Failed to fetch http://deb/x.deb  Could not resolve 'deb'", boxes.NotHere),
        ("error: Request failed\n  Caused by: error sending request for url", boxes.NotHere),
        ("Retrying after connection broken by 'NewConnectionError'", boxes.NotHere),
        ("error: failed to write: No space left on device (os error 28)", boxes.NotHere),
        ("HTTP error 503 while getting https://index/x.whl", boxes.NotHere),
        ("error: Hash mismatch for `numpy==2.4.0`", RuntimeError),
        ("No solution found when resolving dependencies", RuntimeError),
        ("E: Unable to locate package wine32:i386", RuntimeError),
    ],
)
def test_a_lock_or_a_recipe_that_is_wrong_is_a_failure(said: str, kind: type) -> None:
    assert type(boxes.failure("numpy", said)) is kind


@pytest.mark.parametrize(
    ("error", "well", "words"),
    [
        (None, True, "0 s: all is well"),
        (boxes.NotHere("no server"), True, "0 s: not run: no server"),
        (AssertionError("two frames differ"), False, "0 s: FAILED: two frames differ"),
        (subprocess.TimeoutExpired("wine", 5), False, "FAILED: Command 'wine' timed out"),
    ],
)
def test_a_stage_says_what_became_of_it(
    error: Exception | None, well: bool, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def stage() -> str:
        if error:
            raise error
        return "all is well"

    assert check.done("arm64", stage) is well
    assert words in capsys.readouterr().out


def test_nothing_of_microsofts_is_in_the_repository() -> None:
    root = WINE.parents[1]
    listed = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, encoding="utf-8")
    suffixes = {Path(name).suffix.lower() for name in listed.stdout.splitlines()}
    assert listed.stdout and not suffixes & {".dll", ".exe", ".pyd", ".msi", ".cab"}
