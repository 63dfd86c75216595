"""`nds settings`: show one setting or all, or change one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from studio.cli.console import complain, print_json

PATHS = ("clips", "pack")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add those of the command."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="one setting; default: all")
    parser.add_argument(
        "value",
        nargs="?",
        metavar="VALUE",
        help="the new value: true, false, a number, text, or null for the default",
    )
    parser.add_argument("--json", action="store_true", help="as JSON on stdout")
    parser.set_defaults(command=_settings)


def _settings(arguments: argparse.Namespace) -> None:
    from studio.system.settings import KNOWN, SettingsError, change, load, settings_file

    name = arguments.name
    if name is not None and name not in KNOWN:
        raise SettingsError(
            "There is no setting {name!r}; choose one of {names}.",
            names=", ".join(KNOWN),
            name=name,
        )
    settings, complaint = load(settings_file())
    if complaint:
        complain(complaint)
    if arguments.value is not None:
        settings = change(settings_file(), **{name: _value(name, arguments.value)})
    shown = {known: getattr(settings, known) for known in KNOWN if name in (None, known)}
    if arguments.json:
        print_json(shown)
        return
    for known, value in shown.items():
        text = value if isinstance(value, str) else json.dumps(value)
        print(text if name else f"{known:9} {text}")


def _value(name: str, text: str) -> object:
    """What was typed, as the setting stores it."""
    if name in PATHS and text not in ("", "null"):
        return str(Path(text).absolute())
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value
