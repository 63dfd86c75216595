"""Values of cells: numbers as people, spreadsheets and pandas write them, yes and no, text."""

from __future__ import annotations

import math
import re
import reprlib
import unicodedata

from engine.config import SEED_LIMIT
from engine.errors import Message, RequestError

PROMPT_LIMIT = 10_000  # characters
SEED_COUNT = 1000  # seeds of one cell
EMPTY = {"", "nan", "none", "null", "n/a", "na", "#n/a", "<na>", "nat"}  # as pandas writes it
TRUE = {"true", "yes", "1", "on", "y", "t", "wahr", "ja", "vrai", "oui", "verdadero", "是", "真"}
FALSE = {"false", "no", "0", "off", "n", "f", "falsch", "nein", "faux", "non", "falso", "否", "假"}
# What a spreadsheet writes where a formula failed.
ERROR = re.compile(r"""[\s"']*#(?:REF!|NAME\?|VALUE!|DIV/0!|NUM!|NULL!|SPILL!|CALC!)""")
WHOLE = re.compile(r"[+-]?\d{1,20}(?:\.0*)?", re.ASCII)
GROUPED = re.compile(  # 1,234,567.00
    r"(\d{1,3}([.,'’\xa0\u202f ])\d{3}(?:\2\d{3})*)((?!\2)[.,]0+)?", re.ASCII
)
POWER = re.compile(r"(\d{1,10})(?:[.,](\d*))?e\+?(\d{1,2})", re.ASCII | re.IGNORECASE)
RANGE = re.compile(r"(\d{1,10})\.\.(\d{1,10})", re.ASCII)
BAD_SEED = (
    "The {name} ({where}) is {got}; write a whole number from 0 to {most}, several like 1..9 or"
    " 1, 2, 3, or nothing at all for a random one."
)
UNCLEAR = (
    "The {name} ({where}) is {got}, which may be one number or several; write {one} for one number,"
    " or put a space after each comma."
)
LOST = (
    "The {name} ({where}) is {got}, which has lost digits in a spreadsheet; format the column as"
    " whole numbers and save the list again."
)


def is_empty(value: object) -> bool:
    """Whether a cell says nothing: no words, or what pandas writes for none."""
    if isinstance(value, str):
        return value.strip().lower() in EMPTY
    return value is None or (isinstance(value, float) and math.isnan(value))


def shown(value: object) -> str:
    """A value in a sentence, not too long."""
    return reprlib.repr(value)


def whole(value: object) -> int | None:
    """The whole number that a value is beyond doubt, else None.

    `5`, `5.0`, `1e3`, `1.234.567`, `1,234,567`, `1'234'567` and JSON's 5.0 are.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if not isinstance(value, str):
        return int(value) if math.isfinite(value) and int(value) == value else None
    text = value.strip().removeprefix("'").replace("\u2212", "-")
    if WHOLE.fullmatch(text):
        return int(text.split(".")[0])
    if (power := POWER.fullmatch(text)) and not (power[2] or "").strip("0"):
        return int(power[1] + "0" * int(power[3]))
    grouped = GROUPED.fullmatch(text)
    if grouped and (grouped[3] or not _is_unclear(grouped[1], grouped[2])):
        return int(re.sub(r"\D", "", grouped[1]))
    return None


def _is_unclear(text: str, mark: str) -> bool:
    """Whether groups of three digits may be a list, or one of them a fraction."""
    groups = text.split(mark)
    return len(groups) == 2 if mark == "." else mark in ", " and len(groups[0]) == 3


def count(name: str, where: Message, value: object) -> int:
    """A whole number from 1; raises RequestError."""
    number = whole(value)
    if number is None or number < 1:
        raise RequestError(
            "The {name} ({where}) are {got}; write a whole number from 1 on, such as 3.",
            name=Message(name),
            where=where,
            got=shown(value),
        )
    return number


def seeds(name: str, where: Message, value: object) -> list[int | None]:
    """The seeds a cell names, None for a random one (empty, `random`, -1); raises RequestError."""
    numbers: list[int | None] = []
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, str | int | float | None) or isinstance(item, bool):
            raise _seed_error(BAD_SEED, name, where, value)
        if is_empty(item):
            numbers.append(None)
        elif (number := whole(item)) is not None:
            numbers.append(_seed(name, where, number, item))
        elif isinstance(item, str):
            numbers += _several(name, where, item.strip())
        else:
            raise _seed_error(BAD_SEED, name, where, item)
        if len(numbers) > SEED_COUNT:
            raise _too_many(name, where, value)
    if not numbers:
        raise _seed_error(BAD_SEED, name, where, value)
    return numbers


def _several(name: str, where: Message, text: str) -> list[int | None]:
    """The seeds of a cell that is not one number."""
    if GROUPED.fullmatch(text) or re.fullmatch(r"\d+,0+", text, re.ASCII):
        digits = re.sub(r"\D", "", text) if GROUPED.fullmatch(text) else text.split(",")[0]
        raise _seed_error(UNCLEAR, name, where, text, one=digits)
    if POWER.fullmatch(text):
        raise _seed_error(LOST, name, where, text)
    numbers: list[int | None] = []
    for word in re.split(r"[\s,;]+", text.removeprefix("[").removesuffix("]").strip(" ,;")):
        number = whole(word)
        if word.lower() == "random":
            numbers.append(None)
        elif match := RANGE.fullmatch(word):
            first, last = int(match[1]), int(match[2])
            if not first <= last < SEED_LIMIT:
                raise _seed_error(BAD_SEED, name, where, text)
            if last - first >= SEED_COUNT:
                raise _too_many(name, where, word)
            numbers += range(first, last + 1)
        elif number is None or GROUPED.fullmatch(word):
            raise _seed_error(BAD_SEED, name, where, text)
        else:
            numbers.append(_seed(name, where, number, text))
    return numbers


def _seed(name: str, where: Message, number: int, got: object) -> int | None:
    if number == -1:  # random, in other programs
        return None
    if not 0 <= number < SEED_LIMIT:
        raise _seed_error(BAD_SEED, name, where, got)
    return number


def _seed_error(
    template: str, name: str, where: Message, got: object, **more: object
) -> RequestError:
    values = {
        "name": Message(name),
        "where": where,
        "got": shown(got),
        "most": SEED_LIMIT - 1,
        **more,
    }
    return RequestError(template, **values)


def _too_many(name: str, where: Message, got: object) -> RequestError:
    return RequestError(
        "The {name} ({where}) is {got}, which is more than {most} seeds; make it shorter.",
        name=Message(name),
        where=where,
        got=shown(got),
        most=SEED_COUNT,
    )


def steps(where: Message, value: object) -> tuple[int, ...]:
    """Three numbers of steps from 1 to 100, one per stage; raises RequestError."""
    parts = re.split(r"[\s,;]+", value.strip("[()] \t")) if isinstance(value, str) else value
    numbers = [whole(word) for word in parts] if isinstance(parts, list) else []
    valid = tuple(number for number in numbers if number is not None and 1 <= number <= 100)
    if len(numbers) != 3 or len(valid) != 3:
        raise RequestError(
            "The steps ({where}) are {got}; write three whole numbers from 1 to 100, one for each"
            " stage, like 1, 1, 1.",
            where=where,
            got=shown(value),
        )
    return valid


def truth(name: str, where: Message, value: object) -> bool:
    """Yes or no; raises RequestError."""
    number = whole(value)
    word = str(value if number is None else number).strip().lower()
    if word not in TRUE | FALSE or not isinstance(value, bool | int | float | str):
        raise RequestError(
            "The {name} ({where}) is {got}; write yes or no.",
            name=Message(name),
            where=where,
            got=shown(value),
        )
    return word in TRUE


def choice(name: str, where: Message, value: object, known: tuple[str, ...]) -> str:
    """One of the known words; raises RequestError."""
    word = value.strip().lower() if isinstance(value, str) else ""
    if word not in known:
        raise RequestError(
            "The {name} ({where}) is {got}; choose one of these: {known}.",
            name=Message(name),
            where=where,
            got=shown(value),
            known=", ".join(known),
        )
    return word


def line_of(name: str, where: Message, value: object) -> str:
    """Text in one line; raises RequestError for what nobody can read or draw."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise RequestError(
            "The {name} ({where}) is {got}, which is not text; put it in quotes.",
            name=Message(name),
            where=where,
            got=shown(value),
        )
    return plain(name, where, value)


def plain(name: str, where: Message, text: str) -> str:
    """The text in one line; raises RequestError for what nobody can read or draw."""
    if len(text) > PROMPT_LIMIT:
        raise RequestError(
            "The {name} ({where}) has {count} characters; shorten it to {most} at most.",
            name=Message(name),
            where=where,
            count=len(text),
            most=PROMPT_LIMIT,
        )
    text = re.sub(r"[\t\r\n]+", " ", text).strip("\ufeff\u200b \xa0").strip()
    for at, character in enumerate(text, 1):
        if unicodedata.category(character) in ("Cc", "Cs") or character == "\ufffd":
            raise RequestError(
                "The {name} ({where}) has U+{code} as its character {at}, which nobody can read;"
                " remove it, or save the list as UTF-8.",
                name=Message(name),
                where=where,
                code=f"{ord(character):04X}",
                at=at,
            )
    return text
