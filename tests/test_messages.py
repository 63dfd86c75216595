"""Every message of the program in every language, found in the code that makes it."""

from __future__ import annotations

import ast
import errno
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from string import Formatter

import pytest

from engine.errors import Message
from studio.batch.encodings import INSIDE, SIGNATURES
from studio.jobs.spec import STATES
from studio.language.catalogue import LANGUAGES, translated
from studio.library.verify import OUTCOMES
from studio.media.pictures import OTHERS
from studio.system.paths import ASSETS

ROOT = Path(__file__).parents[1]
TABLE = json.loads((ASSETS / "messages.json").read_text(encoding="utf-8"))
TREES = [
    ast.parse(path.read_text(encoding="utf-8"))
    for package in ("engine", "builder", "studio")
    for path in sorted((ROOT / package).rglob("*.py"))
]
# A sentence with a place for a value, wherever it stands: it becomes a message sooner or later.
SENTENCE = re.compile(r"[^<]*\{[a-z]\w*(![ars])?(:[^{}]*)?\}[^<]*[.]")


def message_makers() -> set[str]:
    """`Message`, and `NeodragonError` with everything that inherits from it."""
    makers = {"Message", "NeodragonError"}
    bases = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for tree in TREES
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    while more := {name for name, base in bases.items() if base & makers} - makers:
        makers |= more
    return makers


def literals(node: ast.expr) -> Iterator[str]:
    """The text that an expression is, or either text that it may be."""
    if isinstance(node, ast.IfExp):
        yield from (*literals(node.body), *literals(node.orelse))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def constants() -> set[str]:
    """Every text in the code but docstrings and parts of f-strings."""
    found = set()
    for tree in TREES:
        parts = {
            id(part)
            for node in ast.walk(tree)
            for part in (
                node.values
                if isinstance(node, ast.JoinedStr)
                else [node.value]
                if isinstance(node, ast.Expr)
                else []
            )
        }
        found |= {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in parts
        }
    return found


def templates() -> set[str]:
    """Every template that the code makes a message of."""
    makers, found = message_makers(), set[str]()
    for node in (node for tree in TREES for node in ast.walk(tree)):
        if isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in makers:
                found |= set(literals(node.args[0]))
    found |= {text for text in constants() if SENTENCE.fullmatch(text)}
    found |= {*SIGNATURES.values(), *OTHERS.values(), *OUTCOMES.values(), *STATES}
    return (found | {kind for _, kind in INSIDE}) - {""}


def places(template: str) -> list[tuple[str, str, str]]:
    """The places for values in a template, with how they are written."""
    try:
        parsed = list(Formatter().parse(template))
    except ValueError:  # "has { without }" is no template
        return []
    return sorted(
        {
            (name, spec or "", how or "")
            for _, name, spec, how in parsed
            if name and name.isidentifier()
        }
    )


def test_every_message_is_translated() -> None:
    missing = {text for text in templates() if set(TABLE.get(text, ())) != {*LANGUAGES} - {"en"}}
    assert not missing, "add them to assets/messages.json"


def test_a_translation_has_the_places_of_its_template() -> None:
    for template, texts in TABLE.items():
        for text in texts.values():
            assert text.strip() and places(text) == places(template), template


@pytest.mark.skipif(sys.platform == "win32", reason="Windows says its errors in other words")
def test_no_translation_is_left_over() -> None:
    system = {os.strerror(number) for number in errno.errorcode}  # what an OSError says
    unused = set(TABLE) - constants() - system
    assert not unused


def test_translations_are_sorted() -> None:
    assert list(TABLE) == sorted(TABLE)


def test_no_message_follows_the_old_mould() -> None:
    mould = re.compile(r"should (be|have|hold|not|go|get|read|run|load).*, but ")
    assert not [template for template in templates() if mould.search(template)]


def test_values_are_in_the_language_too() -> None:
    inner = Message("The settings in {name} are damaged.", {"name": "a.json"})
    message = Message("{file}: {problem}", {"file": "b", "problem": inner})
    assert translated(message, "de") == "b: Die Einstellungen in a.json sind beschädigt."
    assert translated(message, "en") == "b: The settings in a.json are damaged."
    assert translated(Message("Close ({db:.1f} dB).", {"db": 41.25}), "de").endswith("(41,2 dB).")
    assert translated(Message("Close ({db:.1f} dB).", {"db": 41.25}), "en") == "Close (41.2 dB)."
