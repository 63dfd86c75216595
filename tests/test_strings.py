"""Every string in every language, with the same places to fill in."""

from __future__ import annotations

import json
import re

import pytest

from studio.language.catalogue import LANGUAGES, system_language, words
from studio.system.paths import ASSETS

TABLE = json.loads((ASSETS / "strings.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("key", TABLE)
def test_every_language_says_it(key: str) -> None:
    texts = TABLE[key]
    assert set(texts) == set(LANGUAGES)
    assert all(text.strip() for text in texts.values())
    assert len({frozenset(re.findall(r"\{\w+\}", text)) for text in texts.values()}) == 1


def test_keys_are_sorted() -> None:
    assert list(TABLE) == sorted(TABLE)


def test_words() -> None:
    assert words("app.title", "de") == "Neodragon Studio"
    with pytest.raises(KeyError):
        words("no.such", "en")


def test_system_language_is_one_of_ours() -> None:
    assert system_language() in LANGUAGES
