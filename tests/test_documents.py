"""What the documents say about the code is true of the code."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.documents import MEASURED, documents, filled
from engine.pack import open_pack

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FILE = re.compile(r"`([\w/.-]+/[\w.-]+\.(?:py|js|json|md|css|spec|txt))`")
# Documents in which every figure is marked with its file, and what in them was not measured.
LIMITS = {
    "README.md": {"35 dB"},
    "farm.md": {"30 s", "1 MB", "2 KB", "1 KB", "1.3 seconds", "3 MB", "100 times", "5 GB"},
    "studio.md": set(),
    "user-guide.md": {"1 GB", "35 dB"},
}
NAMED = re.compile(r"`([\w/]+(?:\.py)?)` `([\w.]+)`")


def names(path: Path) -> set[str]:
    """Functions, classes and methods (`Class.method`) defined in a module or a package."""
    out: set[str] = set()
    for file in path.rglob("*.py") if path.is_dir() else [path]:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                out |= {node.name} | {
                    f"{node.name}.{part.name}"
                    for part in node.body
                    if isinstance(part, ast.FunctionDef)
                }
            elif isinstance(node, ast.FunctionDef):
                out.add(node.name)
    return out


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_exist(path: Path) -> None:
    named = set(FILE.findall(path.read_text(encoding="utf-8")))
    missing = {
        name
        for name in named
        if not (ROOT / name).exists() and not (path.parent / name).exists() and "PACK" not in name
    }
    assert not {name for name in missing if (ROOT / name.split("/")[0]).is_dir()}


def test_the_walks_name_what_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = NAMED.findall(text)
    assert len(named) > 15
    for module, name in named:
        assert name in names(ROOT / module), f"{module} has no {name}"


@pytest.mark.parametrize("path", list(documents()), ids=lambda path: path.name)
def test_figures_are_those_that_were_measured(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert filled(text) == text, "run python -m benchmarks.documents"
    unmarked = set(MEASURED.findall(text))
    assert path.name not in LIMITS or unmarked == LIMITS[path.name]


def test_a_figure_that_was_not_measured_is_found() -> None:
    mark = "<!-- farm.json scaling/0/of_linear -->"
    assert filled(f"0.900{mark}") == f"0.981{mark}"
    assert filled("98.1 %" + mark.replace(" -->", " x 100 -->")).startswith("98.1 %")
    with pytest.raises(KeyError, match="scaling/0/speed"):
        filled("1 s<!-- farm.json scaling/0/speed -->")
    assert MEASURED.findall(f"It takes 2.5 s, 40 % or 3 MB{mark}.") == ["2.5 s", "40 %"]


def test_figures_are_of_the_shipped_pack() -> None:
    """Every file of figures that names the pack it measured names the one that ships."""
    with open_pack(ROOT / "assets" / "mini") as pack:
        shipped = pack.pack_hash
    measured = {
        path.name: set(hashes(json.loads(path.read_text(encoding="utf-8"))))
        for path in sorted((ROOT / "docs").glob("*.json"))
    }
    named = {name for name, found in measured.items() if found}
    assert {"benchmarks.json", "evaluation.json", "kills.json", "looks.json"} <= named
    assert all(shipped.startswith(one) for found in measured.values() for one in found), measured


def hashes(figures: object) -> Iterator[str]:
    """What stands anywhere in a file of figures as the hash of a pack."""
    if isinstance(figures, list):
        for value in figures:
            yield from hashes(value)
    elif isinstance(figures, dict):
        for name, value in figures.items():
            if name in ("pack_hash", "pack") and re.fullmatch("[0-9a-f]{12,64}", str(value)):
                yield value
            yield from hashes(value)
