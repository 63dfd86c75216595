"""CSV and TSV: a header and rows, as spreadsheets and pandas write them, and back to a line."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

from engine.errors import Message
from studio.batch.columns import COLUMNS, FILLED, columns_of
from studio.batch.encodings import BatchError
from studio.batch.record import NOTE, Format, Record, Records, is_comment

LINE_LIMIT = 50_000  # characters of a table's row
QUOTED_LINES = 50  # a quoted cell may go over that many lines
FORMULA = ("=", "+", "-", "@")  # what a spreadsheet would compute
TEXT = re.compile(r'\s*="((?:[^"]|"")*)"\s*')
DELIMITERS = ",;\t|"
SEPARATOR = re.compile(r'\s*"?sep=(.)"?[\s,;"]*', re.IGNORECASE)  # Excel's own first line


def header_of(line: str) -> tuple[str, tuple[str, ...]]:
    """The delimiter of a header and its columns, those that make the most sense."""
    headers = []
    for delimiter in DELIMITERS:
        names = _cells(line.strip(" \ufeff"), delimiter) or []
        while len(names) > 1 and not names[-1].strip():
            names.pop()
        columns = columns_of(names)
        score = sum(name in (*COLUMNS, *FILLED) for name in columns)
        headers.append((("prompt" in columns, score, line.count(delimiter)), delimiter, names))
    _, delimiter, names = max(headers, key=lambda each: each[0])
    return delimiter, columns_of(names)


def table_of(lines: Sequence[str], format: Format) -> Records:
    """The records of a CSV or TSV; raises BatchError."""
    records = Records(format)
    at = 0
    while at < len(lines) and (not lines[at].strip() or is_comment(lines[at])):
        records.records.append(Record(at + 1, lines[at]))
        at += 1
    separator = SEPARATOR.fullmatch(lines[at]) if at < len(lines) else None
    at += separator is not None
    first = lines[at] if at < len(lines) else ""
    records.delimiter, records.header = header_of(first)
    _check_header(first, records)
    names = _cells(first.strip(" \ufeff"), records.delimiter) or []
    records.spelled = dict(zip(records.header, (name.strip() for name in names), strict=False))
    at += 1
    while at < len(lines):
        taken, record = _table_row(lines, at, records.header, records.delimiter)
        if record is not None:
            records.records.append(record)
        at += taken
    return records


def _check_header(line: str, records: Records) -> None:
    header = records.header
    twice = next((name for name in header if header.count(name) > 1), None)
    if records.delimiter == "|":
        raise BatchError(
            "The list is a table with | between its cells; save it as CSV, with commas there."
        )
    if twice:
        raise BatchError(
            "The first line names the column {column} twice; remove one of them.", column=twice
        )
    if "prompt" not in header:
        raise BatchError(
            "The first line of a table names its columns, one of them prompt; here it is {line}. "
            "Write one like prompt,look_seed,motion_seed, each in a cell of its own.",
            line=repr(line[:60]),
        )


def _table_row(
    lines: Sequence[str], at: int, header: Sequence[str], delimiter: str
) -> tuple[int, Record | None]:
    """How many lines a row takes, and the row; None for a note or the file's end."""
    line = lines[at]
    record = Record(at + 1, line)
    if line.startswith(NOTE) or (not line and at == len(lines) - 1):
        return 1, None
    if not line.strip(delimiter + ' "') or is_comment(line):
        return 1, record
    if len(line) > LINE_LIMIT:
        record.reason = Message(
            "The row has {count} characters; shorten it to {most} at most.",
            {"count": len(line), "most": LINE_LIMIT},
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
        record.reason = Message('A quote is out of place in the row; write " inside a cell twice.')
        return taken, record
    while len(cells) > len(header) and not cells[-1].strip():
        cells.pop()
    if len(cells) > len(header):
        record.reason = Message(
            "The row has {count} cells for {columns} columns; put straight quotes around a cell"
            " with {delimiter} in it.",
            {
                "count": len(cells),
                "columns": len(header),
                "delimiter": Message("a tab") if delimiter == "\t" else delimiter,
            },
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
    """The cells as a line of a table, none a formula to a spreadsheet or a comment to us."""
    row = list(map(_guarded, cells))
    stream = io.StringIO()
    end = "\r\n"  # what a cell must be quoted for, in Python before 3.13
    csv.writer(stream, delimiter=delimiter, lineterminator=end).writerow(row)
    line = stream.getvalue().removesuffix(end)
    if is_comment(line):  # its first cell has no quotes yet
        return f'"{row[0]}"{line.removeprefix(row[0])}'
    return line


def _guarded(cell: str) -> str:
    """The cell so that no spreadsheet takes it for a formula."""
    return f"'{cell}" if cell.lstrip().lstrip("'").startswith(FORMULA) else cell


def _unguarded(cell: str) -> str:
    """What a cell says that was guarded by us, or as spreadsheets export text: `="5"`."""
    bare = cell[1:]
    if cell.startswith("'") and _guarded(bare) == cell:
        return bare
    text = TEXT.fullmatch(cell)
    return text[1].replace('""', '"') if text else cell
