"""Nothing leaves the machine: every process of a session recorded, and all of it without a network.

What is recorded are the system's own calls, so that no library can hide: ONNX Runtime's telemetry
was found this way.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SESSION = [sys.executable, str(ROOT / "packaging" / "session.py")]
STUDIO = [sys.executable, "-m", "studio.launcher"]
LOCAL = re.compile(r'sin_addr=inet_addr\("127\.|inet_pton\(AF_INET6, "::1"|sin_addr=htonl\(0x7f')


def in_namespace(*command: str) -> list[str]:
    """The command where there is no network but 127.0.0.1."""
    script = 'ip link set lo up && exec "$@"'
    return ["unshare", "-n", "sh", "-c", script, "sh", *command]


def works(command: list[str]) -> bool:
    program = shutil.which(command[0])
    return program is not None and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(
    not works(["strace", "-f", "-o", os.devnull, "true"]),
    reason="strace records the calls; on Debian: apt-get install -y strace",
)
def test_every_process_talks_to_this_machine_alone(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    recorded = ["strace", "-f", "-qq", "-s", "80", "-e", "trace=connect,sendto,sendmsg,bind"]
    # Unset here, so that only the studio's own doing counts.
    env = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    env |= {"NEODRAGON_DATA": str(tmp_path / "data")}
    done = subprocess.run(
        [*recorded, "-o", str(calls), *SESSION, *STUDIO],
        env=env,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["clips"] == 6
    lines = calls.read_text(errors="replace").splitlines()
    spoken = [line for line in lines if re.search(r"AF_INET6?\b", line)]
    assert len(spoken) > 10
    assert [line for line in spoken if not LOCAL.search(line)] == []


@pytest.mark.skipif(
    not works(in_namespace("true")), reason="an empty network namespace takes the rights of root"
)
def test_all_of_it_works_without_a_network(tmp_path: Path) -> None:
    env = os.environ | {"NEODRAGON_DATA": str(tmp_path / "data")}
    browser = ["-b"] if shutil.which("chromium") or shutil.which("google-chrome") else []
    done = subprocess.run(
        in_namespace(*SESSION, *browser, *STUDIO), env=env, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["clips"] == 6
