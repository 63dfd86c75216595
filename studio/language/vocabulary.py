"""Which words of a prompt a pack was not taught, and the nearest of those it was.

It knows nothing of the page; a pack that lists no words knows every word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
KINDS = ("subjects", "colours", "motions", "grounds", "skies", "weathers")
OTHER = "other"  # the kind of words that hold a sentence together: known, and never offered
ALIKE = 0.7  # how much of two words' letters must agree
SHORT = 3  # letters up to which words are like one another by chance


@dataclass(frozen=True)
class Unknown:
    """A word that the pack was not taught, and the nearest that it was, "" where there is none."""

    word: str
    nearest: str


def words_of(text: str) -> Iterator[str]:
    """Its words in lower case, in order."""
    yield from (word.replace("\u2019", "'") for word in WORD.findall(text.lower()))


def unknown_words(prompt: str, knows: Mapping[str, tuple[str, ...]]) -> list[Unknown]:
    """Each unknown word once, in the order of the prompt; knows: phrases by kind."""
    if not knows:
        return []
    known = {word for phrases in knows.values() for phrase in phrases for word in words_of(phrase)}
    offered = [
        word
        for kind, phrases in knows.items()
        for phrase in phrases
        for word in words_of(phrase)
        if kind != OTHER and len(word) > SHORT
    ]
    missing = dict.fromkeys(word for word in words_of(prompt) if word not in known)
    return [Unknown(w, next(iter(get_close_matches(w, offered, 1, ALIKE)), "")) for w in missing]
