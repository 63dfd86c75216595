"""A prompt list's bytes to records, one a row, and a record's cells back to a line of a table.

It knows how lists are written, and nothing of what their cells mean (`studio/batch/rows.py`).
"""

from __future__ import annotations

import csv
import io
import json
import re
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from engine.errors import NeodragonError

Format = Literal["text", "csv", "tsv", "jsonl"]
Cells = dict[str, object]

FORMATS: tuple[Format, ...] = get_args(Format)
SUFFIXES: dict[str, Format] = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
COLUMNS = tuple(
    "prompt negative look_seed motion_seed repeats mode steps upscale suffix kind picture".split()
)
FILLED = ("status", "file", "seeds", "seconds", "error")
ALIASES = {"negative_prompt": "negative", "image": "picture"}
LIST_LIMIT = 2**26  # bytes
LINE_LIMIT = 50_000  # characters of a table's row
QUOTED_LINES = 50  # a quoted cell may go over that many lines
FORMULA = ("=", "+", "-", "@")  # what a spreadsheet would compute
NOTE = "#> "  # begins the comments that filling in adds
BOMS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}


class BatchError(NeodragonError):
    """A prompt list as a whole cannot be used."""


@dataclass
class Record:
    """One line of a list, or several where a quoted cell goes over them.

    No cells and no reason: a comment; extra: cells that no column is named for.
    """

    line: int
    raw: str
    cells: Cells | None = None
    reason: str = ""
    extra: tuple[str, ...] = ()


def lines_of(source: str | bytes) -> list[str]:
    """The lines without their ends; a byte that is no UTF-8 makes its line Windows-1252."""
    if isinstance(source, str):
        return re.split(r"\r\n|\n|\r", source.removeprefix("\ufeff"))
    encoding = next((BOMS[bom] for bom in BOMS if source.startswith(bom)), None)
    if encoding is None and b"\0" in source[:200]:
        encoding = "utf-16-be" if source.startswith(b"\0") else "utf-16-le"
    if encoding in ("utf-16-le", "utf-16-be"):
        return lines_of(source.decode(encoding, "replace"))
    return [
        _decoded(line) for line in re.split(rb"\r\n|\n|\r", source.removeprefix(b"\xef\xbb\xbf"))
    ]


def _decoded(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("cp1252", "replace")


def guess(lines: Sequence[str]) -> Format:
    """The format of a pasted list, by its first line that says something."""
    first = next((line for line in lines if line.strip() and not is_comment(line)), "")
    if first.lstrip().startswith("{") and first.rstrip().endswith("}") and '"' in first:
        return "jsonl"
    for delimiter, format in (("\t", "tsv"), (",", "csv"), (";", "csv")):
        names = [name for name in map(_name, first.split(delimiter)) if name[:1] != "#"]
        if "prompt" in names and set(names) <= {*COLUMNS, *FILLED}:
            return "csv" if format == "csv" else "tsv"
    return "text"


def records_of(lines: Sequence[str], format: Format) -> tuple[tuple[str, ...], str, list[Record]]:
    """A table's header (else empty) and delimiter, and the records; raises BatchError."""
    if format in ("csv", "tsv"):
        return _table(lines, "\t" if format == "tsv" else ",")
    return (), ",", list((_text if format == "text" else _objects)(lines))


def is_comment(line: str) -> bool:
    """Whether a line is there for its reader alone."""
    return line.lstrip().startswith("#")


def _text(lines: Sequence[str]) -> Iterator[Record]:
    record = Record(0, "")
    for number, line in enumerate(lines, 1):
        if line.startswith(NOTE):
            record.cells = {**(record.cells or {}), **_noted(line)} if record.cells else None
        elif line.strip():
            record = Record(number, line)
            record.cells = None if is_comment(line) else {"prompt": line.strip()}
            yield record
        elif number < len(lines):
            yield Record(number, line)


def _noted(line: str) -> Cells:
    """The seeds that filling in wrote below a prompt."""
    try:
        note = json.loads(line.removeprefix(NOTE))
        return {"seeds": note["seeds"]}
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}


def _objects(lines: Sequence[str]) -> Iterator[Record]:
    for number, line in enumerate(lines, 1):
        record = Record(number, line)
        if line.startswith(NOTE):
            continue
        if line.strip() and not is_comment(line):
            try:
                pairs = json.loads(line, object_pairs_hook=_Pairs)
                if not isinstance(pairs, _Pairs):
                    raise ValueError("it is something else")
                names = [_name(name) for name, _ in pairs]
                if len(set(names)) < len(names):
                    raise ValueError("a key is there twice")
                record.cells = dict(zip(names, (value for _, value in pairs), strict=True))
            except (ValueError, RecursionError) as error:
                said = one_line(str(error))
                record.reason = (
                    f"The line should be a JSON object, but it is not ({said[:80]});"
                    ' write it like {"prompt": "a red ball"}.'
                )
        elif not line and number == len(lines):
            continue
        yield record


class _Pairs(list[tuple[str, object]]):
    """A JSON object as it stands there."""


def _table(lines: Sequence[str], delimiter: str) -> tuple[tuple[str, ...], str, list[Record]]:
    """The header, the delimiter and the records of a CSV or TSV; raises BatchError."""
    records: list[Record] = []
    at = 0
    while at < len(lines) and (not lines[at].strip() or is_comment(lines[at])):
        records.append(Record(at + 1, lines[at]))
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
) -> tuple[int, Record | None]:
    """How many lines a row takes, and the row; None for a note or the file's end."""
    line = lines[at]
    record = Record(at + 1, line)
    if line.startswith(NOTE) or (not line and at == len(lines) - 1):
        return 1, None
    if not line.strip(delimiter + " ") or is_comment(line):
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


def table_line(cells: Iterable[str], delimiter: str) -> str:
    """The cells as a line of a table; no spreadsheet takes one for a formula."""
    stream = io.StringIO()
    end = "\r\n"  # what a cell must be quoted for, in Python before 3.13
    csv.writer(stream, delimiter=delimiter, lineterminator=end).writerow(map(_guarded, cells))
    return stream.getvalue().removesuffix(end)


def _guarded(cell: str) -> str:
    """The cell so that no spreadsheet takes it for a formula."""
    return f"'{cell}" if cell.lstrip().lstrip("'").startswith(FORMULA) else cell


def _unguarded(cell: str) -> str:
    bare = cell[1:]
    return bare if cell.startswith("'") and _guarded(bare) == cell else cell


def _name(column: str) -> str:
    name = column.strip().lower().replace(" ", "_").replace("-", "_")
    return ALIASES.get(name, column.strip() if name.startswith("#") else name)


def one_line(text: str) -> str:
    """Words from elsewhere, short enough for a sentence."""
    return " ".join(text.split())[:400]
