"""Every string in every language, with the same places to fill in."""

from __future__ import annotations

import json
import re
from datetime import datetime

import pytest
from babel import Locale

from studio.language.catalogue import LANGUAGES, moment, number, string, system_language
from studio.system.paths import ASSETS

TABLE = json.loads((ASSETS / "strings.json").read_text(encoding="utf-8"))


def forms(entry: str | dict[str, str]) -> list[str]:
    """A string, or all plural forms of one."""
    return [entry] if isinstance(entry, str) else list(entry.values())


@pytest.mark.parametrize("key", TABLE)
def test_every_language_says_it(key: str) -> None:
    texts = TABLE[key]
    assert set(texts) == set(LANGUAGES)
    every = [text for entry in texts.values() for text in forms(entry)]
    assert all(text.strip() for text in every)
    assert len({frozenset(re.findall(r"\{\w+\}", text)) for text in every}) == 1


@pytest.mark.parametrize("language", LANGUAGES)
def test_plural_forms_are_those_of_the_language(language: str) -> None:
    needed = Locale.parse(language).plural_form.tags | {"other"}
    for key, texts in TABLE.items():
        if not isinstance(texts[language], str):
            assert set(texts[language]) == needed, key
            assert "{count}" in texts[language]["other"], key


def test_counts_choose_the_form() -> None:
    assert "1 clip is" in string("queue.paused", "en", count=1)
    assert "2 clips are" in string("queue.paused", "en", count=2)
    assert "1 Clip wartet" in string("queue.paused", "de", count=1)


def test_numbers_and_moments_follow_the_language() -> None:
    assert [number(1234.5, code, 1) for code in ("en", "de")] == ["1,234.5", "1.234,5"]
    noon = datetime(2026, 11, 29, 12, 5).timestamp()
    assert moment(noon, "en") == "29 Nov, 12:05"
    assert moment(noon, "de") == "29. Nov., 12:05"
    assert moment(noon, "zh") == "11月29日 12:05"


def test_keys_are_sorted() -> None:
    assert list(TABLE) == sorted(TABLE)


def test_words() -> None:
    assert string("app.title", "de") == "Neodragon Studio"
    with pytest.raises(KeyError):
        string("no.such", "en")


def test_system_language_is_one_of_ours() -> None:
    assert system_language() in LANGUAGES
