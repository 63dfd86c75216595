"""Everything the page says, in each of its languages.

`assets/strings.json` has the page's own words by key; `assets/messages.json` has the translations
of messages (`engine.errors.Message`) by their English template. Plural forms, numbers and dates
follow Unicode's CLDR through Babel.
"""

from __future__ import annotations

import json
import locale
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from babel import Locale
from babel.dates import format_datetime
from babel.numbers import format_decimal, get_decimal_symbol

from engine.errors import Message, NeodragonError
from studio.system.paths import ASSETS

LANGUAGES = ("en", "zh", "de")


@cache
def _table(name: str) -> dict[str, Any]:
    table: dict[str, Any] = json.loads((ASSETS / name).read_text(encoding="utf-8"))
    return table


def string(key: str, language: str, **values: object) -> str:
    """The string `key` in `language` with its `{places}` filled in; raises KeyError.

    A string with plural forms (`{"one": .., "other": ..}`) is chosen by the value `count`.
    """
    entry = _table("strings.json")[key][language]
    if isinstance(entry, Mapping):
        form = Locale.parse(language).plural_form(values["count"])  # type: ignore[arg-type]
        entry = entry.get(form, entry["other"])
    text: str = entry
    return text.format(**values)


def translated(message: Message, language: str) -> str:
    """A message in `language`; in English where it is not translated."""
    template = _table("messages.json").get(message.template, {}).get(language, message.template)
    values = {name: _localised(value, language) for name, value in message.values.items()}
    return str(Message(template, values))


def _localised(value: object, language: str) -> object:
    """A value of a message: messages inside it are translated, decimals get the language's mark."""
    if isinstance(value, Message):
        return translated(value, language)
    if isinstance(value, float):
        return _Decimal(value, get_decimal_symbol(language))
    return value


class _Decimal(float):
    """A number that a template's `{value:.1f}` writes with another decimal mark."""

    def __new__(cls, value: float, mark: str) -> _Decimal:
        decimal = super().__new__(cls, value)
        decimal.mark = mark
        return decimal

    mark: str

    def __format__(self, spec: str) -> str:
        return float(self).__format__(spec).replace(".", self.mark)


def number(value: float, language: str, digits: int = 0) -> str:
    """A number with `digits` decimals and the language's separators: 1,234.5 or 1.234,5."""
    return format_decimal(round(value, digits), "#,##0." + "0" * digits, locale=language)


def moment(seconds: float, language: str) -> str:
    """A local date and time from seconds since 1970, short: `29 Nov, 14:05`, `29. Nov., 14:05`."""
    pattern = {"en": "d MMM, HH:mm", "de": "d. MMM, HH:mm", "zh": "M月d日 HH:mm"}[language]
    return format_datetime(datetime.fromtimestamp(seconds), pattern, locale=language)


@dataclass(frozen=True)
class Speaker:
    """Says things in one language: `say("verb.draw")`, `say.error(error)`, `say.moment(0.0)`."""

    language: str

    def __call__(self, key: str, **values: object) -> str:
        """The string `key`; see `string`."""
        return string(key, self.language, **values)

    def message(self, message: Message) -> str:
        """A message; see `translated`."""
        return translated(message, self.language)

    def error(self, error: NeodragonError) -> str:
        """The sentence of an error."""
        return translated(error.message, self.language)

    def number(self, value: float, digits: int = 0) -> str:
        """A number; see `number`."""
        return number(value, self.language, digits)

    def moment(self, seconds: float) -> str:
        """A local date and time; see `moment`."""
        return moment(seconds, self.language)


def gradio_language(language: str) -> str:
    """What Gradio calls one of our languages."""
    return {"zh": "zh-CN"}.get(language, language)


def chosen_language(setting: str) -> str:
    """The language that the setting `language` stands for: itself, or this machine's."""
    return system_language() if setting == "system" else setting


def system_language() -> str:
    """The language of this machine where the page speaks it, else English."""
    code = (locale.getlocale()[0] or "").lower()
    code = {"chinese": "zh", "german": "de"}.get(code.split("_")[0], code[:2])  # Windows' names
    return code if code in LANGUAGES else "en"
