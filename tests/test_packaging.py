"""What is handed out: locks with hashes for every target, an installer that removes what it put."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LOCKS = sorted((ROOT / "packaging" / "locks").glob("*.txt"))
INSTALLER = runpy.run_path(str(ROOT / "packaging" / "installer.py"))
FILES = {
    "neodragon-studio.exe": "a",
    "nds.exe": "b",
    "_internal/studio/assets/mini/pack.json": "{}",
    "_internal/studio/assets/a $INSTDIR b.txt": "c",
    "_internal/qnn/libQnnHtpV73Skel.so": "d",
}


def requirements(lock: Path) -> dict[str, list[str]]:
    """Hashes of every pinned package, with its version."""
    found: dict[str, list[str]] = {}
    for line in lock.read_text("utf-8").splitlines():
        if pinned := re.match(r"([a-z0-9.-]+)==(\S+)", line):
            found[pinned[1]] = []
        else:
            found[list(found)[-1]] += re.findall(r"--hash=sha256:([0-9a-f]{64})", line)
    return found


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_the_lock_pins_the_runtime_with_hashes(lock: Path) -> None:
    pinned = requirements(lock)
    assert all(pinned.values()) and "://" not in lock.read_text("utf-8")
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    system, machine = lock.stem.split("_", 1)
    target = {
        "sys_platform": {"win": "win32"}.get(system, system),
        "platform_machine": machine if system == "linux" else machine.upper(),
    }
    wanted = map(Requirement, asked)
    names = {one.name for one in wanted if not one.marker or one.marker.evaluate(target)}
    assert names <= pinned.keys() and "onnxruntime-qnn" in names
    assert not {"torch", "diffusers", "transformers", "pytest"} & pinned.keys()


def test_every_target_has_a_lock() -> None:
    assert [lock.stem for lock in LOCKS] == ["linux_x86_64", "win_amd64", "win_arm64"]


@pytest.fixture
def frozen(tmp_path: Path) -> Path:
    folder = tmp_path / "fro zen é"
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_the_uninstaller_names_what_was_installed(frozen: Path, tmp_path: Path) -> None:
    out = tmp_path / "studio-setup.exe"
    text = INSTALLER["script"](frozen, "1.2.3", out, False)
    INSTALLER["check"](text, frozen)
    for tampered in (
        text.replace("nds.exe", "other.exe", 1),
        text.replace('  RMDir "$INSTDIR"', '  RMDir /r "$INSTDIR"'),
        text.replace('  Delete "$INSTDIR\\uninstall.exe"', '  Delete "$INSTDIR\\clip.mp4"'),
    ):
        with pytest.raises(ValueError, match="folder's files alone"):
            INSTALLER["check"](tampered, frozen)
    assert "RequestExecutionLevel user" in text and "RequestExecutionLevel admin" not in text


@pytest.mark.skipif(not shutil.which("makensis"), reason="on Debian: apt-get install -y nsis")
def test_the_installer_compiles(frozen: Path, tmp_path: Path) -> None:
    out = tmp_path / "studio-setup.exe"
    script = tmp_path / "setup.nsi"
    script.write_text(INSTALLER["script"](frozen, "1.2.3", out, False), encoding="utf-8-sig")
    subprocess.run(["makensis", "-V2", "-WX", str(script)], check=True)
    assert out.read_bytes()[:2] == b"MZ"


def test_the_workflow_only_calls_the_script() -> None:
    text = (ROOT / ".github/workflows/windows-arm64.yml").read_text("utf-8")
    assert "windows-11-arm" in text and "packaging/build.py" in text
    assert "packaging/locks/win_arm64.txt" in text and "--require-hashes" in text
