"""Settings in a line of a text list, and text that only looks like settings.

`a star, count=2`; Stable Diffusion web UI's `--prompt "a star" --seed 5` and its `Negative prompt:`
and `Steps: 20, Seed: 5`; Midjourney's `a star --ar 16:9 --seed 5`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from engine.errors import RequestError
from studio.batch.columns import COLUMNS, column_of
from studio.batch.values import ERROR, whole

QUOTES = {'"': '"', "“": "”", "„": "“”", "'": "'", "‘": "’", "«": "»"}
DASHES = re.compile(r"(?:^|(?<=\s))(?:--|—|–)(?=[A-Za-z])")
FLAGS = ("upscale", "suffix")  # `--upscale` and `--no-upscale` need no value
SHORT = re.compile(r"-[A-Za-z](?=[\s=])")  # not read: it says nothing
NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[_-][A-Za-z0-9]+)*(?=$|[\s=])")
LABEL = re.compile(r"^\s*(?:-\s+)?(?:positive[ _])?prompt\s*[:=]\s*", re.IGNORECASE)
NEGATIVE = re.compile(r"[\s,;.]*\bnegative[ _]prompt\s*:\s*", re.IGNORECASE)
PAIR = r"[A-Za-z][\w ./-]*:\s*(?:\"[^\"]*\"|[^,]*)"
PARAMETERS = re.compile(
    rf"(?:^|[\s,;.])\s*((?:steps|count|repeats|(?:look_|motion_)?seed):\s*-?\d+\s*(?:,\s*{PAIR})*)\s*$",
    re.IGNORECASE,
)
EQUALS = re.compile(r"[,;]\s*([A-Za-z][A-Za-z _-]{0,30}?)\s*=\s*(\"[^\"]*\"|[^,;=]*)\s*[,;]?\s*$")
OURS = "|".join(sorted({*COLUMNS, "seed", "count", "repeat", "negative"}))
INSIDE = re.compile(rf"(?:^|[\s,;|])(?:{OURS})\s*=\s*\S", re.IGNORECASE)
FRAGMENT = re.compile(  # a piece of JSON, or a line that only rules something off
    r"""^\s*(?:[\[{]\s*["'“][^|{}]*["'”]\s*[:,\]}]|["'“][\w ]+["'”]\s*:"""
    r"""|[\W_]*[{}\[\]]\s*,?$|-{3,}$|={3,}$|\[[\w .-]+\]\s*$)|""" + ERROR.pattern
)

# What looks like syntax of another program, and how it is called.
SYNTAX = {
    "a formula of a spreadsheet": re.compile(r"^\s*(?:=|[+@-][A-Za-z]+\()"),
    "a choice among one": re.compile(r"(?<!\\)\{[^{}|]*(?<!\\)\}"),
    "alternatives of another program": re.compile(r"(?<!\\)\{[^{}]*\$\$"),
    "an option (--name)": DASHES,
    "a weight": re.compile(r"\([^()]*:\s*-?\d*\.?\d+\s*\)|\(\(|\[\[|\w\+\+|\)\d?\.\d|::"),
    "a tag": re.compile(r"</?[A-Za-z][^<>]*>"),
    "a setting (key=value)": re.compile(r"(?<!\w)[A-Za-z_][\w-]*\s*=\s*\S"),
    "a setting (key: value)": re.compile(
        r"\b(?:seed|steps|cfg(?: scale)?|sampler|size|model|negative[ _]prompt|prompt)\s*:\s*\S",
        re.I,
    ),
    "JSON": re.compile(r"""["'“”]\s*:\s*["'“\[{\d]|[\]}]\s*,\s*$"""),
    "several columns in one": re.compile(
        r"^\s*[,;|]|[,;|]\s*-?\d+(?:\.\d+)?\s*(?:$|[,;|])|[;|][^;|{}]*[;|]|\t"
    ),
    "the number or mark of a list": re.compile(r"^\s*(?:\d+\s*[.):]|[-*•·])\s+\S"),
    "a word of another program (BREAK, AND)": re.compile(r"\b(?:BREAK|AND|ADDCOMM|ADDROW)\b"),
    "a count or seed": re.compile(
        r"\s[x×*]\s?\d+\s*$|[,;(]\s*(?:seed|count|steps|repeats?)\s+-?\d|(?:^|\s)-[A-Za-z]\s?\d",
        re.I,
    ),
    "a line break": re.compile(r"\\[nrt]"),
    "an address": re.compile(r"https?://|^[A-Za-z]:\\"),
    "program text": re.compile(
        r"^\s*(?:```|/\*|<\?|nds(?:\.exe)?\s|python|curl\s)|(?:^|\s)//\s|\w\(.*\);?\s*$"
    ),
    "a number alone": re.compile(r"^[\s\d.,;:/-]+$"),
}


@dataclass
class Line:
    """A line of a text list: its cells, the options that were read, and those not used."""

    cells: dict[str, object]
    read: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


def syntax_in(prompt: str) -> str | None:
    """What a prompt looks like besides words, None where it is words alone."""
    return next((what for what, pattern in SYNTAX.items() if pattern.search(prompt)), None)


def is_continuation(line: str) -> bool:
    """Whether a line belongs to the prompt above it: `Negative prompt: ..`, `Steps: 20, ..`."""
    match = NEGATIVE.match(line) or PARAMETERS.match(line)
    return match is not None and not line[: match.start()].strip()


def read_line(text: str) -> Line:
    """The settings and words of a line, or of one with its continuations; raises RequestError."""
    line = Line({})
    rest = text.strip().strip("\ufeff\u200b")
    if "\t" in rest:
        raise RequestError(
            "The line has a tab, as a table has, but no first line names the columns; begin the"
            " list with a line such as prompt, a tab and look_seed."
        )
    if FRAGMENT.search(rest):
        raise RequestError(
            "The line {line} is a piece of JSON or has no word; write a prompt, or save the list as"
            " .json or .jsonl.",
            line=repr(rest[:40]),
        )
    rest = _parameters(rest, line)
    rest = _options(rest, line)
    rest = _pairs(rest, line)
    label = LABEL.match(rest)
    if label:
        line.read.append("prompt")
        rest = rest[label.end() :]
    bare = _unquoted(rest.removesuffix(",")) if rest.endswith(",") else None
    rest = _unquoted(rest) or bare or rest
    if "prompt" not in line.cells:
        line.cells["prompt"] = rest
    elif rest:
        raise RequestError(
            "The line has words beside --prompt: {words}; put the whole prompt in quotes.",
            words=repr(rest[:40]),
        )
    named = str(line.cells["prompt"]).split()
    if len(named) > 1 and all(column_of(word) in COLUMNS for word in named):
        raise RequestError(
            "The line {line} names columns, but nothing parts them; put commas between them.",
            line=repr(rest[:60]),
        )
    inside = INSIDE.search(str(line.cells["prompt"]))
    if inside:
        raise RequestError(
            "The setting {setting} stands where it cannot be told from the words; write it at the"
            " end of the line, like: a red ball, count=2.",
            setting=repr(inside[0].strip(" ,;|")),
        )
    return line


def _take(line: Line, name: str, value: str, shown: str) -> None:
    """Keep an option: as a cell where it names a column, else among the unused.

    shown: how it is told of; empty where it needs no telling.
    """
    column = column_of("negative" if name.lower() == "no" else name)
    foreign = column == "steps" and whole(value) is not None  # of a model without stages
    if column not in COLUMNS or foreign:
        line.unused.append(shown)
    elif column in line.cells:
        raise RequestError("The line names {name} twice; leave one of them out.", name=repr(name))
    else:
        line.read += [name] if shown else []
        line.cells[column] = value


def _parameters(text: str, line: Line) -> str:
    """Take `Negative prompt: ..` and `Steps: 20, Seed: 5, ..` off the end."""
    while match := PARAMETERS.search(text):
        for pair in re.findall(PAIR, match[1]):
            name, value = pair.split(":", 1)
            _take(line, name.strip(), value.strip(), pair.strip())
        text = text[: match.start()].rstrip(" ,;\r\n")
    match = NEGATIVE.search(text)
    if match and (match.start() or match.end()):
        _take(line, "negative prompt", text[match.end() :].strip(), "Negative prompt")
        text = text[: match.start()]
    if (line.read or line.unused) and not text.strip():
        raise RequestError("The settings have no prompt above them; write one there.")
    return text


def _options(text: str, line: Line) -> str:
    """Take `--name value` off the end, or the whole line where it begins so."""
    start = 0 if SHORT.match(text) else _outside_quotes(text)
    if start is None:
        return text
    options = _options_in(text[start:])
    foreign = options is not None and all(len(value.split()) <= 1 for _, value, _ in options)
    known = {"no", "prompt", *COLUMNS}
    ours = options is not None and any(column_of(name) in known for name, _, _ in options)
    if options is None or not (ours or foreign):
        if start:
            return text  # words with dashes; `syntax_in` warns of them
        raise RequestError(
            "The line {line} begins with an option that cannot be read; write it like"
            ' --prompt "a red ball" --seed 5.',
            line=repr(text[:40]),
        )
    for name, value, shown in options:
        flag = re.sub("^no[-_]", "", name.lower())
        if not value and column_of(flag) in FLAGS:
            _take(line, flag, str(flag == name.lower()), shown)
        else:
            _take(line, name, value, shown)
    rest = text[:start].strip()
    if not rest and "prompt" not in line.cells:
        raise RequestError(
            'The line has options but no prompt; write it like --prompt "a red ball" --seed 5.'
        )
    return rest


def _outside_quotes(text: str) -> int | None:
    """Where the first option begins that is in no quotes."""
    starts = [match.start() for match in DASHES.finditer(text)]
    for start in starts:
        before = text[:start]
        if before.count('"') % 2 == 0 and before.count("“") == before.count("”"):
            return start
    return None


def _options_in(text: str) -> list[tuple[str, str, str]] | None:
    """Options with their names, values and spelling; None where that is no such text."""
    options = []
    while text:
        dashes = DASHES.match(text)
        name = NAME.match(text, dashes.end()) if dashes else None
        if name is None:
            return None
        rest = text[name.end() :].lstrip(" =")
        closing = QUOTES.get(rest[:1], "")
        end = next(
            (at for at in range(1, len(rest)) if rest[at] in closing and _closes(rest, at)), 0
        )
        if closing and not end and closing not in "'’":
            return None
        if closing and end:
            value, after = rest[1:end].replace('\\"', '"'), rest[end + 1 :]
        else:
            following = DASHES.search(rest)
            end = following.start() if following else len(rest)
            value, after = rest[:end].strip(), rest[end:]
        options.append((name[0], value, f"--{name[0]} {value}".strip()))
        text = after.lstrip(" ,")
    return options


def _closes(text: str, at: int) -> bool:
    """Whether the quote at a place ends what it is around."""
    return text[at - 1] != "\\" and not text[at + 1 : at + 2].strip()


def _pairs(text: str, line: Line) -> str:
    """Take `, key=value` off the end where it names a column."""
    while match := EQUALS.search(text):
        if column_of(match[1]) not in COLUMNS:
            break
        if not match[2].strip(' "'):
            raise RequestError(
                "The setting {name} has no value; write one, like count=2.", name=repr(match[1])
            )
        _take(line, match[1], match[2].strip(' "'), "")
        text = text[: match.start()]
    return text


def _unquoted(text: str) -> str | None:
    """What is in the quotes around the whole text, None where there are none."""
    text = text.strip()
    inner = text[1:-1]
    closing = QUOTES.get(text[:1], "")
    if len(text) < 3 or text[-1] not in closing or text[0] == "'":
        return None
    return None if text[0] in inner or text[-1] in inner else inner.strip()
