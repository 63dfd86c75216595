"""Dask as the farm uses it: a scheduler and workers over TLS, with one open port in all.

The host's scheduler listens on one address. A machine's worker listens on its own loopback only;
all its requests go over connections that it opened itself, to the scheduler's extra handler
`farm`. Only TLS with a certificate of the farm's authority is accepted. Dask
unpickles what it gets, so whoever has a certificate is trusted like a user of the host. Others fail
in the handshake.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import dask
from distributed import Scheduler, Worker, metrics
from distributed.comm import CommClosedError, connect
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.security import Security

from studio.farm.certificates import FarmError

__all__ = ["CommClosedError", "Host", "Join", "SchedulerPlugin", "enrolled", "security"]

Answer = Callable[..., Awaitable[dict[str, Any]]]

SILENCE = 20  # seconds after which who says nothing is gone
BEAT = 2.0  # seconds between a machine's words to Dask
SETTINGS: dict[str, Any] = {
    "distributed.admin.log-length": 1,
    "distributed.admin.low-level-log-length": 1,
    "distributed.admin.pdb-on-err": False,
    "distributed.admin.system-monitor.disk": False,
    "distributed.admin.system-monitor.interval": "60s",
    "distributed.admin.system-monitor.log-length": 1,
    "distributed.admin.tick.cycle": "60s",
    "distributed.admin.tick.interval": "10s",
    "distributed.admin.tick.limit": "1h",
    "distributed.comm.compression": None,
    "distributed.comm.retry.count": 0,
    "distributed.comm.timeouts.connect": "5s",
    "distributed.comm.timeouts.tcp": f"{SILENCE}s",
    "distributed.diagnostics.nvml": False,
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.http.routes": [],
    "distributed.scheduler.idle-timeout": None,
    "distributed.scheduler.preload": [],
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.worker-ttl": f"{SILENCE}s",
    "distributed.worker.http.routes": [],
    "distributed.worker.preload": [],
    "distributed.worker.profile.enabled": False,
}


def prepare() -> None:
    """Set Dask up, whatever the user's own configuration of it says."""
    dask.config.set(SETTINGS)
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    if hasattr(metrics, "_WindowsTime"):  # Dask's own, for Python before 3.13
        metrics._WindowsTime.resync = _set_clock


def _set_clock(clock: Any) -> None:
    """Tie Dask's clock on Windows to the system's: once, to 16 ms.

    Dask itself reads the system's clock until it stands still for ten readings. A clock that is
    fine, as Wine's is, never does, and the farm hung.
    """
    clock.delta = clock.base_timer() - time.perf_counter()


class _Security(Security):
    """Contexts made elsewhere."""

    def __init__(self, client: ssl.SSLContext, server: ssl.SSLContext | None) -> None:
        super().__init__(require_encryption=True)
        self._client, self._server = client, server

    def get_connection_args(self, role: str) -> dict[str, Any]:
        return {"ssl_context": self._client, "require_encryption": True, "extra_conn_args": {}}

    def get_listen_args(self, role: str) -> dict[str, Any]:
        # A machine's worker must listen: on its loopback, where nobody has a certificate for it.
        return {"ssl_context": self._server or self._client, "require_encryption": True}


def security(client: ssl.SSLContext, server: ssl.SSLContext | None = None) -> Security:
    """How Dask is to connect and to listen."""
    return _Security(client, server)


def bearer(comm: Any) -> tuple[str, str, int]:
    """Role, name and number of the certificate at the other end of a connection."""
    shown = comm.extra_info["peercert"]
    subject = {key: value for ((key, value),) in shown["subject"]}
    serial = int(shown["serialNumber"], 16)
    return subject["organizationalUnitName"], subject["commonName"], serial


class Host(Scheduler):
    """The scheduler on one address and no other port.

    answer: takes a machine's name and what it asks; enrol: takes the request for a certificate of
    somebody who is invited, and the name they wish.
    """

    def __init__(
        self, address: str, port: int, security: Security, answer: Answer, enrol: Answer
    ) -> None:
        self._answer, self._enrol = answer, enrol
        self.refused: Collection[int] = ()  # numbers of revoked certificates
        super().__init__(
            host=address, port=port, protocol="tls", security=security, dashboard=False
        )
        self.handlers["farm"] = self._hear

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """None."""

    def order(self, machine: str, order: dict[str, Any]) -> None:
        """Send an order to a machine, by its address; one that is gone gets none."""
        if machine in self.stream_comms:
            self.worker_send(machine, {"op": "order", "order": order})

    async def handle_comm(self, comm: Any) -> None:
        """Let a connection in, if its certificate is still good for it."""
        role, name, serial = bearer(comm)
        if serial in self.refused:
            comm.abort()
        elif role == "invitation":
            enrolment = await comm.read(deserializers=["msgpack"])
            await comm.write(
                await self._enrol(enrolment["request"], enrolment["name"], enrolment["version"])
            )
            await comm.close()
        else:
            await super().handle_comm(comm)

    async def _hear(self, comm: Any, ask: str, values: dict[str, Any]) -> dict[str, Any]:
        role, name, serial = bearer(comm)
        if role != "machine" or serial in self.refused:
            comm.abort()
            return {}
        return await self._answer(name, ask, values)


class Join(Worker):
    """A machine's worker; take: gets the orders that come. No port beyond the loopback."""

    def __init__(
        self,
        address: str,
        name: str,
        security: Security,
        folder: str,
        take: Callable[[dict[str, Any]], None],
    ) -> None:
        host, _, port = address.removeprefix("tls://").rpartition(":")
        super().__init__(
            address,
            name=f"{name}/{secrets.token_hex(4)}",
            nthreads=1,
            memory_limit=0,
            security=security,
            host="127.0.0.1",
            contact_address=f"tls://{_own_address(host, int(port))}:{_number()}",
            local_directory=folder,
            dashboard=False,
        )
        self.stream_handlers["order"] = take

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """None."""

    async def heartbeat(self) -> None:
        """Say that this machine is there, less often than Dask asks of so few."""
        await super().heartbeat()
        self.periodic_callbacks["heartbeat"].callback_time = BEAT * 1000

    async def ask(self, ask: str, values: dict[str, Any]) -> dict[str, Any]:
        """What the host answers; raises OSError where it cannot be reached."""
        answer: dict[str, Any] = await self.scheduler.farm(ask=ask, values=values)
        return answer


async def enrolled(address: str, security: Security, **values: str) -> dict[str, Any]:
    """What the host answers to one who is invited; raises FarmError."""
    try:
        arguments = security.get_connection_args("client")
        comm = await connect(address, timeout=10, **arguments)
        try:
            await comm.write(values, serializers=["msgpack"])
            answer: dict[str, Any] = await asyncio.wait_for(comm.read(), 30)
        finally:
            await comm.close()
    except (OSError, TimeoutError) as error:
        raise FarmError(
            "The farm at {address} cannot be joined ({reason}); check that it is on, in the same "
            "network and not behind a firewall, and that the invitation is valid.",
            address=address.removeprefix("tls://"),
            reason=str(error).split("\n")[0][:200] or type(error).__name__,
        ) from error
    return answer


def _own_address(host: str, port: int) -> str:
    """The address by which this machine reaches the host; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))
        return str(probe.getsockname()[0])


def _number() -> int:
    """What tells a worker's name from others of the same address: nobody connects to it."""
    return 1024 + secrets.randbelow(64_000)
