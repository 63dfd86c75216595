"""Folders: the studio's data, the pack, the user's clips, and how their files are named.

How files are written is in `studio/system/files.py`.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import platformdirs

_INSTALLED = Path(__file__).parents[1] / "assets"
ASSETS = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[2] / "assets"

PACK_VARIABLE = "NEODRAGON_PACK"
DATA_VARIABLE = "NEODRAGON_DATA"
APPLICATION = "Neodragon Studio"
WORDS_LENGTH = 40  # characters of the prompt in a file name


def own_worker() -> list[str]:
    """The command that starts a worker process of this program.

    The frozen folder has no Python to call: there the program itself takes `--worker`
    (studio/launcher.py).
    """
    if getattr(sys, "frozen", False):
        return [sys.executable, "--worker"]
    return [sys.executable, "-P", "-m", "studio.jobs.worker"]  # not from the folder we stand in


def own_farm() -> list[str]:
    """The command that starts the farm's host, likewise."""
    if getattr(sys, "frozen", False):
        return [sys.executable, "--farm"]
    return [sys.executable, "-P", "-m", "studio.farm.host"]


def default_pack() -> Path:
    """The pack to use when none is named: `$NEODRAGON_PACK`, else the mini pack in `assets`."""
    return Path(os.environ.get(PACK_VARIABLE) or ASSETS / "mini")


def clips_folder() -> Path:
    """The folder for finished clips, in the user's Videos; not created here."""
    return platformdirs.user_videos_path() / APPLICATION


def data_folder() -> Path:
    """The studio's own folder: `$NEODRAGON_DATA`, else among the user's application data."""
    named = os.environ.get(DATA_VARIABLE)
    return Path(named) if named else platformdirs.user_data_path(APPLICATION, appauthor=False)


def private(folder: Path) -> None:
    """Make a folder of the studio's own, or an older one, this user's alone; raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.name == "posix" and folder.stat().st_uid == os.geteuid():
        folder.chmod(0o700)


def private_file(path: Path) -> None:
    """Make a file of the studio's own, or an older one, this user's alone; raises OSError."""
    if not path.parent.exists():
        private(path.parent)
    with suppress(FileExistsError):
        # Only a new one is opened: closing one that is open elsewhere in this process would drop
        # the locks that SQLite has on it.
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o600))
    if os.name == "posix" and path.stat().st_uid == os.geteuid():
        path.chmod(0o600)


def jobs_file() -> Path:
    """The job table that the page and the command line share."""
    return data_folder() / "jobs.sqlite"


def cache_folder() -> Path:
    """The folder for previews, which may be deleted at any time."""
    named = os.environ.get(DATA_VARIABLE)
    cache = platformdirs.user_cache_path(APPLICATION, appauthor=False)
    return Path(named) / "cache" if named else cache


def graphs_folder() -> Path:
    """The folder for graphs that are ready to load, which may be deleted at any time, too."""
    return cache_folder() / "graphs"


def clip_name(prompt: str, look_seed: int, motion_seed: int, when: datetime) -> str:
    """A short name every file system takes: date, time, seeds and the prompt's first words."""
    text = textwrap.shorten(
        re.sub(r"[^a-z0-9]+", " ", prompt.lower()), WORDS_LENGTH, placeholder=""
    )
    parts = [
        f"{when:%Y-%m-%d_%H%M}",
        f"look{look_seed}",
        f"motion{motion_seed}",
        text.replace(" ", "-"),
    ]
    return "_".join(part for part in parts if part) + ".mp4"
