"""On which network the farm is, and the process that is its host, started from the page.

Nothing here needs Dask.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil

from engine.errors import Message, NeodragonError
from studio.farm.register import Farm, Register
from studio.system.paths import DATA_VARIABLE, own_farm, private, private_file

ENDS = 15.0  # seconds that a host may take to end


class PlaceError(NeodragonError):
    """The farm has no network to be on."""


def addresses() -> list[str]:
    """The IPv4 addresses at which other machines may reach this one."""
    return [
        part.address
        for parts in psutil.net_if_addrs().values()
        for part in parts
        if part.family.name == "AF_INET" and not part.address.startswith("127.")
    ]


def chosen(address: str | None, known: Farm | None) -> str:
    """The address to listen on: the named one, the last one, or the only one; raises PlaceError."""
    here = addresses()
    wish = address or (known.address if known and known.address in here else None)
    if wish is None and len(here) == 1:
        [wish] = here
    if wish not in here:
        raise PlaceError(
            "Choose the network of the farm with --address: this machine has {addresses}.",
            addresses=", ".join(here) or "none",
        )
    return wish


class Switch:
    """The farm of the studio with this data folder: its register, and a host while it is on."""

    def __init__(self, data: Path, clips: Path) -> None:
        self.data, self.clips = data, clips
        self.folder = data / "farm"
        self._process: subprocess.Popen[bytes] | None = None
        self._register: Register | None = None
        self._ending = False

    @property
    def register(self) -> Register | None:
        """What the farm remembers, None where there never was one."""
        if self._register is None and (self.folder / "farm.sqlite").exists():
            self._register = Register(self.folder / "farm.sqlite")
        return self._register

    @property
    def is_on(self) -> bool:
        """Whether a host is there, whoever started it."""
        farm = None if self.register is None else self.register.farm()
        return farm is not None and farm.is_on

    @property
    def is_turning(self) -> bool:
        """Whether a host that was started here is not there yet."""
        starts = self._process is not None and self._process.poll() is None
        return starts and not self.is_on and not self._ending

    def on(self, address: str | None) -> None:
        """Start a host that lives as long as this process; raises OSError."""
        if self.is_on or (self._process is not None and self._process.poll() is None):
            return
        self._ending = False
        private(self.folder)
        log = self.folder / "host.log"
        log.unlink(missing_ok=True)
        private_file(log)
        command = [*own_farm(), "--attached", "--clips", str(self.clips)]
        command += ["--address", address] if address else []
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=stream,
                env=os.environ | {DATA_VARIABLE: str(self.data)},
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )

    def off(self) -> None:
        """Let the host end, whoever started it."""
        self._ending = True
        if self.register is not None:
            self.register.end()

    @property
    def problem(self) -> Message | None:
        """Why the host that was started here is not there, in its own words."""
        if self._process is None or self._process.poll() in (None, 0):
            return None
        with suppress(OSError, IndexError):
            text = (self.folder / "host.log").read_text("utf-8", "replace")
            return Message(text.strip().splitlines()[-1].removeprefix("nds: "))
        return None

    def close(self) -> None:
        """Let the host that was started here end."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(ENDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
