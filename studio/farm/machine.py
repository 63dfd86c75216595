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
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from engine.errors import Message, NeodragonError, reason_of
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

TELL = 0.5  # seconds between reports on it
RETRY = 1.0  # seconds between tries to reach the host
TRIES = 3  # to get a pack
ANSWER = 60.0  # seconds it may take to answer
UNABLE = "This machine cannot read or write its files ({reason}); see to it there."
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
        self._turn, self._fetching = asyncio.Lock(), asyncio.Lock()
        self._orders: set[asyncio.Task[None]] = set()

    async def join(self, address: str, name: str, security: Any) -> None:
        """Be in the farm until cancelled, whatever becomes of the connection."""
        link.prepare()
        try:
            await self._stay(address, name, security)
        finally:
            for task in self._orders:
                task.cancel()

    async def _stay(self, address: str, name: str, security: Any) -> None:
        reported = ""
        while not _is_cancelled():
            try:
                worker = link.Join(address, name, security, str(self.folder / "dask"), self.take)
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
                await self._hello()
                self.say(f"in the farm as {name}")
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

    async def _hello(self) -> None:
        """Say what this machine can make; raises FarmError."""
        assert self.worker is not None, "it is there"
        answer = await self.worker.ask(
            "hello",
            {
                "address": self.worker.contact_address,
                "version": __version__,
                "packs": {hash_: path.name for hash_, path in self.packs.items()},
                "backends": list(available()),
            },
        )
        if problem := answer.get("error"):
            raise FarmError("{problem}", problem=problem)

    async def _supply(self, lacks: Collection[str]) -> None:
        """Fetch packs that rows wait for, one after the other, or say that they are not here."""
        async with self._fetching:
            for pack in set(lacks) - self.packs.keys():
                if self.fetch:
                    await self._fetch(pack)
                else:
                    self.say(
                        f"rows wait for the pack {pack[:12]}, which is not here: --fetch gets it"
                    )

    async def _fetch(self, pack: str) -> None:
        """Get a pack; what has come of one that breaks off is kept for the next try."""
        self.say(f"fetching the pack {pack[:12]}")
        for _ in range(TRIES):
            try:
                self.packs[pack] = await fetch_pack(self.ask, pack, packs.home(), self.say)
            except (NeodragonError, OSError) as error:
                self.say(f"the pack {pack[:12]} did not come: {error}")
                await asyncio.sleep(RETRY)
                continue
            self.say(f"the pack {pack[:12]} is here")
            with suppress(*GONE):  # else it says so when it is back
                if self.worker is not None:
                    await self._hello()
            return

    async def ask(self, ask: str, **values: Any) -> dict[str, Any]:
        """What the host answers, however long the connection is lost meanwhile."""
        while not _is_cancelled():
            worker = self.worker
            if worker is not None:
                with suppress(*GONE, RuntimeError):  # the last one: it is being closed
                    async with asyncio.timeout(ANSWER):
                        return await worker.ask(ask, values)
            await asyncio.sleep(RETRY / 4)
        raise asyncio.CancelledError

    def take(self, order: Mapping[str, Any]) -> None:
        """Make a row and bring it, or see to packs; goes on where the connection is lost."""
        serving = self._supply(order["lacks"]) if "lacks" in order else self._serve(order)
        task = asyncio.create_task(serving)
        self._orders.add(task)
        task.add_done_callback(self._orders.discard)

    async def _serve(self, order: Mapping[str, Any]) -> None:
        token = order["token"]
        async with self._turn:
            if not (await self.ask("begin", token=token)).get("go"):
                return
            try:
                state = await self._make(order)
            except NeodragonError as error:
                state = State(error=error.message)
            except OSError as error:
                state = State(trouble=Message(UNABLE, {"reason": reason_of(error)}))
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
        while not (state := await asyncio.to_thread(self.maker.look, TELL)).is_over:
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
        if stop and state.stopped:
            await self.ask("back", token=token, stop=stop, trouble="")
        return state

    async def _bring(self, token: str, state: State, file: Path) -> None:
        """Send a file from where the host has it, with its last part the receipt."""
        size = file.stat().st_size
        receipt = {
            "size": size,
            "sha256": await asyncio.to_thread(sha256, file),
            "stages": dict(state.stages),
            "seconds": state.seconds,
            "notices": as_text(*state.notices),
        }
        answer: dict[str, Any] = {"have": 0}
        with file.open("rb") as stream:
            while (have := answer.get("have")) is not None:
                stream.seek(have)
                block = {"token": token, "offset": have, "data": stream.read(BLOCK)}
                if have < size and not block["data"]:
                    return  # it was cut off here
                if have + BLOCK < size:
                    answer = await self.ask("part", **block)
                else:
                    answer = await self.ask("done", **block, receipt=receipt)
        if answer.get("taken"):  # else it is kept for another order of the same
            self.maker.clear(file)
            self.say(f"a row is made, {state.seconds:.1f} s")


def _is_cancelled() -> bool:
    """Whether the running task is to end: of being cancelled Dask may make another error."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


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
        known = json.loads((folder / "joined.json").read_text("utf-8"))
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
