"""The farm's host: leases waiting rows to the machines that can make them, one after the other.

`python -m studio.farm.host` is the process behind `nds farm start` and the page's switch. All state
is in the job table: a host that is killed and started again continues from it, and machines that
were at work deliver what they have.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from engine.errors import NeodragonError, reason_of
from studio.farm import link
from studio.farm.certificates import Authority, FarmError, Invitation, pem_text
from studio.farm.checks import Checks
from studio.farm.desk import Desk, hello, is_check
from studio.farm.dispatch import Dispatcher, Packs
from studio.farm.network import chosen
from studio.farm.register import Register, farm_folder, open_register
from studio.jobs.database import JobsError
from studio.jobs.leases import LeasingTable
from studio.jobs.worker import CLOSED, pause_if_deserted
from studio.system import paths
from studio.system.settings import clips_folder
from studio.system.sqlite import lock

TICK = 0.05  # seconds between looks at the table
LOOK = 1.0  # seconds between looks at what the user wants of the farm
LEASE = 30.0  # seconds for which a row is a machine's without a word from it
SHORT = ("begin", "progress")  # asked by machines that wait to go on
RESULTS = ("part", "done")  # one after the other, as those would wait for many at once
PORT = 27860  # when it is free and none is named
PATIENCE = 10.0  # seconds a host has to open
FAILED = 2


def invite(register: Register, folder: Path, hours: float) -> Invitation:
    """A new invitation to the farm that is or was last; raises FarmError."""
    farm = register.farm()
    if farm is None:
        raise FarmError(
            "Start the farm first, with nds farm start: an invitation says where it is."
        )
    authority = Authority(folder)
    invitation, paper = authority.invite(farm.address, farm.port, timedelta(hours=hours))
    register.issued(paper.serial_number, "invitation", "invitation", invitation.ends)
    return invitation


class FarmHost:
    """Leases the rows of a table; its results go to `clips`. lease: seconds, as of `Desk`."""

    def __init__(
        self,
        table: LeasingTable,
        register: Register,
        folder: Path,
        clips: Path,
        lease: float,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.table, self.register, self.lease, self.say = table, register, lease, say
        self.leaving = threading.Event()
        self.authority = Authority(folder)
        self.authority.revoke(register.revoked())
        packs = Packs()
        self.checks = Checks(table, register, folder / "checks", clips, packs.at)
        self.dispatcher = Dispatcher(table, register, self.checks, packs, lease)
        resting = self.dispatcher.resting
        self.desk = Desk(table, register, clips, lease, packs.of, self.checks, resting)
        self._machines: dict[str, str] = {}  # name to Dask's address
        self._pool = ThreadPoolExecutor(2)
        self._files = ThreadPoolExecutor(1)
        self._judges = ThreadPoolExecutor(1)  # a comparison may make a row
        self._told: dict[str, set[str]] = {}  # name to packs it knows that it lacks
        self._wake = asyncio.Event()
        self._revoked: tuple[int, ...] = ()

    async def run(self, address: str, port: int) -> None:
        """Be the host until `leaving` is set or the register says so; raises FarmError."""
        link.prepare()
        server, client = self.authority.server_context(), self.authority.client_context()
        security = link.security(client, server)
        self._server = server
        scheduler = link.Host(address, port, security, self._answer, self._enrol)
        try:
            await scheduler
        except OSError as error:
            raise FarmError(
                "The farm cannot listen on {address}, port {port} ({reason}); choose another with"
                " --port.",
                address=address,
                port=port,
                reason=reason_of(error),
            ) from error
        self._scheduler = scheduler
        try:
            scheduler.add_plugin(_Watch(self))
            port = int(scheduler.address.rpartition(":")[2])
            self.register.open(address, port)
            self.say(f"the farm is on at {address}, port {port}; nds farm stop ends it")
            await self._work()
        finally:
            await scheduler.close(reason="the farm ends")
            self._pool.shutdown(wait=True)
            self._files.shutdown(wait=True)
            self._judges.shutdown(wait=True, cancel_futures=True)
            for lease in self.table.leases():  # of one that is killed they stay
                self.table.hand_back(lease.token)
            self.register.ended()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        self.table.extend(self.lease)  # of a host that was killed
        looked = 0.0
        while not self.leaving.is_set():
            if time.monotonic() - looked > LOOK:
                looked = time.monotonic()
                if not await loop.run_in_executor(self._pool, self._look):
                    return
            self._wake.clear()
            orders = await loop.run_in_executor(self._pool, self.dispatcher.orders)
            for machine, order in orders:
                self._scheduler.order(self._machines.get(machine, ""), order)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), TICK)

    def _look(self) -> bool:
        """Say that the host is there, and obey the register; whether to stay on."""
        revoked = self.register.revoked()
        if revoked != self._revoked:
            self.authority.revoke(revoked)
            self._server.load_verify_locations(self.authority.revoked_file)
            self._scheduler.refused = set(revoked)
            self._revoked = revoked
        known = {machine.name for machine in self.register.machines()}
        for name in set(self._machines) - known:
            self._scheduler.loop.add_callback(self._dismiss, name)
        with suppress(JobsError):  # of a damaged row, which is set aside
            for name, lacks in self.dispatcher.lacks().items():
                self._scheduler.loop.add_callback(self._tell, name, lacks)
        return self.register.seen()

    def _tell(self, name: str, lacks: set[str]) -> None:
        """Say once which packs a machine lacks."""
        if lacks != self._told.get(name, set()):
            self._told[name] = lacks
            self._scheduler.order(self._machines.get(name, ""), {"lacks": sorted(lacks)})

    async def _dismiss(self, name: str) -> None:
        """Let a machine whose certificate was revoked go."""
        self.dispatcher.able.pop(name, None)
        address = self._machines.pop(name, None)
        if address is not None:
            await self._scheduler.remove_worker(address, stimulus_id="revoked", close=True)

    async def _answer(self, machine: str, ask: str, values: dict[str, Any]) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        if ask == "hello":
            return await loop.run_in_executor(self._pool, lambda: self._hello(machine, **values))
        pool = self._pool if ask in SHORT else self._files if ask in RESULTS else None
        if ask == "done" and is_check(values):
            pool = self._judges
        answer = await loop.run_in_executor(pool, self.desk.answer, machine, ask, values)
        if ask in ("done", "failed", "back"):
            self._wake.set()
        return answer

    def _hello(
        self,
        name: str,
        address: str,
        version: str,
        packs: Mapping[str, str],
        backends: list[str],
    ) -> dict[str, Any]:
        if problem := hello(version):
            return {"error": problem}
        self.register.came(name, packs, backends)
        self._machines[name] = address
        self._told.pop(name, None)
        self.dispatcher.able[name] = set(packs), set(backends)
        return {}

    async def _enrol(self, request: str, wish: str, version: str) -> dict[str, Any]:
        if problem := hello(version):
            return {"error": problem}

        def sign() -> dict[str, Any]:
            name = self.register.enrol(str(wish))
            try:
                signed = self.authority.sign_request(request, name)
            except FarmError as error:
                return {"error": str(error)}
            ends = signed.not_valid_after_utc.timestamp()
            self.register.issued(signed.serial_number, "machine", name, ends)
            return {"name": name, "certificate": pem_text(signed)}

        return await asyncio.get_running_loop().run_in_executor(self._pool, sign)

    def gone(self, address: str) -> None:
        """Dask says that a machine's connection is no more."""
        for name, known in list(self._machines.items()):
            if known == address:
                del self._machines[name]
                self.dispatcher.able.pop(name, None)
                self.register.left(name)
                self.table.withdraw(name, self.lease)
                self.checks.gone(name)


class _Watch(link.SchedulerPlugin):
    """Hears of machines that go."""

    def __init__(self, host: FarmHost) -> None:
        self.host = host

    def remove_worker(self, scheduler: Any, worker: str, **_: Any) -> None:
        """A machine's connection is no more."""
        self.host.gone(worker)


def main(argv: list[str] | None = None) -> int:
    """Be the host as the arguments say; the exit code."""
    parser = argparse.ArgumentParser(prog="studio.farm.host", description="Lease rows.")
    parser.add_argument("--address", help="the network to be on, by this machine's address in it")
    parser.add_argument("--port", type=int, help="the last one, or a free one, when absent")
    parser.add_argument("--lease", type=float, default=LEASE, help="seconds a row is a machine's")
    parser.add_argument("--clips", type=Path, help="folder for results; else as the settings say")
    parser.add_argument("--attached", action="store_true", help="end when stdin does")
    arguments = parser.parse_args(argv)
    try:
        serve(
            *(arguments.address, arguments.port, arguments.lease),
            attached=arguments.attached,
            clips=arguments.clips,
        )
    except NeodragonError as error:
        print(f"nds: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 130
    return 0


def serve(
    address: str | None,
    port: int | None,
    lease: float = LEASE,
    *,
    attached: bool = False,
    clips: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Be the farm's host until it is to be off; raises FarmError.

    attached: only as long as standard input is open; clips: folder of results; say: takes a line
    for the user.
    """
    folder = farm_folder()
    paths.private(folder)
    with ExitStack() as stack:
        if not stack.enter_context(lock(folder / "host.lock", 1.0)):
            raise FarmError("The farm is on already; see nds farm status.")
        register = stack.enter_context(open_register())
        table = stack.enter_context(LeasingTable(paths.jobs_file()))
        known = register.farm()
        where = chosen(address, known)
        host = FarmHost(table, register, folder, clips or clips_folder(), lease, say)
        if attached:
            threading.Thread(target=_watch, args=[host], daemon=True).start()
        with table.attended():
            asyncio.run(host.run(where, _port(where, port or (known.port if known else None))))
        pause_if_deserted(table, CLOSED)


def _port(address: str, wish: int | None) -> int:
    """The port that is wished for, else the usual one if it is free, else 0 for any."""
    with socket.socket() as probe:
        try:
            probe.bind((address, wish or PORT))
        except OSError:
            return wish or 0
    return wish or PORT


def _watch(host: FarmHost) -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    host.leaving.set()


if __name__ == "__main__":
    sys.exit(main())
