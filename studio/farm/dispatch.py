"""Which machine gets which row: waiting rows are leased to machines that can make them.

Everything here runs in threads. What is here of a row is in the job table; what is here of a
machine it says again when it comes back.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.errors import NeodragonError, RequestError
from engine.pack import Pack, open_pack
from studio.farm.checks import Checks
from studio.farm.orders import order_of
from studio.farm.register import Register
from studio.jobs import results
from studio.jobs.leases import LeasingTable
from studio.jobs.spec import Job

LOOK = 1.0  # seconds after which machines are looked at even if no row has changed
DEPTH = 2  # rows a machine is given at once: one it makes, one that waits for it
Orders = list[tuple[str, dict[str, Any]]]  # by machine


class Packs:
    """Those that rows are made with, kept open."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, Pack | None]] = {}  # by path: when changed

    def at(self, path: str) -> Pack | None:
        """The pack there, None where it cannot be opened."""
        pack = Path(path)
        opened, changed = None, 0.0
        with suppress(NeodragonError, OSError):
            changed = (pack / "pack.json" if pack.is_dir() else pack).stat().st_mtime
            if self._known.get(path, (None, None))[0] == changed:
                return self._known[path][1]
            opened = open_pack(path)
        self._known[path] = changed, opened
        return opened

    def hash_of(self, path: str) -> str | None:
        """The hash of the pack there."""
        opened = self.at(path)
        return None if opened is None else opened.pack_hash

    def of(self, pack: str) -> Pack | None:
        """The pack of that hash."""
        opened = [known for _, known in list(self._known.values()) if known is not None]
        return next((known for known in opened if known.pack_hash == pack), None)


class Dispatcher:
    """Leases rows for so many seconds to the machines that are here."""

    def __init__(
        self, table: LeasingTable, register: Register, checks: Checks, packs: Packs, lease: float
    ) -> None:
        self.table, self.register, self.checks = table, register, checks
        self.packs, self.lease = packs, lease
        self.able: dict[str, tuple[set[str], set[str]]] = {}  # who is here: packs and backends
        self.resting: dict[str, float] = {}  # machines, and until when they make none
        self._alive = time.time()  # when the leases were looked at
        self._seen: object = None

    def orders(self) -> Orders:
        """Lease rows to machines that have less than they may; what to send to whom."""
        orders: Orders = []
        with suppress(NeodragonError):  # a damaged row, which is set aside; a table that is busy
            seen = self.table.version(), tuple(self.able), int(time.monotonic() / LOOK)
            if seen == self._seen:
                return orders
            self._seen = seen
            self._expire()
            has = Counter(lease.machine for lease in self.table.leases())
            ready = self._ready()
            free = [name for name in ready if has[name] < DEPTH]
            orders += self._second(free)
            for name in free:
                has[name] += self.checks.has(name)
            needs = self._needs() if free else {}
            can = {
                name: {engine for engine, need in needs.items() if self._can(name, *need)}
                for name in ready
            }
            for name in sorted(free, key=lambda name: has[name]):
                only = can[name].difference(*(can[other] for other in ready if other != name))
                while can[name] and has[name] < DEPTH:
                    row = self.table.reserve(
                        name, can[name], self.lease, again=only, idle=not has[name]
                    )
                    if row is None:
                        break
                    has[name] += 1
                    orders += self._order(name, *row)
        return orders

    def lacks(self) -> dict[str, set[str]]:
        """Of each machine the packs of rows that it could make otherwise."""
        needs = self._needs().values()
        return {
            name: {pack for backend, pack in needs if pack and backend in backends} - packs
            for name, (packs, backends) in list(self.able.items())
        }

    def _expire(self) -> None:
        """End leases that nobody renewed, unless that is because this computer slept."""
        before, self._alive = self._alive, time.time()
        if self._alive - before > max(self.lease / 4, 3 * LOOK):
            self.table.extend(self.lease)
        else:
            self.table.expire(results.is_whole)

    def _order(self, name: str, job: Job, token: str) -> Orders:
        """The order for a row; none where its pack or picture is gone, of which the row fails."""
        pack = self.packs.hash_of(job.work.pack)
        if pack is None:
            return []  # it was there a moment ago: the lease ends by itself
        try:
            return [(name, order_of(job, token, pack, self.lease))]
        except RequestError as error:
            self.table.refuse(token, error.message)
            return []

    def _second(self, ready: list[str]) -> Orders:
        """Rows to be made a second time."""
        orders = []
        for name in ready:

            def can(engine: str, name: str = name) -> bool:
                return self._can(name, *self._need(engine))

            check = self.checks.next(name, can)
            pack = None if check is None else self.packs.hash_of(check[0].work.pack)
            if check is not None and pack is not None:
                orders.append((name, order_of(*check, pack, self.lease)))
        return orders

    def _ready(self) -> list[str]:
        """Machines that may be given rows."""
        now, aside = time.monotonic(), self.register.aside()
        here = [name for name in list(self.able) if name not in aside]
        return [name for name in here if self.resting.get(name, 0) < now]

    def _needs(self) -> dict[str, tuple[str, str | None]]:
        """What the waiting rows need, by `Work.engine`."""
        return {engine: self._need(engine) for engine in self.table.engines()}

    def _need(self, engine: str) -> tuple[str, str | None]:
        """The backend, and the hash of the pack."""
        _, backend, pack = json.loads(engine)
        return backend, self.packs.hash_of(pack)

    def _can(self, name: str, backend: str, pack: str | None) -> bool:
        """Whether a machine has them."""
        packs, backends = self.able.get(name, (set(), set()))
        return backend in backends and pack in packs
