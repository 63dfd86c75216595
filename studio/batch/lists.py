r"""Prompt lists: text, CSV, TSV or JSONL to jobs, and the file filled in with what they became.

A text list is a prompt a line. The others have named columns, or keys: `prompt`, `negative`,
`look_seed`, `motion_seed`, `repeats`, `mode`, `steps`, `upscale`, `suffix`, `kind`, `picture`. An
empty cell takes the list's default. Columns whose name starts with # are the user's own.
Everywhere, lines that start with # are comments.

Seeds: `7`, `1..9` or `1, 2, 3`; empty or `random` draws one, of a file the same one every time: a
list that was stopped goes on where it was. Several make a grid: every look with
every motion. `repeats` makes the grid again with other random seeds. Wildcards in a prompt:
`{red|blue}` makes a clip of each; `__colours__` takes one line of `colours.txt`, chosen by the look
seed, so that a clip can be made again. `\{`, `\|`, `\}`, `\_` and `\#` are the plain characters.

A row that cannot be used is named by its line, with one sentence, and stops no other. Filling in
adds `status`, `file`, `seeds`, `seconds` and `error`; read again, the drawn seeds are taken from
there, so that only what has changed is made again.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from engine.config import SEED_LIMIT
from engine.errors import NeodragonError
from engine.pack import Pack
from studio.batch.records import (
    COLUMNS,
    FILLED,
    FORMATS,
    LIST_LIMIT,
    NOTE,
    SUFFIXES,
    BatchError,
    Cells,
    Format,
    Record,
    guess,
    lines_of,
    one_line,
    records_of,
    table_line,
)
from studio.batch.rows import Rows
from studio.jobs.spec import Entry, Job, Work, is_finished
from studio.jobs.table import JobTable
from studio.system.paths import OutputError, partial, publish

__all__ = [
    "COLUMNS",
    "FILLED",
    "FORMATS",
    "BadRow",
    "BatchError",
    "Format",
    "Plan",
    "PromptList",
    "Row",
    "Work",
    "enqueue",
    "beside",
    "fill",
    "fill_beside",
    "filled",
    "parse",
    "plan",
    "read",
]


@dataclass(frozen=True)
class Row:
    """A good row: the number of its first line, from 1, and its jobs."""

    line: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: the number of its first line, from 1, and why, in one sentence."""

    line: int
    reason: str


@dataclass(frozen=True)
class PromptList:
    """A list that was read; `rows` and `bad` in the order of their lines."""

    format: Format
    rows: tuple[Row, ...]
    bad: tuple[BadRow, ...]
    records: tuple[Record, ...]
    header: tuple[str, ...] = ()
    delimiter: str = ","

    @property
    def entries(self) -> list[Entry]:
        """Every job of the list."""
        return [entry for row in self.rows for entry in row.entries]


@dataclass(frozen=True)
class Plan:
    """What queueing a list would do.

    rows, bad: of the list; clips, frames: in all; existing: of these done already or named twice;
    queued: already in the queue; new: what would be added. seconds, size (bytes): of the new ones,
    None where nothing like it was ever made.
    """

    rows: int
    bad: int
    clips: int
    frames: int
    existing: int
    queued: int
    new: tuple[Entry, ...]
    seconds: float | None
    size: int | None

    def __str__(self) -> str:
        made = [f"{n} {kind}s" for n, kind in ((self.clips, "clip"), (self.frames, "frame")) if n]
        time = "time unknown"
        if self.seconds is not None:
            time = f"about {max(1, round(self.seconds / 60))} min"
        disk = "size unknown" if self.size is None else f"about {math.ceil(self.size / 1e6)} MB"
        return (
            f"{self.rows} rows = {' and '.join(made) or 'nothing'}, {time}, {disk},"
            f" {self.existing} already exist, {self.queued} already queued, {self.bad} bad rows"
        )


def read(path: Path, pack: Pack, backend: str, **options: Any) -> PromptList:
    """The list in a file, by its ending; options as of `parse`. Raises BatchError.

    Pictures are looked for in the file's folder, as are wildcards in its folder `wildcards`.
    """
    try:
        if path.stat().st_size > LIST_LIMIT:
            raise BatchError(
                f"The list {path.name} should have at most {LIST_LIMIT >> 20} MB, but it has"
                f" {path.stat().st_size >> 20}; split it."
            )
        source = path.read_bytes()
    except OSError as error:
        raise BatchError(
            f"The list {path} should be a file, but it cannot be read ({error.strerror});"
            " choose another."
        ) from error
    known = SUFFIXES.get(path.suffix.lower(), "text")
    here = {"format": known, "folder": path.parent, "wildcards": path.parent / "wildcards"}
    return parse(source, pack, backend, **{**here, "name": str(path.absolute()), **options})


def parse(
    source: str | bytes,
    pack: Pack,
    backend: str,
    *,
    format: Format | None = None,
    defaults: Mapping[str, object] | None = None,
    folder: Path | None = None,
    wildcards: Path | None = None,
    draw: Callable[[], int] = lambda: secrets.randbelow(SEED_LIMIT),
    name: str | None = None,
) -> PromptList:
    """A list, pasted or from a file's bytes (UTF-8, UTF-16 or Windows-1252), every seed drawn.

    format: guessed when None; defaults: by column, for empty cells; folder: where pictures are;
    wildcards: where `__name__` finds name.txt; draw: gives a random seed; name: of the list, which
    with a row's own words draws its seeds instead. Raises BatchError where there is no row to speak
    of or a table has no usable header.
    """
    lines = lines_of(source)
    format = format or guess(lines)
    if format not in FORMATS:
        raise BatchError(
            f"The format should be one of {', '.join(FORMATS)}, but it is {format!r};"
            " choose one of them."
        )
    header, delimiter, records = records_of(lines, format)
    reader = Rows(pack, backend, dict(defaults or {}), folder, wildcards, draw, name)
    rows: list[Row] = []
    bad: list[BadRow] = []
    for record in records:
        if not record.reason and record.cells is not None:
            try:
                rows.append(Row(record.line, reader.entries(record.line, record.cells)))
            except NeodragonError as error:
                record.reason = one_line(str(error))
        if record.reason:
            bad.append(BadRow(record.line, record.reason))
    if not rows and not bad:
        raise BatchError(
            "The list should have a prompt in some line, but it has none; write one a line."
        )
    return PromptList(format, tuple(rows), tuple(bad), tuple(records), header, delimiter)


def plan(prompts: PromptList, table: JobTable) -> Plan:
    """What `enqueue` would do, changing nothing. Raises JobsError."""
    entries = prompts.entries
    first = {entry.key: entry for entry in reversed(entries)}
    known = table.by_key(first)
    done = {key for key, job in known.items() if is_finished(job)}
    queued = {
        key for key, job in known.items() if job.state in ("waiting", "interrupted", "running")
    }
    new = [entry for entry in dict.fromkeys(entries) if first[entry.key] is entry]
    new = [entry for entry in new if entry.key not in done | queued]
    kinds = Counter(entry.work.kind for entry in entries)
    seconds, size = _cost([entry.work for entry in new], table)
    return Plan(
        rows=len(prompts.rows),
        bad=len(prompts.bad),
        clips=kinds["clip"],
        frames=kinds["frame"],
        existing=len(entries) - len(new) - len(queued),
        queued=len(queued),
        new=tuple(new),
        seconds=seconds,
        size=size,
    )


def enqueue(prompts: PromptList, table: JobTable, folder: Path | None = None) -> str:
    """Queue what is neither done nor queued; the batch's id. Raises JobsError.

    folder: where its files go, None for the worker's own.
    """
    batch = f"{datetime.now():%Y-%m-%d_%H%M%S}-{secrets.token_hex(3)}"
    home = None if folder is None else str(folder.absolute())
    table.add([replace(entry, folder=home) for entry in plan(prompts, table).new], batch)
    return batch


def fill(path: Path, prompts: PromptList, table: JobTable) -> Path:
    """Write the list that was read from `path` back to it with what its jobs have become.

    What was there first is kept beside it; returns where (`name.csv.original`). Raises
    OutputError, JobsError.
    """
    kept = path.with_name(f"{path.name}.original")
    part, before = partial(path), partial(kept)
    try:
        with _written(path, part, prompts, table):
            if not kept.exists():
                before.write_bytes(path.read_bytes())
                before.replace(kept)
            part.replace(path)
    finally:
        before.unlink(missing_ok=True)
    return kept


def fill_beside(path: Path, prompts: PromptList, table: JobTable) -> Path:
    """Write the filled-in list beside the one at `path`, over nothing; returns where.

    Raises OutputError, JobsError.
    """
    target = beside(path)
    part = partial(target)
    with _written(target, part, prompts, table):
        return publish(part, target, overwrite=False)


def beside(path: Path) -> Path:
    """What the filled-in list is called: `name-filled.csv`; another number where that is taken."""
    return path.with_stem(re.sub(r"-filled(-[0-9]+)?$", "", path.stem) + "-filled")


def filled(prompts: PromptList, table: JobTable) -> str:
    """The list as text, filled in with what its jobs have become. Raises JobsError."""
    jobs = table.by_key(entry.key for entry in prompts.entries)
    rows = {row.line: row for row in prompts.rows}
    header = list(prompts.header) + [name for name in FILLED if name not in prompts.header]
    lines: list[str] = []
    if prompts.header:
        lines.append(table_line(header, prompts.delimiter))
    for record in prompts.records:
        news: Cells = {"status": "bad", "error": record.reason}
        if record.line in rows:
            news = _news(rows[record.line], jobs)
        elif not record.reason:
            lines.append(record.raw)
            continue
        cells = {**(record.cells or {}), **dict.fromkeys(FILLED, ""), **news}
        if record.cells is None or prompts.format == "text":
            lines += [record.raw, NOTE + json.dumps(news, ensure_ascii=False)]
        elif prompts.format == "jsonl":
            lines.append(json.dumps(cells, ensure_ascii=False))
        else:
            row = [str(cells.get(name, "")) for name in header]
            lines.append(table_line([*row, *record.extra], prompts.delimiter))
    return "\n".join(lines) + "\n"


# What became of it


@contextmanager
def _written(path: Path, part: Path, prompts: PromptList, table: JobTable) -> Iterator[None]:
    """The filled-in list is in the file `part` meanwhile, to be moved to `path`."""
    # Spreadsheets take a table without the mark for Windows-1252.
    encoding = "utf-8-sig" if prompts.format in ("csv", "tsv") else "utf-8"
    text = filled(prompts, table)
    try:
        part.write_text(text, encoding=encoding, errors="replace", newline="\n")
        yield
    except OSError as error:
        raise OutputError(
            f"The list should be written to {path}, but it is not ({error.strerror});"
            " close it elsewhere or free some space."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _cost(works: Sequence[Work], table: JobTable) -> tuple[float | None, int | None]:
    """Seconds and bytes of so much work, None where nothing like it was ever made."""
    seconds, size = 0.0, 0
    alike = Counter(tuple(work.settings.items()) for work in works)
    one = {tuple(work.settings.items()): work for work in works}
    for settings, count in alike.items():
        estimate = table.estimate(one[settings])
        if estimate.seconds is None or estimate.size is None:
            return None, None
        seconds += count * estimate.seconds
        size += count * estimate.size
    return seconds, size


def _news(row: Row, jobs: Mapping[str, Job]) -> Cells:
    """What the filled-in columns say of a row."""
    found = [jobs.get(entry.key) for entry in row.entries]
    states = Counter("not queued" if job is None else job.state for job in found)
    done = [job for job in found if job is not None and job.state == "done"]
    pairs = dict.fromkeys(
        f"{entry.work.look_seed}/{entry.work.motion_seed}" for entry in row.entries
    )
    if len(found) == 1:
        status = next(iter(states))
    else:
        status = ", ".join(f"{count} {state}" for state, count in states.items())
    return {
        "status": status,
        "file": "; ".join(str(job.result) for job in done),
        "seeds": "; ".join(pairs),
        "seconds": f"{sum(job.seconds or 0 for job in done):.1f}" if done else "",
        "error": " ".join(dict.fromkeys(job.error for job in found if job and job.error)),
    }
