"""What can go wrong. A message is a template with values, so that it can be shown in any language.

Each is one sentence: what was expected, what was found, what to do next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Message:
    """A sentence for the user: an English template, which is its id, and the values in it.

    `str` gives it in English; `studio.language` gives it in the language of the page. Without
    values the template is taken as it is, braces and all.
    """

    template: str
    values: Mapping[str, object] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.template)

    def __str__(self) -> str:
        return self.template.format(**self.values) if self.values else self.template


class NeodragonError(Exception):
    """Base of every error raised on purpose: `NeodragonError("No {name} here.", name="pack")`.

    It takes a template with its values, or a message that has both.
    """

    def __init__(self, template: str | Message = "", **values: object) -> None:
        self.message = template if isinstance(template, Message) else Message(template, values)
        super().__init__(str(self.message))


class RequestError(NeodragonError):
    """The request cannot be carried out as asked; the user can correct it."""


class WithheldError(RequestError):
    """The safety checker withholds the clip."""


class PackError(NeodragonError):
    """The pack is damaged, of another format, or lacks what was asked of it."""


class BackendError(NeodragonError):
    """The backend could not load or run a graph."""


def message_of(error: Exception) -> Message:
    """The message of an error, ours or another library's."""
    return error.message if isinstance(error, NeodragonError) else Message(str(error))


def reason_of(error: Exception) -> Message:
    """What the operating system or a library says, to stand in brackets; the system's own words
    are in the catalogue.
    """
    return Message(getattr(error, "strerror", None) or first_line(error))


def first_line(error: Exception) -> str:
    """What another library's error says first, to stand in brackets: one line, no full stop."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0][:300].rstrip(". ")
