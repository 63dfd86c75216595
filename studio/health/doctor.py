"""What this machine has, and whether the studio works on it: one line a check, one action a fault.

What only Windows has (its build, OneDrive) is looked at where it is; it was never run there.
"""

from __future__ import annotations

import math
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import psutil

from engine.canary import FLOOR_DB, Score, canary, scores
from engine.errors import NeodragonError
from engine.measures import LIMIT_DB
from engine.pack import Pack, open_pack
from engine.pack.graphs import version_numbers
from engine.session import (
    Backend,
    NpuBusyError,
    available,
    chip_with,
    npu_driver,
    owner,
    this_chip,
)
from studio import __version__
from studio.jobs.table import JobTable
from studio.library.verify import verify
from studio.media.video import ffmpeg
from studio.system import paths, settings
from studio.system.packs import damaged
from studio.system.privacy import redacted

State = Literal["ok", "warn", "fail"]

FLOOR = 10**9  # bytes that should be free
MEMORY = 4 * 10**9  # bytes that the mini pack and a browser are happy with
LEAST_PYTHON = (3, 12)  # on Windows
LONGEST = 200  # characters of a folder's path on Windows, whose limit is 260
GOLDEN = paths.ASSETS / "golden.mp4"  # made by `nds render`, as docs/packaging.md says


@dataclass(frozen=True)
class Line:
    """One check: its code, what was found in one sentence, and what to do where it is not ok."""

    code: str
    state: State
    sentence: str
    action: str = ""

    def __str__(self) -> str:
        action = f" -> {self.action}" if self.action else ""
        return f"{self.code} {self.state:4} {self.sentence}{action}"


def examine(*, golden: bool = True) -> Iterator[Line]:
    """Every check in turn; golden: also make the golden clip again. Raises nothing."""
    _, problem = settings.load(settings.settings_file())  # first: looking mends them
    clips, data = settings.clips_folder(), paths.data_folder()
    yield _machine()
    yield _memory()
    for code, name, folder in (
        ("D03", "clips", clips),
        ("D04", "the studio's data", data),
        ("D05", "temporary files", Path(tempfile.gettempdir())),
    ):
        yield _folder(code, name, folder)
    yield _paths(clips, settings.pack_path())
    yield _ffmpeg()
    yield _port()
    yield _settings(problem)
    yield _jobs(data)
    yield _runtime()
    chip: Line | None = None
    try:
        with open_pack(settings.pack_path()) as pack:
            yield _pack(pack)
            yield _npu(pack)
            chip = _chip(pack)
    except NeodragonError as error:
        action = "run `nds pack list` and choose another with `nds pack use`"
        yield Line("D12", "fail", str(error), action)
    if golden:
        yield _golden()
    if chip is not None:
        yield chip


def npu_report(pack: Pack) -> Iterator[str]:
    """What to send back from a device: each NPU graph's dB and its seconds."""
    backend: Backend = "npu" if "npu" in available() else "npu-emulated"
    yield f"Neodragon Studio {__version__}, pack {pack.name} {pack.version} {pack.pack_hash[:12]}"
    yield f"{platform.platform()}, {platform.processor() or platform.machine()}, backend {backend}"
    yield _runtime().sentence
    for score in scores(pack, backend):
        yield _told(score)


def report(lines: list[Line]) -> str:
    """The lines as text to copy, without the user's folders and name."""
    return redacted("\n".join(map(str, lines)))


def _machine() -> Line:
    words = f"{platform.platform()}, {platform.machine()}, Python {platform.python_version()}"
    words = f"Neodragon Studio {__version__} on {words}."
    if sys.platform == "win32" and sys.version_info < LEAST_PYTHON:
        action = "install Python 3.12 or 3.13; with 3.11 the NPU's libraries are not the right ones"
        return Line("D01", "warn", words, action)
    if sys.platform == "win32" and platform.machine() != "ARM64":
        action = "use the CPU; the NPU takes a Windows on Arm machine and the Arm build"
        return Line("D01", "warn", words, action)
    return Line("D01", "ok", words)


def _memory() -> Line:
    memory = psutil.virtual_memory()
    words = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB of memory are free."
    if memory.available < MEMORY / 4:
        return Line("D02", "fail", words, "close other programs")
    if memory.available < MEMORY:
        return Line("D02", "warn", words, "close other programs if clips are slow")
    return Line("D02", "ok", words)


def _folder(code: str, name: str, folder: Path) -> Line:
    action = "choose another folder in Settings" if code == "D03" else "make it writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = paths.partial(folder / "trial")
        trial.write_bytes(b"x")
        trial.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        words = f"The folder for {name}, {folder}, takes no files ({error.strerror or error})."
        return Line(code, "fail", words, action)
    words = f"The folder for {name}, {folder}, is writable, {free / 1e9:.1f} GB are free."
    if free < FLOOR:
        return Line(code, "fail", words, "free at least 1 GB on its disk")
    return Line(code, "ok", words)


def _paths(clips: Path, pack: Path) -> Line:
    synced = [os.environ[n] for n in ("OneDrive", "OneDriveConsumer") if os.environ.get(n)]
    if any(clips.is_relative_to(folder) for folder in synced):
        words = f"The folder for clips, {clips}, is one that OneDrive uploads."
        return Line("D06", "warn", words, "choose a folder in Settings that is not in OneDrive")
    for path in (clips, pack):
        if sys.platform == "win32" and len(str(path)) > LONGEST:
            words = f"The path {path} has {len(str(path))} characters."
            return Line("D06", "warn", words, "choose a shorter one")
    if sys.platform == "win32" and not str(pack).isascii():
        words = f"The pack lies in {pack}, whose letters the NPU's runtime may not take."
        return Line("D06", "warn", words, "install it in a folder with plain letters")
    return Line("D06", "ok", "The paths are short enough and plain.")


def _ffmpeg() -> Line:
    try:
        done = subprocess.run(
            [ffmpeg(), "-hide_banner", "-encoders"],
            capture_output=True,
            text=True,
            timeout=30,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        if done.returncode == 0 and "libx264" in done.stdout:
            return Line("D07", "ok", "ffmpeg starts and writes H.264.")
        problem = "it has no libx264" if done.returncode == 0 else f"it ends with {done.returncode}"
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        problem = str(error)
    action = "install the studio again, or look whether antivirus software keeps it from starting"
    return Line("D07", "fail", f"ffmpeg should start, but {problem}.", action)


def _port() -> Line:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            probe.listen()
            with socket.create_connection(probe.getsockname(), timeout=5):
                return Line("D08", "ok", "127.0.0.1 takes connections.")
    except OSError as error:
        words = f"127.0.0.1 takes no connection ({error.strerror or error})."
        return Line("D08", "fail", words, "allow it in the firewall or security software")


def _settings(problem: str) -> Line:
    if problem:
        return Line("D09", "warn", problem, "look at Settings once more")
    return Line("D09", "ok", "The settings are readable.")


def _jobs(data: Path) -> Line:
    try:
        with JobTable(data / "jobs.sqlite") as table:
            count = len(table.jobs())
    except NeodragonError as error:
        return Line("D10", "fail", str(error), "move that file away; clips are not in it")
    return Line("D10", "ok", f"The job table holds {count} jobs.")


def _runtime() -> Line:
    known = []
    for package in ("onnxruntime", "onnxruntime-qnn"):
        try:
            known.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            known.append(f"no {package}")
    return Line("D11", "ok", f"{', '.join(known)}; backends: {', '.join(available())}.")


def _pack(pack: Pack) -> Line:
    wrong = [problem for _, problem in damaged(pack) if problem]
    if wrong:
        more = f" ({len(wrong) - 1} more)" if len(wrong) > 1 else ""
        return Line("D12", "fail", wrong[0] + more, "run `nds pack repair` with a sound copy")
    absent = f", without {', '.join(pack.missing)}" if pack.missing else ""
    return Line("D12", "ok", f"The pack {pack.name} {pack.version} is whole{absent}.")


def _npu(pack: Pack) -> Line:
    found = available()
    if "npu" not in found:
        action = "install Qualcomm's NPU driver" if platform.machine() == "ARM64" else ""
        state: State = "warn" if action else "ok"
        words = "There is no Hexagon NPU; clips are made on the CPU."
        if "npu-emulated" not in found:
            return Line("D13", state, words, action)
        score = canary(pack, "npu-emulated")
        return _judged(score, f"{words} In emulation")
    try:
        with owner.held(0):
            return _judged(canary(pack, "npu"), "On the NPU")
    except NpuBusyError:
        words = "The NPU is used by another clip, so that it was not checked."
        return Line("D13", "warn", words, "run the check again when the clip is done")


def _chip(pack: Pack) -> Line:
    """The chip and the NPU's driver, beside those that the pack's compiled graphs are for."""
    if not pack.chips:
        return Line("D15", "ok", "The pack is for any chip: none of its graphs is compiled.")
    mine, driver = this_chip(), npu_driver()
    known = [chip_with(arch) for arch in pack.chips]
    names = [c.name if c else f"Hexagon v{a}" for a, c in zip(pack.chips, known, strict=True)]
    least = pack.driver or "not known"
    words = (
        f"The pack is compiled for {', '.join(names)} (least NPU driver: {least}); this machine has"
        f" {mine.name if mine else 'another chip'} (NPU driver: {driver or 'not found'})."
    )
    if mine and mine.htp_arch not in pack.chips:
        return Line("D15", "fail", words, f"use a pack made for {mine.name}")
    if driver and version_numbers(driver) < version_numbers(pack.driver):
        return Line("D15", "warn", words, "update the NPU's driver with Windows Update")
    return Line("D15", "ok", words)


def _judged(score: Score, where: str) -> Line:
    if score.is_sound:
        return Line("D13", "ok", f"{where} {_told(score)}.")
    action = "update the NPU's driver; until then choose the CPU in Settings"
    problem = score.problem or f"{where} {_told(score)}; {FLOOR_DB:.0f} dB were expected."
    return Line("D13", "fail", problem, action)


def _told(score: Score) -> str:
    if score.problem:
        return f"{score.component}/{score.graph}: {score.problem}"
    db = "the same" if score.db == LIMIT_DB else f"{score.db:.1f} dB"
    compared = "compared with nothing" if math.isnan(score.db) else f"{db} beside {score.beside}"
    return (
        f"{score.component}/{score.graph}: {compared},"
        f" loaded in {score.load_seconds:.2f} s, run in {score.run_seconds * 1000:.1f} ms"
    )


def _golden() -> Line:
    action = "send the report, and install the studio again"
    try:
        with open_pack(paths.default_pack()) as pack:
            told = verify(GOLDEN, pack, backend="cpu")
    except (NeodragonError, OSError) as error:
        return Line("D14", "fail", f"The golden clip cannot be made: {error}", action)
    words = f"The golden clip, made again on the CPU: {told}"
    if told.outcome == "different":
        return Line("D14", "fail", words, action)
    return Line("D14", "ok", words)
