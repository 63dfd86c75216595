"""Where things lie: the studio's data, the pack, the user's clips, and how their files are named.

A new file is written under a temporary name in its own folder (`partial`) and moved when it is
whole (`publish`), so a half-written clip never carries a clip's name and nothing is overwritten.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
import textwrap
import uuid
from datetime import datetime
from pathlib import Path

import platformdirs

from engine.errors import NeodragonError

_INSTALLED = Path(__file__).parents[1] / "assets"
ASSETS = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[2] / "assets"

PACK_VARIABLE = "NEODRAGON_PACK"
DATA_VARIABLE = "NEODRAGON_DATA"
APPLICATION = "Neodragon Studio"
DEVICES = r"con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]"
WORDS_LENGTH = 40  # characters of the prompt in a file name


class OutputError(NeodragonError):
    """A file cannot be written or read where the user asked."""


def own_worker() -> list[str]:
    """The command that starts a worker process of this program.

    The frozen folder has no Python to call: there the program itself takes `--worker`
    (studio/launcher.py).
    """
    if getattr(sys, "frozen", False):
        return [sys.executable, "--worker"]
    return [sys.executable, "-P", "-m", "studio.jobs.worker"]  # not from the folder we stand in


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
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT, 0o600))
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


def clip_name(prompt: str, look_seed: int, motion_seed: int, when: datetime) -> str:
    """A short name every file system takes: date, time, seeds and the prompt's first words."""
    words = textwrap.shorten(
        re.sub(r"[^a-z0-9]+", " ", prompt.lower()), WORDS_LENGTH, placeholder=""
    )
    parts = [
        f"{when:%Y-%m-%d_%H%M}",
        f"look{look_seed}",
        f"motion{motion_seed}",
        words.replace(" ", "-"),
    ]
    return "_".join(part for part in parts if part) + ".mp4"


def prepare(path: Path, suffix: str) -> Path:
    """`path` made absolute, its folder created; raises OutputError where no file can come to be.

    Called before the work starts, so that an hour of rendering never ends in a typing mistake.
    """
    if path.suffix.lower() != suffix:
        raise OutputError(
            f"The file should be named *{suffix}, but it is {path.name!r}; give it that ending."
        )
    if reserved := [part for part in path.parts if _is_device(part)]:
        raise OutputError(
            "The file should have a name that Windows can store, but {name!r} is a device there;"
            " choose another name.",
            name=reserved[0],
        )
    path = path.absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        trial = partial(path)
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise OutputError(
            f"The folder {path.parent} should take a new file, but it does not"
            f" ({error.strerror}); choose another folder."
        ) from error
    if not _is_storable(path):
        raise OutputError(
            "The file should have a name that this disk can store, but {name!r} is none; choose"
            " another name.",
            name=path.name,
        )
    return path


def _is_device(name: str) -> bool:
    """Whether Windows takes a name, whatever its ending, for a device."""
    return bool(re.fullmatch(DEVICES, name.partition(".")[0].rstrip(" "), re.IGNORECASE))


def _is_storable(path: Path) -> bool:
    """Whether the file system takes the name of a file that is not there yet."""
    if sys.platform == "win32" and re.search(r'[<>:"|?*\x00-\x1f]', path.name):
        return False  # a colon would name a hidden stream of another file
    try:
        path.open("xb").close()
        path.unlink()
    except FileExistsError:
        return True
    except OSError:
        return False
    return True


def partial(path: Path) -> Path:
    """A temporary name beside `path`."""
    return path.with_name(f".{uuid.uuid4().hex[:12]}.part")


def publish(part: Path, path: Path, overwrite: bool) -> Path:
    """Move a finished file to `path`, or where that is taken to the first free `name-2`, `name-3`..

    Returns where it went; with `overwrite` that is always `path`. Raises OSError.
    """
    target = path
    if not overwrite:
        for number in itertools.count(2):
            try:
                target.open("xb").close()  # claims the name: another writer gets the next one
                break
            except FileExistsError:
                target = path.with_stem(f"{path.stem}-{number}")
    try:
        part.replace(target)
    except OSError:
        if not overwrite:
            target.unlink()  # the claim
        raise
    return target
