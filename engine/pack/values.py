"""Values of `pack.json` with a type and a place, and the sentence where one is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.errors import PackError

MANIFEST = "pack.json"


def wrong(where: str, expected: str, got: object) -> PackError:
    """The error of a value that is not what was expected at its place in the manifest.

    expected: in the words of JSON Schema, which need no translation.
    """
    return PackError(
        "{where} in {file} is {got}, and {expected} was expected; get the pack again or export it"
        " anew.",
        where=f"{where:.150}",
        file=MANIFEST,
        expected=f"{expected:.150}",
        got=f"{got!r:.80}",
    )


def get(part: Mapping[str, Any], key: str, kind: type, where: str, expected: str) -> Any:
    """`part[key]` of type `kind`; raises PackError."""
    value = part.get(key)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise wrong(f"{where}{key}", expected, value)
    return value
