"""The studio on Windows, tried on Wine: `python packaging/wine/check.py [--all]`.

`--only STAGE` does one of its stages, `--test FILE ..` these tests. Sets the box up
(packaging/wine/box.py); then in it: a clip, made again on Linux and compared pixel by pixel; a part
of the test suite; the installer with a small program (packaging/wine/life.py); what is for Arm.
`--all` takes the whole suite, freezes the studio, lives its installation through and makes a clip
on the emulated NPU. Prints each stage with its seconds. Exit code 0 where all is well or the box
cannot be had, which is said; 1 where a stage failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import box as boxes
from life import Life, arm64, lived, packed, stand_in
from suite import QUICK, tested

sys.path.insert(0, str(boxes.ROOT / "packaging"))
import windows_files  # noqa: E402

# Read, not imported: the studio takes other programs' variables out of the environment.
VERSION = re.findall(
    r'__version__ = "(.*)"', (boxes.ROOT / "studio" / "__init__.py").read_text(encoding="utf-8")
)[0]
NAMESPACE = "NEODRAGON_WINE_NAMESPACE"  # set: mounts made here end with this process
FAULTS = (AssertionError, RuntimeError, subprocess.SubprocessError, OSError)
SOURCE = {boxes.PATHS: r"Z:\w\source;Z:\w\freezer"}
REQUEST = ["render", "a red ball jumps on the meadow", "--look-seed", "3", "--motion-seed", "4"]


def frozen(box: boxes.Box) -> Path:
    """The folder that PyInstaller makes on Windows, smoke-tested there by packaging/build.py."""
    shutil.rmtree(box.work / "out", ignore_errors=True)
    python = "/w/cp312/python.exe"
    box.run("wine", python, "packaging/build.py", r"Z:\w\out", "--quick", timeout=3000, **SOURCE)
    folder = box.work / "out" / "neodragon-studio"
    found = list(windows_files.problems(folder, "amd64"))
    assert not found, found
    return folder


def identical(clip: Path) -> None:
    """The clip that Windows made, made again on Linux: every pixel of every frame the same."""
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(shutil.copy(clip, temporary))
        shutil.copy(clip.with_suffix(".json"), temporary)
        command = [sys.executable, "-m", "studio.cli", "verify", str(here), "--json"]
        done = subprocess.run(command, capture_output=True, cwd=boxes.ROOT, timeout=900)
        (found,) = json.loads(done.stdout)
    assert done.returncode == 0 and found["outcome"] == "identical", found


def emulated(box: boxes.Box) -> None:
    """A whole clip on the emulated NPU: Windows' QnnHtp.dll and Linux' libQnnHtp.so, compared."""
    out = r"C:\npu\clip.mp4"
    program = ["/w/cp312/python.exe", "-m", "studio.cli", *REQUEST]
    words = [*program, "--backend", "npu-emulated", "--no-upscale", "-o", out]
    box.run("wine", *words, timeout=3000, **SOURCE)
    identical(box.folder / box.prefix[1:] / "drive_c/npu/clip.mp4")


def rendered(box: boxes.Box) -> str:
    """A clip by the source program on the CPU."""
    words = ["/w/cp312/python.exe", "-m", "studio.cli", *REQUEST, "--backend", "cpu"]
    box.run("wine", *words, "--overwrite", "-o", r"C:\source\clip.mp4", timeout=900, **SOURCE)
    identical(box.folder / box.prefix[1:] / "drive_c/source/clip.mp4")
    return "the clip's frames are those of Linux"


def through(life: Life) -> str:
    """The life of an installation, step by step."""
    begun = time.monotonic()
    for name, found in lived(life):
        print(
            f"  {name}: {time.monotonic() - begun:.0f} s: {found or 'as it should be'}", flush=True
        )
        begun = time.monotonic()
        if isinstance(found, Path):
            identical(found)
    return "as it should be"


def stages(options: argparse.Namespace, box: boxes.Box) -> dict[str, Callable[[], object]]:
    """What to do, by name, in turn."""

    def installer() -> str:
        folder = stand_in(box)
        setup = packed(folder, VERSION)
        return through(Life(box, folder, setup, VERSION, is_studio=False))

    def life() -> str:
        folder = box.work / "out" / "neodragon-studio"
        return through(Life(box, folder, packed(folder, VERSION), VERSION))

    found: dict[str, Callable[[], object]] = {
        "clip": lambda: rendered(box),
        "tests": lambda: tested(box, options.test or (None if options.all else QUICK)),
        "installer": installer,
        "arm64": lambda: arm64(box),
    }
    longer: dict[str, Callable[[], object]] = {
        "freeze": lambda: frozen(box),
        "life": life,
        "npu-emulated": lambda: emulated(box),
    }
    if options.all or options.only in longer:
        found |= longer
    return {name: do for name, do in found.items() if options.only in (None, name)}


def done(name: str, do: Callable[[], object]) -> bool:
    """Do a stage and say what became of it; False where it failed."""
    begun, well = time.monotonic(), True
    try:
        said = do()
    except boxes.NotHere as error:
        said = f"not run: {error}"
    except FAULTS as error:
        traceback.print_exception(error)
        said, well = f"FAILED: {error}", False
    print(f"{name}: {time.monotonic() - begun:.0f} s: {said}", flush=True)
    return well


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--all", action="store_true", help="the whole suite, the emulated NPU")
    parser.add_argument("--only", metavar="STAGE", help="one stage, on what earlier ones left")
    parser.add_argument("--test", metavar="FILE", nargs="+", help="of the tests these, as test_cli")
    options = parser.parse_args()
    if options.test:
        options.only = "tests"
    if os.geteuid() == 0 and NAMESPACE not in os.environ and shutil.which("unshare"):
        os.environ[NAMESPACE] = "1"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, *sys.argv])
    started = time.monotonic()
    try:
        with boxes.windows() as box:
            print(f"box: {time.monotonic() - started:.0f} s", flush=True)
            failed = [name for name, do in stages(options, box).items() if not done(name, do)]
    except boxes.NotHere as error:
        print(f"Windows not run: {error}")
        failed = []
    except FAULTS as error:
        traceback.print_exception(error)
        print(f"box: {time.monotonic() - started:.0f} s: FAILED: {error}")
        failed = ["box"]
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
