"""What the readers of lists return: one record per row, and facts about the list."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from engine.errors import Message
from studio.batch.options import Line
from studio.batch.values import ERROR

Format = Literal["text", "csv", "tsv", "jsonl", "json"]
Cells = dict[str, object]

FORMATS: tuple[Format, ...] = get_args(Format)
NOTE = "#> "  # begins the comments that filling in adds


@dataclass
class Record:
    """One line of a list, or several where a quoted cell goes over them.

    No cells and no reason: a comment; extra: cells that no column is named for; options: what a
    line of text said besides words.
    """

    line: int
    raw: str
    cells: Cells | None = None
    reason: Message | None = None
    extra: tuple[str, ...] = ()
    options: Line | None = None


@dataclass
class Records:
    """The records of a list; of a table its columns, their spelling and its delimiter too."""

    format: Format
    records: list[Record] = field(default_factory=list)
    header: tuple[str, ...] = ()
    spelled: dict[str, str] = field(default_factory=dict)
    delimiter: str = ","


def is_comment(line: str) -> bool:
    """Whether a line is there for its reader alone."""
    return line.lstrip().startswith("#") and not ERROR.match(line)


def one_line(text: str) -> str:
    """Words from elsewhere, short enough for a sentence."""
    return " ".join(text.split())[:400]
