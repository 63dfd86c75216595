"""The farm on a network of its own: real processes, the real pack, machines that come and go."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from namespaces import Network, address, kill, network, until

from studio.jobs import results
from studio.jobs.leases import LeasingTable

pytest.importorskip("distributed")

ROWS = int(os.environ.get("FARM_ROWS", "9"))  # 60 in docs/farm.md
LEASE = "15"  # seconds: a machine that has no time to speak for so long is lost
SCAN = """
import socket, sys
found = []
for port in range(1, 65536):
    with socket.socket() as probe:
        probe.settimeout(2)
        if probe.connect_ex((sys.argv[1], port)) == 0:
            found.append(port)
print(*found)
"""


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Network]:
    with network(tmp_path, 3) as made:
        yield made


def start(hosts: Network, *options: str) -> subprocess.Popen[str]:
    before = hosts.said("host.log").count("is on")
    process = hosts.nds(0, "farm", "start", "--address", address(0), *options, log="host.log")
    until(
        lambda: hosts.said("host.log").count("is on") > before,
        lambda: hosts.said("host.log"),
    )
    return process


def invite(hosts: Network) -> Path:
    path = hosts.root / "invitation.ndsfarm"
    hosts.done(0, "farm", "invite", "-o", str(path))
    return path


def join(hosts: Network, host: int, *invitation: str) -> subprocess.Popen[str]:
    log = f"join{host}.log"
    process = hosts.nds(host, "farm", "join", *invitation, "--name", f"laptop{host}", log=log)
    until(lambda: "in the farm" in hosts.said(log), lambda: hosts.said(log))
    return process


def scan(hosts: Network, from_: int, to: int) -> str:
    hosts.start(from_, "-c", SCAN, address(to), log="scan.log").wait(300)
    return hosts.said("scan.log").splitlines()[-1]


def write_list(path: Path, rows: int) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["prompt", "kind", "look_seed"])
        writer.writerows([f"a star of colour {row}", "frame", row] for row in range(rows))


def test_a_list_survives_what_becomes_of_its_machines(hosts: Network) -> None:
    prompts = hosts.root / "list.csv"
    write_list(prompts, ROWS)
    host = start(hosts, "--lease", LEASE)
    invitation = str(invite(hosts))
    joined = {number: join(hosts, number, invitation) for number in (0, 1, 2)}
    list_ = hosts.nds(0, "batch", str(prompts), "--farm", log="batch.log")
    table = LeasingTable(hosts.root / "host0" / "jobs.sqlite")

    def told() -> str:
        names = ("host", "join0", "join1", "join2", "batch")
        return "\n".join(f"--- {name}\n{hosts.said(f'{name}.log')}" for name in names)

    def at_least(done: int) -> None:
        until(lambda: table.count(["done"]) >= done or list_.poll() is not None, told)

    at_least(ROWS // 6)
    kill(joined[1])
    at_least(ROWS // 3)
    hosts.cut(2)
    at_least(ROWS // 2)
    kill(host)
    time.sleep(2)
    start(hosts, "--lease", LEASE)
    at_least(2 * ROWS // 3)
    time.sleep(float(LEASE) + 2)
    hosts.cut(2, off=False)
    assert list_.wait(600) == 0, told()
    jobs = table.jobs()
    table.close()
    assert [job.state for job in jobs] == ["done"] * ROWS
    assert len({job.result for job in jobs}) == ROWS
    made = sorted((hosts.root / "host0" / "clips").rglob("*.png"))
    made = [path for path in made if ".part" not in path.name]
    assert made == sorted(job.result for job in jobs if job.result), "each once, and nothing else"
    for job in jobs:
        assert job.result is not None
        assert results.inside(job.result)["key"] == job.key
        assert json.loads(job.result.with_suffix(".json").read_text("utf-8"))["key"] == job.key
    with next(hosts.root.glob("list-filled.csv")).open(encoding="utf-8-sig") as stream:
        filled = list(csv.DictReader(stream))
    assert [row["status"] for row in filled] == ["done"] * ROWS
    assert [row["file"] for row in filled] == [str(job.result) for job in jobs]


def test_the_farm_has_one_port_and_only_while_it_is_on(hosts: Network) -> None:
    assert scan(hosts, 1, 0) == ""
    host = start(hosts)
    port = hosts.said("host.log").split("port ")[1].split(";")[0]
    join(hosts, 1, str(invite(hosts)))
    assert scan(hosts, 2, 0) == port
    assert scan(hosts, 2, 1) == "", "a machine that joined listens to nobody"
    hosts.done(0, "farm", "stop")
    assert host.wait(60) == 0
    assert scan(hosts, 2, 0) == ""


def test_a_revoked_machine_is_out(hosts: Network) -> None:
    start(hosts)
    invitation = str(invite(hosts))
    join(hosts, 1, invitation)
    hosts.done(0, "farm", "revoke", "laptop1")
    until(lambda: "connection is lost" in hosts.said("join1.log"), lambda: hosts.said("join1.log"))
    until(lambda: "cannot be reached" in hosts.said("join1.log"), lambda: hosts.said("join1.log"))
    hosts.done(0, "farm", "revoke", "invitation")
    time.sleep(2)
    late = hosts.nds(2, "farm", "join", invitation, log="join2.log")
    assert late.wait(120) == 2
    assert "cannot be joined" in hosts.said("join2.log")
