"""What the documents say about the code is true of the code."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from engine.pack import open_pack

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FILE = re.compile(r"`([\w/.-]+/[\w.-]+\.(?:py|js|json|md|css|spec|txt))`")
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


def test_figures_are_of_the_shipped_pack() -> None:
    """Every file of figures that names the pack it measured names the one that ships."""
    with open_pack(ROOT / "assets" / "mini") as pack:
        shipped = pack.pack_hash
    measured = {}
    for path in sorted((ROOT / "docs").glob("*.json")):
        figures = json.loads(path.read_text(encoding="utf-8"))
        for name in ("pack_hash", "pack"):
            if re.fullmatch("[0-9a-f]{12,64}", str(figures.get(name))):
                measured[path.name] = figures[name]
    assert {"evaluation.json", "kills.json", "looks.json"} <= set(measured)
    assert all(shipped.startswith(name) for name in measured.values()), measured
