"""Clips and their forks as a tree."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from studio.library.index import Item

Key = tuple[str, ...]


@dataclass(frozen=True)
class Branch:
    """A clip and the forks of it; unit: where it left its parent, None for the clip itself."""

    item: Item
    unit: int | None
    forks: list[Branch] = field(default_factory=list)


def tree(items: Iterable[Item]) -> list[Branch]:
    """Items of one root as a tree, the oldest first.

    A fork hangs below the nearest one of its ancestors that is there.
    """
    known = sorted(
        ((_forks(item), item) for item in items), key=lambda p: (len(p[0]), p[1].created)
    )
    roots: list[Branch] = []
    by_forks: dict[Key, Branch] = {}
    for forks, item in known:
        branch = Branch(item, forks[-1]["unit"] if forks else None)
        keys = [_key(forks[:count]) for count in range(len(forks) - 1, -1, -1)]
        parent = next((by_forks[key] for key in keys if key in by_forks), None)
        (roots if parent is None else parent.forks).append(branch)
        by_forks.setdefault(_key(forks), branch)
    return roots


def _forks(item: Item) -> list[dict[str, Any]]:
    forks = item.recorded.get("forks")
    return forks if isinstance(forks, list) else []


def _key(forks: list[dict[str, Any]]) -> Key:
    return tuple(f"{fork['unit']}/{fork['motion_seed']}/{fork.get('prompt')}" for fork in forks)
