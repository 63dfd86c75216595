"""How files are written: complete or not at all, replacing nothing, with a name valid everywhere.

A new file is written under a temporary name in its own folder (`writing`) and gets its own when it
is complete, in one step that replaces nothing (`publish`, `move`). So even after a kill no
incomplete file has a final name.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import itertools
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import BufferedReader
from pathlib import Path
from typing import Any

from engine.errors import NeodragonError, reason_of

NAME_LIMIT = 255  # of a file's name: bytes in UTF-8, on Windows units of UTF-16
SHOWN = 40  # characters of a name that is too long
RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\.|$)", re.I)  # noqa: RUF001
UNSTORED = "The disk cannot store a file called {name}; choose another name."
FORBIDDEN = '<>:"|?*\\/'  # on Windows
AT_FDCWD, RENAME_NOREPLACE = -100, 1  # of Linux
NOT_HERE = (  # what a file system says that lacks such a call
    *(errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP),
)


class OutputError(NeodragonError):
    """A file cannot be written or read where the user asked."""


def prepare(path: Path, suffix: str) -> Path:
    """`path` made absolute, its folder created; raises OutputError where no file can come to be.

    Called before the work starts, so that an hour of rendering never ends in a typing mistake.
    """
    if path.suffix.lower() != suffix:
        raise OutputError(
            "The file {name} must end in {suffix}; give it that ending.",
            name=repr(_short(path.name or str(path))),
            suffix=suffix,
        )
    path = path.absolute()
    for one in (path, *path.parents):
        if one != path and os.path.lexists(one):
            break
        _check_name(one.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        trial = partial(path)
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise OutputError(
            "The folder {folder} takes no new file ({reason}); choose another folder.",
            folder=path.parent,
            reason=reason_of(error),
        ) from error
    try:
        path.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _unusable(path.name, UNSTORED) from error
    return path


def _check_name(name: str) -> None:
    """Raise OutputError for a name that some system does not take or makes another of."""
    try:
        size = _length(name)
        name.encode()
    except UnicodeEncodeError as error:
        raise _unusable(
            name, "The name {name} is not valid Unicode; choose another name."
        ) from error
    if size > NAME_LIMIT:
        raise OutputError(
            "The name {name} takes {size} bytes, and a file name has at most {limit}; choose a "
            "shorter one.",
            name=repr(_short(name)),
            size=size,
            limit=NAME_LIMIT,
        )
    if any(ord(character) < 32 or character == "\x7f" for character in name):
        raise _unusable(name, "The name {name} has control characters; choose another name.")
    if RESERVED.match(name):
        raise _unusable(name, "The name {name} is a device on Windows; choose another name.")
    if name.endswith((" ", ".")) and name.strip("."):
        raise _unusable(
            name,
            "The name {name} ends in a dot or a space, which Windows drops; choose another name.",
        )
    if os.name == "nt" and any(character in name for character in FORBIDDEN):
        raise _unusable(name, UNSTORED)


def _unusable(name: str, template: str) -> OutputError:
    return OutputError(template, name=repr(_short(name)))


def _short(name: str) -> str:
    return name if len(name) <= SHOWN else name[: SHOWN - 1] + "…"


def _length(name: str) -> int:
    """What counts against NAME_LIMIT."""
    if os.name == "nt":
        return len(name.encode("utf-16-le", "surrogatepass")) // 2
    return len(name.encode("utf-8", "surrogateescape"))


def fitted(path: Path, tail: str, *, told_apart: bool = False) -> Path:
    """`path` with `tail` after its name, which is cut where both would be too long.

    told_apart: names that differ only behind the cut get different ones.
    """
    name = path.name
    if _length(name + tail) <= NAME_LIMIT:
        return path.with_name(name + tail)
    if told_apart:
        raw = name.encode("utf-8", "surrogatepass")
        tail = f"~{hashlib.sha256(raw).hexdigest()[:8]}{tail}"
    while _length(name + tail) > NAME_LIMIT:
        name = name[:-1]
    return path.with_name(name.rstrip(" .") + tail)


def partial(path: Path) -> Path:
    """A temporary name beside `path`."""
    return path.with_name(f".{uuid.uuid4().hex[:12]}.part")


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A temporary name to write what becomes `path`; nothing of that name stays.

    Raises OutputError in place of OSError.
    """
    part = partial(path)
    try:
        yield part
    except OSError as error:
        raise unwritten(path, error) from error
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            with suppress(OSError):  # a folder that lost its rights meanwhile
                part.unlink(missing_ok=True)


def unwritten(path: Path, error: OSError) -> OutputError:
    """What to tell the user of a file that could not be written."""
    return OutputError(
        "{path} cannot be written ({reason}); free some space or choose another folder.",
        path=path,
        reason=reason_of(error),
    )


def publish(
    part: Path,
    path: Path,
    overwrite: bool,
    accept: Callable[[Path], bool] = lambda path: True,
) -> Path:
    """Move a finished file to `path`, or where that is taken to the first free `name-2`, `name-3`..

    accept: asked for each name before it is tried. Returns where it went; with `overwrite` that is
    always `path`. Raises OSError.
    """
    _flush(part)
    if overwrite:
        part.replace(path)
        _flush(path.parent)
        return path
    suffix = "" if part.is_dir() else path.suffix
    stem = path.with_name(path.name.removesuffix(suffix))
    for number in itertools.count(1):
        target = path if number == 1 else fitted(stem, f"-{number}{suffix}")
        if not os.path.lexists(target) and accept(target):
            with suppress(FileExistsError):
                move(part, target)
                return target
    raise AssertionError("numbers do not end")


def move(source: Path, target: Path) -> None:
    """Rename a file or folder to what nothing is called; raises FileExistsError or OSError.

    In one step, where the file system knows one; over nothing, everywhere.
    """
    if os.name == "nt":
        if os.path.lexists(target):  # Wine renames over a link to nowhere
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        os.rename(source, target)  # noqa: PTH104
    elif not _rename_noreplace(source, target):
        _rename_claimed(source, target)
    _flush(target.parent)
    if source.parent != target.parent:
        _flush(source.parent)


def replace_whole(path: Path, content: bytes) -> None:
    """Write a file at once, in place of the one that is there; raises OSError."""
    part = partial(path)
    try:
        part.write_bytes(content)
        _flush(part)
        part.replace(path)
        _flush(path.parent)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def open_regular(path: Path) -> BufferedReader:
    """A file open for reading; raises OSError for what is none, as a pipe that nobody writes to."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no ordinary file", str(path))
    return path.open("rb")


def _rename_noreplace(source: Path, target: Path) -> bool:
    """Rename by Linux' own call, else by a second name; False where neither is there."""
    call = _renameat2()
    if call is not None:
        names = os.fsencode(source), os.fsencode(target)
        if not call(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_NOREPLACE):
            return True
        number = ctypes.get_errno()
        if number not in NOT_HERE:
            raise OSError(number, os.strerror(number), str(target))
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NOT_HERE:
            raise
        return False
    source.unlink()
    return True


def _rename_claimed(source: Path, target: Path) -> None:
    """Claim the name with something empty, then replace that."""
    if source.is_dir():
        target.mkdir()
    else:
        target.open("xb").close()
    try:
        source.replace(target)
    except OSError:
        if source.is_dir():
            target.rmdir()
        else:
            target.unlink()
        raise


@cache
def _renameat2() -> Any:
    """Linux' rename that replaces nothing, None where the C library has none."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return call


def _flush(path: Path) -> None:
    """Have the disk keep a file's content or a folder's names now; raises OSError for a file."""
    if path.is_dir():
        if os.name == "nt":  # cannot, and does so itself
            return
        with suppress(OSError):
            _fsync(path, os.O_RDONLY)
    else:
        with suppress(PermissionError):  # what may only be read has been kept
            _fsync(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
