"""Start, pause and watch the build of a pack, which outlives the page that started it.

One build at a time. What it is and where it is stands in `build.json` of the studio's data; the
build itself is a process of its own that writes there at every graph, so that a closed tab, a
killed app or a restart loses nothing: started again, it continues with the same graph.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil

from engine.errors import Message, NeodragonError
from studio.system import packs
from studio.system.paths import ASSETS, data_folder

if TYPE_CHECKING:
    from builder.build import Progress

State = Literal["running", "paused", "interrupted", "failed", "done"]
FULL_SIZE = ASSETS / "full-size" / "templates.zip"
TEMPLATES = (FULL_SIZE, ASSETS / "templates" / "mini.zip")
PROMPTS = ASSETS / "examples.txt"
CLIPS = 2  # to see the range of every activation
PATIENCE = 60.0  # seconds that one graph may take in emulation
LINES = 200  # of the log that are kept
_started: list[subprocess.Popen[bytes]] = []  # by this process, and not yet ended
PROGRESS = ("step", "graph", "done", "total", "left")  # of a build, copied into its status


class BuildRefused(NeodragonError):
    """A build cannot start or stop as asked."""


@dataclass(frozen=True)
class Status:
    """What is built of what, and where it is.

    weights, pack: paths; pid, begun: of the process, by which another with its number is told
    apart; seconds: since the state was written; left: seconds, None where unknown; lines: what
    became of each graph; options: of its command line, with which it goes on; template and values:
    of the sentence where it failed.
    """

    weights: str
    pack: str
    target: str
    state: State = "running"
    pid: int = 0
    begun: float = 0.0
    step: str = ""
    graph: str = ""
    done: int = 0
    total: int = 0
    left: float | None = None
    written: float = 0.0
    lines: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    template: str = ""
    values: Mapping[str, object] = field(default_factory=dict)

    @property
    def problem(self) -> Message | None:
        """Why it failed, None where it did not."""
        return Message(self.template, self.values) if self.template else None

    @property
    def is_live(self) -> bool:
        """Whether its process is there."""
        if not self.pid:
            return False
        try:
            process = psutil.Process(self.pid)
            is_it = abs(process.create_time() - self.begun) < 2
            return bool(is_it and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False


def status_file() -> Path:
    """Where the one build's status stands."""
    return data_folder() / "build.json"


def status() -> Status | None:
    """The build that was last started, None where there was none.

    One whose process is gone without a word was interrupted.
    """
    _started[:] = [child for child in _started if child.poll() is None]
    try:
        values = json.loads(status_file().read_text(encoding="utf-8"))
        several = {name: tuple(values.get(name, ())) for name in ("lines", "options")}
        build = Status(**values | several)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if build.state == "running" and not build.is_live:
        return replace(build, state="interrupted", pid=0)
    return build


def note(status_now: Status) -> None:
    """Write the status, whole or not at all."""
    path = status_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    text = json.dumps(asdict(status_now) | {"written": time.time()}, default=str)
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def target_folder(target: str) -> Path:
    """Where a pack for `target` goes when no other folder was said: among the installed packs."""
    return packs.home() / f"neodragon-{target}"


def _begun(
    weights: Path, pack: Path, target: str, options: Sequence[str], before: Status | None
) -> Status:
    """The status of a build in this process; it goes on with the lines of the same pack's."""
    process = psutil.Process()
    return Status(
        str(weights.absolute()),
        str(pack.absolute()),
        target,
        pid=process.pid,
        begun=process.create_time(),
        lines=before.lines if before and before.pack == str(pack.absolute()) else (),
        options=tuple(options),
    )


def run(
    weights: Path,
    pack: Path,
    target: str,
    *,
    multistep: bool = False,
    blocks: int | None = None,
    unshared: bool = False,
    patience: float = PATIENCE,
    templates: Sequence[Path] = TEMPLATES,
    report: Any = lambda progress: None,
) -> None:
    """Build here and now, saying where it is in the status file; raises NeodragonError."""
    from builder.build import Build, Paused  # noqa: PLC0415

    before = status()
    if before is not None and before.state == "running" and before.pid != os.getpid():
        raise BuildRefused(
            "{pack} is being built, and only one pack can be built at a time; wait, or pause that"
            " build.",
            pack=Path(before.pack).name,
        )
    options = ["--multistep"] * multistep + ["--unshared"] * unshared
    options += [] if blocks is None else ["--blocks", str(blocks)]
    options += [] if patience == PATIENCE else ["--patience", str(patience / 60)]
    now = _begun(weights, pack, target, options, before)

    def tell(progress: Progress) -> None:
        nonlocal now
        values = {name: getattr(progress, name) for name in PROGRESS}
        now = replace(now, **values, lines=(*now.lines, progress.line)[-LINES:])
        note(now)
        report(progress)

    note(now)
    prompts = [line for line in PROMPTS.read_text(encoding="utf-8").splitlines() if line.strip()]
    build = Build(
        weights,
        pack,
        target,
        [path for path in templates if path.exists()],
        prompts[:CLIPS],
        tell,
        multistep=multistep,
        blocks=blocks,
        unshared=unshared,
        patience=patience,
    )
    try:
        build.run()
    except Paused:
        note(replace(now, state="paused", pid=0))
        raise
    except KeyboardInterrupt:
        note(replace(now, state="interrupted", pid=0))
        raise
    except NeodragonError as error:
        message = error.message
        failed = replace(now, template=message.template, values=dict(message.values))
        note(replace(failed, state="failed", pid=0))
        raise
    note(replace(now, state="done", pid=0, left=0.0))


def command() -> list[str]:
    """The command line of this program."""
    if getattr(sys, "frozen", False):
        return [sys.executable, "--cli"]
    return [sys.executable, "-m", "studio.cli"]


def start(weights: Path, target: str, pack: Path | None = None) -> None:
    """Build in a process of its own, which goes on when this one ends; one that was begun goes on
    with the options it was begun with. Raises BuildRefused.
    """
    before = status()
    if before is not None and before.state == "running":
        raise BuildRefused(
            "{pack} is being built, and only one pack can be built at a time; wait, or pause that"
            " build.",
            pack=Path(before.pack).name,
        )
    folder = pack or target_folder(target)
    arguments = [*command(), "model", "build", str(weights), "-o", str(folder), "--target", target]
    own = Status(str(weights.absolute()), str(folder.absolute()), target)
    same = before is not None and before.state != "done" and _of(before) == _of(own)
    options = before.options if before is not None and same else ()
    arguments += options
    log = data_folder() / "build.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    quiet = ("CREATE_NO_WINDOW", "BELOW_NORMAL_PRIORITY_CLASS")  # Windows's
    with log.open("ab") as stream:
        child = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            creationflags=sum(getattr(subprocess, name, 0) for name in quiet),
        )
    _started.append(child)
    begun = psutil.Process(child.pid).create_time()
    lines = before.lines if before is not None and before.pack == own.pack else ()
    note(replace(own, pid=child.pid, begun=begun, lines=lines, options=options))


def _of(build: Status) -> tuple[str, str, str]:
    """What is built of what."""
    return build.weights, build.pack, build.target


def go_on() -> None:
    """Start again what was paused, interrupted or failed; raises BuildRefused."""
    before = status()
    if before is None or before.state in ("running", "done"):
        raise BuildRefused(
            "No paused build is left to resume; choose the weights and build a pack."
        )
    start(Path(before.weights), before.target, Path(before.pack))


def pause() -> None:
    """Ask the build to stop at the next graph; raises BuildRefused where none runs."""
    before = status()
    if before is None or before.state != "running":
        raise BuildRefused("No build is running, so there is nothing to pause.")
    pack = Path(before.pack)
    work = pack.with_name(f"{pack.name}.build")
    work.mkdir(parents=True, exist_ok=True)
    (work / "pause").touch()
