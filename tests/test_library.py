"""The library on real files: found, searched, marked, put aside; restored and made again."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.config import Request
from engine.errors import NeodragonError
from engine.events import FirstFrame, UnitFrames
from engine.pack import Pack, open_pack
from engine.pipeline import generate
from studio.jobs.database import JobFile
from studio.jobs.render import record, sidecar
from studio.jobs.spec import Work, content_key
from studio.library.restore import RestoreError, restore
from studio.library.store import BIN, EXPORTS, Library, LibraryError
from studio.library.verify import VerifyError, verify
from studio.media import sidecars
from studio.media.pictures import write_png
from studio.media.sidecars import Kind
from studio.media.video import write_mp4
from studio.system.files import OutputError
from studio.system.paths import default_pack

NOON = datetime(2026, 11, 22, 12).astimezone()
FRAMES = np.zeros((2, 16, 16, 3), np.uint8)
PACK = {"name": "neodragon-mini", "version": "0.1.0", "hash": "ab" * 32}


def recorded(prompt: str = "a red ball", look: int = 1, motion: int = 2) -> dict[str, Any]:
    """What a clip says of itself."""
    return {
        "software": "Neodragon Studio 0.1.0",
        "prompt": prompt,
        "negative_prompt": "",
        "look_seed": look,
        "motion_seed": motion,
        "mode": "hybrid",
        "steps": [1, 1, 1],
        "upscale": False,
        "picture": None,
        "pack": PACK,
        "backend": "cpu",
    }


def make(
    path: Path, metadata: dict[str, Any], *, created: datetime | None = NOON, kind: Kind = "clip"
) -> Path:
    """A clip or a first frame as the worker leaves it; created: None for no sidecar."""
    if kind == "clip":
        path = write_mp4(path, FRAMES, 24, metadata)
    else:
        path = write_png(path, FRAMES[0], metadata)
    if created is not None:
        beside = sidecar(
            metadata, file=path.name, created=created, seconds=2.5, key="k" * 64, kind=kind
        )
        path.with_suffix(".json").write_text(json.dumps(beside), encoding="utf-8")
    return path


def listing(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "Videos é" / "Neodragon Studio"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def library(tmp_path: Path, folder: Path) -> Iterator[Library]:
    with Library(tmp_path / "data" / "jobs.sqlite", folder) as library:
        yield library


def names(library: Library, *words: str, **filters: Any) -> list[str]:
    return [item.path.name for item in library.search(*words, **filters)]


def test_everything_of_ours_is_found(library: Library, folder: Path) -> None:
    make(folder / "a.mp4", recorded())
    make(folder / "deep" / "er" / "b.mp4", recorded("a green house"), created=None)
    make(folder / "c.png", recorded("a blue star"), created=None, kind="frame")
    make(folder / "d.mp4", {"software": "Another Studio"}, created=None)
    make(folder / "e.mp4", recorded() | {"export": {"of": "a.mp4"}}, created=None)
    make(folder / EXPORTS / "a.mp4", recorded())
    make(folder / ".f.mp4", recorded())
    (folder / "g.mp4").write_bytes(b"no clip")
    (folder / "h.png").write_bytes(b"no picture")
    (folder / "a link.mp4").symlink_to(folder / "a.mp4")
    assert library.scan() == 3
    found = {item.path: item for item in library.search()}
    assert set(found) == {folder / "a.mp4", folder / "deep" / "er" / "b.mp4", folder / "c.png"}
    clip = found[folder / "a.mp4"]
    assert (clip.kind, clip.prompt) == ("clip", "a red ball")
    assert (clip.look_seed, clip.motion_seed) == (1, 2)
    assert (clip.created, clip.stars, clip.verdict, clip.note) == (NOON.timestamp(), 0, "", "")
    assert clip.recorded["seconds"] == 2.5 and clip.recorded["pack"] == PACK
    bare = found[folder / "c.png"]
    assert bare.kind == "frame" and abs(bare.created - bare.path.stat().st_mtime) < 1


def test_only_what_changed_is_read_again(library: Library, folder: Path) -> None:
    path = make(folder / "a.mp4", recorded(), created=None)
    make(folder / "b.mp4", recorded())
    assert library.scan() == 2
    (folder / "b.mp4").unlink()
    path.with_suffix(".json").write_text(json.dumps(recorded("other") | {"kind": "clip"}))
    assert library.scan() == 1
    assert [item.prompt for item in library.search()] == ["other"]
    shutil.rmtree(folder)
    assert library.scan() == 0 and library.search() == []


def test_words_with_half_a_character_find_nothing(library: Library) -> None:
    assert library.search("\udcff") == []


def test_search_filters(library: Library, folder: Path) -> None:
    make(folder / "a.mp4", recorded("A RED ball in Ünterwald", 7, 8), created=NOON)
    make(folder / "b.mp4", recorded("a red 100% house_", 8, 9), created=NOON + timedelta(days=1))
    make(folder / "c.png", recorded("星の家", 3, 3), created=NOON - timedelta(days=1), kind="frame")
    library.scan()
    assert names(library) == ["b.mp4", "a.mp4", "c.png"]
    assert names(library, "red") == ["b.mp4", "a.mp4"]
    assert names(library, "  ball  RED ") == names(library, "ünter") == ["a.mp4"]
    assert names(library, "100%") == names(library, "e_") == ["b.mp4"]
    assert names(library, "星") == names(library, "c.png") == ["c.png"]
    assert names(library, "'; DROP TABLE library") == []
    assert names(library, seed=8) == ["b.mp4", "a.mp4"]
    assert names(library, seed=2**70) == []
    assert names(library, kind="frame") == ["c.png"]
    day = NOON.date()
    assert names(library, since=day, until=day) == ["a.mp4"]
    assert names(library, since=day + timedelta(days=1)) == ["b.mp4"]
    assert names(library, until=day - timedelta(days=1)) == ["c.png"]
    assert len(names(library, since=date.min, until=date.max)) == 3
    assert names(library, limit=1, offset=1) == ["a.mp4"]


def test_marks_survive_a_new_index(library: Library, folder: Path) -> None:
    a = make(folder / "a.mp4", recorded())
    b = make(folder / "b.png", recorded(), created=None, kind="frame")
    before = a.read_bytes(), b.read_bytes()
    library.scan()
    library.mark(a, stars=4, note='the "good" one 🐉\nyes')
    item = library.mark(a, keep=True)
    assert (item.stars, item.verdict, item.note) == (4, "keep", 'the "good" one 🐉\nyes')
    library.mark(b, stars=5)
    assert library.mark(b, stars=2, note="half a character \ud800").note == "half a character ?"
    assert names(library, stars=3) == names(library, "🐉") == ["a.mp4"]
    assert names(library, verdict="keep") == ["a.mp4"]
    assert names(library, verdict="") == ["b.png"]
    kept = library.search()

    library.close()
    for file in library.path.parent.iterdir():
        file.unlink()
    with Library(library.path, folder) as again:
        assert again.search() == []
        assert again.scan() == 2
        assert again.search() == kept
        assert again.mark(a, keep=False, stars=0).verdict == ""
    assert (a.read_bytes(), b.read_bytes()) == before
    # The sidecar says all it said, and what was inside the frame that had none.
    said = json.loads(a.with_suffix(".json").read_text("utf-8"))
    assert said["marks"] == {"stars": 0, "note": 'the "good" one 🐉\nyes', "keep": False}
    assert said["key"] == "k" * 64 and said["created"] == NOON.isoformat(timespec="seconds")
    assert restore(b.with_suffix(".json")).request.look_seed == 1
    assert not list(folder.rglob("*.part"))


def test_the_index_lives_beside_the_jobs(library: Library, folder: Path) -> None:
    make(folder / "a.mp4", recorded())
    library.scan()
    with JobFile(library.path) as jobs:
        assert jobs.jobs() == []
    with Library(library.path, folder) as again:
        assert names(again) == ["a.mp4"]  # not rebuilt
    with sqlite3.connect(library.path) as db:
        db.execute("UPDATE library_version SET version = 99")
    db.close()
    with Library(library.path, folder) as again:
        assert names(again) == [] and again.scan() == 1


def test_another_process_sees_the_marks(library: Library, folder: Path) -> None:
    path = make(folder / "a.mp4", recorded())
    script = (
        "import sys; from pathlib import Path; from studio.library.store import Library\n"
        "with Library(Path(sys.argv[1]), Path(sys.argv[2])) as library:\n"
        "    for stars in range(20):\n"
        "        library.mark(Path(sys.argv[3]), **{sys.argv[4]: eval(sys.argv[5])})\n"
    )
    arguments = [sys.executable, "-c", script, str(library.path), str(folder), str(path)]
    both = [
        subprocess.Popen([*arguments, *mark])
        for mark in (("note", "f'note {stars}'"), ("stars", "stars % 6"))
    ]
    assert [process.wait(600) for process in both] == [0, 0]
    item = library.item(path)
    assert (item.stars, item.note) == (1, "note 19")


def test_somebody_elses_json_is_left_alone(library: Library, folder: Path) -> None:
    theirs = folder / "a.json"
    theirs.write_text('{"software": "Another Studio", "kind": "clip"}')
    path = make(folder / "a.mp4", recorded(), created=None)
    frame = make(folder / "a.png", recorded("a frame"), created=None, kind="frame")
    library.mark(path, stars=3)
    assert library.scan() == 2
    assert theirs.read_text("utf-8") == '{"software": "Another Studio", "kind": "clip"}'
    assert {item.path: item.stars for item in library.search()} == {path: 3, frame: 0}
    damaged = folder / "a.mp4.json"
    damaged.write_text("{trunc")
    assert library.item(path).stars == 0
    library.mark(path, stars=1)
    assert (folder / "a.mp4.json.damaged").read_text("utf-8") == "{trunc"
    assert library.item(path).stars == 1


def test_a_clip_and_a_frame_of_one_name_do_not_share_marks(library: Library, folder: Path) -> None:
    clip = make(folder / "a.mp4", recorded())
    frame = make(folder / "a.png", recorded(), created=None, kind="frame")
    library.mark(frame, stars=1)
    library.mark(clip, stars=5)
    library.scan()
    assert {item.path: item.stars for item in library.search()} == {clip: 5, frame: 1}
    assert {path.name for path in folder.glob("*.json")} == {"a.json", "a.png.json"}
    moved = library.reject(frame)
    assert library.item(clip).stars == 5 and moved.stars == 1


def test_the_bin_gives_everything_back(library: Library, folder: Path) -> None:
    path = make(folder / "sub" / "a.mp4", recorded())
    bare = make(folder / "b.png", recorded(), created=None, kind="frame")
    library.scan()
    library.mark(path, stars=2, keep=True)
    before = listing(folder)
    for item in (path, bare):
        library.reject(item)
    assert set(listing(folder)) == {f"{BIN}/{name}" for name in before}
    assert library.search() == []
    there = library.search(verdict="reject")
    assert {item.path for item in there} == {folder / BIN / "sub" / "a.mp4", folder / BIN / "b.png"}
    assert library.scan() == 2 and library.search(verdict="reject") == there
    assert library.reject(there[0].path) in there  # it is there already
    back = [library.bring_back(item.path) for item in there]
    assert {item.path for item in back} == {path, bare}
    assert listing(folder) == before
    assert library.item(path).verdict == "keep" and library.bring_back(path).stars == 2


def test_the_bin_overwrites_nothing(library: Library, folder: Path) -> None:
    for look in range(3):
        path = make(folder / "a.mp4", recorded(look=look))
        library.mark(path, stars=look)
        library.reject(path)
    (folder / BIN / "b.json").write_text("mine")
    library.reject(make(folder / "b.mp4", recorded(look=3), created=None))
    library.scan()
    found = {item.path.name: item for item in library.search(verdict="reject")}
    assert set(found) == {"a.mp4", "a-2.mp4", "a-3.mp4", "b-2.mp4"}
    stars = [found[name].stars for name in ("a.mp4", "a-2.mp4", "a-3.mp4")]
    looks = [found[name].look_seed for name in ("a.mp4", "a-2.mp4", "a-3.mp4")]
    assert stars == looks == [0, 1, 2]
    beside = json.loads((folder / BIN / "a-3.json").read_text("utf-8"))
    assert beside["file"] == "a-3.mp4"
    make(folder / "a.mp4", recorded(look=9))
    back = library.bring_back(found["a.mp4"].path)
    assert back.path == folder / "a-2.mp4" and back.look_seed == 0
    assert restore(folder / "a.mp4").request.look_seed == 9
    assert (folder / BIN / "b.json").read_text("utf-8") == "mine"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_bin_that_takes_nothing_loses_nothing(library: Library, folder: Path) -> None:
    path = make(folder / "a.mp4", recorded())
    (folder / BIN).mkdir(mode=0o500)
    with pytest.raises(LibraryError, match="Bin in .* cannot be used"):
        library.reject(path)
    assert library.item(path).verdict == ""


def test_a_move_that_fails_leaves_no_trace(library: Library, folder: Path) -> None:
    path = make(folder / "a.mp4", recorded())
    before = listing(folder)
    (folder / BIN).write_text("a file where the folder should be")
    with pytest.raises(LibraryError, match="Bin in .* cannot be used"):
        library.reject(path)
    (folder / BIN).unlink()
    assert listing(folder) == before
    library.scan()
    assert names(library) == ["a.mp4"]


def test_what_is_not_ours_is_not_touched(library: Library, folder: Path, tmp_path: Path) -> None:
    outside = make(tmp_path / "outside.mp4", recorded())
    (folder / "link.mp4").symlink_to(outside)
    (folder / "folder").symlink_to(tmp_path)
    theirs = make(folder / "theirs.mp4", {"software": "Another Studio"}, created=None)
    ours = make(folder / "ours.mp4", recorded())
    (folder / "x.mp4").mkdir()
    before = listing(tmp_path)
    refused = [
        *(
            outside,
            theirs,
            ours.with_suffix(".json"),
            folder / "none.mp4",
            folder,
            folder / "x.mp4",
        ),
        *(folder / "link.mp4", folder / "folder" / "outside.mp4", folder / ".." / "outside.mp4"),
        *(folder / ".." / ".." / "outside.mp4", Path("/etc/passwd"), folder / "a\0.mp4"),
    ]
    for path in refused:
        for call in (library.item, library.reject, library.bring_back, library.mark):
            with pytest.raises(LibraryError, match=r"^[^\n]* is not a clip[^\n]*\.$"):
                call(path)  # type: ignore[operator]
    for stars in (-1, 6, 2.0, "3"):
        with pytest.raises(LibraryError, match="A clip has 0 to 5 stars"):
            library.mark(ours, stars=stars)  # type: ignore[arg-type]
    after = listing(tmp_path)
    assert {name: after[name] for name in before if "jobs.sqlite" not in name} == {
        name: before[name] for name in before if "jobs.sqlite" not in name
    }


def test_hostile_sidecars_do_no_harm(library: Library, folder: Path) -> None:
    hostile: list[Any] = [
        *({"look_seed": 2**80, "created": "0001-01-01T00:00:00", "marks": [1]}, {"prompt": None}),
        {"marks": {"stars": 99, "note": {"x": 1}, "keep": "yes"}, "created": 7, "seconds": "x"},
        {"look_seed": "1", "motion_seed": True, "pack": [], "prompt": "x" * 10**5},
        {"prompt": "\ud800", "kind": "clip", "marks": {"note": "\ud800\0"}},
    ]
    for number, changes in enumerate(hostile):
        path = make(folder / f"{number}.mp4", recorded(), created=None)
        content = recorded() | {"kind": "clip"} | changes
        path.with_suffix(".json").write_text(json.dumps(content))
    path = make(folder / "5.mp4", recorded(), created=None)
    path.with_suffix(".json").write_text("[" * 10**5)
    assert library.scan() == 6
    for item in library.search():
        assert item.stars == 0 and item.verdict == "" and item.created > -(2.0**40)
        library.mark(item.path, stars=5, keep=True)
    assert len(library.search(stars=5, verdict="keep")) == 6
    assert library.scan() == 6


def test_two_thousand_items(library: Library, folder: Path) -> None:
    """Real files; the seconds are in the report of who wrote it, not here."""
    first = make(folder / "0.mp4", recorded())
    beside = json.loads(first.with_suffix(".json").read_text("utf-8"))
    for number in range(1, 2000):
        path = folder / f"{number // 500}" / f"{number}.mp4"
        path.parent.mkdir(exist_ok=True)
        os.link(first, path)
        content = beside | {"look_seed": number, "prompt": f"a ball, number {number}"}
        path.with_suffix(".json").write_text(json.dumps(content))
    assert library.scan() == 2000
    assert len(library.search()) == 2000
    assert names(library, "ball 1999") == names(library, seed=1999) == ["1999.mp4"]
    assert library.scan() == 2000


# What a file was made by, and making it again


@dataclass(frozen=True)
class Made:
    """A clip and a first frame of the mini pack, their frames, and what was asked for."""

    request: Request
    clip: Path
    frame: Path
    image: np.ndarray
    frames: np.ndarray


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    request = Request("a red ball bounces on the meadow", 3, 4, steps=(1, 1, 1), upscale=False)
    image, units = None, []
    with open_pack(default_pack()) as pack:
        for event in generate(pack, request, "cpu", 1):
            if isinstance(event, FirstFrame):
                image = event.image
            elif isinstance(event, UnitFrames):
                units.append(event.frames)
        metadata = record(pack, request, "cpu")
    assert image is not None
    frames = np.concatenate(units)
    clip = write_mp4(folder / "clip.mp4", frames, 24, metadata | {"kind": "clip"})
    frame = write_png(folder / "frame.png", image, metadata | {"kind": "frame"})
    return Made(request, clip, frame, image, frames)


def test_a_clip_gives_every_control_back(made: Made, pack: Pack, tmp_path: Path) -> None:
    for path, kind in ((made.clip, "clip"), (made.frame, "frame")):
        origin = restore(path)
        assert origin.kind == kind
        assert vars(origin.request) == vars(
            replace(made.request, negative_prompt=pack.prompt.negative)
        )
        assert (origin.pack_hash, origin.backend, origin.request.image) == (
            pack.pack_hash,
            "cpu",
            None,
        )
        assert (origin.pack_name, origin.pack_version) == (pack.name, pack.version)
        assert origin.pack_note(pack.name, pack.version, pack.pack_hash) is None
        assert "other 2" in str(origin.pack_note("other", "2", "ff" * 32))
    # Dropped on the page, a file arrives somewhere else and alone.
    alone = tmp_path / "upload.bin.mp4"
    shutil.copyfile(made.clip, alone)
    assert vars(restore(alone).request) == vars(restore(made.clip).request)


def test_the_sidecar_gives_the_same_back(library: Library, folder: Path) -> None:
    path = make(folder / "a.mp4", recorded() | {"picture": "mine.png", "kind": "clip"})
    library.mark(path, stars=3)
    beside = path.with_suffix(".json")
    content = json.loads(beside.read_text("utf-8"))
    path.unlink()
    origin = restore(beside)
    assert origin.request.steps == (1, 1, 1) and origin.request.image == Path("mine.png")
    assert origin.key == content["key"] and origin.marks == {"stars": 3}


@pytest.mark.parametrize(
    "changes",
    [
        *({"look_seed": -1}, {"look_seed": "1"}, {"steps": [1]}, {"steps": "111"}),
        *({"mode": []}, {"prompt": 7}, {"prompt": " "}, {"upscale": "no"}, {"kind": "song"}),
        *({"pack": {"hash": 7}}, {"backend": {}}, {"picture": 5}, {"negative_prompt": 1}),
    ],
)
def test_what_was_changed_is_one_sentence(tmp_path: Path, changes: dict[str, Any]) -> None:
    beside = tmp_path / "a.json"
    beside.write_text(json.dumps(recorded() | {"kind": "clip"} | changes))
    with pytest.raises(RestoreError, match=r"^a\.json [^\n]*\.$"):
        restore(beside)


def test_what_is_not_ours_is_one_sentence(tmp_path: Path) -> None:
    for name, content in {
        "a.json": b"[]",
        "b.json": b"\xff",
        "c.mp4": b"",
        "d.png": b"x",
        "e.txt": b"x",
        "f": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(OutputError, match=rf"^{name} [^\n]*; [^\n]*\.$"):
            restore(tmp_path / name)
    with pytest.raises(OutputError, match=r"settings inside \(.*[Ff]ile.*\); choose"):
        restore(tmp_path / "g.mp4")
    Image.new("RGB", (4, 4)).save(tmp_path / "h.png")
    with pytest.raises(OutputError, match="no settings of Neodragon Studio inside"):
        sidecars.inside(tmp_path / "h.png")


def test_a_clip_verifies_identical(made: Made, pack: Pack) -> None:
    seen: list[object] = []
    result = verify(made.clip, pack, threads=1, watch=seen.append)
    assert (result.outcome, result.psnr, result.notes) == ("identical", None, ())
    assert str(result) == "Identical." and seen


def test_a_frame_verifies(made: Made, pack: Pack, tmp_path: Path) -> None:
    assert verify(made.frame, pack, threads=1).outcome == "identical"
    metadata = sidecars.inside(made.frame)
    noise = np.random.default_rng(0).integers(0, 3, made.image.shape)
    rounded = np.clip(made.image.astype(int) + noise - 1, 0, 255).astype(np.uint8)
    near = verify(write_png(tmp_path / "near.png", rounded, metadata), pack, threads=1)
    assert near.outcome == "close" and near.psnr is not None and 45 < near.psnr < 55
    assert str(near) == f"Close ({near.psnr:.1f} dB)."
    lying = write_png(tmp_path / "lying.png", made.image, metadata | {"look_seed": 77})
    far = verify(lying, pack, threads=1)
    assert far.outcome == "different" and far.psnr is not None and far.psnr < 30
    small = write_png(tmp_path / "small.png", made.image[::2, ::2], metadata)
    size = verify(small, pack, threads=1)
    assert (size.outcome, size.psnr) == ("different", None) and "1 x 96 x 64" in str(size)


def test_another_pack_is_said_in_one_sentence(made: Made, mini_pack: Path, tmp_path: Path) -> None:
    other = tmp_path / "pack"
    shutil.copytree(mini_pack, other)
    manifest = json.loads((other / "pack.json").read_text("utf-8"))
    (other / "pack.json").write_text(json.dumps(manifest | {"version": "9.9"}))
    with open_pack(other) as pack:
        result = verify(made.frame, pack, threads=1)
    assert result.outcome == "identical" and len(result.notes) == 1
    note = str(result.notes[0])
    assert "9.9" in note and restore(made.frame).pack_hash[:12] in note


def test_a_picture_is_asked_for_and_known_again(made: Made, pack: Pack, tmp_path: Path) -> None:
    picture, other = tmp_path / "mine.png", tmp_path / "other.png"
    Image.new("RGB", (pack.geometry.width, pack.geometry.height), "red").save(picture)
    Image.new("RGB", (30, 20), "blue").save(other)
    work = Work("a red ball", 3, 4, pack=str(pack.path), backend="cpu", kind="frame", image=picture)
    red = np.full((pack.geometry.height, pack.geometry.width, 3), (255, 0, 0), np.uint8)
    metadata = record(pack, work, "cpu")
    metadata |= {"kind": "frame", "key": content_key(work, pack)}
    path = write_png(tmp_path / "frame.png", red, metadata)
    with pytest.raises(VerifyError, match=r"begins with the picture mine\.png"):
        verify(path, pack)
    assert verify(path, pack, image=picture, threads=1).notes == ()
    wrong = verify(path, pack, image=other, threads=1)
    assert str(wrong.notes[0]) == "The picture other.png is not the one that it began with."
    assert wrong.outcome == "different"


def test_what_cannot_be_verified_is_one_sentence(made: Made, pack: Pack, tmp_path: Path) -> None:
    metadata = sidecars.inside(made.clip)
    export = write_mp4(tmp_path / "export.mp4", FRAMES, 24, metadata | {"export": {}})
    elsewhere = write_mp4(tmp_path / "npu.mp4", FRAMES, 24, metadata | {"backend": "abacus"})
    for path in (export, elsewhere):
        with pytest.raises(NeodragonError, match=r"^[^\n]*\.$"):
            verify(path, pack)
