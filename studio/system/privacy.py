"""Reports without the user's name and folders."""

from __future__ import annotations

import getpass
import os
from pathlib import Path


def redacted(text: str) -> str:
    """The text without the user's folders and name."""
    homes = {str(Path.home()), os.path.realpath(Path.home())}
    for home in sorted(homes - {"/", ""}, key=len, reverse=True):
        text = text.replace(home, "~").replace(home.replace("\\", "/"), "~")
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):
        user = ""
    return text.replace(user, "USER") if len(user) > 2 else text
