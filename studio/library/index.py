"""The library's index: two tables in the SQLite file of the job table, made when absent, and read.

Nothing is in them that is not in the library's folder: where they are missing or of another
version they are made anew, to be filled by `studio.library.store.Library.scan`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from engine.config import SEED_LIMIT
from engine.errors import Message, NeodragonError, reason_of
from studio.media.sidecars import Kind
from studio.system.sqlite import Database

Verdict = Literal["", "keep", "reject"]

DAY = timedelta(days=1)
VERSION = 3
TABLES = ("library", "library_version")
SCHEMA = """
CREATE TABLE library (
    path TEXT PRIMARY KEY, stamp TEXT NOT NULL, kind TEXT NOT NULL, words TEXT NOT NULL,
    prompt TEXT NOT NULL, look_seed INTEGER, motion_seed INTEGER, created REAL NOT NULL,
    verdict TEXT NOT NULL, stars INTEGER NOT NULL, note TEXT NOT NULL, recorded TEXT NOT NULL,
    root TEXT NOT NULL, collection TEXT NOT NULL
);
CREATE INDEX library_by_time ON library (created, path);
CREATE INDEX library_by_root ON library (root);
CREATE TABLE library_version (version INTEGER NOT NULL);
"""
COLUMNS = (  # of an `Item`, after its folder
    *("path", "kind", "prompt", "look_seed", "motion_seed", "created", "verdict", "stars", "note"),
    *("recorded", "root", "collection"),
)


Sort = Literal["newest", "oldest", "stars", "prompt"]
ORDERS: Mapping[Sort, str] = {
    "newest": "created DESC, path DESC",
    "oldest": "created, path",
    "stars": "stars DESC, created DESC, path DESC",
    "prompt": "prompt COLLATE NOCASE, created DESC, path DESC",
}


class LibraryError(NeodragonError):
    """The library cannot do what was asked of it."""


@dataclass(frozen=True)
class Item:
    """A clip or a first frame.

    folder: the library's, absolute; name: its path in there; created: seconds since 1970; verdict:
    `reject` where it lies in the bin; stars: 0 to 5; content: its sidecar, as JSON; root: the same
    for a clip and all its forks; collection: the user's name for what belongs together, or "".
    """

    folder: Path
    name: str
    kind: Kind
    prompt: str
    look_seed: int | None
    motion_seed: int | None
    created: float
    verdict: Verdict
    stars: int
    note: str
    content: str
    root: str
    collection: str

    @cached_property
    def path(self) -> Path:
        """Where it lies, absolute."""
        return self.folder / self.name

    @cached_property
    def recorded(self) -> Mapping[str, Any]:
        """What it was made by (`studio.jobs.render.record`) as the sidecar has it."""
        recorded: dict[str, Any] = json.loads(self.content)
        return recorded


class LibraryIndex(Database):
    """The index, in the SQLite file `database`, of the items in `folder`.

    Safe from threads and processes. Close it or use it as a context manager. Raises LibraryError
    where the file fails it.
    """

    failure = LibraryError
    subject = Message("The library's index")

    def __init__(self, database: Path, folder: Path) -> None:
        self.folder = folder.absolute()
        super().__init__(database)

    def prepare(self, db: sqlite3.Connection) -> None:
        """Make the tables anew unless they are there in this version."""
        there = db.execute("SELECT name FROM sqlite_master WHERE name IN (?, ?)", TABLES)
        if len(there.fetchall()) == len(TABLES):
            versions = db.execute("SELECT version FROM library_version").fetchall()
            if [row["version"] for row in versions] == [VERSION]:
                return
        for table in TABLES:
            db.execute(f"DROP TABLE IF EXISTS {table}")
        for statement in SCHEMA.split(";"):
            db.execute(statement)
        db.execute("INSERT INTO library_version VALUES (?)", [VERSION])

    def search(
        self,
        text: str = "",
        *,
        seed: int | None = None,
        since: date | None = None,
        until: date | None = None,
        stars: int = 0,
        kind: Kind | None = None,
        verdict: Verdict | None = None,
        root: str | None = None,
        collection: str | None = None,
        sort: Sort = "newest",
        limit: int | None = None,
        offset: int = 0,
    ) -> list[Item]:
        """Items, the newest first unless `sort` says otherwise.

        words: all of them in its prompt, note or file name; seed: its look or its motion seed;
        since, until: days, both included; stars: at least so many; verdict: None for all that are
        not in the bin; root: of a clip and its forks; limit: at most so many, after the first
        `offset`.
        """
        tests: list[tuple[str, list[object]]] = [
            ("instr(words, ?) > 0", [word])
            for word in text.encode("utf-8", "replace").decode().casefold().split()
        ]
        tests.append(("stars >= ?", [stars]))
        tests.append(("verdict <> 'reject'", []) if verdict is None else ("verdict = ?", [verdict]))
        if seed is not None:
            number = seed if 0 <= seed < SEED_LIMIT else -1  # SQLite takes no number of any size
            tests.append(("? IN (look_seed, motion_seed)", [number]))
        if since is not None:
            tests.append(("created >= ?", [_midnight(since)]))
        if until is not None:
            tests.append(("created < ?", [_midnight(min(until, date.max - DAY) + DAY)]))
        if kind is not None:
            tests.append(("kind = ?", [kind]))
        for name, value in (("root", root), ("collection", collection)):
            if value is not None:
                tests.append((f"{name} = ?", [value]))
        rows = self._rows(
            f"SELECT {', '.join(COLUMNS)} FROM library"
            f" WHERE {' AND '.join(test for test, _ in tests)}"
            f" ORDER BY {ORDERS[sort]} LIMIT ? OFFSET ?",
            *(value for _, values in tests for value in values),
            *(-1 if limit is None else limit, offset),
        )
        return [Item(self.folder, *row) for row in rows]

    def counts(self) -> dict[str, int]:
        """How many items there are outside of the bin, by kind, and how many are kept."""
        (row,) = self._rows(
            "SELECT count(*) AS all_, sum(kind = 'clip') AS clip, sum(kind = 'frame') AS frame,"
            " sum(verdict = 'keep') AS kept FROM library WHERE verdict <> 'reject'"
        )
        return {name.rstrip("_"): row[name] or 0 for name in row.keys()}

    def collections(self) -> list[str]:
        """The user's names for what belongs together."""
        rows = self._rows(
            "SELECT DISTINCT collection FROM library WHERE collection <> '' ORDER BY 1"
        )
        return [row["collection"] for row in rows]

    def _put(self, row: Mapping[str, Any]) -> None:
        names = ", ".join(row)
        marks = ", ".join("?" * len(row))
        with self._transaction() as db:
            db.execute(f"REPLACE INTO library ({names}) VALUES ({marks})", list(row.values()))

    def _drop(self, name: str) -> None:
        with self._transaction() as db:
            db.execute("DELETE FROM library WHERE path = ?", [name])

    def _item(self, row: Mapping[str, Any] | sqlite3.Row) -> Item:
        """The item that a row of the index stores."""
        return Item(self.folder, *(row[name] for name in COLUMNS))

    def _refused(self, error: OSError) -> NeodragonError:
        return LibraryError(
            "{name} in {folder} cannot be used ({reason}); close it elsewhere, or free some space.",
            name=Path(error.filename2 or error.filename or self.folder).name,
            folder=str(self.folder),
            reason=reason_of(error),
        )


def _midnight(day: date) -> float:
    """When a day begins here, in seconds since 1970."""
    try:
        return datetime.combine(day, time()).timestamp()
    except (OverflowError, OSError, ValueError):  # a year the system has no clock for
        return (day - date(1970, 1, 1)).total_seconds()
