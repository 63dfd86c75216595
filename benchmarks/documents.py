"""Figures in the documents, from the files that measured them: `python -m benchmarks.documents`.

In a document, `1.9 s<!-- benchmarks.json figures/clip_1/engine/seconds -->` is that entry of
`docs/benchmarks.json`. The command writes every such number again, with the decimals it has there.
`x 100` after the entry multiplies it, for percent; `x 1e-9` for GB.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FIGURE = re.compile(
    r"(?P<number>\d[\d,]*(?:\.(?P<decimals>\d+))?)(?P<unit>[^\w<|]{0,2}[a-zA-Z%]{0,8})"
    r"(?P<mark><!-- (?P<file>\w+\.json) (?P<entry>[^<>]+?)(?: x (?P<factor>[\de.-]+))? -->)"
)
UNITS = "%|dB|s|ms|GB|MB|KB|minutes|seconds|times|requests|bytes"
MEASURED = re.compile(rf"(?<![\w.,/-])\d[\d,]*(?:\.\d+)?(?: ?%| (?:{UNITS})\b)(?!<!--)")


def documents() -> Iterator[Path]:
    """Every document that may name figures; the log of experiments is of its days."""
    yield ROOT / "README.md"
    yield from (path for path in sorted((ROOT / "docs").glob("*.md")) if path.stem != "experiments")


def filled(text: str) -> str:
    """The text with every marked number as measured; raises KeyError for an entry that is not."""
    return FIGURE.sub(partial(_figure, {}), text)


def _figure(files: dict[str, Any], figure: re.Match[str]) -> str:
    name, entry = figure["file"], figure["entry"]
    if name not in files:
        files[name] = json.loads((ROOT / "docs" / name).read_text(encoding="utf-8"))
    value = files[name]
    for part in entry.split("/"):
        if part not in value and not isinstance(value, list):
            raise KeyError(f"{name} has no {entry}")
        value = value[int(part) if isinstance(value, list) else part]
    value *= float(figure["factor"] or 1)
    return f"{value:,.{len(figure['decimals'] or '')}f}{figure['unit']}{figure['mark']}"


def main() -> None:
    for path in documents():
        text = path.read_text(encoding="utf-8")
        new = filled(text)
        if new != text:
            path.write_text(new, encoding="utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
