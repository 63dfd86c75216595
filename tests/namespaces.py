"""Machines for a test: network namespaces on one cable, which processes run in. Linux and root."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

MINUTES = 240.0  # seconds: for real work, on a busy machine


class Network:
    """Hosts 0, 1, .. at 10.99.0.1, .2, ..; each has its own data folder and clips below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._tag = f"n{os.getpid() % 100_000}"
        self._processes: list[subprocess.Popen[str]] = []

    def build(self, hosts: int) -> None:
        """Lay the cables; raises CalledProcessError where this machine takes none."""
        self._run("ip", "netns", "add", f"{self._tag}s")
        self._switch("ip", "link", "add", "br0", "type", "bridge")
        self._switch("ip", "link", "set", "br0", "up")
        for host in range(hosts):
            name = f"{self._tag}h{host}"
            self._run("ip", "netns", "add", name)
            cable = ("ip", "link", "add", f"p{host}", "type", "veth", "peer", "name", "eth0")
            self._switch(*cable, "netns", name)
            self._switch("ip", "link", "set", f"p{host}", "master", "br0", "up")
            inside = ("ip", "-n", name)
            self._run(*inside, "addr", "add", f"{address(host)}/24", "dev", "eth0")
            self._run(*inside, "link", "set", "eth0", "up")
            self._run(*inside, "link", "set", "lo", "up")

    def start(self, host: int, *command: str, log: str = "") -> subprocess.Popen[str]:
        """A Python process on a host; what it says goes to `log` in the root."""
        data = self.root / f"host{host}"
        (data / "clips").mkdir(parents=True, exist_ok=True)
        environment = os.environ | {
            "NEODRAGON_DATA": str(data),
            "HOME": str(data),
            "XDG_VIDEOS_DIR": str(data / "clips"),
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "PYTHONUNBUFFERED": "1",
        }
        with (self.root / (log or f"{command[-1]}.log")).open("ab") as said:
            process = subprocess.Popen(
                ["ip", "netns", "exec", f"{self._tag}h{host}", sys.executable, *command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                cwd=data,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def nds(self, host: int, *arguments: str, log: str = "") -> subprocess.Popen[str]:
        """A command of the studio on a host."""
        return self.start(host, "-m", "studio.cli.main", *arguments, log=log)

    def done(self, host: int, *arguments: str, log: str = "done.log") -> None:
        """The same, ended well."""
        process = self.nds(host, *arguments, log=log)
        assert process.wait(MINUTES) == 0, self.said(log)

    def said(self, log: str) -> str:
        """What a process has said."""
        path = self.root / log
        return path.read_text("utf-8") if path.exists() else ""

    def cut(self, host: int, off: bool = True) -> None:
        """Pull a host's cable, or put it in again."""
        self._switch("ip", "link", "set", f"p{host}", "down" if off else "up")

    def close(self) -> None:
        for process in self._processes:
            kill(process)
        with suppress(subprocess.SubprocessError):
            self._run("ip", "netns", "del", f"{self._tag}s")
        for host in range(10):
            if Path(f"/run/netns/{self._tag}h{host}").exists():
                self._run("ip", "netns", "del", f"{self._tag}h{host}")

    def _switch(self, *command: str) -> None:
        self._run("ip", "netns", "exec", f"{self._tag}s", *command)

    def _run(self, *command: str) -> None:
        subprocess.run(command, check=True, capture_output=True, encoding="utf-8", timeout=30)


def address(host: int) -> str:
    return f"10.99.0.{host + 1}"


def kill(process: subprocess.Popen[str]) -> None:
    """End it at once, and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def until(holds: Callable[[], bool], told: Callable[[], str], seconds: float = MINUTES) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, told()
        time.sleep(0.1)


@contextmanager
def network(root: Path, hosts: int) -> Iterator[Network]:
    """So many hosts; skips where this machine makes none."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need Linux, root and the program ip")
    made = Network(root)
    try:
        try:
            made.build(hosts)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this machine makes no network namespaces: {error.stderr}")
        yield made
    finally:
        made.close()
