"""Every word of the page in each of its languages, from the one file `assets/strings.json`."""

from __future__ import annotations

import json
import locale
from functools import cache

from studio.system.paths import ASSETS

LANGUAGES = ("en", "zh", "de")


@cache
def _table() -> dict[str, dict[str, str]]:
    table: dict[str, dict[str, str]] = json.loads(
        (ASSETS / "strings.json").read_text(encoding="utf-8")
    )
    return table


def words(key: str, language: str, **values: object) -> str:
    """The string `key` in `language`, its `{places}` filled in; raises KeyError."""
    return _table()[key][language].format(**values)


def system_language() -> str:
    """The language of this machine where the page speaks it, else English."""
    code = (locale.getlocale()[0] or "").lower()
    code = {"chinese": "zh", "german": "de"}.get(code.split("_")[0], code[:2])  # Windows' names
    return code if code in LANGUAGES else "en"
