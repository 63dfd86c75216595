"""The card *Other machines*: a switch that starts a real host, and what it shows of the farm."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

pytest.importorskip("distributed")

from studio.farm.network import PlaceError, Switch, addresses, chosen
from studio.language.catalogue import Speaker
from studio.page.farm import shown


def until(holds) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def opens(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((address, port)) == 0


@pytest.mark.parametrize("language", ["en", "de", "zh"])
def test_the_card_says_that_there_is_no_farm(tmp_path: Path, language: str) -> None:
    switch = Switch(tmp_path, tmp_path / "clips")
    assert "nds farm invite" in shown(switch, tmp_path / "jobs.sqlite", Speaker(language))
    assert not switch.is_on
    assert not (tmp_path / "farm").exists(), "nothing is made unless it is asked for"


def test_the_switch_starts_and_ends_a_host(tmp_path: Path) -> None:
    if not addresses():
        pytest.skip("this machine is on no network")
    switch = Switch(tmp_path, tmp_path / "clips")
    try:
        switch.on(addresses()[0])
        until(lambda: switch.is_on or switch.problem)
        assert switch.problem is None and switch.register is not None
        farm = switch.register.farm()
        assert farm is not None and opens(farm.address, farm.port)
        switch.register.enrol("laptop")
        switch.register.came("laptop", {"hash": "mini"}, ["cpu"])
        switch.register.made("laptop", 3.21)
        words = shown(switch, tmp_path / "jobs.sqlite", Speaker("en"))
        assert f"on at {farm.address}" in words and "1 made, 3.2 s each" in words
        switch.off()
        until(lambda: not switch.is_on)
        assert not opens(farm.address, farm.port)
    finally:
        switch.close()


def test_a_host_that_cannot_be_says_why(tmp_path: Path) -> None:
    switch = Switch(tmp_path, tmp_path / "clips")
    try:
        switch.on("192.0.2.99")
        until(lambda: switch.problem)
        assert "Choose the network" in str(switch.problem)
    finally:
        switch.close()


def test_a_network_that_is_not_here_is_refused() -> None:
    with pytest.raises(PlaceError, match="--address"):
        chosen("192.0.2.99", None)
