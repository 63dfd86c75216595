"""The columns of a list: their names, how people spell them, and which one a name means."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Collection

FILLED = ("status", "file", "seeds", "seconds", "error")
SPELLINGS = {  # of each column: other names that mean it
    "prompt": "prompts text positive positiveprompt prompttext 提示词 提示 プロンプト",
    "negative_prompt": "negative negativeprompts neg negprompt negatives 反向提示词 负面提示词",
    "look_seed": "seed look lookseeds seedlook 种子",
    "motion_seed": "motion motionseeds seedmotion",
    "repeats": "repeat count counts niter copies",
    "mode": "",
    "steps": "step",
    "upscale": "",
    "suffix": "",
    "kind": "",
    "image": "picture images initimage startimage imagepath firstframe init",
}
COLUMNS = tuple(SPELLINGS)
MEANT = {
    spelling: column
    for column, others in SPELLINGS.items()
    for spelling in (column.replace("_", ""), *others.split())
}
UNNAMED = "#\0"  # begins our name for a column that has none


def column_of(name: str) -> str:
    """The column that a name means; the name itself, tidied, where it means none of ours.

    Names that start with # are the user's own.
    """
    tidy = unicodedata.normalize("NFKC", name).strip(" \t\r\n\"'“”„‘’\ufeff\u200b")
    if tidy.startswith("#"):
        return name.strip()
    word = re.sub(r"[\s_.-]+", "_", tidy.lower()).strip("_:")
    return MEANT.get(word.replace("_", ""), word)


def columns_of(names: Collection[str]) -> tuple[str, ...]:
    """The columns that a header's names mean, in its order.

    `seeds` is ours in a list that was filled in, and the look seeds in any other. A column without
    a name, or with the one pandas gives it, is the user's own.
    """
    columns = [column_of(name) for name in names]
    if "seeds" in columns and "status" not in columns:
        columns = ["look_seed" if name == "seeds" else name for name in columns]
    return tuple(
        f"{UNNAMED}{at}" if re.fullmatch(r"|unnamed:_?\d+", name) else name
        for at, name in enumerate(columns, 1)
    )


def nearest(name: str) -> str | None:
    """The column somebody meant who wrote this, None where it is like none."""
    close = difflib.get_close_matches(name, COLUMNS, 1, 0.7)
    return close[0] if close else None
