"""Templates derived from labels: filled, each is the graph that is traced, bit for bit."""

from __future__ import annotations

import zipfile
from pathlib import Path

import onnx
import pytest

from builder.errors import BuildError
from builder.layout import Layout
from builder.plans import plans
from builder.templates import Filled, Templates
from tests.random_pack import exported
from training import templates as deriving
from training.export.source import Source
from training.templates import Labelled, derive, differs

CHECKPOINT = exported().parent / "checkpoint"
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


def test_what_is_computed_from_weights_is_refused(tmp_path: Path) -> None:
    """The checker's cosine divides by a norm that the exporter folds into a constant."""
    source = Labelled(CHECKPOINT, 6, tmp_path)
    (plan,) = [p for p in plans(source) if p.graph == "safety_checker"]
    with pytest.raises(BuildError, match="is computed from them; let the graph compute it"):
        derive(source, plan, tmp_path)


def test_the_published_templates_are_small_and_whole() -> None:
    from studio.system.paths import ASSETS  # noqa: PLC0415

    for path in ASSETS.glob("*/*.zip"):
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
        assert path.stat().st_size < 8e6
        assert Templates(path).layout["folders"]
