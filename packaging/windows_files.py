"""What can be seen of Windows programs without Windows: `windows_files.py FOLDER MACHINE [DLL ..]`.

For the frozen folder, or one of wheels: every PE file is for the machine, and what it imports lies
in the folder, is named, or belongs to Windows 11 (windows_dlls.txt). Of our own programs also: no
console for a window program, version, icon, long paths, sharp on any screen, room for a signature.
Prints what is wrong; exit code 1 where anything is. Wants pefile, which PyInstaller brings on
Windows and `pip install -e .[test]` anywhere.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import pefile

MACHINES = {"arm64": 0xAA64, "amd64": 0x8664, "x86": 0x14C}
WINDOW, CONSOLE = 2, 3  # subsystems
PROGRAMS = {"neodragon-studio.exe": WINDOW, "nds.exe": CONSOLE}
LISTED = Path(__file__).with_name("windows_dlls.txt").read_text("ascii").splitlines()
SYSTEM = [line for line in LISTED if line and not line.startswith("#")]
IMPORTS = ("IMAGE_DIRECTORY_ENTRY_IMPORT", "IMAGE_DIRECTORY_ENTRY_DELAY_IMPORT")
SIGNATURE = pefile.DIRECTORY_ENTRY["IMAGE_DIRECTORY_ENTRY_SECURITY"]
RESOURCES = pefile.DIRECTORY_ENTRY["IMAGE_DIRECTORY_ENTRY_RESOURCE"]
ICON, MANIFEST = 14, 24  # kinds of resources


def programs_in(folder: Path) -> list[Path]:
    """Every PE file, by its first bytes: the names end in .exe, .dll, .pyd and in nothing."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                if file.read(2) == b"MZ":
                    found.append(path)
    return found


def problems(folder: Path, machine: str, besides: Iterable[str] = ()) -> Iterator[str]:
    """Sentences on what is wrong in a folder whose PE files are to be for `machine`.

    besides: libraries that will lie there too, lower case.
    """
    files = programs_in(folder)
    here = {path.name.lower() for path in files} | set(besides)
    if not files:
        yield f"{folder} should hold programs, but there is none"
    for path in files:
        name = path.relative_to(folder).as_posix()
        with pefile.PE(str(path), fast_load=True) as program:
            meant = {MACHINES[machine]}
            if "arm64ec" in path.parts:  # by its name for x64 programs on an Arm PC
                meant = {MACHINES["amd64"], MACHINES["arm64"]}
            if program.FILE_HEADER.Machine not in meant:
                yield f"{name} should be for {machine}, but is {program.FILE_HEADER.Machine:#x}"
            for library in imported(program):
                if library not in here and not any(fnmatch(library, known) for known in SYSTEM):
                    yield f"{name} imports {library}, which is neither here nor Windows'"
            if path.parent == folder and path.name in PROGRAMS:
                for words in unfinished(program, PROGRAMS[path.name]):
                    yield f"{name} {words}"


def imported(program: pefile.PE) -> set[str]:
    """The libraries that a PE file names, now or when it first calls them; lower case."""
    program.parse_data_directories([pefile.DIRECTORY_ENTRY[name] for name in IMPORTS])
    entries = [
        *getattr(program, "DIRECTORY_ENTRY_IMPORT", []),
        *getattr(program, "DIRECTORY_ENTRY_DELAY_IMPORT", []),
    ]
    return {entry.dll.decode().lower() for entry in entries}


def unfinished(program: pefile.PE, subsystem: int) -> Iterator[str]:
    """What one of our own programs lacks."""
    if program.OPTIONAL_HEADER.Subsystem != subsystem:
        yield "opens a console" if subsystem == WINDOW else "has no console"
    if len(program.OPTIONAL_HEADER.DATA_DIRECTORY) <= SIGNATURE:
        yield "has no room for a signature"
    program.parse_data_directories([RESOURCES])
    resources = getattr(program, "DIRECTORY_ENTRY_RESOURCE", None)
    kinds = {entry.id: entry for entry in resources.entries} if resources else {}
    if ICON not in kinds:
        yield "has no icon"
    version = version_of(program)
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        yield f"should say its version, but says {version!r}"
    manifest = ""
    if MANIFEST in kinds:
        place = kinds[MANIFEST].directory.entries[0].directory.entries[0].data.struct
        manifest = program.get_data(place.OffsetToData, place.Size).decode("utf-8", "replace")
    for wanted, words in (
        (r"<longPathAware[^>]*>true<", "takes no path of more than 260 characters"),
        (r"<dpiAwareness[^>]*>PerMonitorV2<", "is blurred on a sharp screen"),
        (r'level="asInvoker"', "may ask for an administrator"),
    ):
        if not re.search(wanted, manifest):
            yield words


def version_of(program: pefile.PE) -> str:
    """`ProductVersion` of the version resource, "" where there is none."""
    for info in getattr(program, "FileInfo", []):
        for table in (t for entry in info for t in getattr(entry, "StringTable", [])):
            return str(table.entries.get(b"ProductVersion", b"").decode())
    return ""


def main() -> None:
    folder, machine, besides = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    found = list(problems(folder, machine, besides))
    print(*found, sep="\n")
    print(f"{len(programs_in(folder))} programs and libraries for {machine}: {len(found)} problems")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
