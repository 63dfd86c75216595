"""Packs of the user's own: installed from a folder or a .zip, checked, repaired, removed.

Installing copies file by file into `<name>-<hash>.part` beside the final folder, hashing on the
way, and moves the folder when every byte is right: killed half-way it goes on from the files that
are whole, and until the end nothing that is in use has changed. Nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.errors import Message, NeodragonError, message_of, reason_of
from engine.pack import MANIFEST, Pack, PackFile, open_pack
from studio.system.files import partial
from studio.system.paths import data_folder
from studio.system.sqlite import lock

FLOOR = 10**9  # bytes that stay free
PATIENCE = 600.0  # seconds that another installation may take
STAGED = ".part"
GONE = ".gone"
BUILT = ".build"  # of a pack that is being built (builder/build.py)

Report = Callable[[int, int], None]  # bytes that are there, bytes in all


class InstallError(NeodragonError):
    """A pack cannot be installed, repaired or removed."""


@dataclass(frozen=True)
class Installed:
    """A pack's folder. size in bytes; absent: optional parts that it has not; problem: one
    sentence where it cannot be opened, the rest being unknown then.
    """

    path: Path
    name: str
    version: str = ""
    size: int = 0
    parts: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    problem: Message | None = None


def home() -> Path:
    """The folder that packs are installed in; not created here."""
    return data_folder() / "packs"


def installed(folder: Path) -> list[Installed]:
    """Every pack in a folder, by name."""
    folders = sorted(folder.iterdir()) if folder.is_dir() else []
    return [look(p) for p in folders if p.is_dir() and p.suffix not in (STAGED, GONE, BUILT)]


def look(path: Path) -> Installed:
    """What a pack is, or why it cannot be opened."""
    try:
        with open_pack(path) as pack:
            return Installed(
                path=path,
                name=pack.name,
                version=pack.version,
                size=sum(file.size for file in pack.files),
                parts=tuple(pack.components),
                absent=pack.missing,
            )
    except (NeodragonError, OSError) as error:
        return Installed(path, path.name, problem=message_of(error))


def changed(pack: str) -> float:
    """When the pack at this path was last written, in seconds since 1970, 0 where there is none."""
    path = Path(pack)
    manifest = path / MANIFEST if path.is_dir() else path
    return manifest.stat().st_mtime if manifest.is_file() else 0.0


def target_of(pack: Pack, folder: Path) -> Path:
    """Where a pack goes: its name, as every file system takes it, and the start of its hash."""
    name = re.sub(r"[^a-z0-9]+", "-", pack.name.lower()).strip("-")[:40] or "pack"
    return folder / f"{name}-{pack.pack_hash[:12]}"


def install(source: Path, folder: Path, report: Report = lambda done, total: None) -> Path:
    """Install the pack at `source`, a folder or .zip, in `folder`; where it is then.

    One that is there already is repaired: only files that are missing or damaged are copied. What
    `report` raises ends it, to be gone on with. Raises InstallError, PackError.
    """
    with open_pack(source) as pack:
        target = target_of(pack, folder)
        if pack.path.resolve() == target.resolve():
            return target
        staged = target.with_name(target.name + STAGED)
        with _alone(folder):
            whole = target.is_dir()
            try:
                _copy(pack, target if whole else staged, report)
                if not whole:
                    with open_pack(staged):
                        staged.replace(target)
                    _sync(folder)
            except OSError as error:
                raise _unwritten(folder, error) from error
    return target


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other process installs or removes packs in the folder meanwhile; raises InstallError."""
    with ExitStack() as stack:
        try:
            waiting = lock(folder.with_name(f"{folder.name}.lock"), PATIENCE)
            taken = stack.enter_context(waiting)
        except (OSError, sqlite3.Error) as error:
            raise _unwritten(folder, error) from error
        if not taken:
            raise InstallError("Another pack is being installed; try again when it is done.")
        yield


def _unwritten(folder: Path, error: Exception) -> InstallError:
    return InstallError(
        "The pack cannot be written to {folder} ({reason}); free some space or close what uses it,"
        " then install it again: it goes on where it stopped.",
        folder=folder,
        reason=reason_of(error),
    )


def remove(path: Path, folder: Path, in_use: Path) -> None:
    """Remove an installed pack; one in use, or elsewhere, is refused. Raises InstallError."""
    if path.resolve().parent != folder.resolve() or not path.is_dir():
        raise InstallError(
            "{name} is not one of the packs installed in {folder}, and only those can be removed;"
            " name one of them.",
            name=path.name,
            folder=folder,
        )
    if path.resolve() == in_use.resolve():
        raise InstallError(
            "{name} is the pack in use; choose another one first.",
            name=path.name,
        )
    gone = path.with_name(f"{uuid.uuid4().hex[:12]}{GONE}")
    try:
        with _alone(folder):
            path.replace(gone)
        shutil.rmtree(gone)
    except OSError as error:
        raise InstallError(
            "{name} cannot be removed ({reason}); close what uses it and try again.",
            name=path.name,
            reason=reason_of(error),
        ) from error


def damaged(pack: Pack) -> Iterator[tuple[PackFile, Message | None]]:
    """Each file of a pack with what is wrong with it, None for nothing."""
    for file in pack.files:
        try:
            pack.verified(file)
            yield file, None
        except NeodragonError as error:
            yield file, error.message


class Installation:
    """An install in a thread of its own, for a page that may be closed and opened meanwhile."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.done, self.total = 0, 0
        self.target: Path | None = None
        self.problem: Message | None = None
        self._thread = threading.Thread(target=self._run, args=(source, folder), daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it still copies."""
        return self._thread.is_alive()

    def _run(self, source: Path, folder: Path) -> None:
        def report(done: int, total: int) -> None:
            self.done, self.total = done, total

        try:
            self.target = install(source, folder, report)
        except (NeodragonError, OSError) as error:
            self.problem = message_of(error)


def _copy(pack: Pack, folder: Path, report: Report) -> None:
    """Every file of the pack into the folder, the manifest last; raises OSError, InstallError."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.rglob(".*.part"):
        if not left.is_dir():  # a folder of the pack's may be called so
            left.unlink(missing_ok=True)
    missing = [file for file in pack.files if not _is_whole(folder / file.name, file)]
    total = sum(file.size for file in pack.files)
    needed = sum(file.size for file in missing)
    free = shutil.disk_usage(folder).free
    if missing and free < needed + FLOOR:
        raise InstallError(
            "This pack needs {needed:.1f} GB on the disk of {parent}, and {free:.1f} GB are free;"
            " free {lacking:.1f} GB.",
            parent=folder.parent,
            needed=(needed + FLOOR) / 1e9,
            free=free / 1e9,
            lacking=(needed + FLOOR - free) / 1e9,
        )
    done = total - needed
    report(done, total)
    for file in missing:
        path = folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = partial(path)
        digest = hashlib.sha256()
        try:
            with part.open("wb") as stream:
                for block in pack.blocks(file.name, file.size):
                    stream.write(block)
                    digest.update(block)
                    done += len(block)
                    report(done, total)
                stream.flush()
                os.fsync(stream.fileno())
            if digest.hexdigest() != file.sha256:
                raise InstallError(
                    "{name} has the SHA-256 {got} instead of {sha256}; get the pack again.",
                    name=file.name,
                    sha256=file.sha256[:12],
                    got=digest.hexdigest()[:12],
                )
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    part = partial(folder / MANIFEST)
    part.write_bytes(pack.manifest())
    part.replace(folder / MANIFEST)


def _is_whole(path: Path, file: PackFile) -> bool:
    try:
        if path.is_symlink() or path.stat().st_size != file.size:
            return False
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
    except OSError:
        return False


def _sync(folder: Path) -> None:
    """Have the new name on the disk, where the system knows how."""
    if os.name == "posix":
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
