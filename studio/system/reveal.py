"""A file in its folder, in the system's own file manager."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from studio.system.files import OutputError


def reveal(path: Path) -> None:
    """Show a file there, chosen where the system can; raises OutputError."""
    if sys.platform == "win32":
        command = ["explorer", f"/select,{path}"]
    elif sys.platform == "darwin":
        command = ["open", "-R", str(path)]
    else:
        command = ["xdg-open", str(path.parent)]
    try:
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    except OSError as error:
        raise OutputError(
            "{folder} cannot be shown ({reason}); open it in your file manager.",
            folder=str(path.parent),
            reason=error.strerror or str(error),
        ) from error
