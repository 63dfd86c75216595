"""Notes on a list: options of other programs, and text that looks like them."""

from __future__ import annotations

from collections import defaultdict

from engine.errors import Message
from studio.batch.columns import UNNAMED
from studio.batch.options import syntax_in
from studio.batch.record import Record, Records
from studio.batch.values import whole

OPTIONS = "{lines}: these are read as settings, not as words: {names}."
UNUSED = "{lines}: these mean nothing here and are left out: {names}."
LOOKS = "{lines}: {example} looks like {kind}, and is read as part of the prompt."
UNNAMED_COLUMN = "Column {number} has no name, so its cells are not used; name it or remove it."


def notes_on(listed: Records) -> tuple[Message, ...]:
    """Sentences on a list whose good rows are not all words, one of a kind; the gravest first."""
    rows = [record for record in listed.records if record.cells and record.reason is None]
    read: list[Record] = [row for row in rows if row.options and row.options.read]
    unused: list[Record] = [row for row in rows if row.options and row.options.unused]
    alike: dict[str, list[Record]] = defaultdict(list)
    for row in rows:
        kind = syntax_in(str((row.cells or {}).get("prompt", "")))
        if kind:
            alike[kind].append(row)
    notes = [
        Message(template, {"lines": _lines(some), "names": _names(some, which)})
        for template, some, which in ((OPTIONS, read, "read"), (UNUSED, unused, "unused"))
        if some
    ]
    for kind, some in alike.items():
        prompt = str((some[0].cells or {})["prompt"])
        example = repr(prompt if len(prompt) <= 60 else prompt[:60] + "…")
        notes.append(
            Message(LOOKS, {"lines": _lines(some), "example": example, "kind": Message(kind)})
        )
    for at, name in enumerate(listed.header, 1):
        cells = [(row.cells or {}).get(name) for row in rows]
        numbered = at == 1 and all(whole(cell) is not None for cell in cells)  # as pandas does
        if name.startswith(UNNAMED) and any(cells) and not numbered:
            notes.append(Message(UNNAMED_COLUMN, {"number": at}))
    return tuple(notes)


def _lines(rows: list[Record]) -> Message:
    """Where rows stand, the first three by their numbers."""
    numbers = ", ".join(str(row.line) for row in rows[:3])
    if len(rows) == 1:
        return Message("Line {numbers}", {"numbers": numbers})
    if len(rows) <= 3:
        return Message("Lines {numbers}", {"numbers": numbers})
    return Message("Lines {numbers} and {more} more", {"numbers": numbers, "more": len(rows) - 3})


def _names(rows: list[Record], which: str) -> str:
    """The options in rows, each once."""
    names = dict.fromkeys(name for row in rows for name in getattr(row.options, which))
    return ", ".join(list(names)[:8]) + (", …" if len(names) > 8 else "")
