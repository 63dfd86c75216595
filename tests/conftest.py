"""What several test modules use: the shipped mini pack, and an ffmpeg to look at clips with."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from hypothesis import settings

from engine.pack import Pack, open_pack
from studio.system.paths import default_pack

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a job in a shell's background has it
    signal.signal(signal.SIGINT, signal.default_int_handler)


# A run can be repeated; `--hypothesis-profile default` looks further.
settings.register_profile("repeatable", derandomize=True, database=None)
settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    """Give the processes of this run a folder for what they share (random_pack.py).

    On Wine it is there already, with packs in it that only Linux can make.
    """
    if not hasattr(config, "workerinput") and "TESTS_SHARED_FOLDER" not in os.environ:
        os.environ["TESTS_SHARED_FOLDER"] = folder = tempfile.mkdtemp(prefix="neodragon-tests-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.fixture(scope="session")
def mini_pack() -> Path:
    """The pack that comes along (or `$NEODRAGON_PACK`)."""
    return default_pack()


@pytest.fixture
def pack(mini_pack: Path) -> Iterator[Pack]:
    """The same, open."""
    with open_pack(mini_pack) as pack:
        yield pack


@pytest.fixture(scope="session")
def ffmpeg() -> Callable[..., tuple[bytes, str]]:
    """Runs ffmpeg: what it writes to stdout, what it says on stderr."""

    def run(*arguments: str | Path) -> tuple[bytes, str]:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, check=False)
        return result.stdout, result.stderr.decode()

    return run


@pytest.fixture(scope="session")
def decode(ffmpeg: Callable[..., tuple[bytes, str]]) -> Callable[[Path], np.ndarray]:
    """A clip's frames, uint8 [T, H, W, 3], decoded as BT.709."""

    def run(path: Path) -> np.ndarray:
        colours = ("-vf", "scale=in_color_matrix=bt709:in_range=tv")
        raw, said = ffmpeg("-i", path, *colours, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
        width, height = map(int, re.findall(r"Video: rawvideo.*?, (\d+)x(\d+)", said)[0])
        return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)

    return run
