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
import shlex
import shutil
import subprocess
import sys
import tempfile
import uuid
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
    # Gradio writes it where it is not there: a file that the uninstaller would not know.
    (folder / "_internal" / "gradio" / "hash_seed.txt").write_text(uuid.uuid4().hex)
    for program in folder.glob("*.exe"):
        sign(program)
    return folder


def sign(program: Path) -> None:
    """Run $NEODRAGON_SIGN with a program of ours, where it is set; raises CalledProcessError."""
    if command := os.environ.get("NEODRAGON_SIGN"):
        subprocess.run([*shlex.split(command), str(program)], check=True)


def icon() -> None:
    """The page's icon, assets/icon.svg, as an .ico."""
    from PIL import Image, ImageDraw  # noqa: PLC0415

    def curve(*points: tuple[float, float]) -> list[tuple[float, float]]:
        """A cubic Bezier curve of the drawing's 64 units, in pixels of 1024."""
        weights: list[tuple[float, ...]] = []
        for step in range(33):
            t = step / 32
            weights.append(((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3))
        return [
            (
                16 * sum(w * x for w, (x, _) in zip(row, points, strict=True)),
                16 * sum(w * y for w, (_, y) in zip(row, points, strict=True)),
            )
            for row in weights
        ]

    image = Image.new("RGBA", (1024, 1024))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((0, 0, 1023, 1023), 240, fill=(11, 20, 19))
    eye = curve((6, 36), (15, 19), (33, 12), (58, 16)) + curve(
        (58, 16), (56, 37), (43, 52), (26, 50)
    )
    draw.polygon(eye + curve((26, 50), (18, 49), (11, 44), (6, 36)), fill=(52, 190, 170))
    draw.polygon([(432, 344), (720, 512), (432, 680)], fill=(11, 20, 19), width=80)
    image.save(ROOT / "build" / "icon.ico", sizes=[(n, n) for n in (16, 24, 32, 48, 64, 256)])


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
    print((out / "SHA256SUMS").read_text("utf-8"))


if __name__ == "__main__":
    main()
