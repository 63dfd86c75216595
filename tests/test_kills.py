"""Processes killed at random moments leave nothing lost, doubled, half-written or empty."""

from __future__ import annotations

import os

import pytest

from benchmarks.kills import KINDS, rounds


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ten_kills_lose_nothing() -> None:
    results = list(rounds(10, int.from_bytes(os.urandom(4))))
    assert [result["kind"] for result in results] == list(KINDS)
    assert sum(result["kills"] for result in results) >= 10
    assert not any(result["problems"] for result in results), results
