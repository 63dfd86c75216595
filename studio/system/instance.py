"""One studio at a time: the first holds a lock, a later one shows the first."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
import urllib.request
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from engine.errors import NeodragonError
from studio.system.environment import as_found
from studio.system.files import partial
from studio.system.paths import private

PATIENCE = 30.0  # seconds that the other one may take to open
POLL = 0.1


class InstanceError(NeodragonError):
    """The studio that is open cannot be found."""


@dataclass(frozen=True)
class Instance:
    """This start of the studio; is_first: no other one is open. file: where the first says so."""

    is_first: bool
    file: Path

    def publish(self, address: str) -> None:
        """Tell later starts where this one is; only this user may read it."""
        part = partial(self.file)
        part.touch(mode=0o600)
        part.write_text(json.dumps({"process": os.getpid(), "address": address}))
        part.replace(self.file)

    def other(self) -> str:
        """The address of the studio that is open, waited for; raises InstanceError."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with suppress(OSError, ValueError, TypeError, KeyError):
                return str(json.loads(self.file.read_text("utf-8"))["address"])
            time.sleep(POLL)
        raise InstanceError(
            "Neodragon Studio is open already, and its address is unknown; end it in the task "
            "manager and start it again."
        )


@contextmanager
def single(data: Path) -> Iterator[Instance | None]:
    """This start; None where the folder takes no lock, so that nobody can say.

    The operating system takes the lock back from a process that dies.
    """
    file = data / "studio.json"
    try:
        private(data)
        lock = sqlite3.connect(data / "studio.lock", timeout=0, isolation_level=None)
    except (OSError, sqlite3.Error):
        yield None
        return
    try:
        lock.execute("BEGIN EXCLUSIVE")
        first = True
        file.unlink(missing_ok=True)  # of one that was killed
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            lock.close()
            yield None
            return
        first = False
    try:
        yield Instance(first, file)
    finally:
        if first:
            with suppress(OSError):
                file.unlink(missing_ok=True)
        lock.close()


def end(data: Path) -> bool:
    """End the studio that is open and wait until it has; whether there was one.

    Raises InstanceError where it does not end.
    """
    deadline = time.monotonic() + PATIENCE
    was_open = False
    while time.monotonic() < deadline:
        with single(data) as instance:
            if instance is None or instance.is_first:
                return was_open
        was_open = True
        with suppress(OSError, ValueError, TypeError, KeyError):
            address, _, token = json.loads((data / "studio.json").read_text("utf-8"))[
                "address"
            ].partition("?token=")
            ask = urllib.request.Request(f"{address}quit", b"", {"X-Token": token})
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # not by a proxy
            opener.open(ask, timeout=PATIENCE).close()
        time.sleep(POLL)
    raise InstanceError(
        "Neodragon Studio has not ended after {seconds:.0f} seconds; end it in the task manager.",
        seconds=PATIENCE,
    )


def show(address: str, profile: Path) -> subprocess.Popen[bytes] | None:
    """Open the page: as a window of its own in Edge where that is, else in the usual browser.

    profile: a folder for that window, so that its process lives as long as it. The process, None
    for a tab.
    """
    edge = _edge()
    if edge is not None:
        with suppress(OSError):
            options = [f"--app={address}", f"--user-data-dir={profile}", "--no-first-run"]
            with as_found():
                return subprocess.Popen([str(edge), *options])
    with suppress(webbrowser.Error, OSError), as_found():
        webbrowser.open(address)
    return None


def _edge() -> Path | None:
    """Microsoft Edge on Windows."""
    if sys.platform != "win32":
        return None
    for variable in ("ProgramFiles(x86)", "ProgramFiles", "LOCALAPPDATA"):
        folder = os.environ.get(variable)
        path = Path(folder or ".", "Microsoft", "Edge", "Application", "msedge.exe")
        if folder and path.is_file():
            return path
    return None
