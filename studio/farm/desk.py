"""How the host answers its machines: rows that begin, progress, finish or fail; packs, pictures.

Everything here runs in threads. A result is written in parts to a hidden file in the folder of the
clips, and an interrupted transfer continues. It gets its name and its row only when its hash is the
machine's and the settings inside are the row's.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.errors import Message, NeodragonError
from engine.pack import Pack
from studio import __version__
from studio.farm.checks import TOKEN, Checks
from studio.farm.orders import BLOCK, append, sha256
from studio.farm.register import Register
from studio.jobs import results
from studio.jobs.leases import LeasingTable
from studio.jobs.spec import Job, Stop, messages
from studio.system.files import OutputError, prepare, publish, unwritten

REST = 30.0  # seconds without rows for a machine that cannot make them
FAILURES = 3  # rows one after the other, after which a machine rests
NOTHING = Message("")


class Desk:
    """Answers what machines ask; lease: seconds for which a row is a machine's, unless renewed.

    packs: those of waiting rows, by hash; checks: gets every row that is made; resting: gets the
    machines that are to have no rows, and until when (`time.monotonic`).
    """

    def __init__(
        self,
        table: LeasingTable,
        register: Register,
        clips: Path,
        lease: float,
        packs: Callable[[str], Pack | None],
        checks: Checks,
        resting: dict[str, float],
    ) -> None:
        self.table, self.register, self.clips = table, register, clips
        self.lease = lease
        self.packs, self.checks = packs, checks
        self.resting = resting
        self._unpacking = threading.Lock()
        self._failed_rows: Counter[str] = Counter()  # of each machine, since it made one
        self._asks: dict[str, Callable[..., dict[str, Any]]] = {
            **{"begin": self._begin, "progress": self._progress, "part": self._part},
            **{"done": self._done, "failed": self._failed, "back": self._back},
            **{"manifest": self._manifest, "file": self._file, "picture": self._picture},
        }

    def answer(self, machine: str, ask: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """What it asks; an `error` where that cannot be."""
        try:
            return (self.checks.asks if is_check(values) else self._asks)[ask](machine, **values)
        except (NeodragonError, OSError, KeyError, TypeError, ValueError) as error:
            return {"error": str(error)}

    def _begin(self, machine: str, token: str) -> dict[str, Any]:
        return {"go": self.table.begin(token, self.lease) is not None}

    def _progress(
        self,
        machine: str,
        token: str,
        fraction: float,
        stage: str,
        stages: Mapping[str, float],
    ) -> dict[str, Any]:
        stop = self.table.renew(token, self.lease, float(fraction), str(stage), stages)
        return {"stop": stop}

    def _part(self, machine: str, token: str, offset: int, data: bytes) -> dict[str, Any]:
        """Append to a row's file; how much of it is there, None where nobody waits for it."""
        job = self._leased(token)
        if job is None:
            return {"have": None}
        try:
            return {"have": self._append(job, token, offset, data)}
        except (OSError, OutputError) as error:
            self._unwritten(job, token, error)
            return {"have": None}

    def _append(self, job: Job, token: str, offset: int, data: bytes) -> int:
        part = self._hidden(job, token)
        if not offset:
            prepare(part.with_name("clip.mp4"), ".mp4")
        return append(part, offset, data)

    def _unwritten(self, job: Job, token: str, error: OSError | OutputError) -> None:
        """No file can be written here: the row waits, and the queue says why it is paused."""
        self.table.hand_back(token)
        if isinstance(error, OSError):
            error = unwritten(results.home(job, self.clips), error)
        self.table.pause(error.message)

    def _done(
        self, machine: str, token: str, offset: int, data: bytes, receipt: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The last part came, and the receipt; whether the row is made, or what is missing."""
        job = self._leased(token)
        if job is None:
            return {"taken": False}
        part = self._hidden(job, token)
        try:
            have = self._append(job, token, offset, data)
            if have < receipt["size"]:
                return {"have": have}
        except (OSError, OutputError) as error:
            self._unwritten(job, token, error)
            return {"taken": False}
        try:
            metadata = self._checked(job, part, receipt)
            if metadata is None:
                reason = Message("{machine} sent a damaged file; check that machine.")
                self.table.lose(token, reason, results.is_whole)
                return {"taken": False}
            # Until here the file could be sent again; a name is given once.
            path = publish(
                part,
                results.target(job, self.clips),
                overwrite=False,
                accept=results.accepts(self.table, job, job.key),
            )
        except OSError as error:
            self._unwritten(job, token, error)
            return {"taken": False}
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
        for notice in messages(str(receipt["notices"])):
            self.table.note(job.id, notice)
        described = metadata | {"machine": machine}
        results.describe(self.table, job, path, described, float(receipt["seconds"]))
        self.table.deliver(token, path, receipt["stages"])
        self._failed_rows.pop(machine, None)
        self.register.made(machine, time.time() - (job.started or time.time()))
        self.checks.made(job, machine, path)
        return {"taken": True}

    def _checked(self, job: Job, part: Path, receipt: Mapping[str, Any]) -> dict[str, Any] | None:
        """What is inside a file that came, None where it is not what it should be."""
        try:
            if part.stat().st_size != receipt["size"] or sha256(part) != receipt["sha256"]:
                return None
            metadata = results.inside(part, job.work.kind)
        except (OSError, OutputError):
            return None
        good = metadata.get("key") == job.key and metadata.get("kind") == job.work.kind
        return metadata if good else None

    def _failed(self, machine: str, token: str, error: str) -> dict[str, Any]:
        """The machine could not make it: another one may.

        One that fails row after row rests, so that it does not take each row's first attempt.
        """
        reason = next(iter(messages(error)), NOTHING)
        self._failed_rows[machine] += 1
        if self._failed_rows[machine] >= FAILURES:
            self._rest(machine, reason)
        self.table.lose(token, reason, results.is_whole)
        return {}

    def _back(self, machine: str, token: str, stop: Stop, trouble: str) -> dict[str, Any]:
        """The machine gives it up: it was asked to, or makes nothing now."""
        problem = next(iter(messages(trouble)), NOTHING)
        if problem:
            self._rest(machine, problem)
        self.table.hand_back(token, stop or "interrupt")
        return {}

    def _rest(self, machine: str, problem: Message) -> None:
        self.register.troubled(machine, problem)
        self.resting[machine] = time.monotonic() + REST

    def _leased(self, token: str) -> Job | None:
        """The row of a lease, renewed; None where it is over."""
        return self.table.leased(token, self.lease)

    def _hidden(self, job: Job, token: str) -> Path:
        """The file that a row's parts go to; removed after a day if they do not go on."""
        return results.home(job, self.clips).absolute() / f".{token[:12]}.part"

    # What machines fetch

    def _manifest(self, machine: str, pack: str) -> dict[str, Any]:
        return {"manifest": self._pack(pack).manifest()}

    def _file(self, machine: str, pack: str, name: str, offset: int) -> dict[str, Any]:
        """A block of a pack's file from an offset; what is in a .zip is unpacked once."""
        opened = self._pack(pack)
        [file] = [file for file in opened.files if file.name == name]
        with self._unpacking:
            path = opened.verified(file)
        with path.open("rb") as stream:
            stream.seek(int(offset))
            return {"data": stream.read(BLOCK)}

    def _pack(self, pack: str) -> Pack:
        opened = self.packs(pack)
        if opened is None:
            raise OutputError("No row waits for the pack {pack} any more.", pack=pack[:12])
        return opened

    def _picture(self, machine: str, token: str, offset: int) -> dict[str, Any]:
        """A block of the picture that a row begins with."""
        job = self._leased(token)
        if job is None or not isinstance(job.work.image, Path):
            return {"data": b""}
        with job.work.image.open("rb") as stream:
            stream.seek(int(offset))
            return {"data": stream.read(BLOCK)}


def is_check(values: Mapping[str, Any]) -> bool:
    """Whether what is asked is about a row that is made a second time."""
    return str(values.get("token", "")).startswith(TOKEN)


def hello(version: str) -> str:
    """Why a machine with that version of the studio cannot come in, or ""."""
    if version == __version__:
        return ""
    return (
        f"The host runs Neodragon Studio {__version__}, this machine {version};"
        " install the same version on both."
    )
