"""Names, disks and folders as users have them: nothing is lost, replaced or left half-written."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from studio.batch.contact_sheet import contact_sheet
from studio.cli.main import main
from studio.export.cuts import Cut
from studio.export.formats import export, target_of
from studio.library.store import BIN, Library, LibraryError
from studio.media import sidecars
from studio.media.pictures import write_png
from studio.media.video import read_metadata, stream_mp4, write_mp4
from studio.system import files
from studio.system.files import OutputError, fitted, move, prepare, publish, replace_whole
from studio.system.settings import Settings, SettingsError, save

ROOT = Path(__file__).parents[1]
POSIX = pytest.mark.skipif(os.name != "posix", reason="as POSIX has it")
FRAMES = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
RECORD: dict[str, Any] = {
    "software": "Neodragon Studio 0.1.0",
    "prompt": "a red ball",
    "look_seed": 1,
    "motion_seed": 2,
    "kind": "clip",
}


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# Names


@pytest.mark.skipif(os.name != "posix", reason="Windows counts UTF-16, not bytes")
@pytest.mark.parametrize("letter", ["n", "é", "e\u0301", "火", "🎈", "👩\u200d🚀"])
def test_a_name_of_255_bytes_is_taken_and_a_longer_one_refused(tmp_path: Path, letter: str) -> None:
    stem = letter * (251 // len(letter.encode()))
    stem += "x" * (251 - len(stem.encode()))
    path = tmp_path / f"{stem}.mp4"
    for number in range(3):  # the next ones are numbered, and no longer
        clip = write_mp4(path, FRAMES, 24, RECORD | {"number": number}, accept=sidecars.is_free)
        sidecar = sidecars.write(clip, RECORD | {"number": number}, new=True)
        assert len(os.fsencode(clip.name)) <= 255 and len(os.fsencode(sidecar.name)) <= 255
        found = sidecars.beside(clip)
        assert found is not None and found[1]["number"] == number
        assert read_metadata(clip)["number"] == number
    assert len(names(tmp_path)) == 6
    for format in ("gif", "png"):
        target = target_of(path, tmp_path, format, Cut(loops=2, ping_pong=True))
        assert len(os.fsencode(target.name)) <= 255
    with pytest.raises(
        OutputError, match=r"takes 256 bytes, and a file name has at most 255; .*\.$"
    ):
        prepare(tmp_path / f"{stem}x.mp4", ".mp4")
    with pytest.raises(OutputError, match="bytes"):
        prepare(tmp_path / f"{stem}abcde" / "clip.mp4", ".mp4")


@POSIX
def test_items_with_long_names_are_found_marked_and_moved(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    paths = [folder / f"{'n' * 250}{letter}.mp4" for letter in "ab"]
    for path in paths:
        write_mp4(path, FRAMES, 24, RECORD)
    with Library(tmp_path / "jobs.sqlite", folder) as library:
        assert library.scan() == 2
        for stars, path in enumerate(paths, 3):
            assert library.mark(path, stars=stars, keep=True).stars == stars
        binned = library.reject(paths[0])
        library.scan()
        assert [item.stars for item in library.search()] == [4]
        assert [item.stars for item in library.search(verdict="reject")] == [3]
        assert library.bring_back(binned.path).path == paths[0]
        assert library.item(paths[0]).stars == 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *((name, "device on Windows") for name in ("con", "CON", "nul", "Aux", "COM1", "lpt9")),
        *((name, "device on Windows") for name in ("nul.tar", "con .x", "com¹")),  # noqa: RUF001
        *((f"{name}/clip", "dot or a space") for name in ("x.", "x ", "a. .")),
        *((name, "control") for name in ("a\nb", "a\x1b[31m", "\x7f", "a\0b")),
        ("\udcff", "not valid Unicode"),
        ("\ud800", "not valid Unicode"),
    ],
)
def test_names_that_windows_does_not_keep_are_refused(
    tmp_path: Path, name: str, words: str
) -> None:
    with pytest.raises(OutputError, match=words) as error:
        prepare(tmp_path / f"{name}.mp4", ".mp4")
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_ordinary_names_are_taken(tmp_path: Path) -> None:
    for name in ("console", "nullify", "a.b", "..clip", "com10", "auxiliary", "火 🎈 é"):
        prepare(tmp_path / name / f"{name}.mp4", ".mp4")


@pytest.mark.skipif(os.name != "posix", reason="Windows makes no folder of that name")
def test_a_folder_that_is_there_may_be_called_anything(tmp_path: Path) -> None:
    (tmp_path / "aux").mkdir()
    assert prepare(tmp_path / "aux" / "clip.mp4", ".mp4").parent.name == "aux"


def test_what_is_cut_is_told_apart() -> None:
    one, two = (
        fitted(Path("a") / ("n" * 254 + end), ".json", told_apart=True) for end in ("x", "y")
    )
    assert one != two and all(len(path.name) == 255 for path in (one, two))
    assert fitted(Path("a/b"), ".json", told_apart=True) == Path("a/b.json")


# Whole or not at all, over nothing


WAYS = ("system", "link", "claim")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way to rename without replacing, on file systems that lack the ones before it."""
    if request.param != "system":
        monkeypatch.setattr(files, "_renameat2", lambda: None)
    if request.param == "claim":

        def link(*_: object, **__: object) -> None:
            raise OSError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(os, "link", link)
    return str(request.param)


def test_a_move_replaces_nothing(tmp_path: Path, way: str) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    new.write_text("new")
    makes = [lambda: old.write_text("old"), old.mkdir]
    if os.name == "posix":  # Windows needs rights for a link, and Wine sees none to nowhere
        makes.append(lambda: old.symlink_to("nowhere"))
    for make in makes:
        make()
        with pytest.raises(FileExistsError):
            move(new, old)
        assert new.read_text("utf-8") == "new"
        old.rmdir() if old.is_dir() else old.unlink()
    move(new, old)
    assert old.read_text("utf-8") == "new" and not new.exists()
    with pytest.raises(FileNotFoundError):
        move(old, tmp_path / "absent" / "x")
    with pytest.raises(FileNotFoundError):
        move(tmp_path / "absent", tmp_path / "x")
    assert names(tmp_path) == {"old"}


def test_a_folder_moves_alike(tmp_path: Path, way: str) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "1.png").write_text("1")
    (tmp_path / "old").mkdir()
    assert publish(tmp_path / "new", tmp_path / "old", overwrite=False) == tmp_path / "old-2"
    assert names(tmp_path) == {"old-2/1.png"}


def test_many_writers_of_one_name_each_get_their_own(tmp_path: Path, way: str) -> None:
    def write(number: int) -> None:
        part = tmp_path / f"{number}.part"
        part.write_text(str(number))
        publish(part, tmp_path / "clip.mp4", overwrite=False)

    threads = [threading.Thread(target=write, args=[number]) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wanted = {"clip.mp4", *(f"clip-{number}.mp4" for number in range(2, 17))}
    assert names(tmp_path) == wanted
    assert {(tmp_path / name).read_text("utf-8") for name in wanted} == {str(n) for n in range(16)}


PUBLISHER = """
import os, sys
from functools import partial
from pathlib import Path
from studio.system.files import publish, replace_whole
folder = Path(sys.argv[1])
print("ready", flush=True)
while True:
    part = folder / f".{os.urandom(6).hex()}.part"
    part.write_bytes(b"whole")
    publish(part, folder / "clip.mp4", overwrite=False)
    replace_whole(folder / "marks.json", b"[1]" * 1000)
    if len(os.listdir(folder)) > 300:
        for path in folder.glob("clip*"):
            path.unlink()
"""


@POSIX
def test_a_killed_writer_leaves_nothing_empty(tmp_path: Path) -> None:
    for kill in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, tmp_path],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
        )
        try:
            assert process.stdout is not None and process.stdout.readline()
            time.sleep(0.05 + 0.037 * kill)
        finally:
            process.kill()
            process.communicate()
        for path in tmp_path.glob("clip*.mp4"):
            assert path.read_bytes() == b"whole"
        if (tmp_path / "marks.json").exists():
            assert (tmp_path / "marks.json").read_bytes() == b"[1]" * 1000


def test_a_sidecar_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    """The name goes to what has it; the clip and its sidecar take the next one."""
    clip = tmp_path / "clip.mp4"
    theirs = json.dumps(RECORD | {"marks": {"stars": 5}})

    def frames() -> Iterator[np.ndarray]:
        yield FRAMES[0]
        clip.with_suffix(".json").write_text(theirs)  # while it encodes
        (tmp_path / "clip-2.mp4").write_text("a clip of somebody else")
        yield from FRAMES[1:]

    made = stream_mp4(clip, frames(), (64, 64), 24, RECORD, accept=sidecars.is_free)
    sidecars.write(made, RECORD, new=True)
    assert made.name == "clip-3.mp4"
    assert clip.with_suffix(".json").read_text("utf-8") == theirs
    assert (tmp_path / "clip-2.mp4").read_text("utf-8") == "a clip of somebody else"
    assert names(tmp_path) == {"clip.json", "clip-2.mp4", "clip-3.mp4", "clip-3.json"}


def test_a_new_sidecar_replaces_none(tmp_path: Path) -> None:
    clip = write_mp4(tmp_path / "clip.mp4", FRAMES, 24, RECORD)
    for name in ("clip.json", "clip.mp4.json"):
        (tmp_path / name).write_text(json.dumps(RECORD | {"marks": {"note": name}}))
    before = {(tmp_path / name).read_text("utf-8") for name in ("clip.json", "clip.mp4.json")}
    sidecars.write(clip, RECORD, new=True)
    contents = {path.read_text("utf-8") for path in tmp_path.iterdir() if path.suffix != ".mp4"}
    assert before < contents and len(contents) == 3


# The library's folder


@POSIX
@pytest.mark.timeout(120)
def test_odd_files_do_not_stop_the_library(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    good = write_mp4(folder / "good.mp4", FRAMES, 24, RECORD)
    for name in ("pipe.mp4", "pipe.png", "pipe.json", "good.json"):
        os.mkfifo(folder / name)
    (folder / "circle.mp4").symlink_to("circle.mp4")
    (folder / "circle").symlink_to("circle")
    (folder / "round").mkdir()
    (folder / "round" / "again").symlink_to(folder)
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "folder.mp4").mkdir()
    broken = os.fsencode(folder) + b"/\xff\xfe.mp4"
    with good.open("rb") as source, open(broken, "wb") as copy:  # noqa: PTH123
        copy.write(source.read())
    os.mkdir(os.fsencode(folder) + b"/\xe9")  # noqa: PTH102
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket.mp4"))
        with Library(tmp_path / "jobs.sqlite", folder) as library:
            assert library.scan() == 1
            assert [item.path for item in library.search()] == [good]
            assert library.mark(good, stars=4).stars == 4
            assert library.scan() == 1
            odd = [folder / "pipe.mp4", folder / "socket.mp4", Path(os.fsdecode(broken))]
            for path in odd:
                with pytest.raises(LibraryError):
                    library.reject(path)
    for name in ("pipe.mp4", "pipe.png", "pipe.json", "socket.mp4"):
        with pytest.raises(OutputError):
            sidecars.read(folder / name)
        with pytest.raises(OutputError):
            export(folder / name, tmp_path / "x.gif", "gif")


@POSIX
def test_names_that_no_file_has_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEODRAGON_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    long = "n" * 300 + ".mp4"
    for arguments in (
        ["verify", long],
        ["export", long],
        ["export", "--join", long, long],
        ["library", "mark", long, "--star", "3"],
        ["library", "reject", long],
        ["verify", os.fsdecode(b"\xff.mp4")],
    ):
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert said.startswith("nds: ") and said.count("\n") == 1


@POSIX
def test_a_library_folder_in_a_circle_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "clips").symlink_to("clips")
    with Library(tmp_path / "jobs.sqlite", tmp_path / "clips") as library:
        with pytest.raises(LibraryError, match=r"\.$"):
            library.scan()


def test_an_interrupted_move_to_the_bin_is_finished_by_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    clip = write_mp4(folder / "a.mp4", FRAMES, 24, RECORD)
    with Library(tmp_path / "jobs.sqlite", folder) as library:
        library.mark(clip, stars=4)
        content = json.loads((folder / "a.json").read_text("utf-8"))
        (folder / BIN).mkdir()
        sidecars.write(folder / BIN / "a.mp4", content)  # killed here
        assert library.reject(clip).path == folder / BIN / "a.mp4"
        assert names(folder) == {f"{BIN}/a.mp4", f"{BIN}/a.json"}
        assert library.search(verdict="reject")[0].stars == 4


# A disk that is full


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk with 64 KiB left."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "disk", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("may not mount")
    try:
        (folder / "fill").write_bytes(bytes(192 * 1024))
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_called_that_by_everything_that_writes(full: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (24, 128, 128, 3), np.uint8)
    clip = write_mp4(tmp_path / "clip.mp4", noise, 24, RECORD)
    calls: list[Callable[[], object]] = [lambda: write_mp4(full / "a.mp4", noise, 24, RECORD)]
    calls += [lambda: write_png(full / "a.png", noise.reshape(-1, 128, 3), RECORD)]
    for format in ("mp4", "gif", "webp", "webm", "mov", "png"):
        target = full / ("pictures" if format == "png" else f"a.{format}")
        calls += [partial(export, clip, target, format)]
    calls += [lambda: export(clip, full / "twice.mp4", "mp4", Cut(loops=2))]
    for call in calls:
        with pytest.raises(OutputError, match="No space left on device") as error:
            call()
        assert str(error.value).endswith(".") and "\n" not in str(error.value)
        assert names(full) == {"fill"}
    with pytest.raises(OSError, match="No space left"):
        replace_whole(full / "marks.json", bytes(100_000))
    with pytest.raises(SettingsError, match="No space left"):
        save(full / "settings.json", Settings(rest={"x": "y" * 100_000}))
    with pytest.raises(OSError, match="No space left"):
        sidecars.write(full / "a.mp4", RECORD | {"note": "n" * 100_000})
    assert names(full) == {"fill"}


def test_a_contact_sheet_on_a_full_disk(
    full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_mp4(tmp_path / "clip.mp4", FRAMES, 24, RECORD)
    work = SimpleNamespace(prompt="a", look_seed=1, motion_seed=2, kind="clip")
    jobs: Any = [
        SimpleNamespace(id=n, work=work, state="done", result=clip, size=1) for n in range(60)
    ]
    monkeypatch.setattr("studio.batch.contact_sheet.is_finished", lambda job: True)
    (full / "more").write_bytes(bytes(56 * 1024))
    with pytest.raises(OutputError, match="No space left"):
        contact_sheet(jobs, full / "sheet.jpg", tmp_path / "cache")
    assert names(full) == {"fill", "more"}


LIMITED = """
import resource, sys
from functools import partial
from pathlib import Path
import numpy as np
from studio.media.video import write_mp4
from studio.system.files import OutputError
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
noise = np.random.default_rng(3).integers(0, 256, (24, 128, 128, 3), np.uint8)
try:
    write_mp4(Path(sys.argv[1]), noise, 24, {})
except OutputError as error:
    print(error)
"""


@POSIX
def test_a_file_that_may_not_grow_is_called_that(tmp_path: Path) -> None:
    """As on FAT, or with a quota: ffmpeg is killed by a signal and says nothing."""
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path / "clip.mp4"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert "File too large" in run.stdout and run.stdout.count("\n") == 1
    assert not names(tmp_path)


@POSIX
@pytest.mark.skipif(os.name == "posix" and os.geteuid() != 0, reason="becomes another user")
def test_a_folder_that_loses_its_rights_is_one_sentence() -> None:
    with tempfile.TemporaryDirectory(prefix="rights-") as name:
        folder = Path(name) / "clips"
        folder.mkdir(mode=0o755)
        Path(name).chmod(0o755)
        script = (
            "import os, sys\nfrom pathlib import Path\n"
            "from studio.system.files import OutputError, prepare\n"
            "os.setgid(65534); os.setuid(65534)\n"
            "try:\n    prepare(Path(sys.argv[1]) / 'a.mp4', '.mp4')\n"
            "except OutputError as e:\n    print(e)\n"
        )
        run = subprocess.run(
            [sys.executable, "-c", script, folder],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
        assert "takes no new file (Permission denied)" in run.stdout
