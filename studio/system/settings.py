"""The user's settings: one JSON file, written at once, with a copy of the last good one beside it.

A damaged file is set aside, the last good copy takes its place, and one sentence says so.
What another version of the studio has put into the file stays in it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from engine.config import MODES, Mode
from engine.errors import Message, NeodragonError, reason_of
from studio.system import paths
from studio.system.files import publish, replace_whole
from studio.system.paths import data_folder
from studio.system.sqlite import BUSY, lock

Theme = Literal["system", "light", "dark"]
Language = Literal["system", "en", "zh", "de"]

BACKENDS = ("cpu", "npu", "npu-emulated")  # of engine.session, which is slow to import
LIMIT = 2**20  # bytes
_LOCK = threading.Lock()  # so that no change of one thread is lost to another's


class SettingsError(NeodragonError):
    """A setting cannot have this value, or the settings cannot be saved."""


@dataclass(frozen=True)
class Settings:
    """What the user prefers; raises SettingsError.

    language, theme: of the page; expert: show steps, backend and the like; clips: the folder for
    them, pack: a folder or .zip, backend: what the engine runs on, threads: of the CPU, each None
    for the studio's own choice; mode, upscale: of new requests; suffix: add the pack's style to
    prompts; awake: keep the machine awake while jobs run; battery: percent below which the queue
    pauses, 0 for never; notify: say when the queue is done; safety: let the pack's checker
    withhold first frames; rest: what another version has put into
    the file.
    """

    language: Language = "system"
    theme: Theme = "system"
    expert: bool = False
    clips: str | None = None
    pack: str | None = None
    backend: str | None = None
    threads: int | None = None
    mode: Mode = "hybrid"
    upscale: bool = True
    suffix: bool = True
    awake: bool = True
    battery: int = 20
    notify: bool = True
    safety: bool = True
    rest: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._choose("language", get_args(Language))
        self._choose("theme", get_args(Theme))
        self._choose("mode", MODES)
        self._choose("backend", (None, *BACKENDS))
        for name in ("expert", "upscale", "suffix", "awake", "notify", "safety"):
            self._choose(name, (True, False))
        for name in ("clips", "pack"):
            value = getattr(self, name)
            self._require(
                name, value is None or isinstance(value, str) and value, Message("a path")
            )
        self._require("threads", self.threads is None or _whole(self.threads, 1, 1024), "1 .. 1024")
        self._require("battery", _whole(self.battery, 0, 100), "0 .. 100 %")

    def _choose(self, name: str, values: tuple[Any, ...]) -> None:
        value = getattr(self, name)
        known = any(value == choice and type(value) is type(choice) for choice in values)
        self._require(name, known, ", ".join(json.dumps(choice) for choice in values))

    def _require(self, name: str, valid: object, expected: object) -> None:
        if not valid:
            raise SettingsError(
                "The setting {name} cannot be {value!r}; choose {expected}.",
                name=name,
                expected=expected,
                value=str(getattr(self, name))[:40],
            )


KNOWN = tuple(part.name for part in fields(Settings) if part.name != "rest")


def settings_file() -> Path:
    """The file of this user's settings."""
    return data_folder() / "settings.json"


def clips_folder() -> Path:
    """The folder for finished clips: the user's choice, else the one in Videos."""
    chosen = load(settings_file())[0].clips
    return paths.clips_folder() if chosen is None else Path(chosen)


def pack_path() -> Path:
    """The pack to use when none is named: `$NEODRAGON_PACK`, the user's choice, the mini pack."""
    chosen = None if paths.PACK_VARIABLE in os.environ else load(settings_file())[0].pack
    return paths.default_pack() if chosen is None else Path(chosen)


def load(path: Path) -> tuple[Settings, Message | None]:
    """The settings in a file, and a sentence where something was wrong with it.

    Without a file they are the studio's own. A value that this version does not take is replaced by
    the studio's own, a damaged file by the last good copy; never raises for what is in it.
    """
    try:
        return _parsed(_read(path), path)
    except FileNotFoundError:
        return Settings(), None
    except OSError as error:
        aside = ""
        problem = Message(
            "The settings in {name} cannot be read ({reason}).",
            {"name": path.name, "reason": reason_of(error)},
        )
    except (ValueError, RecursionError):
        aside = _set_aside(path)
        problem = Message("The settings in {name} are damaged.", {"name": path.name})
        if aside:
            problem = Message(
                "The settings in {name} are damaged; the file is kept as {kept}.",
                {"name": path.name, "kept": aside},
            )
    used = Message("The standard settings are used.")
    settings = Settings()
    try:
        settings, _ = _parsed(_read(_copy(path)), path)
        used = Message("The last good settings are used.")
        if aside:
            save(path, settings)
    except (OSError, ValueError, RecursionError, SettingsError):
        pass  # no copy, or no place for it: the sentence below says what is used
    return settings, Message("{problem} {used}", {"problem": problem, "used": used})


def save(path: Path, settings: Settings) -> None:
    """Write the settings at once, then their copy; raises SettingsError."""
    values = dict(settings.rest) | {name: getattr(settings, name) for name in KNOWN}
    text = json.dumps(values, ensure_ascii=False, indent=1).encode("utf-8", "replace")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for target in (path, _copy(path)):
            replace_whole(target, text)
    except OSError as error:
        raise SettingsError(
            "The settings cannot be written to {path} ({reason}); free some space or close the "
            "file elsewhere.",
            path=path,
            reason=reason_of(error),
        ) from error


def change(path: Path, **changes: Any) -> Settings:
    """Change some settings in a file, leaving the others as they are there; all of them then.

    Raises SettingsError.
    """
    unknown = set(changes) - set(KNOWN)
    if unknown:
        raise SettingsError(
            "There is no setting {name!r}; choose one of {known}.",
            name=min(unknown),
            known=", ".join(KNOWN),
        )
    with _LOCK, _alone(path):
        settings, _ = load(path)
        settings = replace(settings, **changes)
        if path.exists():
            _check_replaceable(path)
        save(path, settings)
    return settings


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """No other process changes the settings meanwhile; raises SettingsError."""
    with ExitStack() as stack:
        try:
            taken = stack.enter_context(lock(path.with_suffix(".lock"), BUSY))
        except (OSError, sqlite3.Error) as error:
            raise SettingsError(
                "The settings cannot be saved in {folder} ({reason}); free some space, or choose"
                " a folder that can be written.",
                folder=str(path.parent),
                reason=reason_of(error),
            ) from error
        if not taken:
            raise SettingsError("Another program is changing the settings; try again.")
        yield


def _check_replaceable(path: Path) -> None:
    """Raise SettingsError where what the file says is not known, so that it would be lost."""
    try:
        _read(path)
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(
            "The settings in {name} cannot be read ({reason}), so nothing was changed; move the"
            " file away.",
            name=str(path),
            reason=getattr(error, "strerror", None) or Message("they are damaged"),
        ) from error


def _read(path: Path) -> dict[str, Any]:
    """What is in a file; raises OSError or ValueError."""
    if path.stat().st_size > LIMIT:
        raise ValueError("too large")
    values = json.loads(path.read_text(encoding="utf-8-sig"))  # as Notepad may save it
    if not isinstance(values, dict):
        raise ValueError("not an object")
    return values


def _parsed(values: Mapping[str, Any], path: Path) -> tuple[Settings, Message | None]:
    """The settings and the first complaint about a value."""
    rest = {name: value for name, value in values.items() if name not in KNOWN}
    settings = Settings(rest=rest)
    complaint: Message | None = None
    for name in KNOWN:
        if name in values:
            try:
                settings = replace(settings, **{name: values[name]})
            except SettingsError as error:
                complaint = complaint or Message(
                    "{file}: {problem}", {"file": path.name, "problem": error.message}
                )
    return settings, complaint


def _set_aside(path: Path) -> str:
    """Move a damaged file out of the way, over nothing; its new name, "" where it stays."""
    try:
        return publish(path, path.with_suffix(".damaged.json"), overwrite=False).name
    except OSError:
        return ""


def _copy(path: Path) -> Path:
    return path.with_suffix(".last-good.json")


def _whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
