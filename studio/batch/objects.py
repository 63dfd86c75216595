"""Lists in JSON: one array, or one object per line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from types import UnionType

from engine.errors import Message
from studio.batch.columns import COLUMNS, columns_of
from studio.batch.encodings import BatchError
from studio.batch.record import NOTE, Cells, Record, is_comment, one_line


class _Pairs(list[tuple[str, object]]):
    """A JSON object as it stands there."""


def objects_of(lines: Sequence[str]) -> Iterator[Record]:
    """The records of JSON Lines."""
    for number, line in enumerate(lines, 1):
        record = Record(number, line)
        if line.startswith(NOTE):
            continue
        if line.strip() and not is_comment(line):
            try:
                _keep(record, json.loads(line, object_pairs_hook=_Pairs))
            except (ValueError, RecursionError) as error:
                record.reason = _no_object(one_line(str(error))[:80])
        elif not line and number == len(lines):
            continue
        yield record


def _no_object(problem: str) -> Message:
    return Message(
        "The line is no JSON object ({said}); write it like {example}.",
        {"said": problem, "example": '{"prompt": "a red ball"}'},
    )


def _keep(record: Record, value: object) -> None:
    """Put the cells of a JSON value into its record, or the reason why there are none."""
    if isinstance(value, str):
        value = _Pairs([("prompt", value)])
    if not isinstance(value, _Pairs):
        record.reason = _no_object("it is something else")
        return
    names = columns_of([name for name, _ in value])
    if len(set(names)) < len(names):
        record.reason = _no_object("a key is there twice")
    else:
        record.cells = dict(zip(names, (cell for _, cell in value), strict=True))


def array_of(text: str) -> Iterator[Record]:
    """The records of a JSON text as a whole, numbered from 1; raises BatchError."""
    try:
        value = json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_Pairs)
    except ValueError as error:
        raise BatchError(
            "The list looks like JSON, but it cannot be read ({said}); correct it there.",
            said=one_line(str(error))[:120],
        ) from error
    except RecursionError as error:
        raise BatchError("The JSON is nested too deeply; write one object per row.") from error
    for number, item in enumerate(_items(value), 1):
        record = Record(number, _again(item))
        _keep(record, item)
        yield record


def _items(value: object) -> list[object]:
    """The rows in a JSON value: an array, an object around one, or a table as pandas writes it."""
    if isinstance(value, list) and not isinstance(value, _Pairs):
        return value
    pairs = value if isinstance(value, _Pairs) else _Pairs()
    names = columns_of([name for name, _ in pairs])
    cells = dict(zip(names, (cell for _, cell in pairs), strict=True))
    rows = cells.get("prompt")
    table = isinstance(rows, _Pairs) or not _has_rows(rows, _Pairs)
    if "prompt" in cells and len(cells) == len(pairs) and table:
        return _by_column(cells) if isinstance(rows, list) else [value]
    if isinstance(cells.get("columns"), list) and isinstance(cells.get("data"), list):
        header = [str(name) for name in cells["columns"]]  # type: ignore[attr-defined]
        rows = cells["data"]
        return [_Pairs(zip(header, row, strict=False)) for row in rows]  # type: ignore[attr-defined]
    lists = [cell for cell in cells.values() if _has_rows(cell)]
    if len(lists) == 1 and isinstance(lists[0], list):
        defaults = [
            (name, cell)
            for name, cell in cells.items()
            if name in COLUMNS and not isinstance(cell, list)
        ]
        return [_with(defaults, item) for item in lists[0]]
    if pairs and all(isinstance(cell, _Pairs) for _, cell in pairs):
        return [cell for _, cell in pairs]
    raise BatchError(
        "The JSON has no list of prompts; write an array of objects like {example}.",
        example='[{"prompt": "a red ball"}]',
    )


def _has_rows(cell: object, kind: type | UnionType = _Pairs | str) -> bool:
    """Whether a value is an array of rows: objects or words."""
    rows = isinstance(cell, list) and not isinstance(cell, _Pairs)
    return rows and bool(cell) and all(isinstance(item, kind) for item in cell)  # type: ignore[attr-defined]


def _with(defaults: list[tuple[str, object]], item: object) -> object:
    """A row with what the object around it says for all."""
    row = _Pairs([("prompt", item)]) if isinstance(item, str) else item
    if not isinstance(row, _Pairs):
        return item
    columns = columns_of([name for name, _ in row])
    return _Pairs([*row, *(pair for pair in defaults if pair[0] not in columns)])


def _by_column(cells: Cells) -> list[object]:
    """The rows of a table whose columns are arrays, or objects by number."""
    columns: dict[str, list[object]] = {}
    for name, cell in cells.items():
        values = [value for _, value in cell] if isinstance(cell, _Pairs) else cell
        if not isinstance(values, list) and name not in COLUMNS:
            continue  # a version, a date
        columns[name] = values if isinstance(values, list) else [values]
    height = len(columns["prompt"])
    if any(len(column) not in (1, height) for column in columns.values()):
        raise BatchError("The JSON has columns of different lengths; write an array of objects.")
    full = {
        name: column if len(column) == height else column * height
        for name, column in columns.items()
    }
    return [_Pairs((name, column[at]) for name, column in full.items()) for at in range(height)]


def _again(value: object) -> str:
    """A JSON value written again as it stood there."""
    if isinstance(value, _Pairs):
        return "{" + ", ".join(f"{json.dumps(name)}: {_again(cell)}" for name, cell in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_again, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
