"""Names of files in a pack: such as every file system can store, and none of them twice."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from engine.errors import PackError

LONGEST = 200  # bytes in UTF-8; file systems take 255 of a name, and .part is added to it
FORBIDDEN = set('\\:*?"<>|')
DEVICES = re.compile(r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|CLOCK\$|(COM|LPT)[0-9¹²³])", re.IGNORECASE)


def check_name(name: object) -> str:
    """A relative file name with forward slashes that Windows can store too; raises PackError."""
    problem = "is no text" if not isinstance(name, str) else _problem(name)
    if problem:
        raise PackError(
            "A file of the pack should have a plain relative name, but {name} {problem}; get the"
            " pack again or export it anew.",
            name=f"{name!a:.80}",
            problem=problem,
        )
    return str(name)


def check_together(names: Iterable[str]) -> None:
    """Raise PackError where two names are one file on some system, or a file is a folder too.

    Windows and macOS take no notice of case, macOS none of how an accent is written.
    """
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for name in dict.fromkeys(names):
        parts = _folded(name).split("/")
        twin = files.setdefault("/".join(parts), name)
        for depth in range(1, len(parts)):
            folders.setdefault("/".join(parts[:depth]), name)
        if twin != name:
            raise _clash(twin, name)
    for folded in files.keys() & folders.keys():
        raise _clash(files[folded], folders[folded])


def _folded(name: str) -> str:
    for _ in range(2):  # folding an accented capital may leave it in another form
        name = unicodedata.normalize("NFC", name).casefold()
    return name


def _clash(one: str, other: str) -> PackError:
    return PackError(
        "The files {one} and {other} of the pack cannot be stored beside each other; get the pack"
        " again or export it anew.",
        one=one,
        other=other,
    )


def _problem(name: str) -> str:
    """What is wrong with a name, to end a sentence; "" for nothing."""
    if not name:
        return "is empty"
    if not name.isprintable():
        return "has control characters"
    if len(name.encode()) > LONGEST:
        return f"has more than {LONGEST} bytes"
    if set(name) & FORBIDDEN:
        return f"has one of {' '.join(sorted(FORBIDDEN))}"
    for part in name.split("/"):
        if part in ("", ".", ".."):
            return "leaves its folder"
        if part != part.strip(" ") or part.endswith("."):
            return "begins or ends with a space or ends with a full stop"
        if DEVICES.fullmatch(part.partition(".")[0].rstrip(" ")):
            return "is a device on Windows"
    return ""
