"""A prompt list's text to records: which format it has, and the lines of a text list.

It knows how lists are written, and nothing of what their cells mean (`studio/batch/rows.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from engine.errors import NeodragonError
from studio.batch.columns import COLUMNS, FILLED, columns_of
from studio.batch.encodings import decode
from studio.batch.objects import array_of, objects_of
from studio.batch.options import is_continuation, read_line
from studio.batch.record import NOTE, Cells, Format, Record, Records, is_comment
from studio.batch.tables import SEPARATOR, header_of, table_of

SUFFIXES: dict[str, Format] = {
    **{".csv": "csv", ".tsv": "tsv", ".tab": "tsv"},
    **{".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json"},
}
LIST_LIMIT = 2**26  # bytes
JSON_START = re.compile(r"""\s*(?:\[\s*(?:[\[{"'\]]|$)|\{\s*(?:["'“}]|$))""")
CHOICE = re.compile(r"\s*\{[^{}]*\|")  # `{"red"|"blue"} ball` only begins like JSON


ENDS = r"\r\n|[\n\r\u2028\u2029]"
JSON_ENDS = r"\r\n|[\n\r]"  # the other two may stand in a string


def lines_of(source: str | bytes, ends: str = ENDS) -> list[str]:
    """The lines of a text without their ends; raises BatchError for bytes that are no text."""
    text = source if isinstance(source, str) else decode(source).content
    return re.split(ends, text.removeprefix("\ufeff"))


def guess(text: str, named: Format | None = None) -> Format:
    """The format of a list; named: what its file's name says, believed where it can be so."""
    lines = [line for line in lines_of(text) if line.strip() and not is_comment(line)]
    first = lines[0] if lines else ""
    if named in ("json", "jsonl") or JSON_START.match("\n".join(lines[:20])):
        row = _json(first)
        whole = row if len(lines) == 1 else _json(text)
        if isinstance(row, dict) and (len(lines) > 1 or _is_row(row)):
            return "json" if named == "json" and len(lines) == 1 else "jsonl"
        if isinstance(whole, list | dict):
            return "json"
        if named is not None:
            return named
        if any(isinstance(_json(line), dict) for line in lines[1:20]):
            return "jsonl"
        if not CHOICE.match(first):
            return "json"
    if named is not None:
        return named
    if SEPARATOR.fullmatch(first):
        return "csv"
    delimiter, columns = header_of(first)
    known = [name for name in columns if name in (*COLUMNS, *FILLED)]
    if "prompt" in columns or (len(known) > 1 and len(known) == len(columns)):
        return "tsv" if delimiter == "\t" else "csv"
    return "text"


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_row(value: dict[str, object]) -> bool:
    """Whether a JSON object is a row, not a table."""
    cells = dict(zip(columns_of(value), value.values(), strict=True))
    return not isinstance(cells.get("prompt", []), list | dict)


def records_of(text: str, format: Format) -> Records:
    """The records of a list in a format; raises BatchError."""
    if format == "json":
        return Records(format, list(array_of(text)))
    if format == "jsonl":
        return Records(format, list(objects_of(lines_of(text, JSON_ENDS))))
    lines = lines_of(text)
    if format in ("csv", "tsv"):
        return table_of(lines, format)
    return Records(format, list(_text(lines)))


def _text(lines: Sequence[str]) -> Iterator[Record]:
    record: Record | None = None
    for number, line in enumerate([*lines, ""], 1):
        if record and line.startswith(NOTE):
            if record.cells:
                record.cells |= _noted(line)
            continue
        if record and record.cells is not None and is_continuation(line):
            record.raw += f"\n{line}"
            continue
        if record:
            yield _parsed(record)
            record = None
        if number > len(lines) or (number == len(lines) and not line) or line.startswith(NOTE):
            continue
        if line.strip() and not is_comment(line):
            record = Record(number, line, {"prompt": line.strip()})
        else:
            yield Record(number, line)


def _parsed(record: Record) -> Record:
    """The record of a line of text, its options read."""
    try:
        record.options = read_line(record.raw)
        record.cells = {**(record.cells or {}), **record.options.cells}
    except NeodragonError as error:
        record.reason = error.message
    return record


def _noted(line: str) -> Cells:
    """The seeds that filling in wrote below a prompt."""
    try:
        note = json.loads(line.removeprefix(NOTE))
        return {"seeds": note["seeds"]}
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
