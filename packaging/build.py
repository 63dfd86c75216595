"""Everything that is handed out: `python packaging/build.py OUT`, the same on Windows and Linux.

Freezes, tries the frozen program (doctor, one clip), writes the licences, the portable .zip, the
installer where makensis is, and the list of SHA-256. Run by a Python that has the studio's runtime
and PyInstaller, nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from studio import __version__  # noqa: E402

NAME = "neodragon-studio"
VERSION = """VSVersionInfo(
  ffi=FixedFileInfo(filevers=({numbers}, 0), prodvers=({numbers}, 0)),
  kids=[StringFileInfo([StringTable("040904B0", [
    StringStruct("ProductName", "Neodragon Studio"),
    StringStruct("FileDescription", "Neodragon Studio"),
    StringStruct("FileVersion", "{version}"),
    StringStruct("ProductVersion", "{version}"),
    StringStruct("LegalCopyright", "BSD-3-Clause-Clear")])]),
    VarFileInfo([VarStruct("Translation", [1033, 1200])])])
"""


def freeze(out: Path) -> Path:
    """The one folder."""
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    numbers = ", ".join(__version__.split("."))
    (build / "version.txt").write_text(VERSION.format(numbers=numbers, version=__version__))
    if sys.platform == "win32":
        icon()
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level", "WARN"]
    command += ["--distpath", str(out), "--workpath", str(build)]
    subprocess.run([*command, str(ROOT / "packaging" / "neodragon.spec")], check=True, cwd=ROOT)
    folder = out / NAME
    licences = [sys.executable, str(ROOT / "packaging" / "licences.py")]
    subprocess.run(
        [*licences, str(folder / "THIRD_PARTY.md"), str(folder / "LICENCES.txt")], check=True
    )
    shutil.copy(ROOT / "LICENSE", folder)
    return folder


def icon() -> None:
    """The eye of the page as an .ico."""
    from PIL import Image, ImageDraw  # noqa: PLC0415

    image = Image.new("RGBA", (256, 256))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((8, 8, 248, 248), 56, fill=(13, 148, 136))
    draw.ellipse((56, 80, 200, 176), fill=(240, 253, 250))
    draw.ellipse((112, 88, 144, 168), fill=(19, 78, 74))
    image.save(ROOT / "build" / "icon.ico", sizes=[(16, 16), (32, 32), (48, 48), (256, 256)])


def smoke(folder: Path) -> None:
    """The frozen program makes a clip, on the CPU; its doctor finds nothing that fails."""
    with tempfile.TemporaryDirectory() as home:
        env = os.environ | {"NEODRAGON_DATA": home}
        program = folder / ("nds.exe" if sys.platform == "win32" else "nds")
        clip = Path(home, "clip.mp4")
        for arguments in (
            ["--version"],
            ["doctor", "--no-golden"],
            ["render", "a red ball jumps", "-o", str(clip), "--backend", "cpu"],
        ):
            subprocess.run([str(program), *arguments], check=True, env=env)
        if clip.stat().st_size < 10_000:
            sys.exit("The frozen program should make a clip, but it is empty.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--quick", action="store_true", help="no .zip, nothing compressed")
    options = parser.parse_args()
    out = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    folder = freeze(out)
    smoke(folder)
    label = f"{NAME}-{__version__}-{sys.platform}-{platform.machine().lower()}"
    made = []
    if not options.quick:
        made.append(Path(shutil.make_archive(str(out / label), "zip", out, NAME)))
    if shutil.which("makensis"):
        made.append(out / f"{label}-setup.exe")
        command = [sys.executable, str(ROOT / "packaging" / "installer.py"), str(folder)]
        command += [__version__, str(made[-1])] + ["--quick"] * options.quick
        subprocess.run(command, check=True)
    with (out / "SHA256SUMS").open("w", encoding="ascii", newline="\n") as sums:
        for file in made:
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            sums.write(f"{digest}  {file.name}\n")
    print((out / "SHA256SUMS").read_text())


if __name__ == "__main__":
    main()
