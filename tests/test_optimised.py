"""Graphs kept ready on disk: the same outputs, and whatever is wrong with the disk, a session."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from engine.canary import noise_inputs
from engine.pack import Graph, Pack
from engine.session import Optimised, OrtSession, open_session, optimised

KEPT = ("clip_l", "transformer", "upscaler", "video_decoder")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """For every session in order: read from the pack's file and written, from it alone, or kept."""
    told: list[str] = []
    make = optimised._cpu_session

    def counting(model: str | bytes, options: ort.SessionOptions) -> ort.InferenceSession:
        told.append("kept" if isinstance(model, bytes) else "written" if _writes(options) else "")
        return make(model, options)

    monkeypatch.setattr(optimised, "_cpu_session", counting)
    return told


def _writes(options: ort.SessionOptions) -> bool:
    return bool(options.optimized_model_filepath)


def graph_of(pack: Pack, name: str) -> Graph:
    return pack.graphs(name, "portable")[name]


def opened(pack: Pack, name: str, folder: Path) -> OrtSession:
    return open_session(pack, graph_of(pack, name), "cpu", 1, optimised=Optimised(folder))


def outputs(session: OrtSession, inputs: dict[str, NDArray[np.float32]]) -> dict[str, bytes]:
    with session:
        return {name: array.tobytes() for name, array in session.run(**inputs).items()}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_computes_the_same_bits(
    pack: Pack, name: str, tmp_path: Path, made: list[str]
) -> None:
    graph = pack.graphs(name, "htp").get(f"{name}_2") or graph_of(pack, name)
    inputs = noise_inputs(graph)
    plain = outputs(open_session(pack, graph_of(pack, name), "cpu", 1), inputs)
    for _ in range(2):
        assert outputs(opened(pack, name, tmp_path), inputs) == plain
    assert made == ["written", "kept"]
    (entry,) = tmp_path.iterdir()
    assert entry.suffix == ".onnx"


@pytest.mark.parametrize("harm", ["cut", "empty", "changed", "folder"])
def test_a_damaged_entry_is_made_anew(
    pack: Pack, tmp_path: Path, made: list[str], harm: str
) -> None:
    opened(pack, "upscaler", tmp_path).close()
    (entry,) = tmp_path.iterdir()
    content = entry.read_bytes()
    if harm == "folder":  # which cannot be replaced
        entry.unlink()
        entry.mkdir()
    else:
        changed = bytes([content[-1] ^ 1])
        entry.write_bytes(
            {"cut": content[:-9], "empty": b"", "changed": content[:-1] + changed}[harm]
        )
    opened(pack, "upscaler", tmp_path).close()
    assert made == ["written", "written"]
    assert list(tmp_path.iterdir()) == [entry]
    if harm != "folder":
        assert entry.read_bytes() == content


def test_where_nothing_can_be_kept_graphs_load_as_before(
    pack: Pack, tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    opened(pack, "upscaler", file).close()
    assert made == [""], "its folder cannot be made"

    def full(path: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        opened(pack, "upscaler", tmp_path / "full").close()
    assert made == ["", "written"]
    assert not list((tmp_path / "full").iterdir()), "no part is left"
    monkeypatch.setattr(optimised, "LARGEST", 1)
    opened(pack, "upscaler", tmp_path / "full").close()
    assert made == ["", "written", ""] and not list((tmp_path / "full").iterdir())


@pytest.mark.parametrize("other", ["processor", "runtime"])
def test_another_machine_makes_its_own(
    pack: Pack, tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    opened(pack, "upscaler", tmp_path).close()
    if other == "processor":
        monkeypatch.setattr(optimised, "_processor", lambda: ("another",))
    else:
        monkeypatch.setattr(ort, "__version__", "0.0")
    opened(pack, "upscaler", tmp_path).close()
    assert made == ["written", "written"] and len(list(tmp_path.iterdir())) == 2


def test_old_entries_go(pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("clip_l", "upscaler"):
        opened(pack, name, tmp_path).close()
    old, new = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime)
    (tmp_path / ".0.part").write_bytes(b"of a killed process")
    others = tmp_path / "not-ours.txt"
    others.touch()
    for path in tmp_path.iterdir():
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 1e5))
    with open_session(pack, graph_of(pack, "clip_l"), "cpu", 1, optimised=Optimised(tmp_path)):
        pass  # the older is used, so it is the newer now
    monkeypatch.setattr(optimised, "ROOM", old.stat().st_size)
    opened(pack, "video_encoder", tmp_path).close()
    left = set(tmp_path.iterdir())
    assert new not in left and not list(tmp_path.glob("*.part")) and others in left
