"""What the farm remembers: whether it is to be on and where, its machines, its certificates.

In a SQLite file of its own beside the job table, which the host's process, the page and the command
line share. It needs nothing but SQLite.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from engine.errors import Message, NeodragonError
from studio.jobs.spec import as_text, messages
from studio.system.paths import data_folder
from studio.system.sqlite import Database

SCHEMA = """
CREATE TABLE IF NOT EXISTS farm (
    address TEXT NOT NULL, port INTEGER NOT NULL, wanted INTEGER NOT NULL, seen REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS certificates (
    serial TEXT PRIMARY KEY, role TEXT NOT NULL, name TEXT NOT NULL, ends REAL NOT NULL,
    revoked INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS machines (
    name TEXT PRIMARY KEY, seen REAL NOT NULL DEFAULT 0, online INTEGER NOT NULL DEFAULT 0,
    able TEXT NOT NULL DEFAULT '{}', made INTEGER NOT NULL DEFAULT 0, pace REAL,
    problem TEXT NOT NULL DEFAULT '', aside TEXT NOT NULL DEFAULT ''
)
"""
ALIVE = 5.0  # seconds for which a host that was seen is taken to be there
SMOOTH = 0.2  # the weight of the last row in a machine's pace


class RegisterError(NeodragonError):
    """The farm's own file cannot do what was asked of it."""


@dataclass(frozen=True)
class Farm:
    """Where the farm is, or was; wanted: it is to be on; is_on: a host is there."""

    address: str
    port: int
    wanted: bool
    is_on: bool


@dataclass(frozen=True)
class Machine:
    """A machine that has a certificate.

    packs: hash to name of those that it has; backends: what it can run; made: rows; pace: seconds a
    row; problem: why it makes none now; aside: why it is given none until it is admitted again;
    seen: seconds since 1970.
    """

    name: str
    online: bool
    seen: float
    packs: Mapping[str, str]
    backends: tuple[str, ...]
    made: int
    pace: float | None
    problem: Message
    aside: Message


def is_available() -> bool:
    """Whether what the farm is built on is installed (the extra `farm`)."""
    return all(map(find_spec, ("distributed", "cryptography")))


def farm_folder() -> Path:
    """The farm's folder among the studio's data; not created here."""
    return data_folder() / "farm"


class Register(Database):
    """The register in the file at `path`, made when absent; raises RegisterError."""

    failure = RegisterError
    subject = Message("The farm's file")

    def prepare(self, db: sqlite3.Connection) -> None:
        """Make the tables."""
        for statement in SCHEMA.split(";"):
            db.execute(statement)

    # Where, and whether

    def farm(self) -> Farm | None:
        """Where the farm is, None where it never was."""
        for row in self._rows("SELECT * FROM farm"):
            wanted = bool(row["wanted"])
            return Farm(row["address"], row["port"], wanted, time.time() - row["seen"] < ALIVE)
        return None

    def open(self, address: str, port: int) -> None:
        """The farm is to be on, there."""
        with self._transaction() as db:
            db.execute("DELETE FROM farm")
            db.execute("INSERT INTO farm VALUES (?, ?, 1, ?)", [address, port, time.time()])

    def seen(self) -> bool:
        """The host is there; whether it is to stay."""
        with self._transaction() as db:
            rows = db.execute("UPDATE farm SET seen = ? RETURNING wanted", [time.time()])
            return any(row["wanted"] for row in rows.fetchall())

    def end(self) -> None:
        """The farm is to be off."""
        with self._transaction() as db:
            db.execute("UPDATE farm SET wanted = 0")

    def ended(self) -> None:
        """The host is gone, and its machines with it."""
        with self._transaction() as db:
            db.execute("UPDATE farm SET seen = 0")
            db.execute("UPDATE machines SET online = 0")

    # Certificates

    def issued(self, serial: int, role: str, name: str, ends: float) -> None:
        """A certificate was signed."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO certificates VALUES (?, ?, ?, ?, 0)", [f"{serial:x}", role, name, ends]
            )

    def enrol(self, wish: str) -> str:
        """A name for a new machine, like the one it wishes, of letters that any terminal shows."""
        wish = re.sub(r"[^A-Za-z0-9._-]+", "-", wish)[:60] or "machine"
        with self._transaction() as db:
            taken = {row["name"] for row in db.execute("SELECT name FROM machines")}
            taken.add("invitation")  # which `revoke` means otherwise
            names = [wish, *(f"{wish}-{number}" for number in range(2, len(taken) + 3))]
            name = next(name for name in names if name not in taken)
            db.execute("INSERT INTO machines (name) VALUES (?)", [name])
            return name

    def revoke(self, name: str) -> int:
        """Let a machine's certificates, or with `invitation` all invitations, end; how many.

        Raises RegisterError where no machine is called so.
        """
        if name != "invitation":
            self._require(name)
        with self._transaction() as db:
            count = db.execute(
                "UPDATE certificates SET revoked = 1 WHERE name = ? AND NOT revoked AND ends > ?",
                [name, time.time()],
            ).rowcount
            db.execute("DELETE FROM machines WHERE name = ?", [name])
            return count

    def revoked(self) -> tuple[int, ...]:
        """The numbers of the certificates that are refused and would be good otherwise."""
        rows = self._rows(
            "SELECT serial FROM certificates WHERE revoked AND ends > ? ORDER BY serial",
            time.time(),
        )
        return tuple(int(row["serial"], 16) for row in rows)

    # Machines

    def machines(self) -> list[Machine]:
        """All that have come in, by name."""
        machines = []
        for row in self._rows("SELECT * FROM machines ORDER BY name"):
            able = json.loads(row["able"])
            machines.append(
                Machine(
                    name=row["name"],
                    online=bool(row["online"]),
                    seen=row["seen"],
                    packs=able.get("packs", {}),
                    backends=tuple(able.get("backends", ())),
                    made=row["made"],
                    pace=row["pace"],
                    problem=next(iter(messages(row["problem"])), Message("")),
                    aside=next(iter(messages(row["aside"])), Message("")),
                )
            )
        return machines

    def aside(self) -> set[str]:
        """Those that are given no rows."""
        return {row["name"] for row in self._rows("SELECT name FROM machines WHERE aside != ''")}

    def came(self, name: str, packs: Mapping[str, str], backends: list[str]) -> None:
        """A machine is there, and says what it can make."""
        able = json.dumps({"packs": dict(packs), "backends": backends})
        self._set(name, online=1, able=able, problem="", seen=time.time())

    def left(self, name: str) -> None:
        """A machine is not there any more."""
        self._set(name, online=0, seen=time.time())

    def made(self, name: str, seconds: float) -> None:
        """A machine has made a row in so many seconds."""
        with self._transaction() as db:
            db.execute(
                "UPDATE machines SET made = made + 1, seen = ?, problem = '',"
                " pace = coalesce(pace * ? + ? * ?, ?) WHERE name = ?",
                [time.time(), 1 - SMOOTH, SMOOTH, seconds, seconds, name],
            )

    def troubled(self, name: str, problem: Message) -> None:
        """A machine cannot make rows now."""
        self._set(name, problem=as_text(problem), seen=time.time())

    def set_aside(self, name: str, reason: Message) -> None:
        """A machine is given no rows any more; an empty reason admits it again.

        Raises RegisterError where no machine is called so.
        """
        self._require(name)
        self._set(name, aside=as_text(reason))

    def _require(self, name: str) -> None:
        if all(machine.name != name for machine in self.machines()):
            raise RegisterError(
                "No machine is called {name}; nds farm status lists them.", name=repr(name)
            )

    def _set(self, name: str, **values: object) -> None:
        columns = ", ".join(f"{column} = ?" for column in values)
        with self._transaction() as db:
            db.execute(f"UPDATE machines SET {columns} WHERE name = ?", [*values.values(), name])


def ended(register: Register, patience: float = 30.0) -> bool:
    """End the farm and wait until its host is gone; whether it was on. Raises RegisterError."""
    farm = register.farm()
    register.end()
    if farm is None or not farm.is_on:
        return False
    deadline = time.monotonic() + patience
    while (farm := register.farm()) and farm.is_on:
        if time.monotonic() > deadline:
            raise RegisterError("The farm does not end; end its process in the task manager.")
        time.sleep(0.1)
    return True


def open_register() -> Register:
    """The register among the studio's data."""
    return Register(farm_folder() / "farm.sqlite")
