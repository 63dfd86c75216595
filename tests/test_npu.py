"""Backends: the Hexagon NPU's emulation against the CPU, and plain refusals.

The emulation runs on x86-64 Linux only and is slow, so one unit of a real clip stands for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from random_pack import exported

from engine import pipeline, vae
from engine.config import Request
from engine.errors import BackendError
from engine.events import UnitFrames
from engine.measures import snr_db
from engine.pack import Graph, Pack, PackFile, TensorSpec, open_pack
from engine.pipeline import generate
from engine.session import available, load_graph, open_session, placed, qnn_options, require
from engine.transformer import Conditioning, Transformer

MINI = Path(__file__).parents[1] / "assets" / "mini"
FLOOR_DB = 35.0
UNIT = 2  # the first with all three kinds of history
emulated = pytest.mark.skipif("npu-emulated" not in available(), reason="no NPU emulation here")


@pytest.fixture(scope="module")
def pack() -> Iterator[Pack]:
    with open_pack(MINI if (MINI / "pack.json").exists() else exported()) as opened:
        yield opened


class Clip:
    """What the transformer and the decoder read and gave in unit `UNIT` of a clip on the CPU."""

    def __init__(self, pack: Pack) -> None:
        self.conditioning: list[Conditioning] = []
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any], NDArray[np.float32]]] = []
        self.decoded: list[tuple[dict[str, Any], dict[str, Any]]] = []
        clip = self

        class Recorded(Transformer):
            def __init__(self, graphs: Any, config: Any, *conditioning: Conditioning) -> None:
                clip.conditioning.extend(conditioning)
                super().__init__(graphs, config, *conditioning)

            def __call__(self, *inputs: Any, **where: Any) -> NDArray[np.float32]:
                flow = super().__call__(*inputs, **where)
                if where["unit"] == UNIT and not where["negative"]:
                    clip.calls.append((inputs, where, flow))
                return flow

        class RecordedDecoder(vae.VideoDecoder):
            def __init__(self, decoder: Any, config: Any) -> None:
                super().__init__(decoder, config)
                decoder.watch = lambda _, inputs, outputs: clip.decoded.append((inputs, outputs))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline, "Transformer", Recorded)
            patch.setattr(vae, "VideoDecoder", RecordedDecoder)
            request = Request("a red kite drifts over a green meadow", 1, 2, steps=(1, 1, 1))
            running = generate(pack, request)
            for event in running:
                if isinstance(event, UnitFrames) and event.unit == UNIT:
                    break
            running.close()


@pytest.fixture(scope="module")
def clip(pack: Pack) -> Clip:
    return Clip(pack)


@emulated
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_transformer_on_the_npu(pack: Pack, clip: Clip, stage: int) -> None:
    place, graphs = placed(pack, "transformer", f"transformer_{stage}", "npu-emulated")
    assert place == "npu-emulated"
    (name,) = graphs
    with open_session(pack, graphs[name], place) as session:
        flow = Transformer({name: session}, pack.transformer, clip.conditioning[0])
        ((inputs, where, expected),) = [call for call in clip.calls if call[1]["stage"] == stage]
        assert snr_db(expected, flow(*inputs, **where)) >= FLOOR_DB


@emulated
def test_the_video_decoder_on_the_npu(pack: Pack, clip: Clip) -> None:
    place, graphs = placed(pack, "video_decoder", "video_decoder", "npu-emulated")
    inputs, expected = clip.decoded[UNIT]
    with open_session(pack, graphs["video_decoder"], place) as session:
        outputs = session.run(**inputs)
    ratios = {name: snr_db(expected[name], outputs[name]) for name in expected}
    assert min(ratios.values()) >= FLOOR_DB, ratios


def erf(tmp_path: Path) -> tuple[Graph, Path]:
    """A graph of one operator that the NPU does not have."""
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    tensors = [helper.make_tensor_value_info(name, floats, [1, 8]) for name in ("x", "y")]
    nodes = [helper.make_node("Erf", ["x"], ["y"])]
    graph = helper.make_graph(nodes, "erf", *[[tensor] for tensor in tensors])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = tmp_path / "erf.onnx"
    onnx.save_model(model, path)
    spec = TensorSpec("float32", (1, 8))
    file = PackFile("erf.onnx", path.stat().st_size, "0" * 64)
    return Graph("erf", file, (), {}, {"x": spec}, {"y": spec}, None), path


@emulated
def test_nothing_falls_back_to_the_cpu(tmp_path: Path) -> None:
    graph, path = erf(tmp_path)
    with load_graph(graph, path, "cpu") as session:
        assert session.run(x=np.zeros((1, 8), np.float32))["y"].shape == (1, 8)
    with pytest.raises(BackendError) as error:
        load_graph(graph, path, "npu-emulated")
    message = str(error.value)
    assert "erf.onnx does not load on npu-emulated" in message and "\n" not in message


def test_what_has_no_npu_graph_runs_on_the_cpu(pack: Pack) -> None:
    portable = {"portable": pack.components["clip_l"].variants["portable"]}
    component = replace(pack.components["clip_l"], variants=portable)
    bare = replace(pack, components={**pack.components, "clip_l": component})
    assert placed(bare, "clip_l", "clip_l", "npu-emulated")[0] == "cpu"
    assert placed(pack, "clip_l", "clip_l", "npu-emulated")[0] == "npu-emulated"
    assert placed(pack, "transformer", "transformer", "cpu")[0] == "cpu"
    place, graphs = placed(pack, "transformer", "transformer", "npu")
    assert (place, list(graphs)) == ("npu", ["transformer_0", "transformer_1", "transformer_2"])


def test_backends_that_are_not_there() -> None:
    with pytest.raises(
        BackendError, match="no backend 'gpu'; choose one of cpu, npu, npu-emulated"
    ):
        require("gpu")
    assert "cpu" in available()
    for backend in {"npu", "npu-emulated"} - set(available()):
        with pytest.raises(BackendError, match=f"The backend {backend} cannot run here"):
            require(backend)


def test_the_npus_options_are_spelled_right() -> None:
    options = qnn_options("npu-emulated", backend_path="x")
    assert (options["soc_model"], options["htp_arch"], options["vtcm_mb"]) == ("60", "73", "8")
    assert qnn_options("npu")["htp_performance_mode"] == "burst"
    with pytest.raises(BackendError, match="vtcm"):
        qnn_options("npu", vtcm="8")
