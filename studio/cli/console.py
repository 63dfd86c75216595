"""What the commands share: the parser, arguments, a progress line that is redrawn in place."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from engine.errors import NeodragonError
from studio.system.streams import is_drawn_on

if TYPE_CHECKING:
    from engine.pack import Pack
    from engine.session import Backend

SOME_FAILED = 1
FAILED = 2
BAR_WIDTH = 32


# What a terminal obeys instead of showing it: escapes of all kinds, and what turns text around.
CONTROL = [*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F)]
CONTROL += range(0x2066, 0x206A)
HARMLESS = dict.fromkeys(CONTROL, "\N{REPLACEMENT CHARACTER}")
ESCAPED = {code: f"\\u{code:04x}" for code in CONTROL}


class Plain:
    """A stream whose text cannot command the terminal: names and words come from files."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write it; `Bar` alone writes to the stream itself."""
        return self.stream.write(text.translate(HARMLESS))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one sentence."""

    def error(self, message: str) -> NoReturn:
        """End with it."""
        self.exit(FAILED, f"nds: {message}; see {self.prog} --help.\n")


def engine_arguments(parser: argparse.ArgumentParser) -> None:
    """What the engine runs, and where."""
    parser.add_argument("--pack", type=Path, help="folder or .zip; default: the mini pack")
    parser.add_argument(
        "--backend",
        choices=("cpu", "npu", "npu-emulated"),
        help="what runs the model; default: the NPU, if there is one",
    )


def seed(text: str) -> int:
    """An argument that is a seed."""
    if not (text.isascii() and text.isdigit() and int(text) < 2**32):
        raise argparse.ArgumentTypeError(
            f"use a whole number from 0 to {2**32 - 1} instead of {text!r}"
        )
    return int(text)


def counted(text: str) -> int:
    """An argument that is a number from 1."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**63):
        raise argparse.ArgumentTypeError(f"use a whole number from 1 instead of {text!r}")
    return int(text)


@contextmanager
def opened(arguments: argparse.Namespace) -> Iterator[tuple[Pack, Backend]]:
    """The pack and the backend of the arguments, else the mini pack and the best backend."""
    from engine.pack import open_pack
    from engine.session import available, require
    from studio.system import settings

    backend = arguments.backend or settings.load(settings.settings_file())[0].backend
    with open_pack(arguments.pack or settings.pack_path()) as pack:
        yield pack, require(backend) if backend else available()[0]


class Bar:
    """A line that is drawn over itself, where stderr is a terminal."""

    def __init__(self) -> None:
        self.live = is_drawn_on(sys.stderr)
        utf = "utf" in (sys.stderr.encoding or "").lower()
        self.full, self.rest = ("━", "─") if utf else ("#", "-")

    def draw(self, label: str, fraction: float, rest: str) -> None:
        """What is being done, how much of it is, 0 to 1, and something on the time."""
        if self.live:
            full = round(fraction * BAR_WIDTH)
            bar = self.full * full + self.rest * (BAR_WIDTH - full)
            line = f"{label:23} {bar} {fraction:4.0%} {rest}".translate(HARMLESS)
            self._put(f"\r\033[K{line}")

    def clear(self) -> None:
        """Make room for a line that stays."""
        if self.live:
            self._put("\r\033[K")

    def _put(self, text: str) -> None:
        stream = sys.stderr.stream if isinstance(sys.stderr, Plain) else sys.stderr
        print(text, end="", file=stream, flush=True)


def shown(path: Path) -> Path:
    """The path as short as it can be said from here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def complain(error: object) -> int:
    """Say on stderr what is wrong, in one line: a file's name may have several. The exit code."""
    print(f"nds: {' '.join(str(error).splitlines())}", file=sys.stderr)
    return FAILED


def print_json(content: object) -> None:
    """Print it for other programs."""
    print(json.dumps(content, ensure_ascii=False, indent=1).translate(ESCAPED))


def each(
    files: Iterable[Path], do: Callable[[Path], dict[str, object]]
) -> tuple[list[dict[str, object]], int]:
    """What was done to each file, and the exit code: 1 where some failed, 2 where all did.

    Each failure is said on stderr, and is `{"file": .., "error": ..}` among the results.
    """
    results = []
    for file in files:
        try:
            results.append(do(file))
        except NeodragonError as error:
            complain(error)
            results.append({"file": str(file.absolute()), "error": str(error)})
    failed = sum("error" in result for result in results)
    return results, 0 if not failed else FAILED if failed == len(results) else SOME_FAILED
