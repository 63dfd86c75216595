"""SIGKILL at random moments: `python -m benchmarks.kills [COUNT] [SEED]`, figures as JSON.

Each round starts a real process that works on real files (the mini pack, first frames), kills it
at a random moment, and looks whether anything was lost, doubled, half-written or empty. Rounds of
one kind continue with the files of the rounds before. A `problem` is a sentence; no problem means
that all is well.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.config import SEED_LIMIT
from engine.errors import NeodragonError
from engine.pack import Pack, open_pack
from studio.export import formats
from studio.jobs.spec import PENDING, RUNNING, Entry, Work, content_key
from studio.jobs.table import JobTable
from studio.library.store import BIN, Library
from studio.media import sidecars
from studio.media.video import write_mp4
from studio.system import packs, settings
from studio.system.paths import default_pack

MEDIA = (".png", ".mp4")
PATIENCE = 300.0  # seconds
JOBS = 3  # that wait when a worker or an app is killed
TOGETHER = 20  # jobs that are queued in one transaction
# Share of the rounds, and seconds after its start within which a process is killed.
KINDS = {
    "worker": (0.25, 3.0),
    "app": (0.1, 6.0),
    "export": (0.15, 1.5),
    "install": (0.15, 1.0),
    "bin": (0.15, 0.5),
    "settings": (0.1, 0.3),
    "queueing": (0.1, 0.3),
}


class Ground:
    """A folder in which processes are killed; `problems` are what was found wrong."""

    def __init__(self, root: Path, pack: Pack) -> None:
        self.root, self.pack = root, pack
        self.clips, self.data = root / "clips", root / "data"
        self.table = JobTable(self.data / "jobs.sqlite")
        self.problems: list[str] = []
        self.work = Work(
            "a red ball", 0, 0, pack=str(pack.path.absolute()), backend="cpu", kind="frame"
        )
        (root / "sources").mkdir()
        self.clip = _clip(root / "sources" / "clip.mp4", pack, seed=1)

    def kill(self, command: list[str], within: float, draw: random.Random) -> None:
        """Start a process of this ground and kill it at a random moment after it says `go`."""
        environment = os.environ | {"NEODRAGON_DATA": str(self.data), "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        ) as process:
            try:
                if command[1] == "benchmarks.kills":
                    assert process.stdout is not None and process.stdout.readline() == b"go\n"
                time.sleep(draw.uniform(0, within))
            finally:
                process.kill()
                process.wait()

    def check(self, right: bool, sentence: str) -> None:
        """Note a problem unless it is right."""
        if not right:
            self.problems.append(sentence)


def _clip(path: Path, pack: Pack, seed: int) -> Path:
    """A clip of ours with its sidecar."""
    frames = np.random.default_rng(seed).integers(0, 256, (49, 128, 192, 3), np.uint8)
    content = {"software": "Neodragon Studio 0.2.0", "kind": "clip", "prompt": f"noise {seed}"}
    content |= {"look_seed": seed, "motion_seed": seed, "marks": {"stars": 5, "note": f"n{seed}"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mp4(path, frames, pack.geometry.fps, content)
    sidecars.write(path, content)
    return path


def _media(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix in MEDIA and path.name[0] != "."]


# The worker and the app: jobs go on until all are made


def worker(ground: Ground, within: float, draw: random.Random) -> None:
    """Kill a worker in the middle of its jobs."""
    _fill(ground, draw)
    ground.table.resume()
    command = ["-m", "studio.jobs.worker", "--drain", "--kept", "--floor", "0"]
    command += ["--jobs", str(ground.table.path), "--clips", str(ground.clips)]
    ground.kill([*command, "--cache", str(ground.data / "cache")], within, draw)
    _finished(ground)


def app(ground: Ground, within: float, draw: random.Random) -> None:
    """Kill an app (`nds queue resume`) that keeps a worker."""
    settings.save(ground.data / "settings.json", settings.Settings(clips=str(ground.clips)))
    _fill(ground, draw)
    ground.kill(["-m", "studio.cli", "queue", "resume"], within, draw)
    deadline = time.monotonic() + PATIENCE
    while ground.table.has_worker() and time.monotonic() < deadline:
        time.sleep(0.05)  # until its worker has noticed
    _finished(ground)


def _fill(ground: Ground, draw: random.Random) -> None:
    works = [replace(ground.work, look_seed=draw.randrange(SEED_LIMIT)) for _ in range(JOBS)]
    ground.table.add(Entry(work, content_key(work, ground.pack)) for work in works)


def _finished(ground: Ground) -> None:
    """Every file is whole as it is now; made to the end, each job has one file of its own."""
    _whole(ground)
    before = ground.table.count()
    for _ in range(3):  # a job that two workers died at is failed, and may be retried
        ground.table.retry()
        ground.table.resume()
        command = [sys.executable, "-m", "studio.jobs.worker", "--drain", "--floor", "0"]
        command += ["--jobs", str(ground.table.path), "--clips", str(ground.clips), "--kept"]
        command += ["--cache", str(ground.data / "cache")]
        subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)
        if not ground.table.count((*PENDING, *RUNNING, "failed")):
            break
    jobs = ground.table.jobs()
    results = [job.result for job in jobs if job.state == "done"]
    ground.check(len(jobs) == before, f"there are {len(jobs)} jobs of {before}")
    ground.check(len(results) == before, f"{len(results)} of {before} jobs are done")
    files = sorted(map(str, _media(ground.clips)))
    ground.check(files == sorted(map(str, results)), f"{len(files)} files of {len(results)} jobs")
    _whole(ground)


def _whole(ground: Ground) -> None:
    for path in _media(ground.clips):
        try:
            sidecars.inside(path)
        except NeodragonError as error:
            ground.check(False, str(error))


# Exports, packs, the bin, settings and queueing


def export(ground: Ground, within: float, draw: random.Random) -> None:
    """Kill exports of a clip; what has a name is whole."""
    folder = ground.root / "exports"
    ground.kill(["-m", "benchmarks.kills", "--victim", "export", str(ground.root)], within, draw)
    for path in folder.glob("[!.]*"):
        ground.check(path.stat().st_size > 0, f"{path.name} is empty")
        if path.suffix == ".mp4":
            ground.check(path.read_bytes() == ground.clip.read_bytes(), f"{path.name} is cut")
        elif path.suffix == ".gif":
            ground.check(path.read_bytes()[-1:] == b";", f"{path.name} is cut")
    shutil.rmtree(folder, ignore_errors=True)


def install(ground: Ground, within: float, draw: random.Random) -> None:
    """Kill an installation; what is called a pack opens whole, and it can be gone on with."""
    home = ground.data / "packs"
    ground.kill(["-m", "benchmarks.kills", "--victim", "install", str(ground.root)], within, draw)
    for found in packs.installed(home):
        ground.check(not found.problem, f"{found.name}: {found.problem}")
    with open_pack(packs.install(default_pack(), home)) as pack:
        ground.check(pack.pack_hash == ground.pack.pack_hash, "the pack is another")
    shutil.rmtree(home)


def bin_(ground: Ground, within: float, draw: random.Random) -> None:
    """Kill moves to the bin and back; each clip is there once, with its marks."""
    folder = ground.root / "library"
    if not folder.exists():
        for seed in range(4):
            _clip(folder / f"{seed}.mp4", ground.pack, seed)
    ground.kill(["-m", "benchmarks.kills", "--victim", "bin_", str(ground.root)], within, draw)
    with Library(ground.data / "library.sqlite", folder) as library:
        library.scan()
        items = library.search() + library.search(verdict="reject")
    names = sorted(item.prompt for item in items)
    ground.check(names == [f"noise {seed}" for seed in range(4)], f"the library has {names}")
    for item in items:
        ground.check(item.stars == 5, f"{item.path.name} lost its marks")


def settings_(ground: Ground, within: float, draw: random.Random) -> None:
    """Kill changes of the settings; they are whole, and the others stay."""
    path = ground.root / "settings" / "settings.json"
    settings.change(path, theme="dark")
    ground.kill(["-m", "benchmarks.kills", "--victim", "settings_", str(ground.root)], within, draw)
    now, complaint = settings.load(path)
    ground.check(not complaint, str(complaint))
    ground.check(now.theme == "dark", f"the theme is {now.theme}")


def queueing(ground: Ground, within: float, draw: random.Random) -> None:
    """Kill a process that queues jobs, many at a time: all of them or none."""
    ground.kill(["-m", "benchmarks.kills", "--victim", "queueing", str(ground.root)], within, draw)
    with JobTable(ground.root / "queueing.sqlite") as table:
        keys = [job.key for job in table.jobs()]
    ground.check(len(keys) % TOGETHER == 0, f"{len(keys)} jobs are no multiple of {TOGETHER}")
    ground.check(len(set(keys)) == len(keys), "a job is there twice")


def victim(kind: str, root: Path) -> None:
    """Do one thing over and over, to be killed."""
    print("go", flush=True)
    for number in itertools.count():
        if kind == "export":
            for format in ("gif", "mp4"):
                target = formats.target_of(root / "sources" / "clip.mp4", root / "exports", format)
                formats.export(root / "sources" / "clip.mp4", target, format)
        elif kind == "install":
            home = root / "data" / "packs"
            packs.remove(packs.install(default_pack(), home), home, default_pack())
        elif kind == "bin_":
            with Library(root / "data" / "library.sqlite", root / "library") as library:
                for path in _media(root / "library"):
                    verb = library.bring_back if BIN in path.parts else library.reject
                    verb(path)
        elif kind == "settings_":
            settings.change(root / "settings" / "settings.json", battery=number % 100)
        else:
            work = Work("a", os.getpid(), number % SEED_LIMIT, pack="p", backend="cpu")
            with JobTable(root / "queueing.sqlite") as table:
                keys = (f"{os.getpid()} {number} {n}" for n in range(TOGETHER))
                table.ensure(Entry(work, key) for key in keys)


def rounds(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Kill so many processes in all; for each kind its kills and problems."""
    draw = random.Random(seed)
    kinds = {"bin": bin_, "settings": settings_}
    with tempfile.TemporaryDirectory(prefix="kills-") as name, open_pack(default_pack()) as pack:
        for kind, (share, within) in KINDS.items():
            begun = time.monotonic()
            (root := Path(name) / kind).mkdir()
            ground = Ground(root, pack)
            kills = max(1, round(count * share))
            for _ in range(kills):
                kinds.get(kind, globals().get(kind))(ground, within, draw)  # type: ignore[misc]
            ground.table.close()
            seconds = round(time.monotonic() - begun, 1)
            yield {"kind": kind, "kills": kills, "problems": ground.problems, "seconds": seconds}


def main() -> None:
    """Kill, and print what came of it."""
    if sys.argv[1:2] == ["--victim"]:
        victim(sys.argv[2], Path(sys.argv[3]))
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    kinds = []
    for result in rounds(count, seed):
        print(json.dumps(result), file=sys.stderr, flush=True)
        kinds.append(result)
    with open_pack(default_pack()) as pack:
        print(json.dumps({"pack": pack.pack_hash, "seed": seed, "kinds": kinds}, indent=1))


if __name__ == "__main__":
    main()
