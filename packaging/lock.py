"""The runtime, pinned for every target: `python packaging/lock.py [--check]`.

Resolves pyproject.toml's dependencies and the extra `farm` for each target from wheels alone (a
source build is a failure), and writes `packaging/locks/TARGET.txt` with the SHA-256 of every wheel.
Versions stay as they are unless `--upgrade` is given. With `--check` the files stay: each is
resolved again as it stands, to see that all its wheels are still there; 3 is its exit code where no
registry answers.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCKS = ROOT / "packaging" / "locks"
PYTHON = "3.12"
NO_REGISTRY = "error sending request|dns error|tcp connect|certificate|client error"
TARGETS = {
    "win_arm64": "aarch64-pc-windows-msvc",
    "win_amd64": "x86_64-pc-windows-msvc",
    "linux_x86_64": "x86_64-manylinux_2_35",
}


def resolve(source: Path, platform: str, *options: str) -> str:
    """The pinned requirements with hashes, as text; ends the program where a wheel is missing."""
    command = [sys.executable, "-m", "uv", "pip", "compile", str(source), "--quiet"]
    command += ["--python-platform", platform, "--python-version", PYTHON]
    command += ["--only-binary", ":all:", "--generate-hashes", "--no-header", "--no-annotate"]
    command += ["--no-emit-index-url", "--no-emit-find-links", *options]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=ROOT)
    if done.returncode and re.search(NO_REGISTRY, done.stderr):
        print(f"{platform}: not resolved, the registry cannot be reached", file=sys.stderr)
        sys.exit(3)
    if done.returncode:
        sys.exit(f"{platform} should resolve from wheels alone, but it does not:\n{done.stderr}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only look whether the locks resolve")
    parser.add_argument(
        "--upgrade", action="store_true", help="newer versions where there are some"
    )
    options = parser.parse_args()
    LOCKS.mkdir(exist_ok=True)
    for target, platform in TARGETS.items():
        lock = LOCKS / f"{target}.txt"
        if options.check:
            again = resolve(lock, platform, "--no-deps")
            wanted = {
                line.split()[0] for line in lock.read_text("utf-8").splitlines() if "==" in line
            }
            got = {line.split()[0] for line in again.splitlines() if "==" in line}
            if got != wanted:
                sys.exit(f"{lock.name} should resolve to itself, but see {sorted(got ^ wanted)}.")
        else:
            wishes = ["--extra", "farm", "--output-file", str(lock)]
            if options.upgrade:
                wishes.append("--upgrade")
            resolve(ROOT / "pyproject.toml", platform, *wishes)
        count = sum("==" in line for line in lock.read_text("utf-8").splitlines())
        print(f"{target}: {count} packages, wheels alone")


if __name__ == "__main__":
    main()
