"""Where a pack's files come from: a folder, or one .zip of it.

The files are written by others, so nothing in them is trusted: no name may leave the pack, no link
is followed and no size is believed without limit.
"""

from __future__ import annotations

import hashlib
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from engine.errors import PackError, first_line
from engine.pack.values import GET_AGAIN, MANIFEST

FILE_LIMIT = 32 * 2**30  # bytes
ENTRY_LIMIT = 10_000  # files in a .zip
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
            raise PackError(f"{name} should be in the pack, but it is missing; {GET_AGAIN}.")
        if got != size:
            raise PackError(f"{name} should have {size} bytes, but it has {got}; {GET_AGAIN}.")


class Folder(Source):
    """A pack in a folder, its files read where they are."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def size(self, name: str) -> int | None:
        """Size in bytes, None where it is missing."""
        path = self.root / name
        if not path.is_file():
            return None
        if path.resolve() != path:
            raise PackError(f"{name} should be a file of the pack, but it is a link; {GET_AGAIN}.")
        return path.stat().st_size

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
            raise PackError(
                f"{name} should be readable, but it is not ({first_line(error)}); {GET_AGAIN}."
            ) from error


class Zip(Source):
    """A .zip whose files are unpacked, when used, into a folder of our own that `close` removes."""

    def __init__(self, path: Path) -> None:
        try:
            self.archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise PackError(
                f"{path.name} should be a folder or a .zip, but it cannot be read as one"
                f" ({first_line(error)}); {GET_AGAIN}."
            ) from error
        self.unpacked: tempfile.TemporaryDirectory[str] | None = None
        try:
            self.entries = self._entries()
        except PackError:
            self.archive.close()
            raise

    def _entries(self) -> dict[str, zipfile.ZipInfo]:
        """Checked entries by their name relative to the manifest, which may sit in one folder."""
        listed = [entry for entry in self.archive.infolist() if not entry.is_dir()]
        if len(listed) > ENTRY_LIMIT:
            raise PackError(
                f"The .zip should have at most {ENTRY_LIMIT} files, but it has {len(listed)};"
                f" {GET_AGAIN}."
            )
        entries: dict[str, zipfile.ZipInfo] = {}
        for entry in listed:
            check_name(entry.filename)
            problem = _entry_problem(entry)
            if entry.filename in entries:
                problem = "is there twice"
            if problem:
                raise PackError(
                    f"{entry.filename} in the .zip should be a plain file, but it {problem};"
                    f" {GET_AGAIN}."
                )
            entries[entry.filename] = entry
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
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
            raise PackError(
                f"{name} in the .zip should unpack, but it is damaged"
                f" ({first_line(error)}); {GET_AGAIN}."
            ) from error

    def close(self) -> None:
        """Let go of the files."""
        self.archive.close()
        if self.unpacked is not None:
            self.unpacked.cleanup()


def _entry_problem(entry: zipfile.ZipInfo) -> str | None:
    """What is wrong with an entry of a .zip, to end a sentence."""
    mode = entry.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "is a link or a device"
    if entry.flag_bits & 1:
        return "is encrypted"
    if entry.file_size > min(FILE_LIMIT, RATIO_LIMIT * entry.compress_size + 2**20):
        return f"claims to unpack to {entry.file_size} bytes from {entry.compress_size}"
    return None


def check_name(name: object) -> str:
    """A file name that stays inside the pack, with forward slashes; raises PackError."""
    valid = isinstance(name, str) and 0 < len(name) <= 200 and not set(name) & set('\\:*?"<>|\0')
    if not valid or any(part in ("", ".", "..") for part in str(name).split("/")):
        raise PackError(
            f"A file of the pack should have a plain relative name, but one is named {name!r};"
            f" {GET_AGAIN}."
        )
    return str(name)


def _blocks(stream: IO[bytes]) -> Iterator[bytes]:
    while block := stream.read(2**20):
        yield block


def sha256_of(path: Path, name: str) -> str:
    """SHA-256 of a file in hex; raises PackError where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            for block in _blocks(stream):
                digest.update(block)
    except OSError as error:
        raise PackError(
            f"{name} should be readable, but it is not ({first_line(error)}); {GET_AGAIN}."
        ) from error
    return digest.hexdigest()
