"""Templates derived from labels: filled, each is the graph that is traced, bit for bit."""

from __future__ import annotations

import zipfile
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper
from random_pack import CONFIGS, checkpoint, exported
from reference import official

from builder.errors import BuildError
from builder.layout import Layout
from builder.plans import plans
from builder.templates import Filled, Templates
from studio.system.paths import ASSETS
from training import templates as deriving
from training.export.graphs import ALONE, traced
from training.export.labels import Labelled, is_label
from training.export.pack import is_large
from training.export.source import Source, Traced
from training.export.trace import write as trace
from training.export.video import upscaler
from training.random_checkpoint import save
from training.templates import derive, differs, moved, twin

ROOT = Path(__file__).parents[1]
CHECKPOINT = checkpoint()
MINI, FULL = ASSETS / "templates" / "mini.zip", ASSETS / "full-size" / "templates.zip"
MMDIT, INNER = "diffusion_transformer_320p", "transformer_part2"
SOME = ("clip_l", "text_encoder", "video_encoder", "upscaler", "transformer")


@pytest.fixture(scope="module")
def derived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Templates of those graphs of a small checkpoint."""
    path = tmp_path_factory.mktemp("templates") / "set.zip"
    some = [plan for plan in plans(Source(CHECKPOINT)) if plan.graph in SOME]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deriving, "every", lambda source: iter(some))
        deriving.write(CHECKPOINT, path, [6], lambda line: None)
    assert not path.with_name("set.zip.work").exists()
    return path


@pytest.mark.parametrize("graph", SOME)
def test_a_filled_template_is_the_traced_graph(derived: Path, tmp_path: Path, graph: str) -> None:
    (plan,) = [p for p in plans(Layout(CHECKPOINT)) if p.graph == graph]
    Filled(CHECKPOINT, Templates(derived)).fill(plan, 6, tmp_path)
    filled, traced = tmp_path / plan.file, exported() / plan.file
    assert differs(filled, traced) == ""
    assert filled.read_bytes() == traced.read_bytes()


def test_another_graph_is_told_apart(derived: Path, tmp_path: Path) -> None:
    (plan,) = [p for p in plans(Layout(CHECKPOINT)) if p.graph == "upscaler"]
    traced = exported() / plan.file
    for change in ("weights", "nodes"):
        model = onnx.load(traced)
        if change == "weights":
            tensor = next(t for t in model.graph.initializer if t.raw_data)
            tensor.raw_data = bytes(len(tensor.raw_data))
        else:
            node = next(node for node in model.graph.node if node.op_type == "Conv")
            next(a for a in node.attribute if a.name == "group").i = 2
        onnx.save_model(model, tmp_path / "changed.onnx")
        assert change in differs(tmp_path / "changed.onnx", traced)


def test_what_is_computed_from_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Labelled(CHECKPOINT, 6, tmp_path)
    (plan,) = [p for p in plans(source) if p.graph == "upscaler"]

    def squared(source: Source) -> Traced:
        call = upscaler(source)
        for weight in call.module.parameters():
            weight.data = weight.data * weight.data
        return call

    monkeypatch.setitem(ALONE, "upscaler", squared)
    with pytest.raises(
        BuildError, match="is computed from published weights; let the graph compute it"
    ):
        derive(source, plan)


def test_inner_parts_are_one_graph_with_other_blocks(tmp_path: Path) -> None:
    """A checkpoint of four blocks, one a graph: the third's recipe is the second's, moved."""
    root = save(tmp_path / "checkpoint", CONFIGS | {MMDIT: CONFIGS[MMDIT] | {"num_layers": 4}})
    source = Labelled(root, 1, tmp_path / "work")
    second, third = [p for p in plans(source) if p.graph in ("transformer_part1", INNER)]
    assert twin(source, third) == second
    model, recipe = derive(source, third)
    like, known = derive(source, second)
    assert moved(source, known, 1) == recipe
    assert model.SerializeToString() == like.SerializeToString()


def test_every_portable_graph_of_the_mini_is_the_traced_one(tmp_path: Path) -> None:
    """Same nodes, same initializers, so the same outputs: the files are equal byte for byte."""
    templates, source = Templates(MINI), Source(ROOT / "checkpoints" / "mini")
    every = list(deriving.every(source))
    assert len(every) == 12
    for plan in every:
        Filled(source.root, templates).fill(plan, 6, tmp_path / "filled")
        call = traced(source, plan)
        trace(call, tmp_path / "traced" / plan.file, is_large(call))
        filled, other = (tmp_path / kind / plan.file for kind in ("filled", "traced"))
        assert differs(filled, other) == ""
        assert filled.read_bytes() == other.read_bytes(), plan.graph


def test_the_full_size_templates_are_of_the_published_layout() -> None:
    templates = Templates(FULL)
    told = official("official_state_dicts")
    names = {folder: folder for folder in told} | {"distil_t5": "text_encoder_3"}
    for folder, name in names.items():
        assert templates.layout["folders"][name]["tensors"] == told[folder], folder
    homes = {name.removesuffix(".onnx") for name in templates.names if name.endswith(".onnx")}
    parts = {6: 3, 3: 6, 2: 9}
    assert homes >= {"clip_l", "clip_g", "unet", "first_frame_decoder", "safety_checker"}
    for blocks, count in parts.items():
        for form in ("", "_first", "_later"):
            made = {f"blocks{blocks}/transformer{form}_part{part}" for part in range(count)}
            assert made <= homes


@pytest.mark.parametrize("path", [MINI, FULL], ids=["mini", "full"])
def test_templates_are_small_whole_and_without_labels(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert path.stat().st_size < 1e6
        for name in archive.namelist():
            if not name.endswith(".onnx"):
                continue
            model = onnx.load_from_string(archive.read(name))
            for tensor in model.graph.initializer:
                if tensor.raw_data or tensor.float_data:
                    assert not is_label(numpy_helper.to_array(tensor)), (name, tensor.name)
