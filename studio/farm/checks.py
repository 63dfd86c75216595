"""Trust, but verify: a share of the rows is made twice, on different machines, and compared.

If the two differ, the host makes the row a third time to find out which one is wrong. That machine
is set aside: it gets no more rows, and the status names it. The wrong file stays where it is, and
the row gets the right one.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import Message, NeodragonError
from engine.pack import Pack
from studio.farm.orders import append, sha256
from studio.farm.register import Register
from studio.jobs import results
from studio.jobs.leases import LeasingTable
from studio.jobs.spec import Job
from studio.library.verify import Verification, compared, frames_of, verify
from studio.system.files import OutputError, publish

EVERY = 50  # one row in so many is checked
MOST = 20  # that wait for another machine
TOKEN = "check-"


@dataclass(frozen=True)
class Check:
    """A row that was made, by whom, and where its file is."""

    job: Job
    machine: str
    path: Path


class Checks:
    """Rows to be made twice; folder: for the second files; every: one row in so many."""

    def __init__(
        self,
        table: LeasingTable,
        register: Register,
        folder: Path,
        clips: Path,
        packs: Callable[[str], Pack | None],
        every: int = EVERY,
    ) -> None:
        self.table, self.register, self.clips = table, register, clips
        self.folder, self.packs, self.every = folder, packs, every
        for left in folder.glob("*.part"):
            left.unlink()
        self.results: list[tuple[int, Verification]] = []  # of every check, by job
        self._waiting: deque[Check] = deque(maxlen=MOST)
        self._open: dict[str, tuple[Check, str]] = {}  # by token, with the second machine
        self._lock = threading.Lock()
        self.asks: dict[str, Callable[..., dict[str, Any]]] = {
            "begin": lambda machine, token: {"go": token in self._open},
            "progress": lambda machine, token, **_: {"stop": "" if token in self._open else None},
            "part": self._part,
            "done": self._done,
            "failed": self._drop,
            "back": self._drop,
        }

    def made(self, job: Job, machine: str, path: Path) -> None:
        """A row was made; perhaps it is to be made again, unless it begins with a picture."""
        number = int(hashlib.sha256(job.key.encode()).hexdigest()[:8], 16)
        if self.every and number % self.every == 0 and job.work.image is None:
            with self._lock:
                self._waiting.append(Check(job, machine, path))

    def next(self, machine: str, can: Callable[[str], bool]) -> tuple[Job, str] | None:
        """A row of another machine's for this one to make, and the token of its order."""
        with self._lock:
            for check in self._waiting:
                if check.machine != machine and can(check.job.work.engine):
                    self._waiting.remove(check)
                    token = TOKEN + secrets.token_hex(16)
                    self._open[token] = check, machine
                    return check.job, token
        return None

    def has(self, machine: str) -> int:
        """How many a machine has been given."""
        return sum(second == machine for _, second in self._open.values())

    def gone(self, machine: str) -> None:
        """What a machine was given others may have."""
        with self._lock:
            for token, (check, second) in list(self._open.items()):
                if second == machine:
                    del self._open[token]
                    self._waiting.append(check)
                    self._hidden(token).unlink(missing_ok=True)

    def _hidden(self, token: str) -> Path:
        return self.folder / f"{token}.part"

    def _part(self, machine: str, token: str, offset: int, data: bytes) -> dict[str, Any]:
        if token not in self._open:
            return {"have": None}
        self.folder.mkdir(parents=True, exist_ok=True)
        return {"have": append(self._hidden(token), offset, data)}

    def _drop(self, machine: str, token: str, **_: Any) -> dict[str, Any]:
        with self._lock:
            self._open.pop(token, None)
        self._hidden(token).unlink(missing_ok=True)
        return {}

    def _done(
        self, machine: str, token: str, offset: int, data: bytes, receipt: Mapping[str, Any]
    ) -> dict[str, Any]:
        have = self._part(machine, token, offset, data)["have"]
        if have is not None and have < receipt["size"]:
            return {"have": have}
        with self._lock:
            check, _ = self._open.pop(token, (None, ""))
        if check is None:  # it is asked again while it is compared
            return {"taken": True}
        part = self._hidden(token)
        try:
            if sha256(part) == receipt["sha256"]:
                self._compare(check, machine, part, receipt)
        finally:
            part.unlink(missing_ok=True)
        return {"taken": True}

    def _compare(self, check: Check, other: str, part: Path, receipt: Mapping[str, Any]) -> None:
        kind = check.job.work.kind
        try:
            first = frames_of(check.path, kind)
        except (NeodragonError, OSError):
            return  # the user has moved or changed it
        result = compared(first, frames_of(part, kind))
        self.results.append((check.job.id, result))
        del self.results[:-MOST]
        if result.outcome == "different":
            self._judge(check, other, part, receipt, result)

    def _judge(
        self,
        check: Check,
        other: str,
        part: Path,
        receipt: Mapping[str, Any],
        result: Verification,
    ) -> None:
        """Set aside whoever was wrong: both where this machine cannot tell, or makes a third."""
        wrong = [check.machine, other]
        pack = self.packs(check.job.work.pack)
        second = part.with_suffix(results.SUFFIXES[check.job.work.kind])
        with suppress(NeodragonError, OSError):
            if pack is not None and verify(check.path, pack).outcome != "different":
                wrong = [other]
            elif pack is not None:
                part.rename(second)
                if verify(second, pack).outcome != "different":
                    wrong = [check.machine]
                second.rename(part)
        second.unlink(missing_ok=True)
        for machine in wrong:
            self.set_aside(machine, check.job, result)
        if wrong == [check.machine]:
            self._replace(check.job, other, part, receipt)

    def set_aside(self, machine: str, job: Job, result: Verification) -> None:
        """Give a machine no more rows, and take back those it has."""
        reason = Message(
            "{machine} made job {job} differently from other machines ({number:.0f} dB); check "
            "it, then admit it again with nds farm admit {machine}.",
            {"machine": machine, "job": job.id, "number": result.psnr or 0.0},
        )
        self.register.set_aside(machine, reason)
        for lease in self.table.leases():
            if lease.machine == machine:
                self.table.hand_back(lease.token)
        with self._lock:
            for check in [check for check in self._waiting if check.machine == machine]:
                self._waiting.remove(check)

    def _replace(self, job: Job, machine: str, part: Path, receipt: Mapping[str, Any]) -> None:
        """Let the row have the second file; the first one stays where it is."""
        target = results.target(job, self.clips)
        near = target.with_name(f".{secrets.token_hex(6)}.part")
        near.write_bytes(part.read_bytes())
        try:
            metadata = results.inside(near, job.work.kind) | {"machine": machine}
            accept = results.accepts(self.table, job, job.key)
            path = publish(near, target, overwrite=False, accept=accept)
        except OutputError:
            return
        finally:
            near.unlink(missing_ok=True)
        results.describe(self.table, job, path, metadata, float(receipt["seconds"]))
        self.table.finish(job.id, path, receipt["stages"])
