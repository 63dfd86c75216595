"""The overhead of the farm: `python -m benchmarks.farm > docs/farm.json`.

Rows that only wait (half a second, or no time) instead of an engine, so that many machines fit on
one; all else is real: processes, TLS, the job table, files that are sent, checked and published.
Prints JSON: rows an hour for 1, 2, 4, 8 machines against as many times one that does nothing else,
milliseconds from one wait to the next, processor time a row of host and machine, seconds to queue
10,000 rows, and the host's memory with them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import numpy as np
import psutil

from studio.farm import link
from studio.farm.certificates import Authority, client_context, new_key, pem_of, pem_text, write
from studio.farm.host import FarmHost
from studio.farm.local_worker import State
from studio.farm.machine import Machine, installed_packs
from studio.farm.register import Register
from studio.jobs.leases import LeasingTable
from studio.jobs.spec import Entry, Work
from studio.media.pictures import write_png
from studio.system.paths import default_pack

MACHINES = (1, 2, 4, 8)
WAIT = 0.5  # seconds a row takes
ROWS = 40  # a machine
MANY = 10_000
SERVED = (100, 1_000, 3_000, 9_000)  # of these, are made, without waiting
GAPS = "gaps.txt"  # seconds from the end of a wait to the next one, of a machine
PICTURE = np.zeros((16, 24, 3), np.uint8)


class Waiting:
    """A worker that waits instead of making a row; its file is a small picture."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        self._until = 0.0
        folder.mkdir(parents=True)

    def begin(self, work: Work, key: str) -> None:
        if self._until:
            with (self.folder.parent / GAPS).open("a") as stream:
                print(time.monotonic() - self._until, file=stream)
        self._until = time.monotonic() + self.seconds
        self._key = key

    def look(self, wait: float) -> State:
        time.sleep(max(0.0, min(wait, self._until - time.monotonic())))
        if time.monotonic() < self._until:
            return State()
        metadata = {"software": "Neodragon Studio 0", "key": self._key, "kind": "frame"}
        path = write_png(self.folder / f"{self._key}.png", PICTURE, metadata)
        return State(seconds=self.seconds, file=path)

    def stop(self) -> None:
        self._until = time.monotonic()

    def clear(self, file: Path) -> None:
        file.unlink()

    def close(self) -> None:
        """Nothing to give up."""


def be_host(root: Path) -> None:
    """Be the host until standard input ends."""
    with LeasingTable(root / "jobs.sqlite") as table, Register(root / "farm.sqlite") as register:
        host = FarmHost(table, register, root / "farm", root / "clips", 30)
        asyncio.run(host.run("127.0.0.1", 0))


def be_machine(root: Path, name: str, port: int, seconds: float) -> None:
    """Be a machine until killed."""
    folder = root / name
    machine = Machine(Waiting(folder / "made", seconds), folder, installed_packs())
    own = root / f"{name}.pem"
    context = client_context(root / "farm" / "authority.pem", own)
    address = f"tls://127.0.0.1:{port}"
    asyncio.run(machine.join(address, name, link.security(context)))


def entries(count: int) -> list[Entry]:
    made_by = {"pack": str(default_pack()), "backend": "cpu", "kind": "frame"}
    works = [Work(prompt="wait", look_seed=n, motion_seed=0, **made_by) for n in range(count)]
    return [Entry(work, f"key{work.look_seed}") for work in works]


class Farm:
    """A host and machines, each in a process of its own."""

    def __init__(self, stack: ExitStack, machines: int, seconds: float) -> None:
        self.root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="farm-")))
        self.table = stack.enter_context(LeasingTable(self.root / "jobs.sqlite"))
        self.register = stack.enter_context(Register(self.root / "farm.sqlite"))
        self.table.pause()
        self.machines: list[subprocess.Popen] = []
        self.host = self._start(stack, "host")
        until(lambda: self.register.farm() is not None)
        port = self.register.farm().port
        authority = Authority(self.root / "farm")
        for _ in range(machines):
            name, key = self.register.enrol("machine"), new_key()
            signed = authority.sign(key.public_key(), name, "machine", timedelta(days=1))
            write(self.root / f"{name}.pem", pem_text(signed).encode() + pem_of(key))
            one = self._start(stack, "machine", name, str(port), str(seconds))
            self.machines.append(one)
        until(lambda: sum(one.online for one in self.register.machines()) == machines)

    def _start(self, stack: ExitStack, *role: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "benchmarks.farm", "--root", str(self.root), "--be", *role]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        stack.callback(process.wait)
        stack.callback(process.kill)
        return process

    def run(self, done: int) -> float:
        """Seconds until so many rows are made."""
        begun = time.perf_counter()
        self.table.resume()
        until(lambda: self.table.count(["done"]) >= done)
        return time.perf_counter() - begun

    def gap(self) -> float:
        """Mean seconds between two rows of a machine, but for the first ones."""
        files = [path.read_text("utf-8").split()[2:] for path in self.root.glob(f"*/{GAPS}")]
        return statistics.mean(float(gap) for gaps in files for gap in gaps)

    def busy(self) -> tuple[float, float]:
        """Seconds of a processor that the host and all machines have taken."""
        host, *machines = (
            sum(psutil.Process(one.pid).cpu_times()[:2]) for one in (self.host, *self.machines)
        )
        return host, sum(machines)

    @property
    def memory(self) -> float:
        """Of the host, in MB."""
        return round(psutil.Process(self.host.pid).memory_info().rss / 1e6, 1)


def until(holds) -> None:
    deadline = time.monotonic() + 900
    while not holds():
        if time.monotonic() > deadline:
            sys.exit("nothing comes any more")
        time.sleep(0.02)


def scaling() -> list[dict[str, float]]:
    found = []
    for machines in MACHINES:
        with ExitStack() as stack:
            farm = Farm(stack, machines, WAIT)
            rows = ROWS * machines
            farm.table.add(entries(rows + 5 * machines))  # nobody is without work at the end
            farm.run(2 * machines)  # the first ones load modules on both sides
            before = farm.busy()
            seconds = farm.run(rows + 2 * machines)
            host, machine = (
                round((now - then) / rows * 1000, 1)
                for now, then in zip(farm.busy(), before, strict=True)
            )
            ideal = ROWS * WAIT
            found.append(
                {
                    "machines": machines,
                    "rows": rows,
                    "seconds": round(seconds, 2),
                    "rows_an_hour": round(rows / seconds * 3600),
                    "of_linear": round(ideal / seconds, 3),
                    "between_rows_ms": round(farm.gap() * 1000, 1),
                    "host_processor_ms_a_row": host,
                    "machine_processor_ms_a_row": machine,
                }
            )
            print(found[-1], file=sys.stderr, flush=True)
    return found


def many() -> dict[str, object]:
    with ExitStack() as stack:
        farm = Farm(stack, 4, 0.0)
        rows = entries(MANY)
        before = farm.memory
        begun = time.perf_counter()
        farm.table.ensure(rows)
        queued = time.perf_counter() - begun
        memory, seconds = {0: before}, 0.0
        for count in SERVED:
            seconds = farm.run(count)
            memory[count] = farm.memory
        return {
            "queued": MANY,
            "queueing_seconds": round(queued, 2),
            "rows_a_second_without_work": round((SERVED[-1] - SERVED[-2]) / seconds, 1),
            "host_mb_after_rows": memory,
            "table_mb": round((farm.root / "jobs.sqlite").stat().st_size / 1e6, 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--be", nargs="+")
    given = parser.parse_args()
    if given.be and given.be[0] == "host":
        be_host(given.root)
    elif given.be:
        be_machine(given.root, given.be[1], int(given.be[2]), float(given.be[3]))
    else:
        load = psutil.getloadavg()[0]
        found = {"cores": psutil.cpu_count(), "load_before": round(load, 1), "wait_seconds": WAIT}
        print(json.dumps({**found, "scaling": scaling(), "many": many()}, indent=1))


if __name__ == "__main__":
    main()
