"""The studio on Windows, tried on Wine: `python packaging/wine/check.py [--all] [--only STAGE]`.

Sets the box up (packaging/wine/box.py), runs a part of the test suite there (all of it with
`--all`), freezes the program, packs the installer here, lives an installation through
(packaging/wine/life.py), and reads what is for Arm. The clip that comes out is made again on Linux
and compared pixel by pixel; with `--all` also one of the emulated NPU. Prints each stage with its
seconds. Exit code 0 where all is well or the box cannot be had, which is said; 1 where a stage
failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import box as boxes
from life import arm64, lived
from suite import QUICK, tested

sys.path.insert(0, str(boxes.ROOT))
sys.path.insert(0, str(boxes.ROOT / "packaging"))
import windows_files  # noqa: E402

from studio import __version__  # noqa: E402

NAMESPACE = "NEODRAGON_WINE_NAMESPACE"  # set: mounts made here end with this process
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


def packed(folder: Path) -> Path:
    """The installer, made here as for a release but for the compression."""
    setup = folder.with_name("studio-setup.exe")
    command = [sys.executable, str(boxes.ROOT / "packaging" / "installer.py"), str(folder)]
    subprocess.run([*command, __version__, str(setup), "--quick"], check=True)
    return setup


def identical(clip: Path) -> None:
    """The clip that Windows made, made again on Linux: every pixel of every frame the same."""
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(shutil.copy(clip, temporary))
        shutil.copy(clip.with_suffix(".json"), temporary)
        command = [sys.executable, "-m", "studio.cli", "verify", str(here), "--json"]
        done = subprocess.run(command, capture_output=True, cwd=boxes.ROOT, timeout=900)
        (found,) = json.loads(done.stdout)
    assert done.returncode == 0 and found["verdict"] == "identical", found


def emulated(box: boxes.Box) -> None:
    """A whole clip on the emulated NPU: Windows' QnnHtp.dll and Linux' libQnnHtp.so, compared."""
    out = r"C:\npu\clip.mp4"
    program = ["/w/cp312/python.exe", "-m", "studio.cli", *REQUEST]
    words = [*program, "--backend", "npu-emulated", "--no-upscale", "-o", out]
    box.run("wine", *words, timeout=3000, **SOURCE)
    identical(box.folder / box.prefix[1:] / "drive_c/npu/clip.mp4")


def stages(options: argparse.Namespace, box: boxes.Box) -> dict[str, Callable[[], object]]:
    """What to do, by name, in turn."""
    folder, setup = box.work / "out" / "neodragon-studio", box.work / "out" / "studio-setup.exe"

    def life() -> object:
        clip = ""
        for name, found in lived(box, folder, setup, __version__):
            clip = found["clip"] if isinstance(found, dict) and "clip" in found else clip
            print(f"  {name}: {found or 'as it should be'}", flush=True)
        identical(Path(clip))
        return "the clip's frames are those of Linux"

    found: dict[str, Callable[[], object]] = {
        "tests": lambda: tested(box, None if options.all else QUICK),
        "freeze": lambda: frozen(box),
        "installer": lambda: packed(folder),
        "life": life,
        "arm64": lambda: arm64(box),
    }
    if options.all:
        found["npu-emulated"] = lambda: emulated(box)
    return {name: do for name, do in found.items() if options.only in (None, name)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--all", action="store_true", help="the whole suite, the emulated NPU")
    parser.add_argument("--only", metavar="STAGE", help="one stage, on what earlier ones left")
    options = parser.parse_args()
    if os.geteuid() == 0 and NAMESPACE not in os.environ and shutil.which("unshare"):
        os.environ[NAMESPACE] = "1"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, *sys.argv])
    started = time.monotonic()
    failed = False
    try:
        with boxes.windows() as box:
            print(f"box: {time.monotonic() - started:.0f} s", flush=True)
            for name, do in stages(options, box).items():
                begun = time.monotonic()
                try:
                    said = do()
                except (AssertionError, RuntimeError, subprocess.SubprocessError, OSError) as error:
                    failed = True
                    traceback.print_exception(error)
                    said = f"FAILED: {error}"
                print(f"{name}: {time.monotonic() - begun:.0f} s: {said}", flush=True)
    except boxes.NotHere as error:
        print(f"Windows not run: {error}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
