"""Damaged and hostile packs by the hundred: one sentence and exit 2, and nothing outside.

A hundred of them in every run; two thousand with `-m fuzz`. A mutant is named by its number, which
makes it again.
"""

from __future__ import annotations

import io
import json
import random
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from random_pack import exported

from engine.pack import MANIFEST, open_pack
from studio.cli.main import main
from studio.system import packs, paths

Random = random.Random

VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**300, -(10**40), 0.5, 1e308, float("nan")),
    *(float("inf"), "", "x", "1", "\0", "\x1b[2J", "\ud800", "\u202e", "x" * 5000, "a\nb"),
    *([], {}, [[]], [1, 2, 3], [None], {"a": 1}, [0] * 50, {"": {}}, [{}], {"file": "x"}),
]
NAMES = [
    *("../x", "/x", "C:\\x", "\\\\host\\x", "CON", "nul.json", "x.", "x ", "a//b", "a/../../b"),
    *("\x07", "e\u0301", "\u00e9", "PACK.JSON", "pack.json/x", "\u754c" * 100, "x" * 400, ".", ""),
]


def nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a parsed JSON text: its container and its key there."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in list(pairs):
        yield value, key
        if isinstance(part, dict | list):
            yield from nodes(part)


def wrong_value(files: dict[str, bytes], chance: Random) -> None:
    """Replace, delete, rename or double places of the manifest."""
    manifest = json.loads(files[MANIFEST])
    for _ in range(chance.choice([1, 1, 2, 5])):
        container, key = chance.choice(list(nodes(manifest)))
        what = chance.choice(["value", "value", "delete", "rename"])
        if what == "value":
            container[key] = chance.choice([*VALUES, chance.choice(NAMES)])
        elif what == "delete":
            del container[key]
        elif isinstance(container, dict):
            container[chance.choice([*NAMES, "x"])] = container.pop(key)
    files[MANIFEST] = json.dumps(manifest).encode("utf-8", "surrogatepass")


def wrong_name(files: dict[str, bytes], chance: Random) -> None:
    """Give a file another name, in the manifest and in the pack."""
    manifest = json.loads(files[MANIFEST])
    places = [(c, k) for c, k in nodes(manifest) if k == "file" and isinstance(c[k], str)]
    container, key = chance.choice(places)
    old, new = container[key], chance.choice(NAMES)
    container[key] = new
    if old in files and new.isprintable():
        files[new] = files[old]
    files[MANIFEST] = json.dumps(manifest).encode("utf-8", "surrogatepass")


def wrong_file(files: dict[str, bytes], chance: Random) -> None:
    """Damage, cut, empty or take away a file, the manifest among them."""
    name = chance.choice([MANIFEST, *files])
    data = bytearray(files[name])
    what = chance.choice(["flip", "cut", "empty", "gone", "longer"])
    if what == "gone":
        del files[name]
        return
    if what == "flip":
        for _ in range(chance.choice([1, 3, 30])):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif what == "cut":
        del data[chance.randrange(len(data)) :]
    elif what == "empty":
        data.clear()
    else:
        data += bytes(chance.randrange(1, 5000))
    files[name] = bytes(data)


def archived(files: dict[str, bytes], chance: Random) -> bytes:
    """The pack as a .zip, at times with an entry that does not belong there."""
    stream = io.BytesIO()
    prefix = chance.choice(["", "", "mini/"])
    way = chance.choice([0, zipfile.ZIP_DEFLATED])
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", way) as archive:
        warnings.simplefilter("ignore")  # of a name that is there twice
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(prefix + name), data)
        if chance.random() < 0.2:
            entry = zipfile.ZipInfo(chance.choice([n for n in NAMES if n]))
            entry.external_attr = chance.choice([0, 0o120777 << 16, 0o010644 << 16])
            entry.compress_type = chance.choice([0, 8, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
            archive.writestr(entry, chance.choice([b"x", bytes(2**22), b"/etc/passwd"]))
    return stream.getvalue()


def damaged(archive: bytes, chance: Random) -> bytes:
    """The bytes of a .zip changed, mostly those of its table of contents."""
    data = bytearray(archive)
    table = max(data.rfind(b"PK\x05\x06") - 3000, 0)
    for _ in range(chance.choice([1, 2, 10])):
        start = chance.choice([table, table, 0])
        place = chance.randrange(start, len(data))
        what = chance.choice(["bit", "byte", "insert", "delete", "zeros", "ones"])
        if what == "bit":
            data[place] ^= 1 << chance.randrange(8)
        elif what == "byte":
            data[place] = chance.randrange(256)
        elif what == "insert":
            data[place:place] = chance.randbytes(chance.randrange(1, 9))
        elif what == "delete":
            del data[place : place + chance.randrange(1, 9)]
        else:
            length = min(chance.randrange(1, 9), len(data) - place)
            data[place : place + length] = (b"\0" if what == "zeros" else b"\xff") * length
    if chance.random() < 0.1:
        del data[chance.randrange(len(data)) :]
    return bytes(data)


def mutant(number: int, sound: dict[str, bytes], folder: Path) -> Path:
    """The pack of that number, a folder or a .zip."""
    chance = Random(number)
    files = dict(sound)
    change: Callable[[dict[str, bytes], Random], None] | None
    change = chance.choice([wrong_value, wrong_value, wrong_name, wrong_file, None])
    if change is not None:
        change(files, chance)
    if change is wrong_file and chance.random() < 0.5:
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return folder
    archive = archived(files, chance)
    path = folder.with_suffix(".zip")
    path.write_bytes(damaged(archive, chance) if change is None else archive)
    return path


def outside(folder: Path) -> set[str]:
    """Files beside the data folder."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if not path.is_relative_to(folder / "data")
    }


@pytest.fixture(scope="module")
def sound() -> dict[str, bytes]:
    pack = exported()
    paths_ = [path for path in pack.rglob("*") if path.is_file()]
    return {path.relative_to(pack).as_posix(): path.read_bytes() for path in paths_}


def attack(
    number: int,
    sound: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(paths.DATA_VARIABLE, str(tmp_path / "data"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    pack = mutant(number, sound, tmp_path / "mutant")
    before = outside(tmp_path)
    for command in ("info", "verify", "install"):
        code = main(["pack", command, str(pack)])
        told = capsys.readouterr()
        assert outside(tmp_path) == before
        if code == 0:
            assert not told.err
            continue
        assert code == 2 and told.err.startswith("nds: ") and told.err.endswith(".\n")
        sentence = told.err.removeprefix("nds: ").removesuffix("\n")
        assert sentence.isprintable() and len(sentence) < 700, sentence
    for one in packs.installed(packs.home()):
        with open_pack(one.path) as opened:
            assert not any(problem for _, problem in packs.damaged(opened))


@pytest.mark.parametrize("first", range(0, 100, 25))
def test_damaged_packs(
    first: int,
    sound: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number in range(first, first + 25):
        (tmp_path / str(number)).mkdir()
        attack(number, sound, tmp_path / str(number), monkeypatch, capsys)


@pytest.mark.fuzz
@pytest.mark.parametrize("first", range(100, 2100, 50))
def test_many_damaged_packs(
    first: int,
    sound: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number in range(first, first + 50):
        (tmp_path / str(number)).mkdir()
        attack(number, sound, tmp_path / str(number), monkeypatch, capsys)
