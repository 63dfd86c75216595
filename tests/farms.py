"""A farm in one process for a test: a real host, real machines, real TLS, engines of the test's."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from engine.events import FirstFrame
from engine.pack import Pack
from engine.pipeline import generate
from studio.farm import link
from studio.farm.certificates import client_context, new_key, pem_of, pem_text, write
from studio.farm.host import FarmHost
from studio.farm.local_worker import State
from studio.farm.machine import Machine
from studio.farm.register import Register
from studio.jobs.leases import LeasingTable
from studio.jobs.render import record, with_pixels
from studio.jobs.spec import Work
from studio.media.pictures import write_png

MEMBERS: list[asyncio.Task] = []


class Engine:
    """A worker that makes first frames, of other seeds by how much it lies."""

    def __init__(self, pack: Pack, folder: Path, lies: int = 0) -> None:
        self.pack, self.folder, self.lies = pack, folder, lies
        folder.mkdir(parents=True)

    def begin(self, work: Work, key: str) -> None:
        self.work, self.key = work, key

    def look(self, wait: float) -> State:
        values = self.work.to_dict() | {"look_seed": self.work.look_seed + self.lies}
        events = generate(self.pack, with_pixels(Work.from_dict(values)), "cpu", 1)
        image = next(event.image for event in events if isinstance(event, FirstFrame))
        metadata = record(self.pack, self.work, "cpu") | {"key": self.key, "kind": "frame"}
        return State(seconds=1, file=write_png(self.folder / "x.png", image, metadata))

    def stop(self) -> None:
        """It is done already."""

    def clear(self, file: Path) -> None:
        file.unlink()

    def close(self) -> None:
        """Nothing to give up."""


async def member(host: FarmHost, address: str, name: str, machine: Machine) -> asyncio.Task:
    """A machine in the farm."""
    key = new_key()
    host.register.enrol(name)
    signed = host.authority.sign(key.public_key(), name, "machine", timedelta(days=1))
    own = machine.folder / "own.pem"
    own.parent.mkdir(parents=True, exist_ok=True)
    write(own, pem_text(signed).encode() + pem_of(key))
    context = client_context(host.authority.certificate_file, own)
    task = asyncio.create_task(machine.join(address, name, link.security(context)))
    MEMBERS.append(task)
    return task


def in_farm(tmp_path: Path, do: Callable[[FarmHost, str], Awaitable[None]]) -> None:
    async def run() -> None:
        host = FarmHost(table, register, tmp_path / "farm", tmp_path / "clips", 30)
        serving = asyncio.create_task(host.run("127.0.0.1", 0))
        while (farm := register.farm()) is None:
            await asyncio.sleep(0.05)
        try:
            await asyncio.wait_for(do(host, f"tls://127.0.0.1:{farm.port}"), 200)
        finally:
            await leave(*MEMBERS)  # one by one: Dask's workers do not end if all is cancelled
            MEMBERS.clear()
            host.leaving.set()
            await serving

    with (
        LeasingTable(tmp_path / "jobs.sqlite") as table,
        Register(tmp_path / "farm" / "farm.sqlite") as register,
    ):
        asyncio.run(run())
    gc.collect()  # here, where what it finds open is expected


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.05)


async def leave(*tasks: asyncio.Task) -> None:
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
