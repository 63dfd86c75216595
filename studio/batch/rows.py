"""A record's cells to jobs: every seed drawn, every grid and wildcard spelled out."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path, PureWindowsPath
from typing import Any

from engine.config import OLD_NAMES, SEED_LIMIT
from engine.errors import Message, RequestError, reason_of
from engine.pack import Pack
from studio.batch import values
from studio.batch.columns import COLUMNS, FILLED, nearest
from studio.batch.encodings import decode
from studio.batch.options import FRAGMENT
from studio.batch.record import Cells, is_comment
from studio.batch.records import LIST_LIMIT, lines_of
from studio.batch.values import shown
from studio.jobs.spec import KINDS, Entry, Work, content_key

Seeds = tuple[int | None, int | None]  # look and motion, None to be drawn

DEFAULTS = {field.name: field.default for field in fields(Work)}
GRID = ("look_seed", "motion_seed", "repeats")
ROW_LIMIT = 1000  # jobs of one row
JOB_LIMIT = 20_000  # jobs of one list
NAME_LIMIT = 100  # characters of a wildcard's name
RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\.|$)", re.I)
TOKENS = re.compile(r"(\\[{}|_#]|[{}|]|__.+?__)")


class Rows:
    """Turns the cells of rows into jobs; remembers the wildcards it has read.

    The arguments are those of `studio.batch.lists.parse`; spelled: the columns in the list's words.
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
        spelled: Mapping[str, str],
    ) -> None:
        self.pack = pack
        self.backend = backend
        self.defaults = defaults
        self.pictures = [] if folder is None else [folder]
        self.folders = [*self.pictures, *([] if wildcards is None else [wildcards])]
        self.draw = draw
        self.name = name
        self.spelled = spelled
        self.alike: Counter[str] = Counter()
        self.total = 0
        self.drawn: dict[str, list[str]] = {}

    def entries(self, line: int, record: Cells) -> tuple[Entry, ...]:
        """The jobs of a row; raises RequestError."""
        known = {name: value for name, value in record.items() if not values.is_empty(value)}
        for name in known:
            if name not in (*COLUMNS, *FILLED) and not name.startswith("#"):
                raise self._unknown(name)
        cells = {**self.defaults, **known}
        if "prompt" not in cells:
            raise RequestError(
                "The row has no prompt; write one in {where}.", where=self._at("prompt")
            )
        template = values.line_of("prompt", self._at("prompt"), cells["prompt"])
        if FRAGMENT.search(template):
            raise RequestError(
                "The prompt ({where}) is {got}, a piece of JSON or no word; write a prompt.",
                where=self._at("prompt"),
                got=shown(template),
            )
        prompts = self._prompts(template)
        seeds = self._seeds(cells, len(prompts))
        self._count(len(prompts) * len(seeds))
        rest = self._rest(cells)
        works = (
            Work.from_dict(
                {
                    **rest,
                    "prompt": self._resolved(prompt, look),
                    "look_seed": look,
                    "motion_seed": motion,
                }
            )
            for look, motion in seeds
            for prompt in prompts
        )
        return tuple(Entry(work, content_key(work, self.pack), line) for work in works)

    def _at(self, name: str) -> Message:
        """Where a value stands, as the list names it."""
        return Message("column {column}", {"column": self.spelled.get(name, name)})

    def _unknown(self, name: str) -> RequestError:
        column = self._at(name)
        close = nearest(name)
        if close:
            return RequestError(
                "The {column} is not known; did you mean {close}? Correct it, or put # before the"
                " name to keep it as your own.",
                column=column,
                close=close,
            )
        return RequestError(
            "The {column} is not known; use {columns}, or put # before the name to keep it as your"
            " own.",
            column=column,
            columns=", ".join(COLUMNS),
        )

    def _rest(self, cells: Cells) -> dict[str, Any]:
        """What is the same in all jobs of a row."""
        names = [name for name in COLUMNS if name in cells and name not in ("prompt", *GRID)]
        rest = {name: self._value(name, self._at(name), cells[name]) for name in names}
        return rest | {"pack": str(self.pack.path.absolute()), "backend": self.backend}

    def _value(self, name: str, at: Message, cell: object) -> Any:
        """A cell as its field of the work has it: text unless the field is something else."""
        match name:
            case "mode":
                return values.choice(name, at, cell, tuple(self.pack.schedule.modes))
            case "kind":
                return values.choice(name, at, cell, KINDS)
            case "steps":
                return values.steps(at, cell)
            case "image":
                return _inside(self.pictures, "picture", values.line_of("picture", at, cell))
        if isinstance(DEFAULTS[name], bool):
            return values.truth(name, at, cell)
        return values.line_of(name.replace("_", " "), at, cell)

    def _count(self, jobs: int) -> None:
        """Add to the total; raises RequestError where it becomes absurd."""
        _check_count("row", jobs, ROW_LIMIT)
        _check_count("list", self.total + jobs, JOB_LIMIT)
        self.total += jobs

    def _seeds(self, cells: Cells, alternatives: int) -> list[tuple[int, int]]:
        """The pairs of seeds of a row; random ones are drawn, or taken from an earlier run."""
        looks = values.seeds("look seed", self._at("look_seed"), cells.get("look_seed"))
        motions = values.seeds("motion seed", self._at("motion_seed"), cells.get("motion_seed"))
        repeats = values.count("repeats", self._at("repeats"), cells.get("repeats", 1))
        if str(cells.get("kind", "")).lower() == "frame":
            motions = [0]  # it does not move
        if repeats > 1 and None not in (*looks, *motions):
            raise RequestError(
                "The row makes the same again {count} times, as both seeds are given; leave one"
                " empty or write a range like 1..9.",
                count=repeats,
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
        old = {new: old for old, new in OLD_NAMES.items()}  # seeds stay what they were
        columns = {
            old.get(name, name): cells[name]
            for name in COLUMNS
            if name in cells and name not in GRID
        }
        text = json.dumps([self.name, columns], sort_keys=True)
        self.alike[text] += 1
        start = f"{text} {self.alike[text]}"
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
                r"The wildcard {got} is no file's name of letters, digits, - and _; correct it or"
                r" write \_ for a plain _.",
                got=shown(name),
            )
        path = _inside(self.folders, "wildcard", f"{name}.txt")
        try:
            if path.stat().st_size > LIST_LIMIT:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            lines = [line.strip() for line in lines_of(decode(path.read_bytes()).content)]
        except OSError as error:
            raise RequestError(
                "The wildcard {name} cannot be read ({reason}); look at the file.",
                name=path.name,
                reason=reason_of(error),
            ) from error
        choices = [line for line in lines if line and not is_comment(line)]
        if not choices:
            raise RequestError(
                "The wildcard {name} has no line to draw; write one choice per line.",
                name=path.name,
            )
        nested = next((line for line in choices if TOKENS.search(line)), None)
        if nested is not None:
            raise RequestError(
                "The wildcard {name} has {line}, and its lines are used as they are; write one "
                "choice per line, without braces, | and __.",
                name=path.name,
                line=shown(nested),
            )
        self.drawn[name] = [values.plain("wildcard", Message(path.name), line) for line in choices]

    def _resolved(self, prompt: str, look_seed: int) -> str:
        """The prompt with its wildcards drawn by the look seed."""
        numbers = itertools.count()

        def draw(match: re.Match[str]) -> str:
            choices = self.drawn[match[1]]
            digest = hashlib.sha256(f"{look_seed} {next(numbers)} {match[1]}".encode()).digest()
            return choices[int.from_bytes(digest[:8]) % len(choices)]

        text = re.sub("\0(.*?)\0", draw, prompt)
        return values.plain("prompt", self._at("prompt"), text)


def _check_count(what: str, count: int, limit: int) -> None:
    if count > limit:
        raise RequestError(
            "The {what} would make {count} clips, but {limit} are the most; make it shorter.",
            what=Message(what),
            count=count,
            limit=limit,
        )


def _unbalanced(template: str, what: str) -> RequestError:
    return RequestError(
        "The prompt {got} {what}; write braces in pairs like {example}, or {plain} for a plain"
        " one.",
        got=shown(template),
        what=Message(what),
        example="{red|blue}",
        plain=r"\{",
    )


def _pairs(value: object) -> list[tuple[int, int]]:
    """The seeds that filling in wrote, `look/motion; ..`; none where it says anything else."""
    if not isinstance(value, str):
        return []
    pairs = [re.fullmatch(r"\s*([0-9]{1,10})/([0-9]{1,10})\s*", part) for part in value.split(";")]
    seeds = [(int(match[1]), int(match[2])) for match in pairs if match]
    good = len(seeds) == len(pairs) and all(max(pair) < SEED_LIMIT for pair in seeds)
    return seeds if good else []


def _inside(folders: Sequence[Path], what: str, name: str) -> Path:
    """The file of that name in one of the folders and nowhere else; raises RequestError."""
    parts = PureWindowsPath(name)  # takes both kinds of slashes
    tricky = parts.anchor or ":" in name or any(part.strip(" .") == "" for part in parts.parts)
    reserved = any(RESERVED.match(part.strip()) for part in parts.parts)
    values: dict[str, object] = {"what": Message(what), "name": shown(name)}
    if not folders:
        raise RequestError(
            "The {what} {name} is looked for beside the list, but a pasted list lies nowhere; save"
            " it as a file, the {what} beside it.",
            **values,
        )
    if not parts.parts or tricky or reserved:
        raise RequestError(
            "The {what} {name} is no file's name; put the file beside the list and write its name.",
            **values,
        )
    for folder in folders:
        try:
            path = folder.joinpath(*parts.parts).resolve()
            if path.is_relative_to(folder.resolve()) and path.is_file():
                return path
        except (OSError, ValueError, RuntimeError):
            continue
    raise RequestError(
        "The {what} {name} is not in {folder}; put it there or correct the name.",
        folder=folders[0],
        **values,
    )
