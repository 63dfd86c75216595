"""Reports without the user's name and folders."""

from __future__ import annotations

import getpass
import os
import re
import sys
from pathlib import Path


def redacted(text: str) -> str:
    """The text without the user's folders and name, however the system or JSON writes them."""
    homes = {str(Path.home()), os.path.realpath(Path.home())}
    short = {_short(home) for home in homes}
    for home in sorted((homes | short) - {"/", ""}, key=len, reverse=True):
        for way in (home, home.replace("\\", "/"), home.replace("\\", "\\\\")):
            text = _replaced(text, way, "~")
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):
        user = ""
    for name in sorted({user, *(Path(home).name for home in short)}, key=len, reverse=True):
        text = _replaced(text, name, "USER") if len(name) > 2 else text
    return text


def _replaced(text: str, old: str, new: str) -> str:
    """Windows tells no upper from lower case in names."""
    flags = re.IGNORECASE if sys.platform == "win32" else 0
    return re.sub(re.escape(old), lambda _: new, text, flags=flags)


def _short(path: str) -> str:
    """The 8.3 form of a path (`C:\\Users\\MARIA~1`), in which Windows gives TEMP; "" elsewhere."""
    if sys.platform != "win32":
        return ""
    import ctypes  # noqa: PLC0415  Windows' alone

    short = ctypes.create_unicode_buffer(1024)
    length = ctypes.WinDLL("kernel32").GetShortPathNameW(path, short, len(short))
    return short.value if 0 < length < len(short) else ""
