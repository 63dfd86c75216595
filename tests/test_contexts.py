"""Compiled packs: one made from the mini pack, and every way in which a context does not fit."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from builder.contexts import work
from builder.contexts.pack import compile_pack
from builder.contexts.work import FLOORS, FP16_FLOOR
from builder.quantise.quantiser import Layer, cheapest
from engine import session
from engine.canary import canary, scores
from engine.config import Request
from engine.errors import BackendError, PackError
from engine.events import UnitFrames
from engine.measures import snr_db
from engine.pack import MANIFEST, Context, Graph, Pack, open_pack
from engine.pipeline import generate
from engine.session import OrtSession, available, open_graphs, open_session, placement, placements

PROMPTS = [
    "a red ball jumps on the grass in daylight",
    "at night a purple rocket floats up in the desert",
]
pytestmark = pytest.mark.skipif("npu-emulated" not in available(), reason="no NPU emulation here")


@pytest.fixture(scope="module")
def compiled(mini_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mini pack: its transformer in 8 bits, its decoder in part, its upscaler,
    which stays in 16.
    """
    folder = tmp_path_factory.mktemp("compiled")
    source = folder / "portable"
    source.mkdir()
    for file in mini_pack.rglob("*"):
        target = source / file.relative_to(mini_pack)
        target.mkdir() if file.is_dir() else target.write_bytes(file.read_bytes())
    runs: list[list[str]] = []

    def report(line: str) -> None:
        runs[-1].append(line)
        if len(runs) == 1 and line.startswith("transformer/transformer_0"):
            raise KeyboardInterrupt

    for _ in range(3):
        runs.append([])
        with contextlib.suppress(KeyboardInterrupt):
            compile_pack(
                source,
                folder / "pack",
                PROMPTS,
                components=["video_decoder", "transformer", "upscaler"],
                unshared=True,
                report=report,
            )
    observed = [sum(line.startswith("clip 1 of ") for line in said) for said in runs]
    assert observed == [1, 0, 0], "what a run that is cut off has observed is of use"
    assert any(re.search(r"; about \d+ min left", line) for line in runs[1])
    assert sum("kept" in line for line in runs[2]) == 7, "what is done is not done again"
    assert not (source / "work").exists()
    return folder / "pack"


@pytest.fixture
def pack(compiled: Path) -> Any:
    with open_pack(compiled) as opened:
        yield opened


def test_the_stages_share_their_weights(pack: Pack) -> None:
    alone, shared = (
        {file for graph in pack.graphs("transformer", name).values() for file in graph.data}
        for name in ("context", "context-shared")
    )
    assert (len(alone), len(shared)) == (4, 1)  # with the modulation
    stages = [file.size for file in alone if "transformer" in file.name]
    assert sum(file.size for file in shared) < 0.6 * sum(stages)
    assert not pack.graphs("transformer", "portable")


def test_layers_that_do_not_bear_8_bits_keep_16(compiled: Path) -> None:
    record = json.loads((compiled.with_name("portable") / "compiled.json").read_text("utf-8"))
    made = {key: next(iter(entry.values())) for key, entry in record.items()}
    decoder, upscaler = made["video_decoder/video_decoder"], made["upscaler/upscaler"]
    assert decoder["tried"]["w8a16"] < FLOORS["video_decoder"] <= decoder["tried"]["mixed"]
    assert decoder["precision"] == "mixed" and 0.3 < decoder["eight_bit"] < 1
    assert upscaler["precision"] == "fp16" and not upscaler["eight_bit"]
    assert "mixed" not in upscaler["tried"], "none of its layers does"


def test_a_newer_program_keeps_nothing_of_an_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen, there are no files of code whose hash would tell."""
    program = tmp_path / "nds"
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", str(program))
    hashes = set()
    for content in (b"older", b"newer"):
        program.write_bytes(content)
        hashes.add(work._code())
    assert len(hashes) == 2


def test_what_takes_too_long_in_emulation_is_measured_on_the_cpu(
    mini_pack: Path, tmp_path: Path
) -> None:
    source, lines = tmp_path / "portable", list[str]()
    shutil.copytree(mini_pack, source)
    compile_pack(
        source,
        tmp_path / "pack",
        PROMPTS,
        components=["transformer"],
        patience=0,
        report=lines.append,
    )
    record = json.loads((source / "compiled.json").read_text("utf-8"))
    made = {key: next(iter(entry.values())) for key, entry in record.items()}
    one = made["transformer/transformer_0"]
    assert not one["emulated"] and one["precision"] == "w8a16"
    assert one["fidelity_db"] > FLOORS["transformer_0"]
    assert "file" not in one, "it is needed by nobody"
    assert any("dB on the CPU" in line for line in lines)
    with open_pack(tmp_path / "pack") as pack:
        assert set(pack.graphs("transformer", "context")) == {"modulation"}
        assert len(pack.graphs("transformer", "context-shared")) == 3


def test_the_cheapest_layers_are_those_with_least_noise_for_their_work() -> None:
    layers = [
        Layer("a", 100, 1e-5),
        Layer("b", 100, 9e-5),
        Layer("c", 1, 1e-5),
        Layer("d", 9, 2e-4),
    ]
    assert [layer.name for layer in cheapest(layers, 40)] == ["a", "b"], "1e-4 in all"
    assert [layer.name for layer in cheapest(layers, 30)] == ["a", "b", "c", "d"]
    assert cheapest(layers, 60) == []


def test_a_unit_comes_out_the_same(pack: Pack, mini_pack: Path) -> None:
    compiled = ("transformer", "video_decoder", "upscaler")
    request = Request("a green fish swims right at noon", 1, 2)
    frames = []
    with open_pack(mini_pack) as portable:
        parts = portable.components | {name: pack.components[name] for name in compiled}
        others = {
            name: replace(part, variants={"portable": part.variants["portable"]})
            for name, part in parts.items()
            if name not in compiled
        }
        mixed = replace(portable, components=parts | others, _source=_Both(pack, portable))
        for opened, backend in ((portable, "cpu"), (mixed, "npu-emulated")):
            running = generate(opened, request, backend)  # type: ignore[arg-type]
            units = (event.frames for event in running if isinstance(event, UnitFrames))
            frames.append([next(units), next(units)][1].astype(np.float32))
            running.close()
    assert snr_db(frames[0], frames[1]) > 30


class _Both:
    """Files of two packs."""

    def __init__(self, *packs: Pack) -> None:
        self.packs = packs

    def fetch(self, name: str, size: int) -> Path:
        for pack in self.packs:
            if any(file.name == name for file in pack.files):
                return pack._source.fetch(name, size)
        raise AssertionError(name)


def of(pack: Pack, change: Callable[[Context], Context]) -> Pack:
    """The pack with its upscaler compiled for something else, and in no other form."""
    part = pack.components["upscaler"]
    graph = part.variants["context"]["upscaler"]
    assert graph.context is not None
    graph = replace(graph, context=change(graph.context))
    part = replace(part, variants={"context": {"upscaler": graph}})
    return replace(pack, components={**pack.components, "upscaler": part})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: replace(c, htp_arch=75), "for Hexagon v75, which this version does not know"),
        (lambda c: replace(c, sdk="9.1"), "by QNN 9.1, and this version has the older .*; update"),
    ],
)
def test_a_context_for_something_else_is_refused(
    pack: Pack, change: Callable[[Context], Context], message: str
) -> None:
    other = of(pack, change)
    with pytest.raises(BackendError, match=message):
        placements(other, "upscaler", "upscaler", "npu-emulated")
    graph = other.graphs("upscaler", "context")["upscaler"]
    with pytest.raises(BackendError, match=message) as error:
        open_session(other, graph, "npu-emulated")
    assert "\n" not in str(error.value)


def test_the_cpu_has_no_use_for_a_context(pack: Pack) -> None:
    with pytest.raises(BackendError, match="compiled for the NPU only; choose the backend npu"):
        placements(pack, "transformer", "transformer", "cpu")


def test_another_binary_than_the_manifests_is_not_read(pack: Pack, tmp_path: Path) -> None:
    graph = pack.graphs("upscaler", "context")["upscaler"]
    content = pack.verified(graph.file).read_bytes()
    name = Path(graph.data[0].name).name.encode()
    for changed in (b"../" + name[3:], b"x" * (len(name) - 4) + b".bin", b"/" + name):
        path = tmp_path / "changed.onnx"
        path.write_bytes(content.replace(name, changed))
        with pytest.raises(PackError, match="does not read contexts/upscaler_qnn.bin alone"):
            session.load_graph(graph, path, "npu-emulated")


def test_a_manifest_must_say_what_a_context_is_for(compiled: Path, tmp_path: Path) -> None:
    manifest = json.loads((compiled / MANIFEST).read_text("utf-8"))
    about = manifest["components"]["upscaler"]["variants"]["context"]["context"]
    for key, value in (("htp_arch", "73"), ("sdk", "new"), ("shared", 1)):
        wrong = json.loads(json.dumps(manifest))
        wrong["components"]["upscaler"]["variants"]["context"]["context"] = about | {key: value}
        (tmp_path / MANIFEST).write_text(json.dumps(wrong))
        with pytest.raises(PackError, match=f"context.{key}"):
            open_pack(tmp_path)


def test_where_a_shared_context_is_refused_the_single_ones_serve(
    pack: Pack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[Graph] = []

    def device(pack: Pack, graph: Graph, *others: Any, **more: Any) -> Any:
        """A device that has no room for a shared context."""
        if graph.context is not None and graph.context.shared:
            raise BackendError(f"{graph.name} does not load; choose another.")
        opened.append(graph)
        return OrtSession(graph, None)  # type: ignore[arg-type]

    monkeypatch.setattr(placement, "open_session", device)
    stages = open_graphs(pack, "transformer", "transformer", "npu")
    assert list(stages) == ["transformer_0", "transformer_1", "transformer_2"]
    assert all(graph.context and not graph.context.shared for graph in opened)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and "its graphs with weights of their own are tried." in told[0]


def test_a_compiled_graph_carries_what_a_device_should_give(pack: Pack) -> None:
    transformer, upscaler = pack.components["transformer"], pack.components["upscaler"]
    smallest = {"transformer_0": transformer.variants["context"]["transformer_0"]}
    few = {"transformer": replace(transformer, variants={"context": smallest})}
    lean = replace(pack, components=few | {"upscaler": upscaler})
    found = {score.graph: score for score in scores(lean, "npu-emulated")}
    assert found["upscaler"].db > 100 and found["transformer_0"].db > 100
    assert str(found["upscaler"].beside) == "its emulation"
    devices = scores(lean, "npu")
    assert next(score for score in devices if score.graph == "transformer_0").problem
    graph = upscaler.variants["context"]["upscaler"]
    other = replace(graph, expected={"image_2x": [-v for v in graph.expected["image_2x"]]})
    part = replace(upscaler, variants={"context": {"upscaler": other}})
    wrong = replace(pack, components={"upscaler": part})
    assert not canary(wrong, "npu-emulated").is_sound
    running = generate(wrong, Request("a red ball", 1, 2), "npu-emulated")
    with pytest.raises(BackendError, match="upscaler gives .* on npu-emulated against its"):
        next(running)


def test_without_the_unshared_form_it_says_how_to_get_it(
    pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = pack.components["transformer"]
    alone = {k: g for k, g in part.variants["context"].items() if not g.name.startswith("transf")}
    part = replace(part, variants=dict(part.variants) | {"context": alone})
    lean = replace(pack, components={**pack.components, "transformer": part})
    with pytest.raises(
        BackendError,
        match="share their weights, which .*; export the pack with --unshared",
    ):
        placements(lean, "transformer", "transformer", "npu-emulated")
    assert placements(lean, "transformer", "modulation", "npu-emulated")

    def device(pack: Pack, graph: Graph, *others: Any, **more: Any) -> Any:
        raise BackendError(f"{graph.name} does not load; choose another.")

    monkeypatch.setattr(placement, "open_session", device)
    with pytest.raises(BackendError, match="transformer_0 does not load.* with --unshared"):
        open_graphs(lean, "transformer", "transformer", "npu")


def test_a_device_that_goes_away_is_one_sentence(pack: Pack) -> None:
    class Gone:
        def run(self, *_: Any) -> Any:
            raise ort_state.EPFail("[ONNXRuntimeError] : 11 : EP_FAIL : the graph has no device\nx")

    graph = pack.graphs("upscaler", "portable")["upscaler"]
    image = np.zeros([int(size) for size in graph.inputs["image"].shape], np.float32)
    with pytest.raises(BackendError, match="upscaler failed") as error:
        OrtSession(graph, Gone()).run(image=image)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_fidelity_is_measured(pack: Pack) -> None:
    for component in ("transformer", "upscaler"):
        for graph in pack.graphs(component, "context").values():
            least = 22 if "transformer_" in graph.name else FP16_FLOOR
            assert graph.fidelity_db is not None and graph.fidelity_db > least
