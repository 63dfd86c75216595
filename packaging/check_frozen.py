"""The frozen folder where things are difficult: `python packaging/check_frozen.py FOLDER`.

As root, on Linux. A whole session (packaging/session.py, in Chromium where it says so) from a path
with spaces, Cyrillic and emoji, with no home to write to, no PATH, no network; a clip to a path of
300 characters; a disk that is nearly full. Prints JSON: what each made, sizes, and the seconds of a
cold and a warm start; ends with 1 where something failed.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

SESSION = str(Path(__file__).with_name("session.py"))
ODD = "Мой диск é 🐉 studio"


def run(command: list[str], env: dict[str, str]) -> dict[str, Any]:
    """What a session says of itself."""
    done = subprocess.run(command, env=env, capture_output=True, encoding="utf-8", timeout=900)
    if done.returncode:
        return {"failed": (done.stderr or done.stdout).strip().splitlines()[-1:]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def small_disk(folder: Path, free: int) -> Iterator[Path]:
    """A file system of 1.5 GB on a loop device, `free` bytes of it free."""
    image, mounted = folder / "disk.img", folder / "disk"
    with image.open("wb") as file:
        file.truncate(1_500_000_000)
    mounted.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(mounted)], check=True)
    try:
        fill = shutil.disk_usage(mounted).free - free
        subprocess.run(["fallocate", "-l", str(fill), str(mounted / "full")], check=True)
        yield mounted
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def nearly_full(nds: str, folder: Path) -> dict[str, Any]:
    """A queue on a disk with 200 MB: it pauses and says why, a single clip is still made."""
    with small_disk(folder, 200_000_000) as disk:
        env = os.environ | {"NEODRAGON_DATA": str(disk / "data")}
        listed = disk / "list.txt"
        listed.write_text("a red ball\n")
        batch = [nds, "batch", str(listed), "--out", str(disk / "clips"), "--backend", "cpu"]
        done = subprocess.run(batch, env=env, capture_output=True, encoding="utf-8", timeout=300)
        said = done.stdout + done.stderr
        clip = [nds, "render", "a red ball", "-o", str(disk / "clip.mp4"), "--backend", "cpu"]
        alone = subprocess.run(clip, env=env, capture_output=True, encoding="utf-8", timeout=300)
        return {
            "queue_code": done.returncode,
            "queue_says": next((line for line in said.splitlines() if "waiting" in line), ""),
            "one_clip": alone.returncode == 0 and (disk / "clip.mp4").stat().st_size > 0,
        }


def long_path(nds: str, folder: Path) -> dict[str, Any]:
    """A clip in a folder whose path has more than 300 characters."""
    path = folder.joinpath(*["a folder with a long name"] * 12, "clip.mp4")
    command = [nds, "render", "a red ball", "-o", str(path), "--backend", "cpu"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)
    return {"characters": len(str(path)), "made": done.returncode == 0 and path.is_file()}


def farm(nds: str, folder: Path) -> dict[str, Any]:
    """A list that another machine of the farm makes, both of them this folder's program."""
    host, machine, listed = (folder / name for name in ("host", "machine", "farm.txt"))
    listed.write_text("a red ball\na blue star\n")

    def env(data: Path) -> dict[str, str]:
        return os.environ | {"NEODRAGON_DATA": str(data)}

    with ExitStack() as stack:

        def started(data: Path, *words: str) -> None:
            command = [nds, "farm", *words]
            process = subprocess.Popen(
                command, env=env(data), stdout=subprocess.PIPE, encoding="utf-8"
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            assert process.stdout is not None
            next(iter(process.stdout))  # it is on, it is in

        started(host, "start")
        invitation = folder / "invitation.ndsfarm"
        invite = [nds, "farm", "invite", "-o", str(invitation)]
        subprocess.run(invite, env=env(host), check=True, stdout=subprocess.DEVNULL, timeout=60)
        started(machine, "join", str(invitation))
        batch = [nds, "batch", str(listed), "--farm", "--out", str(folder / "made")]
        done = subprocess.run(
            batch, env=env(host), capture_output=True, encoding="utf-8", timeout=300
        )
    return {"code": done.returncode, "clips": len(list((folder / "made").glob("*.mp4")))}


def starts(nds: str, folder: Path) -> dict[str, Any]:
    """Seconds to a usable page: the first with the file cache dropped, then the median of five."""
    seconds = []
    for turn in range(6):
        if turn == 0:
            subprocess.run(["sync"], check=True)
            Path("/proc/sys/vm/drop_caches").write_text("3", encoding="utf-8")
        env = os.environ | {"NEODRAGON_DATA": str(folder / f"start{turn}")}
        command = [sys.executable, SESSION, "--start-only", nds]
        seconds.append(run(command, env).get("usable_seconds", float("nan")))
    return {"cold_seconds": seconds[0], "warm_seconds": round(statistics.median(seconds[1:]), 2)}


def main() -> None:
    source = Path(sys.argv[1]).absolute()
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        odd = home / ODD / source.name
        shutil.copytree(source, odd)
        nds = str(odd / "nds")
        files = [file for file in source.rglob("*") if file.is_file() and not file.is_symlink()]

        def env(name: str, **changes: str) -> dict[str, str]:
            return os.environ | {"NEODRAGON_DATA": str(home / ODD / name)} | changes

        alone = ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
        session = [sys.executable, SESSION]
        checks: dict[str, Callable[[], dict[str, Any]]] = {
            "starts": lambda: starts(nds, home),
            "odd path, in Chromium": lambda: run([*session, "-b", nds], env("odd")),
            "home unwritable": lambda: run([*session, nds], env("home", HOME="/proc/none")),
            "PATH empty": lambda: run([*session, nds], env("path", PATH="")),
            "no network, in Chromium": lambda: run([*alone, *session, "-b", nds], env("net")),
            "long path": lambda: long_path(nds, home),
            "disk nearly full": lambda: nearly_full(nds, home),
            "farm": lambda: farm(nds, home),
        }
        report: dict[str, Any] = {
            "megabytes": round(sum(file.stat().st_size for file in files) / 1e6),
            "files": len(files),
        }
        for name, check in checks.items():
            report[name] = check()
            print(name, report[name], file=sys.stderr, flush=True)
    print(json.dumps(report, indent=1, ensure_ascii=False))
    if any("failed" in value for value in report.values() if isinstance(value, dict)):
        sys.exit(1)


if __name__ == "__main__":
    main()
