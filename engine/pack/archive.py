"""Where a pack's files come from: a folder, or one .zip of it.

The files are written by others, so nothing in them is trusted: no name may leave the pack, no link
is followed and no size is believed without limit.
"""

from __future__ import annotations

import hashlib
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from engine.errors import Message, PackError, first_line, reason_of
from engine.pack.names import check_name, check_together
from engine.pack.values import MANIFEST

FILE_LIMIT = 32 * 2**30  # bytes
ENTRY_LIMIT = 10_000  # files in a .zip
ICONS = ("Icon\r", "._Icon\r")  # macOS keeps a folder's own icon under these names
ZIP_ERRORS = (  # what zipfile raises for damaged archives, by reading its source
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)
RATIO_LIMIT = 200  # unpacked over packed size of a .zip's file; weights hardly shrink


class Source:
    """Where a pack's files come from."""

    def size(self, name: str) -> int | None:
        """Size of a file in bytes, None where it is missing; raises PackError for a link."""
        raise NotImplementedError

    def fetch(self, name: str, size: int) -> Path:
        """A path to read the file at, which has `size` bytes; raises PackError."""
        raise NotImplementedError

    def blocks(self, name: str) -> Iterator[bytes]:
        """The bytes of a file, piece by piece; raises PackError."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of everything."""

    def check(self, name: str, size: int) -> None:
        """Raise PackError unless the file is there with `size` bytes."""
        got = self.size(name)
        if got is None:
            raise PackError(
                "{file} is missing from the pack; get the pack again or export it anew.",
                file=name,
            )
        if got != size:
            raise PackError(
                "{file} has {got} bytes instead of {size}; get the pack again or export it anew.",
                file=name,
                size=size,
                got=got,
            )


class Folder(Source):
    """A pack in a folder, its files read where they are."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def size(self, name: str) -> int | None:
        """Size in bytes, None where it is missing."""
        path = self.root / name
        try:
            if not path.is_file():
                return None
            if path.resolve() == path:
                return path.stat().st_size
        except OSError as error:
            raise _unreadable(name, error) from error
        raise PackError(
            "{file} is a link, not a file of the pack; get the pack again or export it anew.",
            file=name,
        )

    def fetch(self, name: str, size: int) -> Path:
        """The path to read it at."""
        self.check(name, size)
        return self.root / name

    def blocks(self, name: str) -> Iterator[bytes]:
        """Its bytes, piece by piece."""
        try:
            with (self.root / name).open("rb") as stream:
                yield from _blocks(stream)
        except OSError as error:
            raise _unreadable(name, error) from error


class Zip(Source):
    """A .zip whose files are unpacked, when used, into a folder of our own that `close` removes."""

    def __init__(self, path: Path) -> None:
        try:
            self.archive = zipfile.ZipFile(path)
        except ZIP_ERRORS as error:
            raise PackError(
                "{file} is neither a folder nor a readable .zip ({reason}); get the pack again or"
                " export it anew.",
                file=path.name,
                reason=first_line(error),
            ) from error
        self.unpacked: tempfile.TemporaryDirectory[str] | None = None
        try:
            self.entries = self._entries(path.stat().st_size)
        except PackError:
            self.archive.close()
            raise

    def _entries(self, size: int) -> dict[str, zipfile.ZipInfo]:
        """Checked entries by their name relative to the manifest, which may sit in one folder."""
        listed = self.archive.infolist()
        if len(listed) > ENTRY_LIMIT:
            raise PackError(
                "The .zip has {count} files, more than the {limit} allowed; get the pack again or"
                " export it anew.",
                limit=ENTRY_LIMIT,
                count=len(listed),
            )
        entries: dict[str, zipfile.ZipInfo] = {}
        for entry in listed:
            if PurePosixPath(entry.orig_filename).name in ICONS:
                continue
            name = check_name(entry.orig_filename.removesuffix("/"))  # as it is in the file
            if entry.is_dir():
                continue
            problem = Message("is there twice") if name in entries else _entry_problem(entry)
            if problem:
                raise PackError(
                    "{file} in the .zip {problem}; get the pack again or export it anew.",
                    file=name,
                    problem=problem,
                )
            entries[name] = entry
        check_together(entries)
        if sum(entry.compress_size for entry in entries.values()) > size:
            raise PackError("The files in the .zip overlap; get the pack again or export it anew.")
        manifests = [name for name in entries if PurePosixPath(name).name == MANIFEST]
        shallow = min(manifests, key=lambda name: name.count("/"), default=MANIFEST)
        folder = shallow[: -len(MANIFEST)]
        return {name[len(folder) :]: e for name, e in entries.items() if name.startswith(folder)}

    def size(self, name: str) -> int | None:
        """Size in bytes, None where it is missing."""
        return self.entries[name].file_size if name in self.entries else None

    def fetch(self, name: str, size: int) -> Path:
        """The path to read it at."""
        self.check(name, size)
        try:
            return self._unpack(name)
        except OSError as error:  # of the folder; what is wrong in the .zip is a PackError
            raise PackError(
                "{file} cannot be unpacked to {folder} ({reason}); free some space there.",
                file=name,
                folder=tempfile.gettempdir(),
                reason=reason_of(error),
            ) from error

    def _unpack(self, name: str) -> Path:
        if self.unpacked is None:
            self.unpacked = tempfile.TemporaryDirectory(prefix="neodragon-pack-")
        path = Path(self.unpacked.name) / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(path.name + ".part")
            with partial.open("wb") as out:
                for block in self.blocks(name):
                    out.write(block)
            partial.replace(path)
        return path

    def blocks(self, name: str) -> Iterator[bytes]:
        """Its bytes, piece by piece."""
        try:
            with self.archive.open(self.entries[name]) as packed:
                yield from _blocks(packed)
        except ZIP_ERRORS as error:
            raise PackError(
                "{file} in the .zip is damaged ({reason}); get the pack again or export it anew.",
                file=name,
                reason=first_line(error),
            ) from error

    def close(self) -> None:
        """Let go of the files."""
        self.archive.close()
        if self.unpacked is not None:
            self.unpacked.cleanup()


def _entry_problem(entry: zipfile.ZipInfo) -> Message | None:
    """What is wrong with an entry of a .zip, to end a sentence."""
    mode = entry.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return Message("is a link or a device")
    if entry.flag_bits & 0x41:  # by a password, or strongly
        return Message("is encrypted")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return Message("is not packed with Deflate")
    if entry.file_size > min(FILE_LIMIT, RATIO_LIMIT * entry.compress_size + 2**20):
        return Message(
            "claims to unpack to {size} bytes from {packed}",
            {"size": entry.file_size, "packed": entry.compress_size},
        )
    return None


def _blocks(stream: IO[bytes]) -> Iterator[bytes]:
    while block := stream.read(2**20):
        yield block


def _unreadable(name: str, error: OSError) -> PackError:
    return PackError(
        "{file} cannot be read ({reason}); get the pack again or export it anew.",
        file=name,
        reason=reason_of(error),
    )


def sha256_of(path: Path, name: str) -> str:
    """SHA-256 of a file in hex; raises PackError where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            for block in _blocks(stream):
                digest.update(block)
    except OSError as error:
        raise _unreadable(name, error) from error
    return digest.hexdigest()
