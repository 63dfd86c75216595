"""What several test modules use: the shipped mini pack and a look into an MP4."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.pack import Pack, open_pack
from studio.places import default_pack


@pytest.fixture(scope="session")
def mini_pack() -> Path:
    """The pack that comes along (or `$NEODRAGON_PACK`)."""
    return default_pack()


@pytest.fixture
def pack(mini_pack: Path) -> Iterator[Pack]:
    """The same, open."""
    with open_pack(mini_pack) as pack:
        yield pack
