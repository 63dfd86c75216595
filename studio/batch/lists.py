r"""Prompt lists: text, CSV, TSV, JSON or JSON Lines to jobs.

A text list has one prompt per line, settings at its end: `a star, count=2`. The others have named
columns, or keys: `prompt`, `negative_prompt`, `look_seed`, `motion_seed`, `repeats`, `mode`,
`steps`, `upscale`, `suffix`, `kind`, `image`, in any usual spelling. An empty cell takes the list's
default. Columns whose name starts with # are the user's own. Everywhere, lines that start with #
are comments.

Seeds: `7`, `1..9` or `1, 2, 3`. Empty, `random` or -1 draws one. A file draws the same seeds every
time, so a stopped list continues where it was. Several seeds make a grid: every look with
every motion. `repeats` makes the grid again with other random seeds. Wildcards in a prompt:
`{red|blue}` makes a clip of each; `__colours__` takes one line of `colours.txt`, chosen by the look
seed, so that a clip can be made again. `\{`, `\|`, `\}`, `\_` and `\#` are the plain characters.

A bad row is reported by its line, with one sentence, and the others still run. A note says what
looks like the syntax of another program. A filled-in list (`studio/batch/filling.py`) is read with
the seeds that were drawn, so that only changed rows are made again.
"""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from engine.config import SEED_LIMIT
from engine.errors import Message, NeodragonError, reason_of
from engine.pack import Pack
from studio.batch.encodings import BatchError, decode
from studio.batch.notes import notes_on
from studio.batch.record import FORMATS, Format, Record
from studio.batch.records import LIST_LIMIT, SUFFIXES, guess, records_of
from studio.batch.rows import Rows
from studio.jobs.spec import Entry, Work, is_finished
from studio.jobs.table import JobTable


@dataclass(frozen=True)
class Row:
    """A good row: the number of its first line, from 1, and its jobs."""

    line: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: the number of its first line, from 1, and why, in one sentence."""

    line: int
    reason: Message


@dataclass(frozen=True)
class PromptList:
    """A list that was read; `rows` and `bad` in the order of their lines.

    In a JSON array a line is an item. assumed: the encoding, where it had to be; notes: what looks
    like something else than was made of it.
    """

    format: Format
    rows: tuple[Row, ...]
    bad: tuple[BadRow, ...]
    records: tuple[Record, ...]
    header: tuple[str, ...] = ()
    delimiter: str = ","
    assumed: Message | None = None
    notes: tuple[Message, ...] = ()

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
        return ", ".join(self.summary())

    def summary(self, plurals: bool = True) -> tuple[str, str]:
        """What would be made, and what would not; without plurals in one form for every number."""

        def many(count: int, one: str, more: str) -> str:
            return f"{count} {one if count == 1 and plurals else more}"

        kinds = ((self.clips, "clip"), (self.frames, "frame"))
        made = " and ".join(many(count, kind, kind + "s") for count, kind in kinds if count)
        rows = many(self.rows, "row", "rows")
        cost = ["time unknown", "size unknown"]
        if self.seconds is not None:
            cost[0] = f"about {max(1, round(self.seconds / 60))} min"
        if self.size is not None:
            cost[1] = f"about {math.ceil(self.size / 1e6)} MB"
        first = ", ".join([f"{rows} = {made}", *(cost if self.new else ["nothing to make"])])
        rest = (
            many(self.existing, "already exists", "already exist"),
            f"{self.queued} already queued",
            many(self.bad, "bad row", "bad rows"),
        )
        return first if made else f"{rows}: nothing to make", ", ".join(rest)


def read(path: Path, pack: Pack, backend: str, **options: Any) -> PromptList:
    """The list in a file, by its ending and its looks; options as of `parse`. Raises BatchError.

    Pictures and wildcards are looked for in the file's folder, wildcards in its folder `wildcards`
    too.
    """
    try:
        if path.is_dir():
            raise BatchError("{path} is a folder; choose a list in it.", path=path)
        with path.open("rb") as stream:
            source = stream.read(LIST_LIMIT + 1)
    except (OSError, ValueError) as error:
        raise BatchError(
            "The list {path} cannot be read ({reason}); choose another file.",
            path=path,
            reason=reason_of(error),
        ) from error
    known = SUFFIXES.get(path.suffix.lower())
    here = {"named": known, "folder": path.parent, "wildcards": path.parent / "wildcards"}
    return parse(source, pack, backend, **{**here, "name": str(path.absolute()), **options})


def parse(
    source: str | bytes,
    pack: Pack,
    backend: str,
    *,
    format: Format | None = None,
    named: Format | None = None,
    defaults: Mapping[str, object] | None = None,
    folder: Path | None = None,
    wildcards: Path | None = None,
    draw: Callable[[], int] = lambda: secrets.randbelow(SEED_LIMIT),
    name: str | None = None,
) -> PromptList:
    """A list, pasted or from a file's bytes (in any usual encoding), every seed drawn.

    format: guessed when None, where named is what the file's ending says; defaults: by column, for
    empty cells; folder: where pictures are; folder, wildcards: where `__name__` finds name.txt;
    draw: gives a random seed; name: of the list, which with a row's own words draws its seeds
    instead. Raises BatchError where there is no row to speak of or a table has no usable header.
    """
    if len(source) > LIST_LIMIT:
        raise BatchError("The list has more than {most} MB; split it.", most=LIST_LIMIT >> 20)
    assumed = None
    if isinstance(source, bytes):
        text = decode(source)
        source, assumed = text.content, text.assumed
    if format not in (None, *FORMATS):
        raise BatchError(
            "The format {got} is not known; choose one of {formats}.",
            got=repr(format),
            formats=", ".join(FORMATS),
        )
    records = records_of(source, format or guess(source, named))
    reader = Rows(
        pack, backend, dict(defaults or {}), folder, wildcards, draw, name, records.spelled
    )
    rows: list[Row] = []
    bad: list[BadRow] = []
    for record in records.records:
        if record.reason is None and record.cells is not None:
            try:
                rows.append(Row(record.line, reader.entries(record.line, record.cells)))
            except NeodragonError as error:
                record.reason = error.message
        if record.reason is not None:
            bad.append(BadRow(record.line, record.reason))
    if not rows and not bad:
        raise BatchError("The list has no prompt; write one per line, below the header of a table.")
    return PromptList(
        records.format,
        tuple(rows),
        tuple(bad),
        tuple(records.records),
        records.header,
        records.delimiter,
        assumed,
        notes_on(records),
    )


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
    table.ensure([replace(entry, folder=home) for entry in prompts.entries], batch)
    return batch


def suffix_of(format: Format) -> str:
    """The ending of a file in this format."""
    return next((suffix for suffix, each in SUFFIXES.items() if each == format), ".txt")


def sample(prompts: PromptList, most: int = 3) -> list[tuple[int, Work, int]]:
    """The first rows as they were understood: line, what its first job makes, how many it has."""
    return [(row.line, row.entries[0].work, len(row.entries)) for row in prompts.rows[:most]]


def settings_of(work: Work) -> str:
    """The settings of a clip or frame in short, for somebody who checks them."""
    settings = [work.kind, f"look seed {work.look_seed}"]
    if work.kind == "clip":
        settings += [f"motion seed {work.motion_seed}"]
    settings += [work.mode]
    if work.steps:
        settings += [f"steps {', '.join(map(str, work.steps))}"]
    if work.negative_prompt is not None:
        settings += [f"negative prompt {work.negative_prompt}"]
    if isinstance(work.image, Path):
        settings += [f"image {work.image.name}"]
    settings += ["not upscaled"] if not work.upscale else []
    settings += ["without the pack's suffix"] if not work.suffix else []
    return ", ".join(settings)


def _cost(works: Sequence[Work], table: JobTable) -> tuple[float | None, int | None]:
    """Seconds and bytes of so much work, None where nothing like it was ever made."""
    seconds, size = 0.0, 0
    alike = Counter(work.settings for work in works)
    one = {work.settings: work for work in works}
    for settings, count in alike.items():
        estimate = table.estimate(one[settings])
        if estimate.seconds is None or estimate.size is None:
            return None, None
        seconds += count * estimate.seconds
        size += count * estimate.size
    return seconds, size
