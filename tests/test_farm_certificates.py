"""Who gets into a farm: only certificates of its own, that are good; nobody else is even read."""

from __future__ import annotations

import asyncio
import gc
import os
import ssl
import struct
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("distributed")

from distributed.comm import connect
from distributed.protocol import ToPickle, dumps
from distributed.protocol.utils import pack_frames

from engine.errors import NeodragonError
from studio.farm import machine
from studio.farm.certificates import (
    Authority,
    FarmError,
    client_context,
    new_key,
    pem_of,
    pem_text,
    read_invitation,
    write,
)
from studio.farm.host import FarmHost, invite
from studio.farm.register import Register
from studio.jobs.leases import LeasingTable

# Connections that the other side cuts are left to the garbage collector by asyncio and Dask.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


class Bomb:
    """What makes a file when it is unpickled."""

    def __init__(self, crater: Path) -> None:
        self.crater = crater

    def __reduce__(self) -> Any:
        return Path.touch, (self.crater,)


def in_farm(tmp_path: Path, do: Callable[[FarmHost, str], Awaitable[None]]) -> None:
    """Run something beside a host that is on."""

    async def run() -> None:
        host = FarmHost(table, register, tmp_path / "farm", tmp_path / "clips", 10)
        serving = asyncio.create_task(host.run("127.0.0.1", 0))
        while register.farm() is None:
            await asyncio.sleep(0.05)
            assert not serving.done(), serving.exception()
        farm = register.farm()
        assert farm is not None
        try:
            await asyncio.wait_for(do(host, f"tls://127.0.0.1:{farm.port}"), 120)
        finally:
            host.leaving.set()
            await serving

    (tmp_path / "farm").mkdir()
    with (
        LeasingTable(tmp_path / "jobs.sqlite") as table,
        Register(tmp_path / "farm" / "farm.sqlite") as register,
    ):
        asyncio.run(run())
    gc.collect()  # here, where what it finds open is expected


def paper(authority: Authority, role: Any, folder: Path, life: timedelta) -> tuple[Path, int]:
    """A certificate and its key in a file, and its number."""
    key = new_key()
    signed = authority.sign(key.public_key(), "stranger", role, life)
    path = folder / f"{signed.serial_number:x}.pem"
    write(path, pem_text(signed).encode() + pem_of(key))
    return path, signed.serial_number


async def throw(address: str, context: ssl.SSLContext | None, crater: Path) -> None:
    """Send a pickled bomb as Dask would, and read until the other side is silent or gone."""
    _, port = address.rsplit(":", 1)
    frames = dumps({"op": "identity", "reply": True, "bomb": ToPickle(Bomb(crater))})
    packed = pack_frames([bytes(frame) for frame in frames])
    reader, writer = await asyncio.open_connection("127.0.0.1", int(port), ssl=context)
    try:
        for _ in range(2):  # the first is taken for a handshake
            writer.write(struct.pack("<Q", len(packed)) + packed)
            await writer.drain()
        while await asyncio.wait_for(reader.read(2**16), 3):
            pass
    finally:
        writer.close()


def strangers(host: FarmHost, tmp_path: Path) -> dict[str, ssl.SSLContext | None]:
    """Contexts that must not get in, by what is wrong with them."""
    authority = host.authority
    ours = authority.certificate_file
    day = timedelta(days=1)
    other = Authority(tmp_path / "other")
    foreign, _ = paper(other, "machine", tmp_path, day)
    ended, _ = paper(authority, "machine", tmp_path, timedelta(seconds=-1))
    revoked, number = paper(authority, "machine", tmp_path, day)
    host.register.enrol("stranger")
    host.register.issued(number, "machine", "stranger", 1e12)
    host.register.revoke("stranger")
    host._look()
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname = False
    bare.load_verify_locations(ours)
    return {
        "plain TCP": None,
        "no certificate": bare,
        "another authority's": client_context(ours, foreign),
        "an old one": client_context(ours, ended),
        "a revoked one": client_context(ours, revoked),
    }


def test_a_bomb_of_a_stranger_is_not_unpickled(tmp_path: Path) -> None:
    async def do(host: FarmHost, address: str) -> None:
        for name, context in strangers(host, tmp_path).items():
            crater = tmp_path / name
            try:
                await throw(address, context, crater)
            except (OSError, ssl.SSLError, TimeoutError):
                pass
            assert not crater.exists(), name
        # The same bomb of a member goes off: it is a bomb, and members are trusted.
        member, _ = paper(host.authority, "machine", tmp_path, timedelta(days=1))
        good = client_context(host.authority.certificate_file, member)
        crater = tmp_path / "member"
        try:
            await throw(address, good, crater)
        except (OSError, TimeoutError):
            pass
        for _ in range(600):  # on a busy machine
            await asyncio.sleep(0.05 * (not crater.exists()))
        assert crater.exists()

    in_farm(tmp_path, do)


def test_strangers_do_not_even_get_a_handshake(tmp_path: Path) -> None:
    async def do(host: FarmHost, address: str) -> None:
        for name, context in strangers(host, tmp_path).items():
            where = address if context else address.replace("tls", "tcp")
            with pytest.raises(OSError):  # noqa: PT011
                options = {} if context is None else {"ssl_context": context}
                comm = await connect(where, timeout=3, **options)
                await comm.write({"op": "identity", "reply": True})
                pytest.fail(f"{name}: {await asyncio.wait_for(comm.read(), 3)}")

    in_farm(tmp_path, do)


def test_an_invitation_brings_a_certificate_and_nothing_else(tmp_path: Path) -> None:
    async def do(host: FarmHost, address: str) -> None:
        written = tmp_path / "in.ndsfarm"
        written.write_text(str(invite(host.register, tmp_path / "farm", 1)))
        invitation = read_invitation(written)
        assert await machine.enrol(invitation, tmp_path / "one", "lap top") == "lap-top"
        assert await machine.enrol(invitation, tmp_path / "two", "lap top") == "lap-top-2"
        assert not (tmp_path / "one" / "invitation.pem").exists()
        guest = tmp_path / "guest.pem"
        guest.write_text(invitation.certificate + invitation.key)
        context = client_context(host.authority.certificate_file, guest)
        comm = await connect(address, timeout=5, ssl_context=context)
        await comm.write({"op": "register-worker", "request": "", "name": "x", "version": "?"})
        answer = await comm.read()
        assert "certificate" not in answer and "same version" in answer["error"]
        # A machine cannot pass for the host: its certificate is for clients.
        context = host.authority.server_context()
        context.load_cert_chain(tmp_path / "one" / "machine.pem")
        server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        two = client_context(tmp_path / "two" / "authority.pem", tmp_path / "two" / "machine.pem")
        with pytest.raises(ssl.SSLError, match="unsuitable certificate purpose"):
            await asyncio.open_connection("127.0.0.1", port, ssl=two)
        server.close()
        # Invitations end.
        host.register.revoke("invitation")
        host._look()
        with pytest.raises(FarmError, match="cannot be joined"):
            await machine.enrol(invitation, tmp_path / "three", "late")

    in_farm(tmp_path, do)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"neodragon_farm": 1}', "x" * 100_000])
def test_what_is_no_invitation_is_said(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.ndsfarm"
    path.write_text(content)
    with pytest.raises(NeodragonError, match="no invitation"):
        read_invitation(path)


def test_keys_are_the_users_alone(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "farm")
    again = Authority(tmp_path / "farm")
    assert again.certificate == authority.certificate
    if os.name == "nt":  # there the user's own folder keeps others out
        return
    for path in (tmp_path / "farm").iterdir():
        assert path.stat().st_mode & 0o077 == 0, path.name
    assert (tmp_path / "farm").stat().st_mode & 0o077 == 0
