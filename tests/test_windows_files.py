"""The static checks of Windows programs, on real ones: an installer that makensis makes here."""

from __future__ import annotations

import runpy
import shutil
import subprocess
from pathlib import Path

import pefile
import pytest

ROOT = Path(__file__).parents[1]
CHECKS = runpy.run_path(str(ROOT / "packaging" / "windows_files.py"))
INSTALLER = runpy.run_path(str(ROOT / "packaging" / "installer.py"))
pytestmark = pytest.mark.skipif(
    not shutil.which("makensis"), reason="on Debian: apt-get install -y nsis"
)


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installer of a tiny program alone, called as our window program is."""
    folder = tmp_path_factory.mktemp("frozen")
    (folder / "neodragon-studio.exe").write_bytes(b"MZ")
    made = tmp_path_factory.mktemp("out") / "neodragon-studio.exe"
    script = made.with_suffix(".nsi")
    script.write_text(INSTALLER["script"](folder, "1.2.3", made, False), encoding="utf-8-sig")
    subprocess.run(["makensis", "-V2", "-WX", str(script)], check=True)
    script.unlink()
    script.with_suffix(".nsi.exe").unlink()
    return made


def found(folder: Path, machine: str) -> list[str]:
    return list(CHECKS["problems"](folder, machine))


def test_the_installer_is_a_whole_windows_program(setup: Path) -> None:
    """But for the newer of two ways to say that it is sharp on any screen."""
    blurred = "neodragon-studio.exe is blurred on a sharp screen"
    assert found(setup.parent, "x86") == [blurred]
    with pefile.PE(str(setup)) as program:
        assert CHECKS["version_of"](program) == "1.2.3"
        assert "kernel32.dll" in CHECKS["imported"](program)


def test_another_machine_is_found(setup: Path) -> None:
    assert "neodragon-studio.exe should be for arm64, but is 0x14c" in found(setup.parent, "arm64")


def test_a_library_that_is_nowhere_is_found(setup: Path, tmp_path: Path) -> None:
    """Also where it is loaded only when it is called; beside the program it is right."""
    broken = tmp_path / "nds.exe"
    broken.write_bytes(setup.read_bytes().replace(b"SHELL32.dll", b"MSVCPXX.dll"))
    missing = "nds.exe imports msvcpxx.dll, which is neither here nor Windows'"
    assert missing in found(tmp_path, "x86")
    shutil.copy(setup, tmp_path / "MSVCPXX.dll")
    assert missing not in found(tmp_path, "x86")


def test_a_console_and_a_missing_icon_are_found(setup: Path, tmp_path: Path) -> None:
    shutil.copy(setup, tmp_path / "nds.exe")
    assert "nds.exe has no console" in found(tmp_path, "x86")
    with pefile.PE(str(setup)) as program:
        program.OPTIONAL_HEADER.Subsystem = CHECKS["CONSOLE"]
        program.OPTIONAL_HEADER.DATA_DIRECTORY[CHECKS["RESOURCES"]].VirtualAddress = 0
        program.OPTIONAL_HEADER.DATA_DIRECTORY[CHECKS["RESOURCES"]].Size = 0
        program.write(str(tmp_path / "neodragon-studio.exe"))
    said = " ".join(found(tmp_path, "x86"))
    for words in ("opens a console", "has no icon", "says ''", "may ask for an administrator"):
        assert f"neodragon-studio.exe {words}" in said or words in said


def test_an_empty_folder_is_no_program(tmp_path: Path) -> None:
    assert "there is none" in found(tmp_path, "amd64")[0]
