"""The other side: a machine that joined a farm, and makes the rows it is given.

One process with Dask's worker, which holds the connection, and beside it a worker of the queue. A
row that has begun continues while the connection is lost, and is delivered when it is back.
"""

from __future__ import annotations

import asyncio
import json
import platform
import re
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from engine.errors import NeodragonError
from engine.pack import open_pack
from engine.session import available
from studio import __version__
from studio.farm import link
from studio.farm.certificates import (
    FarmError,
    Invitation,
    client_context,
    new_key,
    pem_of,
    request_for,
    write,
)
from studio.farm.local_worker import LocalWorker, Maker, State
from studio.farm.orders import BLOCK, sha256, work_of
from studio.farm.transfers import fetch_pack, fetch_picture
from studio.jobs.spec import as_text
from studio.system import packs, settings
from studio.system.paths import private
from studio.system.sqlite import lock

LOOK = 0.01  # seconds between looks at the row that is made
TELL = 0.5  # seconds between reports on it
RETRY = 1.0  # seconds between tries to reach the host
ANSWER = 60.0  # seconds it may take to answer
GONE = (OSError, link.CommClosedError, TimeoutError)


class Machine:
    """Serves orders, one row at a time. known: packs by hash; say: takes a line for the user."""

    def __init__(
        self,
        maker: Maker,
        folder: Path,
        known: Mapping[str, Path],
        fetch: bool = False,
        say: Callable[[str], None] = print,
    ) -> None:
        self.maker, self.folder, self.fetch, self.say = maker, folder, fetch, say
        self.packs = dict(known)
        self.worker: link.Join | None = None
        self._turn = asyncio.Lock()
        self._orders: dict[str, asyncio.Task[None]] = {}

    async def join(self, address: str, name: str, security: Any) -> None:
        """Be in the farm until cancelled, whatever becomes of the connection."""
        link.prepare()
        reported = ""
        while True:
            try:
                worker = link.Join(address, name, security, str(self.folder / "dask"), self)
                async with asyncio.timeout(ANSWER):
                    await worker
            except (*GONE, ValueError) as error:
                problem = f"the farm at {address.removeprefix('tls://')} cannot be reached"
                if problem != reported:
                    self.say(f"{problem}: {str(error)[:200] or type(error).__name__}")
                reported = problem
                await asyncio.sleep(RETRY)
                continue
            try:
                self.worker = worker
                await self._hello(name)
                reported = ""
                await worker.finished()
                self.say("the connection is lost; trying again")
            except GONE:
                pass
            finally:
                self.worker = None
                with suppress(*GONE):
                    await worker.close(nanny=False, executor_wait=False)
            await asyncio.sleep(RETRY)

    async def _hello(self, name: str) -> None:
        """Say what this machine can make, and fetch what it lacks; raises FarmError."""
        assert self.worker is not None, "it is there"
        while True:
            names = {hash_: path.name for hash_, path in self.packs.items()}
            answer = await self.worker.ask(
                "hello",
                {
                    "address": self.worker.contact_address,
                    "version": __version__,
                    "packs": names,
                    "backends": list(available()),
                },
            )
            if problem := answer.get("error"):
                raise FarmError("{problem}", problem=problem)
            self.say(f"in the farm as {name}")
            lacks = answer["lacks"]
            if not lacks or not self.fetch:
                for pack in lacks:
                    self.say(
                        f"rows wait for the pack {pack[:12]}, which is not here: --fetch gets it"
                    )
                return
            for pack in lacks:
                self.say(f"fetching the pack {pack[:12]}")
                self.packs[pack] = await fetch_pack(self.ask, pack, packs.home(), self.say)

    async def ask(self, ask: str, **values: Any) -> dict[str, Any]:
        """What the host answers, however long the connection is lost meanwhile."""
        while True:
            worker = self.worker
            if worker is not None:
                with suppress(*GONE):
                    async with asyncio.timeout(ANSWER):
                        return await worker.ask(ask, values)
            await asyncio.sleep(RETRY / 4)

    async def serve(self, order: Mapping[str, Any]) -> None:
        """Make a row and bring it; goes on where the connection that brought the order is lost."""
        token = order["token"]
        task = self._orders.get(token)
        if task is None:
            task = self._orders[token] = asyncio.create_task(self._serve(order))
            task.add_done_callback(lambda _: self._orders.pop(token, None))
        await asyncio.shield(task)

    async def _serve(self, order: Mapping[str, Any]) -> None:
        token = order["token"]
        async with self._turn:
            if not (await self.ask("begin", token=token)).get("go"):
                return
            try:
                state = await self._make(order)
            except NeodragonError as error:
                state = State(error=error.message)
        if state.file is not None:
            await self._bring(token, state, state.file)
        elif state.error:
            self.say(f"a row failed: {state.error}")
            await self.ask("failed", token=token, error=as_text(state.error))
        elif state.trouble:
            self.say(f"a row is handed back: {state.trouble}")
            await self.ask("back", token=token, stop="", trouble=as_text(state.trouble))

    async def _make(self, order: Mapping[str, Any]) -> State:
        """Make the row, report on it, and obey."""
        token, pack = order["token"], order["work"]["pack"]
        if pack not in self.packs:
            raise FarmError("The pack {pack} is not on this machine.", pack=pack[:12])
        picture = None
        if order["picture"] is not None:
            picture = await fetch_picture(self.ask, token, order["picture"], self.folder)
        work = work_of(order, self.packs[pack], picture)
        await asyncio.to_thread(self.maker.begin, work, order["key"])
        reported = time.monotonic()
        stop: str | None = ""
        while True:
            state = await asyncio.to_thread(self.maker.look)
            if state.is_over:
                break
            if time.monotonic() - reported > TELL and not stop:
                reported = time.monotonic()
                answer = await self.ask(
                    *("progress",),
                    token=token,
                    fraction=state.fraction,
                    stage=state.stage,
                    stages=dict(state.stages),
                )
                stop = answer.get("stop")
                if stop != "":
                    await asyncio.to_thread(self.maker.stop)
            await asyncio.sleep(LOOK)
        if stop and state.stopped:
            await self.ask("back", token=token, stop=stop, trouble="")
        return state

    async def _bring(self, token: str, state: State, file: Path) -> None:
        """Send a file from where the host has it, then the receipt."""
        size, have = file.stat().st_size, 0
        with file.open("rb") as stream:
            while True:
                stream.seek(have)
                data = stream.read(BLOCK)
                if not data:
                    break
                answer = await self.ask("part", token=token, offset=have, data=data)
                if answer.get("have") is None:
                    return  # somebody else makes it; it is kept for another order of the same
                have = answer["have"]
        receipt = {
            "size": size,
            "sha256": await asyncio.to_thread(sha256, file),
            "stages": dict(state.stages),
            "seconds": state.seconds,
            "notices": as_text(*state.notices),
        }
        answer = await self.ask("done", token=token, receipt=receipt)
        if answer.get("taken"):
            self.maker.clear(file)
            self.say(f"a row is made, {state.seconds:.1f} s")


async def enrol(invitation: Invitation, folder: Path, name: str | None = None) -> str:
    """Get a certificate of this machine's own; its name in the farm. Raises FarmError."""
    private(folder)
    authority, guest = folder / "authority.pem", folder / "invitation.pem"
    write(authority, invitation.authority.encode())
    write(guest, (invitation.certificate + invitation.key).encode())
    link.prepare()
    try:
        address = f"tls://{invitation.address}:{invitation.port}"
        wish = re.sub(r"[^A-Za-z0-9._-]+", "-", name or platform.node()) or "machine"
        key = new_key()
        answer = await link.enrolled(
            address,
            link.security(client_context(authority, guest)),
            request=request_for(key, wish),
            name=wish,
            version=__version__,
        )
    finally:
        guest.unlink(missing_ok=True)
    if problem := answer.get("error"):
        raise FarmError("{problem}", problem=problem)
    write(folder / "machine.pem", answer["certificate"].encode() + pem_of(key))
    known = {"address": address, "name": answer["name"]}
    write(folder / "joined.json", json.dumps(known).encode())
    return str(answer["name"])


def installed_packs() -> dict[str, Path]:
    """The packs of this machine by their hashes."""
    folder = packs.home()
    whole = [one.path for one in packs.installed(folder) if not one.problem]
    known = {}
    for path in (*whole, settings.pack_path()):
        with suppress(NeodragonError), open_pack(path) as pack:
            known[pack.pack_hash] = pack.path
    return known


def join(
    folder: Path, *, fetch: bool, threads: int | None = None, say: Callable[[str], None] = print
) -> None:
    """Be in the farm that this machine has a certificate for, until interrupted.

    Raises FarmError.
    """
    try:
        known = json.loads((folder / "joined.json").read_text())
        address, name = str(known["address"]), str(known["name"])
        context = client_context(folder / "authority.pem", folder / "machine.pem")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FarmError(
            "This machine is in no farm; join one with nds farm join and its invitation."
        ) from error
    with ExitStack() as stack:
        if not stack.enter_context(lock(folder / "join.lock", 1.0)):
            raise FarmError("This machine is in the farm already, by another process.")
        maker = LocalWorker(folder / "worker", threads)
        stack.callback(maker.close)

        async def run() -> None:
            machine = Machine(maker, folder, installed_packs(), fetch, say)
            await machine.join(address, name, link.security(context))

        asyncio.run(run())
