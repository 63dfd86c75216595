"""The library: every clip and first frame in the videos folder, to search, mark and reject.

All data is in the folder: a clip has its settings inside, and the user's marks are in the sidecar
beside it. The index only makes the search fast; `scan` rebuilds it if it is deleted. Rejected clips
move to the folder `Bin` in it, under the same path, and can move back. Nothing is deleted. Nothing
outside the folder, and no file that is not ours, is touched.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from engine.config import SEED_LIMIT, Request
from engine.errors import NeodragonError
from studio.library.index import Item, LibraryError, LibraryIndex, Verdict
from studio.media import sidecars
from studio.system.files import OutputError, publish

__all__ = ["BIN", "EXPORTS", "STARS", "Item", "Library", "LibraryError", "Verdict"]

BIN = "Bin"  # folders in the library's
EXPORTS = "Exports"  # holds copies and is not looked into
STARS = 5

Files = Mapping[str, os.stat_result]  # of one folder
ENDINGS = (*sidecars.KINDS, ".json")


class Library(LibraryIndex):
    """The clips and first frames in `folder`, with an index in the SQLite file `database`.

    A path that is no item's is refused. Every method raises LibraryError.
    """

    def scan(self) -> int:
        """Bring the index up to what is in the folder; how many items there are.

        Only what has changed since the last time is read.
        """
        with self._lock, self._sentences():
            known = {
                row["path"]: row["stamp"] for row in self._rows("SELECT path, stamp FROM library")
            }
            total, changed, gone = 0, [], set(known)
            for folder, files in self._folders():
                inside = folder.relative_to(self.folder).as_posix()
                before = "" if inside == "." else f"{inside}/"
                for file in files:
                    if not _is_item(file):
                        continue
                    if known.get(before + file) != _stamp(file, files):
                        try:
                            row = self._row(folder / file, files)
                        except OSError:  # in use, or just gone: next time
                            row = None
                        if row is None:
                            continue
                        changed.append(row)
                    total += 1
                    gone.discard(before + file)
            with self._transaction():
                for name in gone:
                    self._drop(name)
                for row in changed:
                    self._put(row)
            return total

    def item(self, path: Path) -> Item:
        """One item, as it is on disk now."""
        with self._lock, self._sentences():
            row = self._row_of(path)
            self._put(row)
            return self._item(row)

    def mark(
        self,
        path: Path,
        *,
        stars: int | None = None,
        keep: bool | None = None,
        note: str | None = None,
        collection: str | None = None,
    ) -> Item:
        """Change the user's marks, those that are None staying as they are; the item then."""
        if stars is not None and (not isinstance(stars, int) or not 0 <= stars <= STARS):
            raise LibraryError(
                "A clip has 0 to {most} stars, not {stars!r}; choose one of these.",
                most=STARS,
                stars=stars,
            )
        changes = {"stars": stars, "keep": keep, "note": note, "collection": collection}
        with self._transaction():  # so that no other process marks it in between
            path = self.item(path).path
            content = sidecars.read(path)
            marks = _marks(content) | {
                n: value for n, value in changes.items() if value is not None
            }
            own = {"file": path.name, "created": _created(content, path.stat()).isoformat()}
            sidecars.write(path, own | content | {"marks": marks})
            return self.item(path)

    def reject(self, path: Path) -> Item:
        """Move an item and its sidecar to the bin; the item there."""
        item = self.item(path)
        if item.verdict == "reject":
            return item
        return self._move(item, self.folder / BIN / item.path.relative_to(self.folder))

    def bring_back(self, path: Path) -> Item:
        """Move an item and its sidecar from the bin to where they were; the item there."""
        item = self.item(path)
        if item.verdict != "reject":
            return item
        return self._move(item, self.folder / item.path.relative_to(self.folder / BIN))

    def _move(self, item: Item, target: Path) -> Item:
        """Move an item to `target`, or where that is taken to `name-2`, `name-3`.., over nothing.

        Its sidecar is there before it comes and here until it has gone: killed in between, there is
        one too many, which the next move takes as its own.
        """
        with self._transaction():
            target.parent.mkdir(parents=True, exist_ok=True)
            sidecar = sidecars.beside(item.path)
            written: list[Path] = []

            def accept(name: Path) -> bool:
                """Whether the name is free for the sidecar, too, which is there then."""
                while written:
                    written.pop().unlink()
                content = None if sidecar is None else sidecar[1] | {"file": name.name}
                if any(os.path.lexists(one) for one in sidecars.candidates(name)):
                    there = sidecars.beside(name)
                    return there is not None and there[1] == content
                if content is not None:
                    written.append(sidecars.write(name, content, new=True))
                return True

            try:
                target = publish(item.path, target, overwrite=False, accept=accept)
            except OSError:
                for path in written:
                    path.unlink(missing_ok=True)
                raise
            if sidecar is not None:
                sidecar[0].unlink(missing_ok=True)
            self._drop(self._name(item.path))
            return self.item(target)

    # The folder

    def _folders(self) -> Iterator[tuple[Path, Files]]:
        """Every folder that is looked into, and the files in it that may matter, by name.

        Only ordinary files whose names are text; links are not followed.
        """
        root = Path(os.path.realpath(self.folder))
        folders, seen = [self.folder], {root / EXPORTS}
        while folders:
            folder = folders.pop()
            real = Path(os.path.realpath(folder))
            if real in seen or not real.is_relative_to(root):  # as Windows' junctions may be
                continue
            seen.add(real)
            try:
                entries = list(os.scandir(folder))
            except OSError as error:
                if folder == self.folder and not isinstance(error, FileNotFoundError):
                    raise
                continue  # without the rights to see what is in it
            files = {}
            for entry in entries:
                if entry.name.startswith(".") or not _is_text(entry.name):
                    continue
                with suppress(OSError):  # just moved, or without the rights to see what it is
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(folder / entry.name)
                    elif entry.is_file(follow_symlinks=False):  # no pipe, which would hang
                        if entry.name.lower().endswith(ENDINGS):
                            files[entry.name] = entry.stat(follow_symlinks=False)
            yield folder, files

    def _row_of(self, path: Path) -> dict[str, Any]:
        """The row of an item; raises LibraryError where the file is no item of this folder."""
        path = path.absolute()
        row = None
        try:
            real = self.folder.resolve() / path.relative_to(self.folder)
            known = _is_item(path.name) and _is_text(str(path))
            if known and path.is_file() and path.resolve() == real:
                names = (path, *sidecars.candidates(path))
                row = self._row(path, {name.name: name.stat() for name in names if name.is_file()})
        except (ValueError, RuntimeError):  # elsewhere, no name at all, links in a circle
            pass
        if row is None:
            raise LibraryError(
                "{name} is not a clip or first frame of the library in {folder}; refresh the "
                "library.",
                name=path.name,
                folder=self.folder,
            )
        return row

    def _row(self, path: Path, files: Files) -> dict[str, Any] | None:
        """A clip or first frame as the index stores it, None where it is not ours or an export.

        files: at least it and its sidecar, by name.
        """
        try:
            sidecar = sidecars.beside(path, files)
            content = sidecars.inside(path) if sidecar is None else sidecar[1]
        except OutputError:
            return None
        if "export" in content:
            return None
        marks = _marks(content)
        name, note, prompt = (
            self._name(path),
            _text(marks.get("note")),
            _text(content.get("prompt")),
        )
        keep: Verdict = "keep" if marks.get("keep") is True else ""
        return {
            "path": name,
            "stamp": _stamp(path.name, files),
            "kind": sidecars.KINDS[path.suffix.lower()],
            "words": f"{prompt}\n{note}\n{path.name}".casefold(),
            "prompt": prompt,
            "look_seed": _whole(content.get("look_seed"), SEED_LIMIT),
            "motion_seed": _whole(content.get("motion_seed"), SEED_LIMIT),
            "created": _created(content, files[path.name]).timestamp(),
            "verdict": "reject" if name.startswith(f"{BIN}/") else keep,
            "stars": _whole(marks.get("stars"), STARS + 1) or 0,
            "note": note,
            "recorded": json.dumps(content),
            "root": _root(content),
            "collection": _text(marks.get("collection")).strip(),
        }

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def _is_text(name: str) -> bool:
    """Whether a name can be written down, in the index and elsewhere."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_item(name: str) -> bool:
    """Whether a file may be a clip or a first frame."""
    return name.lower().endswith(tuple(sidecars.KINDS))


def _stamp(name: str, files: Files) -> str:
    """What changes when a file or its sidecar does."""
    there = [file for file in (name, *sidecars.names(name)) if file in files]
    return " ".join(f"{files[file].st_mtime_ns}:{files[file].st_size}" for file in there)


def _marks(content: Mapping[str, Any]) -> dict[str, Any]:
    marks = content.get("marks")
    return marks if isinstance(marks, dict) else {}


def _root(content: Mapping[str, Any]) -> str:
    """What a clip shares with all its forks, and no other; "" where it does not say."""
    try:
        request = Request.from_dict(content).to_dict()
    except NeodragonError:
        return ""
    made_by = [content.get(name) for name in ("pack", "backend", "kind")]
    text = json.dumps([made_by, request | {"forks": None}], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _created(content: Mapping[str, Any], stat: os.stat_result) -> datetime:
    """When it was made, as recorded or else as the file system has it."""
    try:
        created = datetime.fromisoformat(content["created"]).astimezone()
        created.timestamp()
        return created
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(stat.st_mtime).astimezone()


def _whole(value: object, limit: int) -> int | None:
    """The value where it is a whole number from 0 to below `limit`."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limit:
        return value
    return None


def _text(value: object) -> str:
    """The value where it is text, as SQLite takes it."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""
