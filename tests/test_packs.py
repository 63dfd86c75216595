"""Packs of the user's own: real archives, a real kill, a disk that is really full."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.errors import NeodragonError
from engine.pack import MANIFEST, open_pack
from studio.cli.main import main
from studio.system import packs, paths
from studio.system.packs import InstallError
from studio.system.settings import change, pack_path, settings_file
from studio.system.sqlite import lock

SLOW = """
import sys, time
from pathlib import Path
from studio.system.packs import install
install(Path(sys.argv[1]), Path(sys.argv[2]), lambda done, total: time.sleep(0.05))
"""


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(paths.DATA_VARIABLE, str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def home(data: Path) -> Path:
    return packs.home()


@pytest.fixture
def archive(mini_pack: Path, tmp_path: Path) -> Path:
    """The mini pack as a .zip, in a folder of its own as people zip them."""
    path = tmp_path / "mini é.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in mini_pack.rglob("*"):
            if file.is_file():
                archive.write(file, f"neodragon/{file.relative_to(mini_pack).as_posix()}")
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_pack_is_installed_whole(archive: Path, mini_pack: Path, home: Path) -> None:
    seen: list[tuple[int, int]] = []
    target = packs.install(archive, home, lambda done, total: seen.append((done, total)))
    with open_pack(mini_pack) as pack:
        wanted = {file.name for file in pack.files} | {MANIFEST}
        assert target == home / f"{pack.name}-{pack.pack_hash[:12]}"
    assert content(target) == {name: (mini_pack / name).read_bytes() for name in wanted}
    assert seen[0][0] == 0 and seen[-1][0] == seen[-1][1] and seen == sorted(seen)
    (one,) = packs.installed(home)
    assert (one.path, one.problem) == (target, None) and "upscaler" in one.parts
    assert packs.install(mini_pack, home) == target  # again: nothing to do
    assert [path.name for path in home.iterdir()] == [target.name]


def test_a_damaged_pack_is_repaired_file_by_file(mini_pack: Path, home: Path) -> None:
    target = packs.install(mini_pack, home)
    with open_pack(target) as pack:
        first, second, *rest = sorted(pack.files, key=lambda file: file.size)
    stamps = {file.name: (target / file.name).stat().st_mtime_ns for file in rest}
    (target / first.name).unlink()
    (target / second.name).write_bytes(b"x" * second.size)
    assert "missing" in str(packs.look(target).problem)
    packs.install(mini_pack, home)
    with open_pack(target) as pack:
        assert {problem for _, problem in packs.damaged(pack)} == {None}
    assert {name: (target / name).stat().st_mtime_ns for name in stamps} == stamps


def test_a_folder_with_the_name_of_a_part_is_kept(mini_pack: Path, home: Path) -> None:
    """Unfinished files are called so too, and are cleared away."""
    pack = Path(shutil.copytree(mini_pack, home.parent / "pack"))
    (pack / "x" / ".y.part").mkdir(parents=True)
    (pack / "portable/upscaler.onnx").rename(pack / "x/.y.part/upscaler.onnx")
    text = (pack / MANIFEST).read_text("utf-8").replace("portable/upscaler.", "x/.y.part/upscaler.")
    (pack / MANIFEST).write_text(text)
    target = packs.install(pack, home)
    (target / "tokenizers/t5.json").unlink()
    packs.install(pack, home)
    with open_pack(target) as opened:
        assert opened.has("upscaler")
        assert {problem for _, problem in packs.damaged(opened)} == {None}


def test_installed_by_many_at_once_it_is_there_once(archive: Path, home: Path) -> None:
    code = "import sys; from studio.cli.main import main; sys.exit(main(sys.argv[1:]))"
    ask = [sys.executable, "-c", code, "pack", "install", str(archive), "--json"]
    started = [
        subprocess.Popen(ask, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
        for _ in range(4)
    ]
    try:
        told = [process.communicate(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * 4, told
    (target,) = home.iterdir()
    assert {json.loads(out)["path"] for out, _ in told} == {str(target)}
    with open_pack(target) as pack:
        assert {problem for _, problem in packs.damaged(pack)} == {None}


def test_a_pack_is_not_removed_while_one_is_installed(
    mini_pack: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = packs.install(mini_pack, home)
    monkeypatch.setattr(packs, "PATIENCE", 0.1)
    with lock(home.with_name("packs.lock")) as taken:
        assert taken
        for ask in (
            lambda: packs.remove(target, home, in_use=mini_pack),
            lambda: packs.install(mini_pack, home),
        ):
            with pytest.raises(InstallError, match="^Another pack is being installed; try again"):
                ask()
    packs.remove(target, home, in_use=mini_pack)


def test_an_install_that_was_killed_goes_on(archive: Path, home: Path) -> None:
    started = subprocess.Popen([sys.executable, "-c", SLOW, str(archive), str(home)])
    deadline = time.monotonic() + 120
    while len(list(home.glob("*.part/**/*.onnx"))) < 4:
        assert started.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    started.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    started.wait()
    (staged,) = home.glob("*.part")
    whole = {path: path.stat().st_mtime_ns for path in staged.rglob("*") if path.suffix == ".onnx"}
    assert whole and packs.installed(home) == []
    target = packs.install(archive, home)
    for path, stamp in whole.items():
        assert (target / path.relative_to(staged)).stat().st_mtime_ns == stamp
    with open_pack(target) as pack:
        assert {problem for _, problem in packs.damaged(pack)} == {None}
    assert not list(home.rglob("*.part"))


Change = Callable[[zipfile.ZipFile, dict[str, bytes]], None]


def _beside(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    archive.writestr("../outside.txt", b"x")


def _absolute(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    archive.writestr("/outside.txt", b"x")


def _link(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    link = zipfile.ZipInfo("outside.txt")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(link, "/etc/passwd")


def _bomb(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    archive.writestr("zeros", b"\0" * 2**24, compress_type=zipfile.ZIP_DEFLATED)


def _declared(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    manifest = json.loads(files[MANIFEST])
    manifest["tokenizers"]["clip"]["size"] = 10 * 2**30
    files[MANIFEST] = json.dumps(manifest).encode()


def _elsewhere(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    manifest = json.loads(files[MANIFEST])
    manifest["tokenizers"]["clip"]["file"] = "../../outside.txt"
    files[MANIFEST] = json.dumps(manifest).encode()


def _missing(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    del files["portable/transformer.onnx"]


def _wrong(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    graph = files["portable/transformer.onnx"]
    files["portable/transformer.onnx"] = graph[:-1] + bytes([graph[-1] ^ 1])


def _folder_outside(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    archive.writestr("../outside/", b"")


def _device(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    archive.writestr("portable/nul.onnx", b"x")


def _twice(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("readme.txt", b"x")
        archive.writestr("readme.txt", b"y")


def _in_other_case(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    archive.writestr("Portable/TRANSFORMER.onnx", b"x")


def _under_a_file(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    archive.writestr("portable/transformer.onnx/x", b"x")


def _pipe(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    pipe = zipfile.ZipInfo("pipe")
    pipe.external_attr = (stat.S_IFIFO | 0o644) << 16
    archive.writestr(pipe, b"")


def _lzma(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    archive.writestr("x.bin", b"x" * 1000, compress_type=zipfile.ZIP_LZMA)


def _many(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    for number in range(10_001):
        archive.writestr(zipfile.ZipInfo(f"{number}"), b"")


def _hidden_after_zero(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    entry = zipfile.ZipInfo("readme.txt")
    entry.filename = "read\0me.txt"
    archive.writestr(entry, b"x")


def test_encrypted_files_and_wrong_checksums(
    mini_pack: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("encrypted", "checksum", "overlap"):
        path = tmp_path / f"{name}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file, data in content(mini_pack).items():
                archive.writestr(zipfile.ZipInfo(file), data)
            (info,) = [i for i in archive.infolist() if i.filename == "tokenizers/t5.json"]
            largest = max(archive.infolist(), key=lambda i: i.file_size)
        data = bytearray(path.read_bytes())
        entry = data.rfind(b"tokenizers/t5.json") - 46  # in the table of contents
        assert data[entry : entry + 4] == b"PK\x01\x02"
        if name == "encrypted":
            data[entry + 8] |= 1
        elif name == "checksum":
            for place in (entry + 16, info.header_offset + 14):
                data[place] ^= 0xFF
        else:
            size = (largest.file_size + len(data) // 2).to_bytes(4, "little")
            data[entry + 20 : entry + 28] = size + size
        path.write_bytes(data)
        assert main(["pack", "install", str(path)]) == 2
        told = capsys.readouterr().err
        expected = {"encrypted": "is encrypted", "checksum": "Bad CRC-32", "overlap": "overlap"}
        assert expected[name] in told and told.count("\n") == 1
        assert packs.installed(home) == []


@pytest.mark.parametrize(
    "change_",
    [
        *(_beside, _absolute, _link, _bomb, _declared, _elsewhere, _missing, _wrong),
        *(_folder_outside, _device, _twice, _in_other_case, _under_a_file, _pipe, _lzma, _many),
        _hidden_after_zero,
    ],
)
def test_a_hostile_pack_is_refused(
    change_: Change, mini_pack: Path, home: Path, tmp_path: Path
) -> None:
    files = content(mini_pack)
    path = tmp_path / "hostile.zip"
    with zipfile.ZipFile(path, "w") as archive:
        change_(archive, files)
        for name, data in files.items():
            archive.writestr(name, data)
    before = content(tmp_path)
    with pytest.raises(NeodragonError, match=r"^[^\n]*\.$"):
        packs.install(path, home)
    assert packs.installed(home) == []
    strays = content(tmp_path).keys() - before.keys() - {"data/packs.lock"}
    assert all(name.startswith("data/packs/") and ".part/" in name for name in strays)
    assert change_ is _wrong or not strays


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 20 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk takes the rights of root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_small_disk_is_said_before_the_first_byte(mini_pack: Path, small_disk: Path) -> None:
    with pytest.raises(InstallError, match=r"needs 1\.0 GB .* and 0\.0 GB are free; free"):
        packs.install(mini_pack, small_disk)
    assert content(small_disk) == {}


def test_a_disk_that_fills_up_costs_nothing(
    mini_pack: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "FLOOR", -(10**12))  # as if the space had been taken meanwhile
    with pytest.raises(InstallError, match=r"cannot be written .* it goes on where it stopped\.$"):
        packs.install(mini_pack, small_disk)
    assert packs.installed(small_disk) == []
    names = {name for name in content(small_disk) if not name.endswith(MANIFEST)}
    with open_pack(mini_pack) as pack:
        hashes = {file.sha256 for file in pack.files}
    assert names and all(
        hashlib.sha256((small_disk / name).read_bytes()).hexdigest() in hashes for name in names
    )


def test_only_installed_packs_that_rest_are_removed(mini_pack: Path, home: Path) -> None:
    target = packs.install(mini_pack, home)
    for path in (mini_pack, home, home / "absent", home / ".." / "packs"):
        with pytest.raises(InstallError, match="is not one of the packs installed in"):
            packs.remove(path, home, in_use=mini_pack)
    with pytest.raises(InstallError, match="is the pack in use"):
        packs.remove(target, home, in_use=target)
    packs.remove(target, home, in_use=mini_pack)
    assert list(home.iterdir()) == [] and mini_pack.is_dir()


def test_the_commands(
    mini_pack: Path, archive: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pack", "repair", str(archive)]) == 2
    assert "not installed yet" in capsys.readouterr().err
    assert main(["pack", "install", str(archive), "--use"]) == 0
    target = pack_path()
    assert target.parent == home and "it is in use now" in capsys.readouterr().out
    assert main(["pack", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(one["in_use"], one["problem"]) for one in listed] == [(False, ""), (True, "")]
    assert main(["pack", "remove", target.name]) == 2
    assert main(["pack", "use", "mini"]) == 0
    assert pack_path() == paths.default_pack()
    capsys.readouterr()

    (target / "portable/upscaler.onnx").write_bytes(b"")
    assert main(["pack", "verify", str(target)]) == 2
    assert "portable/upscaler.onnx has" in capsys.readouterr().err
    graph = target / "portable/transformer.onnx"
    assert main(["pack", "repair", str(mini_pack)]) == 0
    graph.write_bytes(b"\0" * graph.stat().st_size)
    assert main(["pack", "verify", str(target)]) == 2
    assert "transformer.onnx has the SHA-256" in capsys.readouterr().err
    assert main(["pack", "verify", str(target), "--json"]) == 2
    assert list(json.loads(capsys.readouterr().out)["damaged"]) == ["portable/transformer.onnx"]
    assert main(["pack", "repair", str(mini_pack)]) == 0
    assert main(["pack", "verify", str(target)]) == 0
    assert main(["pack", "remove", target.name]) == 0
    assert packs.installed(home) == []


def test_a_pack_that_is_gone_is_said(home: Path) -> None:
    change(settings_file(), pack=str(home / "gone"))
    listed = packs.look(pack_path())
    assert "There is no pack" in str(listed.problem)
