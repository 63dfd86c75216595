"""A record's cells to jobs: every seed drawn, every grid and wildcard spelled out."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import reprlib
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PureWindowsPath
from typing import Any

from engine.config import SEED_LIMIT
from engine.errors import RequestError
from engine.pack import Pack
from studio.batch.records import COLUMNS, FILLED, LIST_LIMIT, Cells, is_comment, lines_of
from studio.jobs.spec import Entry, Work, content_key

Seeds = tuple[int | None, int | None]  # look and motion, None to be drawn

GRID = ("look_seed", "motion_seed", "repeats")
PROMPT_LIMIT = 10_000  # characters
ROW_LIMIT = 1000  # jobs of one row
JOB_LIMIT = 20_000  # jobs of one list
NAME_LIMIT = 100  # characters of a wildcard's name
RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\.|$)", re.I)
TOKENS = re.compile(r"(\\[{}|_#]|[{}|]|__.+?__)")
TRUE, FALSE = ("true", "yes", "1", "on"), ("false", "no", "0", "off")


class Rows:
    """Turns the cells of rows into jobs; remembers the wildcards it has read.

    The arguments are those of `studio.batch.lists.parse`.
    """

    def __init__(
        self,
        pack: Pack,
        backend: str,
        defaults: Cells,
        folder: Path | None,
        wildcards: Path | None,
        draw: Callable[[], int],
        name: str | None,
    ) -> None:
        self.pack = pack
        self.backend = backend
        self.defaults = defaults
        self.folder = folder
        self.wildcards = wildcards
        self.draw = draw
        self.name = name
        self.alike: Counter[str] = Counter()
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
        for name in ("upscale", "suffix"):
            if name in cells:
                rest[name] = _truth(name, cells[name])
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
        looks = seed_cell("look seed", cells.get("look_seed", ""))
        motions = seed_cell("motion seed", cells.get("motion_seed", ""))
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
        draw = self._drawing(cells)
        return [
            (draw() if look is None else look, draw() if motion is None else motion)
            for look, motion in grid
        ]

    def _drawing(self, cells: Cells) -> Callable[[], int]:
        """What draws a row's seeds: in a list with a name, the same ones every time."""
        if self.name is None:
            return self.draw
        told = {name: cells[name] for name in COLUMNS if name in cells and name not in GRID}
        words = json.dumps([self.name, told], sort_keys=True)
        self.alike[words] += 1
        start = f"{words} {self.alike[words]}"
        draws = (hashlib.sha256(f"{start} {n}".encode()).digest() for n in itertools.count())
        return lambda: int.from_bytes(next(draws)[:4]) % SEED_LIMIT

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
            lines = [line.strip() for line in lines_of(path.read_bytes())]
        except OSError as error:
            raise RequestError(
                f"The wildcard {path.name} should be a text file, but it cannot be read"
                f" ({error.strerror}); look into the folder of wildcards."
            ) from error
        lines = [line for line in lines if line and not is_comment(line)]
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


def seed_cell(name: str, value: object) -> list[int | None]:
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
