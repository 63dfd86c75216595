"""Whether the studio works on this machine: one line per check, one action per fault.

Checks of Windows alone (its build, OneDrive) run there only. They have never run on Windows.
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
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import psutil

from engine.canary import FLOOR_DB, Score, canary, scores
from engine.errors import Message, NeodragonError, message_of, reason_of
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
from studio.system.files import partial
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
    """One check: its code, what it saw in one sentence, and what to do where it is not ok."""

    code: str
    state: State
    sentence: Message
    action: Message | None = None

    def __str__(self) -> str:
        action = f" -> {self.action}" if self.action else ""
        return f"{self.code} {self.state:4} {self.sentence}{action}"

    def to_dict(self) -> dict[str, str]:
        """The line as JSON holds it, in English."""
        return {name: str(getattr(self, name) or "") for name in self.__dataclass_fields__}


def examine(*, golden: bool = True) -> Iterator[Line]:
    """Every check in turn; golden: also make the golden clip again. Raises nothing."""
    _, problem = settings.load(settings.settings_file())  # first: looking mends them
    clips, data = settings.clips_folder(), paths.data_folder()
    yield _machine()
    yield _memory()
    for code, name, folder in (
        ("D03", "Clips", clips),
        ("D04", "The studio's data", data),
        ("D05", "Temporary files", Path(tempfile.gettempdir())),
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
        action = Message("Run `nds pack list` and choose another with `nds pack use`.")
        yield Line("D12", "fail", error.message, action)
    if golden:
        yield _golden()
    if chip is not None:
        yield chip


def npu_report(pack: Pack) -> Iterator[str]:
    """What to send back from a device: each NPU graph's dB and its seconds."""
    backend: Backend = "npu" if "npu" in available() else "npu-emulated"
    yield f"Neodragon Studio {__version__}, pack {pack.name} {pack.version} {pack.pack_hash[:12]}"
    yield f"{platform.platform()}, {platform.processor() or platform.machine()}, backend {backend}"
    yield str(_runtime().sentence)
    where = Message("On the NPU" if backend == "npu" else "In emulation")
    for score in scores(pack, backend):
        yield str(_measured(score, where))


def report(lines: list[Line]) -> str:
    """The lines as text to copy, without the user's folders and name."""
    return redacted("\n".join(map(str, lines)))


def _machine() -> Line:
    sentence = Message(
        "Neodragon Studio {version} on {platform}, {machine}, Python {python}.",
        {
            "version": __version__,
            "platform": platform.platform(),
            "machine": platform.machine(),
            "python": platform.python_version(),
        },
    )
    if sys.platform == "win32" and sys.version_info < LEAST_PYTHON:
        action = Message("Install Python 3.12 or 3.13; 3.11 loads the wrong libraries for the NPU.")
        return Line("D01", "warn", sentence, action)
    if sys.platform == "win32" and platform.machine() != "ARM64":
        action = Message("Use the CPU; the NPU needs Windows on Arm and the Arm build.")
        return Line("D01", "warn", sentence, action)
    return Line("D01", "ok", sentence)


def _memory() -> Line:
    memory = psutil.virtual_memory()
    sentence = Message(
        "{free:.1f} of {total:.1f} GB of memory are free.",
        {"free": memory.available / 1e9, "total": memory.total / 1e9},
    )
    if memory.available < MEMORY / 4:
        return Line("D02", "fail", sentence, Message("Close other programs."))
    if memory.available < MEMORY:
        return Line("D02", "warn", sentence, Message("Close other programs if clips are slow."))
    return Line("D02", "ok", sentence)


def _folder(code: str, name: str, folder: Path) -> Line:
    action = Message("Choose another folder in Settings." if code == "D03" else "Make it writable.")
    values: dict[str, object] = {"name": Message(name), "folder": str(folder)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = partial(folder / "trial")
        trial.write_bytes(b"x")
        trial.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        values["reason"] = reason_of(error)
        template = "{name}: the folder {folder} takes no files ({reason})."
        return Line(code, "fail", Message(template, values), action)
    values["free"] = free / 1e9
    sentence = Message("{name}: the folder {folder} takes files; {free:.1f} GB are free.", values)
    if free < FLOOR:
        return Line(code, "fail", sentence, Message("Free at least 1 GB on its disk."))
    return Line(code, "ok", sentence)


def _paths(clips: Path, pack: Path) -> Line:
    synced = [os.environ[n] for n in ("OneDrive", "OneDriveConsumer") if os.environ.get(n)]
    if any(clips.is_relative_to(folder) for folder in synced):
        sentence = Message("OneDrive uploads the folder for clips, {folder}.", {"folder": clips})
        action = Message("Choose a folder in Settings that is not in OneDrive.")
        return Line("D06", "warn", sentence, action)
    for path in (clips, pack):
        if sys.platform == "win32" and len(str(path)) > LONGEST:
            values = {"path": path, "count": len(str(path))}
            sentence = Message("The path {path} has {count} characters.", values)
            return Line("D06", "warn", sentence, Message("Choose a shorter path."))
    if sys.platform == "win32" and not str(pack).isascii():
        sentence = Message(
            "The pack is in {folder}; the NPU's runtime may not read its letters.",
            {"folder": pack},
        )
        action = Message("Install it in a folder whose name has only the letters A to Z.")
        return Line("D06", "warn", sentence, action)
    return Line("D06", "ok", Message("The paths are short enough and have plain letters."))


def _ffmpeg() -> Line:
    try:
        done = subprocess.run(
            [ffmpeg(), "-hide_banner", "-encoders"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=30,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        if done.returncode == 0 and "libx264" in done.stdout:
            return Line("D07", "ok", Message("ffmpeg starts and writes H.264."))
        problem = Message("it has no libx264")
        if done.returncode != 0:
            problem = Message("it ended with code {code}", {"code": done.returncode})
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        problem = Message(str(error))
    action = Message("Install the studio again, or check whether antivirus software blocks ffmpeg.")
    sentence = Message("ffmpeg does not work: {problem}.", {"problem": problem})
    return Line("D07", "fail", sentence, action)


def _port() -> Line:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            probe.listen()
            with socket.create_connection(probe.getsockname(), timeout=5):
                return Line("D08", "ok", Message("127.0.0.1 takes connections."))
    except OSError as error:
        reason = reason_of(error)
        sentence = Message("127.0.0.1 takes no connection ({reason}).", {"reason": reason})
        action = Message("Allow it in the firewall or security software.")
        return Line("D08", "fail", sentence, action)


def _settings(problem: Message | None) -> Line:
    if problem:
        return Line("D09", "warn", problem, Message("Check the settings again."))
    return Line("D09", "ok", Message("The settings are readable."))


def _jobs(data: Path) -> Line:
    try:
        with JobTable(data / "jobs.sqlite") as table:
            count = len(table.jobs())
    except NeodragonError as error:
        action = Message("Move that file away; your clips are not in it.")
        return Line("D10", "fail", error.message, action)
    return Line("D10", "ok", Message("Jobs in the job table: {count}.", {"count": count}))


def _runtime() -> Line:
    known = []
    for package in ("onnxruntime", "onnxruntime-qnn"):
        try:
            known.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            known.append(f"{package} -")
    values = {"packages": ", ".join(known), "backends": ", ".join(available())}
    return Line("D11", "ok", Message("{packages}; backends: {backends}.", values))


def _pack(pack: Pack) -> Line:
    wrong = [problem for _, problem in damaged(pack) if problem]
    if wrong:
        sentence = wrong[0]
        if len(wrong) > 1:
            values = {"problem": wrong[0], "count": len(wrong)}
            sentence = Message("{problem} (Damaged files: {count}.)", values)
        action = Message("Run `nds pack repair` with a sound copy of the pack.")
        return Line("D12", "fail", sentence, action)
    values = {"name": pack.name, "version": pack.version}
    if pack.missing:
        values["parts"] = ", ".join(pack.missing)
        template = (
            "Every file of the pack {name} {version} is sound; optional parts absent: {parts}."
        )
        return Line("D12", "ok", Message(template, values))
    return Line("D12", "ok", Message("Every file of the pack {name} {version} is sound.", values))


def _npu(pack: Pack) -> Line:
    backends = available()
    if "npu" not in backends:
        arm = platform.machine() == "ARM64"
        action = Message("Install Qualcomm's NPU driver.") if arm else None
        sentence = Message("There is no Hexagon NPU; clips are made on the CPU.")
        if "npu-emulated" not in backends:
            return Line("D13", "warn" if arm else "ok", sentence, action)
        line = _judged(canary(pack, "npu-emulated"), Message("In emulation"))
        both = Message("{first} {second}", {"first": sentence, "second": line.sentence})
        return replace(line, sentence=both)
    try:
        with owner.held(0):
            return _judged(canary(pack, "npu"), Message("On the NPU"))
    except NpuBusyError:
        sentence = Message("Another clip uses the NPU, so the NPU was not checked.")
        return Line("D13", "warn", sentence, Message("Check again when the clip is done."))


def _chip(pack: Pack) -> Line:
    """The chip and the NPU's driver, beside those that the pack's compiled graphs are for."""
    if not pack.chips:
        return Line("D15", "ok", Message("The pack works with every chip: no graph is compiled."))
    mine, driver = this_chip(), npu_driver()
    known = [chip_with(arch) for arch in pack.chips]
    names = [c.name if c else f"Hexagon v{a}" for a, c in zip(pack.chips, known, strict=True)]
    sentence = Message(
        "The pack is compiled for {chips} (NPU driver {least} or newer); this machine has"
        " {mine} (NPU driver {driver}).",
        {
            "chips": ", ".join(names),
            "least": pack.driver or "?",
            "mine": mine.name if mine else Message("another chip"),
            "driver": driver or Message("not found"),
        },
    )
    if mine and mine.htp_arch not in pack.chips:
        return Line("D15", "fail", sentence, Message("Use a pack for {chip}.", {"chip": mine.name}))
    if driver and version_numbers(driver) < version_numbers(pack.driver):
        action = Message("Update the NPU's driver with Windows Update.")
        return Line("D15", "warn", sentence, action)
    return Line("D15", "ok", sentence)


def _judged(score: Score, where: Message) -> Line:
    if score.is_sound:
        return Line("D13", "ok", _measured(score, where))
    action = Message("Update the NPU's driver; until then choose the CPU in Settings.")
    problem = score.problem or Message(
        "{measured} At least {floor:.0f} dB were expected.",
        {"measured": _measured(score, where), "floor": FLOOR_DB},
    )
    return Line("D13", "fail", problem, action)


def _measured(score: Score, where: Message) -> Message:
    """What a graph computed and how fast, or why it did not run."""
    graph = f"{score.component}/{score.graph}"
    if score.problem:
        return Message("{graph}: {problem}", {"graph": graph, "problem": score.problem})
    if math.isnan(score.db):
        result = Message("runs, with nothing to compare it with")
    elif score.db == LIMIT_DB:
        result = Message("gives the same as {beside}", {"beside": score.beside})
    else:
        values = {"db": score.db, "beside": score.beside}
        result = Message("agrees with {beside} to {db:.1f} dB", values)
    return Message(
        "{where} {graph} {result}; loaded in {load:.2f} s, run in {run:.1f} ms.",
        {
            "where": where,
            "graph": graph,
            "result": result,
            "load": score.load_seconds,
            "run": score.run_seconds * 1000,
        },
    )


def _golden() -> Line:
    action = Message("Send the report, and install the studio again.")
    try:
        with open_pack(paths.default_pack()) as pack:
            result = verify(GOLDEN, pack, backend="cpu")
    except (NeodragonError, OSError) as error:
        problem = Message(
            "The golden clip cannot be made: {problem}", {"problem": message_of(error)}
        )
        return Line("D14", "fail", problem, action)
    sentence = result.messages[0]
    for note in result.notes:
        sentence = Message("{first} {second}", {"first": sentence, "second": note})
    sentence = Message("The golden clip, made again on the CPU: {result}", {"result": sentence})
    if result.outcome == "different":
        return Line("D14", "fail", sentence, action)
    return Line("D14", "ok", sentence)
