"""The life of an installation on Windows: installed, used, broken, repaired, removed.

Everything is asked of the real thing: the NSIS installer, the registry, the processes, the page in
Chromium. A step that is not as it should be raises AssertionError.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PureWindowsPath
from typing import Any

import box as boxes
import httpx

sys.path.insert(0, str(boxes.ROOT / "packaging"))
import installer  # noqa: E402
import session  # noqa: E402
import windows_files  # noqa: E402

FOLDER = r"C:\Мои программы 李 🐉 é\Neodragon Studio"
KEY = r"HKCU\Software\Microsoft\Windows\CurrentVersion\Uninstall\Neodragon Studio"
# Of Python for Windows, into whose folder or program all else goes.
OF_PYTHON = ("python3.dll", "python312.dll", "vcruntime140.dll", "vcruntime140_1.dll")
# Microsoft's Visual C++ runtime, of which Wine has its own.
RUNTIME = "msvcp140 msvcp140_1 msvcp140_2 vcruntime140 vcruntime140_1 concrt140".split()
OPEN = 2  # the exit code of an installer that changed nothing
PATIENCE = 180.0  # seconds


class Life:
    """An installation of `frozen`, a folder, by `setup`, both on this machine.

    is_studio: it is the studio, and no stand-in (`stand_in`) for the installer's sake.
    """

    def __init__(
        self, box: boxes.Box, frozen: Path, setup: Path, version: str, is_studio: bool = True
    ) -> None:
        self.box, self.frozen, self.setup, self.version = box, frozen, setup, version
        self.is_studio = is_studio
        self.home = self.here(rf"C:\users\{boxes.USER}")
        self.data = self.home / "AppData/Local/Neodragon Studio"
        self.clips = self.home / "Videos/Neodragon Studio"
        menu = "AppData/Roaming/Microsoft/Windows/Start Menu/Programs"
        self.shortcut = self.home / menu / "Neodragon Studio.lnk"
        self.folder = self.here(FOLDER)
        self.started: subprocess.Popen[bytes] | None = None  # the open studio

    def here(self, windows: str) -> Path:
        """Where a file of drive C: lies on this machine."""
        parts = PureWindowsPath(windows).parts[1:]
        return self.box.folder.joinpath(self.box.prefix[1:], "drive_c", *parts)

    def there(self, path: Path) -> str:
        """What Windows calls a file of the box."""
        return "Z:\\" + str(PureWindowsPath(*path.relative_to(self.box.folder).parts))

    def wine(self, *words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
        """Run a Windows program to its end."""
        command = self.box.command("wine", *words, **environment)
        return subprocess.run(command, capture_output=True, timeout=900)

    def install(self, setup: Path | None = None, folder: str = "") -> int:
        """The exit code of the silent installer."""
        where = f"/D={folder}".split(" ") if folder else []  # NSIS wants it without quotes
        return self.wine(self.there(setup or self.setup), "/S", *where).returncode

    def nds(self, *words: str, **environment: str) -> str:
        """What the installed `nds` prints; AssertionError where it fails."""
        done = self.wine(rf"{FOLDER}\nds.exe", *words, **environment)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout.decode()

    def files(self, folder: Path | None = None) -> dict[str, str]:
        """Every file of a folder, the installation's when absent, with its digest."""
        folder = folder or self.folder
        found = {}
        for path in folder.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                found[path.relative_to(folder).as_posix()] = digest
        return found

    def wanted(self) -> dict[str, str]:
        """What is installed: the frozen folder, the uninstaller; and the user's own clip."""
        theirs = {name: self.files()[name] for name in ("uninstall.exe", "my clip.mp4")}
        return self.files(self.frozen) | theirs

    def registered(self) -> str:
        """What Windows' list of programs says, "" where it does not list this one."""
        asked = self.wine("reg", "query", KEY)
        return asked.stdout.decode(errors="replace") if asked.returncode == 0 else ""

    def processes(self) -> list[str]:
        """Command lines of what runs from the installation."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().decode(errors="replace")
            except OSError:
                continue
            if line.startswith(FOLDER):
                found.append(line.replace("\0", " "))
        return found

    def address(self) -> tuple[str, str]:
        """Where the open studio is: its page and its token."""
        told = self.data / "studio.json"
        until(told.is_file, "the studio says where it is")
        page, _, token = json.loads(told.read_text("utf-8"))["address"].partition("?token=")
        return page, token

    def answers(self) -> bool:
        """Whether the open studio serves its page; of a stand-in whether it runs."""
        if not self.is_studio:
            return bool(self.processes())
        page, token = self.address()
        asked = httpx.get(page, headers={"X-Token": token}, timeout=60, trust_env=False)
        return asked.status_code == 200


def until(what: Callable[[], bool], words: str) -> float:
    """Wait for it; the seconds it took. AssertionError where it does not come."""
    started = time.monotonic()
    while not what():
        assert time.monotonic() < started + PATIENCE, f"not in {PATIENCE:.0f} s: {words}"
        time.sleep(0.05)
    return time.monotonic() - started


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """A file system in memory at `folder`, which is the box's user's."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"uid=1000,gid=1000,{options}", "none", str(folder)]
    subprocess.run(mount, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


def older(life: Life) -> Path:
    """The installer of a version before this one, with files that this one does not have."""
    made = life.box.work / "older"
    made.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("neodragon-studio.exe", "nds.exe", "OLD.txt", "_internal/old.dll"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"MZ of old")
        script = installer.script(folder, "0.0.9", made / "older-setup.exe", compress=False)
        (made / "older.nsi").write_text(script, encoding="utf-8-sig")
        subprocess.run(["makensis", "-V2", str(made / "older.nsi")], check=True)
    return made / "older-setup.exe"


def upgraded(life: Life) -> None:
    """An older version, a stale dist-info planted in it and a clip of the user's; then this one."""
    assert life.install(older(life), FOLDER) == 0
    assert "OLD.txt" in life.files() and "0.0.9" in life.registered()
    planted = life.folder / "_internal" / "onnxruntime-0.0.1.dist-info" / "METADATA"
    planted.parent.mkdir()
    planted.write_text("Name: onnxruntime\nVersion: 0.0.1\n")
    (life.folder / "my clip.mp4").write_text("mine")
    boxes.own(life.folder)
    assert life.install() == 0, "installed over the older version, found by the registry"
    assert life.files() == life.wanted()
    assert life.version in life.registered() and life.shortcut.is_file()


def used(life: Life, browser: bool) -> dict[str, Any]:
    """The shortcut's command: a frame, a clip, a batch of five; the seconds to its page."""
    link = life.shortcut.read_bytes()  # Wine's own `start` reads its code page's name, of ??
    for word in (*PureWindowsPath(FOLDER).parts[1:], "neodragon-studio.exe"):
        assert word.encode("utf-16-le") in link, word
    arguments = [] if life.is_studio else ["-c", "import time; time.sleep(900)"]
    command = life.box.command("wine", rf"{FOLDER}\neodragon-studio.exe", *arguments)
    life.started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if not life.is_studio:
        return {"seconds": round(until(life.answers, "the program runs"), 1)}
    seconds = until((life.data / "studio.json").is_file, "the studio is open")
    page, token = life.address()
    (session.in_browser if browser else session.by_api)(page, token)
    made = sorted(path.suffix for path in life.clips.iterdir() if path.suffix in (".mp4", ".png"))
    assert made == [".mp4"] * 6 + [".png"], made
    return {"page_seconds": round(seconds, 1), "in": "Chromium" if browser else "the API"}


def left_alone_while_open(life: Life) -> None:
    """Neither installed over nor removed: exit code 2 and not a byte other."""
    before = life.files()
    assert life.install() == OPEN
    assert life.files() == before and life.answers()
    assert life.wine(rf"{FOLDER}\uninstall.exe", "/S").returncode == OPEN
    assert life.files() == before and life.answers()
    assert life.version in life.registered() and life.shortcut.is_file()


def closed(life: Life) -> None:
    """By `nds quit`, which waits for it; a stand-in is ended."""
    assert life.started is not None
    if not life.is_studio:
        life.box.kill()
    else:
        assert "has ended" in life.nds("quit")
        assert life.started.wait(PATIENCE) == 0
        assert not (life.data / "studio.json").exists()
    until(lambda: not life.processes(), "every process of the studio has ended")


def repaired(life: Life) -> None:
    """A library gone, a program cut off: installing again makes it whole."""
    wanted = life.wanted()
    next(life.folder.rglob("python312.dll")).unlink()
    (life.folder / "nds.exe").write_bytes(b"MZ")
    assert life.install() == 0
    assert life.files() == wanted


def on_full_disks(life: Life) -> None:
    """Too little room, and room that ends in the middle; the older version there stays whole."""
    files = installer.files_of(life.frozen)
    megabytes = sum((life.frozen / file).stat().st_size for file in files) // 2**20
    little = f"size={megabytes + 30}m"  # the installer asks for 50 more than the files
    for number, options in enumerate([little, f"size=4g,nr_inodes={20 + len(files) // 2}"]):
        windows = rf"C:\disk{number}"
        with small_disk(life.here(windows), options) as disk:
            assert life.install(folder=rf"{windows}\new") == OPEN
            assert not (left := list(disk.rglob("*"))), left
            assert life.install(older(life), rf"{windows}\old") == 0
            before = life.files(disk)
            assert life.install(folder=rf"{windows}\old") == OPEN
            assert life.files(disk) == before and "OLD.txt" in str(before)


def refused_where_not_allowed(life: Life) -> None:
    """The user is no administrator: nothing is written among the programs of all."""
    windows = r"C:\Program Files\Neodragon Studio"
    assert life.install(folder=windows) == OPEN
    assert not life.here(windows).exists()


def removed(life: Life) -> None:
    """Uninstalled: nothing is left but what the user made."""
    clips = life.files(life.clips)
    assert life.wine(rf"{FOLDER}\uninstall.exe", "/S").returncode == 0
    until(lambda: life.files().keys() == {"my clip.mp4"}, "only the user's clip is left")
    assert not life.registered() and not life.shortcut.exists()
    assert life.files(life.clips) == clips
    assert not life.is_studio or (life.data / "jobs.sqlite").is_file()


def made_without_runtime(life: Life) -> Path:
    """A clip where Wine's own Visual C++ runtime is switched off."""
    environment = {"WINEDLLOVERRIDES": f"{','.join(RUNTIME)}=n"}  # no more than what came along
    words = ["render", "红色的球 jumps on the meadow", "--look-seed", "7", "--motion-seed", "7"]
    words += ["--backend", "cpu", "--json", "-o", r"C:\clips é 片\clip.mp4"]
    made = json.loads(life.nds(*words, **environment))
    assert made["prompt"].startswith("红色的球"), made["prompt"]
    return life.here(made["file"])


def farmed(life: Life) -> str:
    """A list of two made by a machine that joined the farm, both of them the installed program."""
    host = {"NEODRAGON_DATA": r"C:\farm\host"}
    with ExitStack() as stack:
        stack.callback(life.box.kill)

        def started(*words: str, **environment: str) -> None:
            command = life.box.command("wine", rf"{FOLDER}\nds.exe", "farm", *words, **environment)
            process = subprocess.Popen(command, stdout=subprocess.PIPE)
            assert process.stdout is not None
            said = process.stdout.readline()
            assert b"farm" in said, said

        started("start", **host)
        life.nds("farm", "invite", "-o", r"C:\farm\in.ndsfarm", **host)
        started("join", r"C:\farm\in.ndsfarm", NEODRAGON_DATA=r"C:\farm\machine")
        life.here(r"C:\farm\list.txt").write_text("a red ball\na blue star\n")
        life.nds("batch", r"C:\farm\list.txt", "--farm", "--out", r"C:\farm\made", **host)
        made = list(life.here(r"C:\farm\made").glob("*.mp4"))
        assert len(made) == 2, made
    return "two clips by a machine that joined"


def stand_in(box: boxes.Box) -> Path:
    """A program for the installer's sake where there is no frozen one: Windows' own Python."""
    folder = box.work / "stand-in"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(box.work / "cp312", folder, ignore=shutil.ignore_patterns("Lib"))
    for name in ("neodragon-studio.exe", "nds.exe"):
        shutil.copy(folder / "python.exe", folder / name)
    (folder / "_internal" / "a folder é").mkdir(parents=True)
    (folder / "_internal" / "a folder é" / "文件.txt").write_text("text")
    return folder


def packed(folder: Path, version: str) -> Path:
    """The installer of a folder, made here as for a release but for the compression."""
    setup = folder.with_name(f"{folder.name}-setup.exe")
    command = [sys.executable, str(boxes.ROOT / "packaging" / "installer.py"), str(folder)]
    subprocess.run([*command, version, str(setup), "--quick"], check=True)
    return setup


def arm64(box: boxes.Box) -> str:
    """Windows on Arm, of which nothing runs here: its wheels read, its installer lived through.

    The installer is a program for any Windows; what it installs here is PyInstaller's bootloader
    for Arm under our names, and the NPU's runtime.
    """
    wheels, freezer = box.work / "arm64", box.work / "arm64-freezer"
    lock = boxes.LOCK.with_name("win_arm64.txt")
    boxes.install(wheels, "--no-deps", "--require-hashes", "-r", str(lock), machine="aarch64")
    boxes.install(freezer, "--no-deps", "pyinstaller>=6.22", machine="aarch64")
    shutil.rmtree(wheels / "Scripts")  # msvc-runtime's, with a vcruntime140_1.dll for x64
    loaders = freezer / "PyInstaller" / "bootloader" / "Windows-64bit-arm"
    for folder in (wheels, loaders):
        found = list(windows_files.problems(folder, "arm64", OF_PYTHON))
        assert not found, found
    frozen = box.work / "arm64-frozen"
    shutil.rmtree(frozen, ignore_errors=True)
    shutil.copytree(wheels / "onnxruntime_qnn", frozen / "_internal" / "onnxruntime_qnn")
    shutil.copy(loaders / "runw.exe", frozen / "neodragon-studio.exe")
    shutil.copy(loaders / "run.exe", frozen / "nds.exe")
    life = Life(box, frozen, packed(frozen, "1.2.3"), "1.2.3", is_studio=False)
    assert life.install(folder=r"C:\arm 64") == 0
    place = life.here(r"C:\arm 64")
    installed = life.files(place)
    assert installed.pop("uninstall.exe") and installed == life.files(frozen)
    assert life.wine(r"C:\arm 64\uninstall.exe", "/S").returncode == 0
    until(lambda: not place.exists(), "nothing is left")
    count = len(windows_files.programs_in(wheels))
    return f"{count} programs and libraries are for Arm and find what they import"


def lived(life: Life, browser: bool = True) -> Iterator[tuple[str, object]]:
    """The steps one by one, each with what it found."""
    steps: dict[str, Callable[[Life], object]] = {
        "upgraded": upgraded,
        "used": lambda life: used(life, browser),
        "left alone while open": left_alone_while_open,
        "closed": closed,
        "repaired": repaired,
        "refused on full disks": on_full_disks,
        "refused where not allowed": refused_where_not_allowed,
        "installed again": lambda life: life.install(folder=FOLDER),
        "without the VC++ runtime": made_without_runtime,
        "farm": farmed,
        "removed": removed,
    }
    for name, step in steps.items():
        if life.is_studio or step not in (made_without_runtime, farmed):
            yield name, step(life)
