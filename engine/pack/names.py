"""Names of files in a pack: such as every file system can store, and none of them twice."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from engine.errors import Message, PackError

LONGEST = 200  # bytes in UTF-8; file systems take 255 of a name, and .part is added to it
FORBIDDEN = set('\\:*?"<>|')
DEVICES = re.compile(r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|CLOCK\$|(COM|LPT)[0-9¹²³])", re.IGNORECASE)


def check_name(name: object) -> str:
    """A relative file name with forward slashes that Windows can store too; raises PackError."""
    problem = _problem(name) if isinstance(name, str) else Message("is not text")
    if problem:
        raise PackError(
            "The file name {name} in the pack {problem}; get the pack again or export it anew.",
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
        "The files {one} and {other} of the pack cannot be in one folder; get the pack again or "
        "export it anew.",
        one=one,
        other=other,
    )


def _problem(name: str) -> Message | None:
    """What is wrong with a name, to end a sentence."""
    if not name:
        return Message("is empty")
    if not name.isprintable():
        return Message("has control characters")
    if len(name.encode()) > LONGEST:
        return Message("has more than {limit} bytes", {"limit": LONGEST})
    if set(name) & FORBIDDEN:
        return Message("has one of {forbidden}", {"forbidden": " ".join(sorted(FORBIDDEN))})
    for part in name.split("/"):
        if part in ("", ".", ".."):
            return Message("leaves its folder")
        if part != part.strip(" ") or part.endswith("."):
            return Message("begins or ends with a space, or ends with a dot")
        if DEVICES.fullmatch(part.partition(".")[0].rstrip(" ")):
            return Message("is a device on Windows")
    return None
