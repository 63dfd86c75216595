r"""Prompt lists: text, CSV, TSV or JSONL to jobs, and the file filled in with what they became.

A text list is a prompt a line. The others have named columns, or keys: `prompt`, `negative`,
`look_seed`, `motion_seed`, `repeats`, `mode`, `steps`, `upscale`, `kind`, `picture`. An empty cell
takes the list's default. Columns whose name starts with # are the user's own. Everywhere, lines
that start with # are comments.

Seeds: `7`, `1..9` or `1, 2, 3`; empty or `random` draws one. Several make a grid: every look with
every motion. `repeats` makes the grid again with other random seeds. Wildcards in a prompt:
`{red|blue}` makes a clip of each; `__colours__` takes one line of `colours.txt`, chosen by the look
seed, so that a clip can be made again. `\{`, `\|`, `\}`, `\_` and `\#` are the plain characters.

A row that cannot be used is named by its line, with one sentence, and stops no other. Filling in
adds `status`, `file`, `seeds`, `seconds` and `error`; read again, the drawn seeds are taken from
there, so that only what has changed is made again.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import math
import re
import reprlib
import secrets
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PureWindowsPath
from typing import Any, Literal, get_args

from engine.config import SEED_LIMIT
from engine.errors import NeodragonError, RequestError
from engine.pack import Pack
from studio.jobs import Entry, Job, JobTable, Work, content_key, is_finished
from studio.places import OutputError, partial

Format = Literal["text", "csv", "tsv", "jsonl"]
Seeds = tuple[int | None, int | None]  # look and motion, None to be drawn
Cells = dict[str, object]

FORMATS: tuple[Format, ...] = get_args(Format)
SUFFIXES: dict[str, Format] = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
COLUMNS = tuple(
    "prompt negative look_seed motion_seed repeats mode steps upscale kind picture".split()
)
FILLED = ("status", "file", "seeds", "seconds", "error")
ALIASES = {"negative_prompt": "negative", "image": "picture"}
LIST_LIMIT = 2**26  # bytes
PROMPT_LIMIT = 10_000  # characters
LINE_LIMIT = 50_000  # characters of a table's row
ROW_LIMIT = 1000  # jobs of one row
JOB_LIMIT = 20_000  # jobs of one list
QUOTED_LINES = 50  # a quoted cell may go over that many lines
NAME_LIMIT = 100  # characters of a wildcard's name
FORMULA = ("=", "+", "-", "@")  # what a spreadsheet would compute
NOTE = "#> "  # begins the comments that filling in adds
BOMS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\.|$)", re.I)
TOKENS = re.compile(r"(\\[{}|_#]|[{}|]|__.+?__)")
TRUE, FALSE = ("true", "yes", "1", "on"), ("false", "no", "0", "off")


class BatchError(NeodragonError):
    """A prompt list as a whole cannot be used."""


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


@dataclass
class _Record:
    """One line of a list, or several where a quoted cell goes over them.

    No cells and no reason: a comment; extra: cells that no column is named for.
    """

    line: int
    raw: str
    cells: Cells | None = None
    reason: str = ""
    extra: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptList:
    """A list that was read; `rows` and `bad` in the order of their lines."""

    format: Format
    rows: tuple[Row, ...]
    bad: tuple[BadRow, ...]
    records: tuple[_Record, ...]
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
    return parse(source, pack, backend, **{**here, **options})


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
) -> PromptList:
    """A list, pasted or from a file's bytes (UTF-8, UTF-16 or Windows-1252), every seed drawn.

    format: guessed when None; defaults: by column, for empty cells; folder: where pictures are;
    wildcards: where `__name__` finds name.txt; draw: gives a random seed. Raises BatchError where
    there is no row to speak of or a table has no usable header.
    """
    lines = _lines(source)
    format = format or _guess(lines)
    if format not in FORMATS:
        raise BatchError(
            f"The format should be one of {', '.join(FORMATS)}, but it is {format!r};"
            " choose one of them."
        )
    header: tuple[str, ...] = ()
    delimiter = "\t" if format == "tsv" else ","
    if format in ("csv", "tsv"):
        header, delimiter, records = _table(lines, delimiter)
    else:
        records = list((_text if format == "text" else _objects)(lines))
    reader = _Rows(pack, backend, dict(defaults or {}), folder, wildcards, draw)
    rows: list[Row] = []
    bad: list[BadRow] = []
    for record in records:
        if not record.reason and record.cells is not None:
            try:
                rows.append(Row(record.line, reader.entries(record.line, record.cells)))
            except NeodragonError as error:
                record.reason = _one_line(str(error))
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


def enqueue(prompts: PromptList, table: JobTable) -> str:
    """Queue what is neither done nor queued; the batch's id. Raises JobsError."""
    batch = f"{datetime.now():%Y-%m-%d_%H%M%S}-{secrets.token_hex(3)}"
    table.add(plan(prompts, table).new, batch)
    return batch


def fill(path: Path, prompts: PromptList, table: JobTable) -> Path:
    """Write the list that was read from `path` back to it with what its jobs have become.

    What was there first is kept beside it; returns where (`name.csv.original`). Raises
    OutputError, JobsError.
    """
    text = filled(prompts, table)
    kept = path.with_name(f"{path.name}.original")
    part = partial(path)
    try:
        before = path.read_bytes()
        if not kept.exists():
            part.write_bytes(before)
            part.replace(kept)
        # Spreadsheets take a table without the mark for Windows-1252.
        encoding = "utf-8-sig" if prompts.format in ("csv", "tsv") else "utf-8"
        part.write_text(text, encoding=encoding, errors="replace", newline="\n")
        part.replace(path)
    except OSError as error:
        raise OutputError(
            f"The list should be written to {path}, but it is not ({error.strerror});"
            " close it elsewhere or free some space."
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return kept


def filled(prompts: PromptList, table: JobTable) -> str:
    """The list as text, filled in with what its jobs have become. Raises JobsError."""
    jobs = table.by_key(entry.key for entry in prompts.entries)
    rows = {row.line: row for row in prompts.rows}
    header = list(prompts.header) + [name for name in FILLED if name not in prompts.header]
    lines: list[str] = []
    if prompts.header:
        lines.append(_line(header, prompts.delimiter))
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
            lines.append(_line([*row, *record.extra], prompts.delimiter))
    return "\n".join(lines) + "\n"


# From bytes to records


def _lines(source: str | bytes) -> list[str]:
    """The lines without their ends; a byte that is no UTF-8 makes its line Windows-1252."""
    if isinstance(source, str):
        return re.split(r"\r\n|\n|\r", source.removeprefix("\ufeff"))
    encoding = next((BOMS[bom] for bom in BOMS if source.startswith(bom)), None)
    if encoding is None and b"\0" in source[:200]:
        encoding = "utf-16-be" if source.startswith(b"\0") else "utf-16-le"
    if encoding in ("utf-16-le", "utf-16-be"):
        return _lines(source.decode(encoding, "replace"))
    return [
        _decoded(line) for line in re.split(rb"\r\n|\n|\r", source.removeprefix(b"\xef\xbb\xbf"))
    ]


def _decoded(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("cp1252", "replace")


def _guess(lines: Sequence[str]) -> Format:
    """The format of a pasted list, by its first line that says something."""
    first = next((line for line in lines if line.strip() and not _is_comment(line)), "")
    if first.lstrip().startswith("{") and first.rstrip().endswith("}") and '"' in first:
        return "jsonl"
    for delimiter, format in (("\t", "tsv"), (",", "csv"), (";", "csv")):
        names = [name for name in map(_name, first.split(delimiter)) if name[:1] != "#"]
        if "prompt" in names and set(names) <= {*COLUMNS, *FILLED}:
            return "csv" if format == "csv" else "tsv"
    return "text"


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _text(lines: Sequence[str]) -> Iterator[_Record]:
    record = _Record(0, "")
    for number, line in enumerate(lines, 1):
        if line.startswith(NOTE):
            record.cells = {**(record.cells or {}), **_noted(line)} if record.cells else None
        elif line.strip():
            record = _Record(number, line)
            record.cells = None if _is_comment(line) else {"prompt": line.strip()}
            yield record
        elif number < len(lines):
            yield _Record(number, line)


def _noted(line: str) -> Cells:
    """The seeds that filling in wrote below a prompt."""
    try:
        note = json.loads(line.removeprefix(NOTE))
        return {"seeds": note["seeds"]}
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}


def _objects(lines: Sequence[str]) -> Iterator[_Record]:
    for number, line in enumerate(lines, 1):
        record = _Record(number, line)
        if line.startswith(NOTE):
            continue
        if line.strip() and not _is_comment(line):
            try:
                pairs = json.loads(line, object_pairs_hook=_Pairs)
                if not isinstance(pairs, _Pairs):
                    raise ValueError("it is something else")
                names = [_name(name) for name, _ in pairs]
                if len(set(names)) < len(names):
                    raise ValueError("a key is there twice")
                record.cells = dict(zip(names, (value for _, value in pairs), strict=True))
            except (ValueError, RecursionError) as error:
                said = _one_line(str(error))
                record.reason = (
                    f"The line should be a JSON object, but it is not ({said[:80]});"
                    ' write it like {"prompt": "a red ball"}.'
                )
        elif not line and number == len(lines):
            continue
        yield record


class _Pairs(list[tuple[str, object]]):
    """A JSON object as it stands there."""


def _table(lines: Sequence[str], delimiter: str) -> tuple[tuple[str, ...], str, list[_Record]]:
    """The header, the delimiter and the records of a CSV or TSV; raises BatchError."""
    records: list[_Record] = []
    at = 0
    while at < len(lines) and (not lines[at].strip() or _is_comment(lines[at])):
        records.append(_Record(at + 1, lines[at]))
        at += 1
    first = lines[at] if at < len(lines) else ""
    if delimiter == ",":
        delimiter = max(",;\t", key=first.count)
    header = tuple(map(_name, _cells(first, delimiter) or []))
    if "prompt" not in header or len(set(header)) < len(header):
        raise BatchError(
            "The first line should name the columns, each once and prompt among them, but it is"
            f" {reprlib.repr(first)}; write one like prompt,look_seed,motion_seed."
        )
    at += 1
    while at < len(lines):
        taken, record = _table_row(lines, at, header, delimiter)
        if record is not None:
            records.append(record)
        at += taken
    return header, delimiter, records


def _table_row(
    lines: Sequence[str], at: int, header: Sequence[str], delimiter: str
) -> tuple[int, _Record | None]:
    """How many lines a row takes, and the row; None for a note or the file's end."""
    line = lines[at]
    record = _Record(at + 1, line)
    if line.startswith(NOTE) or (not line and at == len(lines) - 1):
        return 1, None
    if not line.strip(delimiter + " ") or _is_comment(line):
        return 1, record
    if len(line) > LINE_LIMIT:
        record.reason = (
            f"The row should have at most {LINE_LIMIT} characters, but it has {len(line)};"
            " shorten it."
        )
        return 1, record
    cells, taken = _cells(line, delimiter), 1
    # A quote that is left open may be closed some lines on; where it is not, only this line is bad.
    if cells is None and line.count('"') % 2:
        for end, more in enumerate(lines[at + 1 : at + QUOTED_LINES], at + 2):
            if more.startswith(NOTE):
                break
            if more.count('"') % 2:
                cells = _cells("\n".join(lines[at:end]), delimiter)
                if cells is not None and len(cells) > len(header):
                    cells = None
                taken = 1 if cells is None else end - at
                break
    if cells is None:
        record.reason = (
            "The row should be cells with their quotes in pairs, but a quote is out of place;"
            ' write " inside a cell twice.'
        )
        return taken, record
    while len(cells) > len(header) and not cells[-1]:
        cells.pop()
    if len(cells) > len(header):
        record.reason = (
            f"The row should have {len(header)} cells, but it has {len(cells)}; put quotes around"
            f" a cell with {'a tab' if delimiter == chr(9) else delimiter} in it."
        )
    cells = [_unguarded(cell) for cell in cells]
    record.cells = dict(zip(header, cells, strict=False))
    record.extra = tuple(cells[len(header) :])
    return taken, record


def _cells(text: str, delimiter: str) -> list[str] | None:
    """The cells of one row, None where it is not well formed."""
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else None


def _line(cells: Iterable[str], delimiter: str) -> str:
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter, lineterminator="").writerow(map(_guarded, cells))
    return stream.getvalue()


def _guarded(cell: str) -> str:
    """The cell so that no spreadsheet takes it for a formula."""
    return f"'{cell}" if cell.lstrip().lstrip("'").startswith(FORMULA) else cell


def _unguarded(cell: str) -> str:
    bare = cell[1:]
    return bare if cell.startswith("'") and _guarded(bare) == cell else cell


def _name(column: str) -> str:
    name = column.strip().lower().replace(" ", "_").replace("-", "_")
    return ALIASES.get(name, column.strip() if name.startswith("#") else name)


# From records to jobs


class _Rows:
    """Turns the cells of rows into jobs; remembers the wildcards it has read."""

    def __init__(
        self,
        pack: Pack,
        backend: str,
        defaults: Cells,
        folder: Path | None,
        wildcards: Path | None,
        draw: Callable[[], int],
    ) -> None:
        self.pack = pack
        self.backend = backend
        self.defaults = defaults
        self.folder = folder
        self.wildcards = wildcards
        self.draw = draw
        self.total = 0
        self.drawn: dict[str, list[str]] = {}

    def entries(self, line: int, given: Cells) -> tuple[Entry, ...]:
        """The jobs of a row; raises RequestError."""
        known = {name: value for name, value in given.items() if value not in ("", None)}
        unknown = [
            name for name in known if name not in (*COLUMNS, *FILLED) and not name.startswith("#")
        ]
        if unknown:
            raise RequestError(
                f"The row should have only {', '.join(COLUMNS)}, but it has"
                f" {reprlib.repr(unknown[0])}; correct the name or put # before it."
            )
        cells = {**self.defaults, **known}
        prompts = self._prompts(_words("prompt", cells.get("prompt", "")))
        seeds = self._seeds(cells, len(prompts))
        self._count(len(prompts) * len(seeds))
        rest = self._rest(cells)
        works = (
            Work(self._resolved(prompt, look), look, motion, **rest)
            for look, motion in seeds
            for prompt in prompts
        )
        return tuple(Entry(work, content_key(work, self.pack), line) for work in works)

    def _rest(self, cells: Cells) -> dict[str, Any]:
        """What is the same in all jobs of a row."""
        rest: dict[str, Any] = {"pack": str(self.pack.path.absolute()), "backend": self.backend}
        for name in ("mode", "kind"):
            if name in cells:
                rest[name] = _words(name, cells[name]).lower()
        if "negative" in cells:
            rest["negative"] = _words("negative", cells["negative"])
        if "steps" in cells:
            rest["steps"] = _steps(cells["steps"])
        if "upscale" in cells:
            rest["upscale"] = _truth("upscale", cells["upscale"])
        if "picture" in cells:
            path = _inside(self.folder, "picture", _words("picture", cells["picture"]))
            rest["picture"] = str(path)
        return rest

    def _count(self, jobs: int) -> None:
        """Add to the total; raises RequestError where it becomes absurd."""
        _check_count("row", jobs, ROW_LIMIT)
        _check_count("list", self.total + jobs, JOB_LIMIT)
        self.total += jobs

    def _seeds(self, cells: Cells, alternatives: int) -> list[tuple[int, int]]:
        """The pairs of seeds of a row; random ones are drawn, or taken from an earlier run."""
        looks = _seed_cell("look seed", cells.get("look_seed", ""))
        motions = _seed_cell("motion seed", cells.get("motion_seed", ""))
        repeats = cells.get("repeats", 1)
        if isinstance(repeats, str) and re.fullmatch(r"[0-9]{1,9}", repeats.strip()):
            repeats = int(repeats)
        if not isinstance(repeats, int) or isinstance(repeats, bool) or repeats < 1:
            raise RequestError(
                f"The repeats should be a whole number from 1, but they are"
                f" {reprlib.repr(repeats)}; write one such as 3."
            )
        if str(cells.get("kind", "")).lower() == "frame":
            motions = [0]  # it does not move
        if repeats > 1 and None not in (*looks, *motions):
            raise RequestError(
                f"The row should have a random seed to be repeated, but {repeats} times both are"
                " given, which makes the same again; leave one empty or write a range like 1..9."
            )
        _check_count("row", alternatives * len(looks) * len(motions) * repeats, ROW_LIMIT)
        grid: list[Seeds] = list(itertools.product(looks, motions)) * repeats
        before = _pairs(cells.get("seeds"))
        fits = len(before) == len(grid) and all(
            want in (None, got)
            for wanted, pair in zip(grid, before, strict=True)
            for want, got in zip(wanted, pair, strict=True)
        )
        if fits:
            return before
        # In a grid of several looks and a random motion, each cell draws its own.
        return [
            (self.draw() if look is None else look, self.draw() if motion is None else motion)
            for look, motion in grid
        ]

    def _prompts(self, template: str) -> list[str]:
        r"""The prompts of all alternatives, `\0name\0` standing where a wildcard will be drawn."""
        parts: list[list[str]] = [[""]]
        inside = False
        for token in TOKENS.split(template):
            if token == "{":
                if inside:
                    raise _unbalanced(template, "has { inside of {")
                parts.append([""])
                inside = True
            elif token == "}":
                if not inside:
                    raise _unbalanced(template, "has } without {")
                parts.append([""])
                inside = False
            elif token == "|" and inside:
                parts[-1].append("")
            elif token.startswith("__") and token.endswith("__") and len(token) > 4:
                name = token[2:-2]
                self._read_wildcard(name)
                parts[-1][-1] += f"\0{name}\0"
            else:
                parts[-1][-1] += token[1:] if len(token) == 2 and token[0] == "\\" else token
        if inside:
            raise _unbalanced(template, "has { without }")
        _check_count("row", math.prod(map(len, parts)), ROW_LIMIT)
        return ["".join(choice) for choice in itertools.product(*parts)]

    def _read_wildcard(self, name: str) -> None:
        if name in self.drawn:
            return
        if not re.fullmatch(r"\w[\w -]*", name) or len(name) > NAME_LIMIT:
            raise RequestError(
                "The wildcard should be a file's name of letters, digits, - and _, but it is"
                rf" {reprlib.repr(name)}; correct it or write \_ for a plain _."
            )
        path = _inside(self.wildcards, "wildcard", f"{name}.txt")
        try:
            if path.stat().st_size > LIST_LIMIT:
                raise OSError(0, "it is too large")
            lines = [line.strip() for line in _lines(path.read_bytes())]
        except OSError as error:
            raise RequestError(
                f"The wildcard {path.name} should be a text file, but it cannot be read"
                f" ({error.strerror}); look into the folder of wildcards."
            ) from error
        lines = [line for line in lines if line and not _is_comment(line)]
        if not lines:
            raise RequestError(
                f"The wildcard {path.name} should have a line to draw, but it has none;"
                " write one choice a line."
            )
        self.drawn[name] = lines

    def _resolved(self, prompt: str, look_seed: int) -> str:
        """The prompt with its wildcards drawn by the look seed."""
        numbers = itertools.count()

        def draw(match: re.Match[str]) -> str:
            choices = self.drawn[match[1]]
            digest = hashlib.sha256(f"{look_seed} {next(numbers)} {match[1]}".encode()).digest()
            return choices[int.from_bytes(digest[:8]) % len(choices)]

        return _plain("prompt", re.sub("\0(.*?)\0", draw, prompt))


def _check_count(what: str, count: int, limit: int) -> None:
    if count > limit:
        raise RequestError(
            f"The {what} should make at most {limit} clips, but it would make {count};"
            " make it shorter."
        )


def _unbalanced(template: str, what: str) -> RequestError:
    return RequestError(
        f"The prompt should have its braces in pairs like {{red|blue}}, but"
        rf" {reprlib.repr(template)} {what}; correct it or write \{{ for a plain one."
    )


def _words(name: str, value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise RequestError(
            f"The {name} should be text, but it is {reprlib.repr(value)}; put it in quotes."
        )
    return _plain(name, value)


def _plain(name: str, text: str) -> str:
    """The text in one line; raises RequestError for what no prompt has."""
    if len(text) > PROMPT_LIMIT:
        raise RequestError(
            f"The {name} should have at most {PROMPT_LIMIT} characters, but it has {len(text)};"
            " shorten it."
        )
    text = re.sub(r"[\t\r\n]+", " ", text).strip()
    for at, character in enumerate(text, 1):
        if unicodedata.category(character) in ("Cc", "Cs") or character == "\ufffd":
            raise RequestError(
                f"The {name} should be plain text, but character {at} is U+{ord(character):04X},"
                " which nobody can read; remove it."
            )
    return text


def _seed_cell(name: str, value: object) -> list[int | None]:
    """The seeds a cell names, None for a random one; raises RequestError."""
    values = value if isinstance(value, list) else [value]
    seeds: list[int | None] = []
    for item in values:
        if isinstance(item, int) and not isinstance(item, bool):
            seeds += _seed_range(name, item, item)
        elif item is None or (isinstance(item, str) and item.strip().lower() in ("", "random")):
            seeds.append(None)
        elif isinstance(item, str):
            for word in re.split(r"[\s,;]+", item.strip()):
                match = re.fullmatch(r"([0-9]{1,10})(?:\.\.([0-9]{1,10}))?", word)
                if match is None:
                    raise _bad_seed(name, item)
                seeds += _seed_range(name, int(match[1]), int(match[2] or match[1]))
        else:
            raise _bad_seed(name, item)
    if not seeds or len(seeds) > ROW_LIMIT:
        raise _bad_seed(name, value)
    return seeds


def _seed_range(name: str, first: int, last: int) -> range:
    if not 0 <= first <= last < SEED_LIMIT:
        raise _bad_seed(name, first if first == last else f"{first}..{last}")
    if last - first >= ROW_LIMIT:
        raise RequestError(
            f"The {name} should name at most {ROW_LIMIT} seeds, but {first}..{last} are more;"
            " make the range shorter."
        )
    return range(first, last + 1)


def _bad_seed(name: str, got: object) -> RequestError:
    return RequestError(
        f"The {name} should be whole numbers from 0 to {SEED_LIMIT - 1}, but it is"
        f" {reprlib.repr(got)}; write 7, 1..9 or 1, 2, 3, or leave it empty for a random one."
    )


def _pairs(value: object) -> list[tuple[int, int]]:
    """The seeds that filling in wrote, `look/motion; ..`; none where it says anything else."""
    if not isinstance(value, str):
        return []
    pairs = [re.fullmatch(r"\s*([0-9]{1,10})/([0-9]{1,10})\s*", part) for part in value.split(";")]
    found = [(int(match[1]), int(match[2])) for match in pairs if match]
    good = len(found) == len(pairs) and all(max(pair) < SEED_LIMIT for pair in found)
    return found if good else []


def _steps(value: object) -> tuple[int, ...]:
    words = re.split(r"[\s,;]+", value.strip()) if isinstance(value, str) else value
    if isinstance(words, list) and len(words) == 3:
        if all(re.fullmatch(r"[0-9]{1,3}", word) for word in words if isinstance(word, str)):
            return tuple(int(word) if isinstance(word, str) else word for word in words)
    raise RequestError(
        "The steps should be three whole numbers, one per stage, but they are"
        f" {reprlib.repr(value)}; write them like 1,1,1."
    )


def _truth(name: str, value: object) -> bool:
    word = str(value).strip().lower() if isinstance(value, bool | int | str) else ""
    if word not in TRUE + FALSE:
        raise RequestError(
            f"The {name} should be yes or no, but it is {reprlib.repr(value)}; write one of them."
        )
    return word in TRUE


def _inside(folder: Path | None, what: str, name: str) -> Path:
    """The file of that name in the folder and nowhere else; raises RequestError."""
    parts = PureWindowsPath(name)  # takes both kinds of slashes
    tricky = parts.anchor or ":" in name or any(part.strip(" .") == "" for part in parts.parts)
    reserved = any(RESERVED.match(part.strip()) for part in parts.parts)
    if folder is None or not parts.parts or tricky or reserved:
        raise RequestError(
            f"The {what} should be the name of a file in the {what}s' folder, but it is"
            f" {reprlib.repr(name)}; put the file there and write its name."
        )
    try:
        path = folder.joinpath(*parts.parts).resolve()
        there = path.is_relative_to(folder.resolve()) and path.is_file()
    except (OSError, ValueError, RuntimeError):
        there = False
    if not there:
        raise RequestError(
            f"The {what} {reprlib.repr(name)} should be in {folder}, but it is not;"
            " put it there or correct the name."
        )
    return path


def _one_line(text: str) -> str:
    return " ".join(text.split())[:400]


# What became of it


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
