"""Weights become packs without PyTorch: templates, recipes, what is refused, what it takes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

from builder.build import Build, Paused, Progress, blocks_for
from builder.errors import BuildError
from builder.layout import Layout
from builder.plans import plans
from builder.portable import Portable, choose
from builder.templates import Piece, Templates
from builder.tokenizers import load_tokenizer
from builder.weights import Weights
from engine.config import Request
from engine.errors import NeodragonError
from engine.events import UnitFrames
from engine.pack import open_pack
from engine.pipeline import generate
from engine.session.chips import chip_named
from studio.cli.main import main
from studio.model import build as status_of_build
from studio.system.paths import ASSETS

ROOT = Path(__file__).parents[1]
MINI = ROOT / "checkpoints" / "mini"
TEMPLATES = ASSETS / "templates" / "mini.zip"


@pytest.fixture(scope="module")
def portable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mini checkpoint's portable pack, filled."""
    pack = tmp_path_factory.mktemp("filled") / "pack"
    build(MINI, pack, "portable")
    return pack


def build(root: Path, pack: Path, target: str, **more: Any) -> list[Progress]:
    told: list[Progress] = []
    Build(root, pack, target, [TEMPLATES], ["a red ball"], told.append, **more).run()
    return told


def clip(pack: Path) -> np.ndarray:
    with open_pack(pack) as opened:
        events = generate(opened, Request("a red ball jumps", 1, 2, upscale=False), threads=1)
        units = [event.frames for event in events if isinstance(event, UnitFrames)]
    return np.concatenate(units).astype(int)


def test_a_filled_pack_makes_the_clip_of_the_traced_one(portable: Path, mini_pack: Path) -> None:
    """The shipped pack was traced by an earlier exporter, whose sums round otherwise."""
    assert np.abs(clip(portable) - clip(mini_pack)).max() <= 1
    assert not portable.with_name("pack.build").exists()


def test_every_element_is_of_the_checkpoint_or_a_constant(portable: Path) -> None:
    """Filled graphs follow the weights: other weights give other graphs, of the same nodes."""
    layout = Layout(MINI)
    templates = Templates(TEMPLATES)
    for plan in plans(layout):
        bare, recipe = templates.read(plan, layout.blocks)
        filled = onnx.load(portable / plan.file)
        kept = {tensor.name for tensor in bare.graph.initializer} - recipe.weights.keys()
        elements = sum(numpy_helper.to_array(t).size for t in filled.graph.initializer)
        constants = sum(
            numpy_helper.to_array(t).size for t in bare.graph.initializer if t.name in kept
        )
        assert constants < 0.05 * elements, plan.graph


def test_weights_in_several_files_and_bfloat16(portable: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(MINI, tmp_path / "weights"))
    folder = root / "ssd_1b_unet"
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    file.unlink()
    names, index = sorted(tensors), {}
    for number in range(3):
        part = {name: tensors[name] for name in names[number::3]}
        name = f"diffusion_pytorch_model-0000{number + 1}-of-00003.safetensors"
        save_file(part, folder / name)
        index |= dict.fromkeys(part, name)
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )
    build(root, tmp_path / "pack", "portable")
    same = "portable/unet.onnx"
    assert (tmp_path / "pack" / same).read_bytes() == (portable / same).read_bytes()


def test_bfloat16_is_read(tmp_path: Path) -> None:
    values = np.arange(300, dtype=np.float32)
    raw = values.astype(ml_dtypes.bfloat16)
    header = json.dumps({"a": {"dtype": "BF16", "shape": [300], "data_offsets": [0, 600]}}).encode()
    header += b" " * (-len(header) % 8)
    content = len(header).to_bytes(8, "little") + header + raw.tobytes()
    (tmp_path / "model.safetensors").write_bytes(content)
    got = Weights(tmp_path).array("a")
    assert np.array_equal(got.astype(np.float32), raw.astype(np.float32))


FORMS: dict[str, tuple[list[str], dict[str, Any] | None, list[str]]] = {
    "one file": (["model.safetensors"], None, ["model.safetensors"]),
    "half precision beside it": (
        ["model.fp16.safetensors", "model.safetensors"],
        None,
        ["model.safetensors"],
    ),
    "half precision alone": (["model.fp16.safetensors"], None, ["model.fp16.safetensors"]),
    "averages beside it": (
        ["diffusion_pytorch_model.non_ema.safetensors", "diffusion_pytorch_model.safetensors"],
        None,
        ["diffusion_pytorch_model.safetensors"],
    ),
    "what macOS leaves on other disks": (
        ["._model.safetensors", "model.safetensors"],
        None,
        ["model.safetensors"],
    ),
    "an index of one": (["a.safetensors"], {"x": "a.safetensors"}, ["a.safetensors"]),
    "an index of two": (
        ["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors", "other.safetensors"],
        {"x": "m-00002-of-00002.safetensors", "y": "m-00001-of-00002.safetensors"},
        ["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"],
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_files_of_a_folder(tmp_path: Path, form: str) -> None:
    names, index, wanted = FORMS[form]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    if index:
        listed = json.dumps({"metadata": {}, "weight_map": index})
        (tmp_path / "model.safetensors.index.json").write_text("\ufeff" + listed, "utf-8")
        (tmp_path / "model.fp16.safetensors.index.json").write_text("{}")
        (tmp_path / "._model.safetensors.index.json").write_bytes(b"\0\5\x16\7")
    assert [file.name for file in Weights(tmp_path).files] == wanted


@pytest.mark.parametrize(
    "index",
    [
        *("", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": null}'),
        *('{"weight_map": {"a": 5}}', '{"weight_map": {"a": null}}', '{"weight_map": {"a": []}}'),
        *('{"weight_map": {"a": "../b.safetensors"}}', '{"weight_map": {"a": "gone.safetensors"}}'),
    ],
)
def test_an_index_that_is_damaged_is_one_sentence(tmp_path: Path, index: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(BuildError, match=r"index\.json .*; copy the weights again\.$") as error:
        _ = Weights(tmp_path).files
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("folder", "lacks"),
    [
        ("causal_video_vae", "encoder_out_channels"),
        ("diffusion_transformer_320p", "patch_size"),
        ("text_encoder", "max_position_embeddings"),
        ("ssd_1b_vae", "block_out_channels"),
    ],
)
def test_a_setting_that_is_missing_is_named(tmp_path: Path, folder: str, lacks: str) -> None:
    root = Path(shutil.copytree(MINI, tmp_path / "weights", copy_function=os.link))
    settings = json.loads((root / folder / "config.json").read_text("utf-8"))
    del settings[lacks]
    (root / folder / "config.json").unlink()
    (root / folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(BuildError, match=f"{folder}.config.json lacks {lacks}; copy the weights"):
        _ = Layout(root).manifest


@pytest.mark.parametrize("way", ["as it is", "special tokens", "neither", "table", "null", "BOM"])
def test_clips_pad_token_wherever_it_is_said(tmp_path: Path, way: str) -> None:
    root = Path(shutil.copytree(MINI, tmp_path / "weights", copy_function=os.link))
    folder = root / "tokenizer_2"
    told = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    wanted = Layout(root).pad_id("tokenizer_2")
    end = Layout(root).tokenizer("tokenizer_2").token_to_id("<|endoftext|>")
    token = told.pop("pad_token")
    for left in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / left).unlink(missing_ok=True)
    if way == "special tokens":
        (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": token}))
        (folder / "tokenizer_config.json").write_text(json.dumps(told))
    elif way == "null":
        (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": None}))
    elif way != "neither":
        said = {"content": token, "lstrip": False} if way == "table" else token
        text = json.dumps({"pad_token": said})
        (folder / "tokenizer_config.json").write_text("\ufeff" * (way == "BOM") + text, "utf-8")
    got = Layout(root).pad_id("tokenizer_2")
    assert got == (end if way in ("neither", "null") else wanted) and wanted != end


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer.json": "{}"},
        {"tokenizer.json": ""},
        {"vocab.json": "{", "merges.txt": ""},
        {"vocab.json": "[]", "merges.txt": "a b"},
        {"vocab.json": '{"a": 0}', "merges.txt": "a b c"},
        {"vocab.json": '{"a": 0}', "merges.txt": "#version: 0.2\na"},
        {"vocab.json": '{"a": 0}', "merges.txt": ""},
        {"vocab.json": '{"<|endoftext|>": "x"}', "merges.txt": ""},
        {"spiece.model": "x"},
    ],
    ids=str,
)
def test_a_tokenizer_that_is_damaged_is_one_sentence(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(NeodragonError, match=r"cannot be read .*; copy .* again\.$") as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "lacks the tensor {name} of shape"),
        ("unknown", "has the tensor strange.weight, which the model does not know"),
        ("misshapen", "holds {name} of shape .*was expected"),
        ("cut", "cannot be read"),
        ("gone", "has no .safetensors file"),
        ("config", "num_attention_heads in config.json"),
        ("quantised", "only weights in 16 or 32 bits"),
    ],
)
def test_weights_that_do_not_fit_are_one_sentence_before_anything_is_written(
    tmp_path: Path, change: str, message: str
) -> None:
    root = Path(shutil.copytree(MINI, tmp_path / "weights"))
    folder = root / "diffusion_transformer_320p"
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    name = max(name for name, tensor in tensors.items() if tensor.ndim > 1)
    if change == "missing":
        del tensors[name]
    elif change == "unknown":
        tensors["strange.weight"] = np.zeros(3, np.float16)
    elif change == "misshapen":
        tensors[name] = np.zeros((3, 5), np.float16)
    elif change == "quantised":
        tensors[name] = np.zeros(tensors[name].shape, np.int8)
    if change == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif change == "gone":
        file.unlink()
    elif change == "config":
        config = json.loads((folder / "config.json").read_text("utf-8"))
        config["num_attention_heads"] *= 2
        config["attention_head_dim"] //= 2
        (folder / "config.json").write_text(json.dumps(config))
        message = "(num_attention_heads in config.json|The transformer of) "
    else:
        save_file(tensors, file)
    with pytest.raises(BuildError, match=message.format(name=name)) as error:
        build(root, tmp_path / "pack", "portable")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "pack").exists()
    assert not list((tmp_path / "pack.build").rglob("*.onnx"))


def test_a_build_that_was_stopped_goes_on_at_its_graph(portable: Path, tmp_path: Path) -> None:
    pack, told = tmp_path / "pack", list[Progress]()

    def pausing(progress: Progress) -> None:
        told.append(progress)
        if len(told) == 3:
            (tmp_path / "pack.build" / "pause").touch()
        if len(told) == 6:
            raise KeyboardInterrupt

    def once() -> None:
        Build(MINI, pack, "portable", [TEMPLATES], [], pausing).run()

    with pytest.raises(Paused):
        once()
    with pytest.raises(KeyboardInterrupt):
        once()
    once()
    assert sum(line.line.endswith("kept") for line in told) == 3 + 3
    assert told[-1].step == "done"
    with open_pack(pack) as one, open_pack(portable) as other:
        assert one.pack_hash == other.pack_hash


def test_a_pack_for_any_pc_in_8_bits(portable: Path, tmp_path: Path) -> None:
    told = build(MINI, tmp_path / "pack", "cpu")
    with open_pack(tmp_path / "pack") as small, open_pack(portable) as plain:
        sizes = [sum(file.size for file in pack.files) for pack in (small, plain)]
        measured = {
            g: graph.fidelity_db
            for c in small.components.values()
            for g, graph in c.variants["portable"].items()
        }
    assert sizes[0] < 0.75 * sizes[1]
    assert all(db is not None and db >= 30 for db in measured.values()), measured
    difference = np.abs(clip(tmp_path / "pack") - clip(portable))
    assert difference.mean() < 8
    assert any("layers of" in line.line for line in told)


@pytest.mark.parametrize("asked", [[], ["--unshared"]])
def test_graphs_for_the_emulation_are_asked_for(
    asked: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Compiled with both (tests/test_contexts.py), since it takes a quarter of an hour."""

    def compiling(*_: object, unshared: bool, **__: object) -> None:
        raise BuildError("Both kinds: {both}.", both=unshared)

    monkeypatch.setenv("NEODRAGON_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("builder.build.compile_pack", compiling)
    words = ["model", "build", str(MINI), "--target", "x-elite", "-o", str(tmp_path / "pack")]
    assert main([*words, *asked]) == 2
    assert f"Both kinds: {bool(asked)}." in capsys.readouterr().err


def test_a_build_goes_on_with_the_options_it_was_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever starts it again, the page too; one that is done, or another, begins without."""
    monkeypatch.setenv("NEODRAGON_DATA", str(tmp_path / "data"))
    pack, asked = tmp_path / "pack", tmp_path / "asked.json"

    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        more = {"unshared": True, "patience": 300.0}
        status_of_build.run(MINI, pack, "portable", **more, report=stop)
    begun = status_of_build.status()
    assert begun is not None and begun.state == "interrupted"
    arguments = ["model", "build", str(MINI), "-o", str(pack), "--target", "portable"]
    script = "import json, sys; json.dump(sys.argv[2:], open(sys.argv[1], 'w'))"
    monkeypatch.setattr(
        status_of_build, "command", lambda: [sys.executable, "-c", script, str(asked)]
    )

    def started(target: str) -> list[str]:
        asked.unlink(missing_ok=True)
        status_of_build.start(MINI, target, pack)
        for child in status_of_build._started:
            child.wait(60)
        return list(json.loads(asked.read_text("utf-8")))

    assert started("portable") == [*arguments, "--unshared", "--patience", "5.0"]
    assert started("portable") == [*arguments, "--unshared", "--patience", "5.0"]
    assert started("cpu") == [*arguments[:-1], "cpu"]


def test_no_torch_is_needed(tmp_path: Path) -> None:
    script = f"""
import sys
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "diffusers", "gradio", "training"):
            raise ImportError("forbidden: " + name)
sys.meta_path.insert(0, Forbid())
from pathlib import Path
from builder.build import Build
for target in ("portable", "cpu"):
    Build(Path({str(MINI)!r}), Path({str(tmp_path)!r}, target), target, [Path({str(TEMPLATES)!r})],
          [], lambda told: None).run()
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, encoding="utf-8", timeout=600, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr
    assert clip(tmp_path / "cpu").shape == clip(tmp_path / "portable").shape


def test_too_little_room_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = shutil.disk_usage("/")._replace(free=9)
    monkeypatch.setattr("builder.build.shutil.disk_usage", lambda _: full)
    with pytest.raises(BuildError, match="GB of disk, and 0.0 GB are there"):
        build(MINI, tmp_path / "pack", "portable")


def test_parts_by_free_memory() -> None:
    assert [blocks_for(free) for free in (20e9, 8e9, 4e9)] == [6, 3, 2]


@pytest.mark.parametrize(
    ("words", "arch"),
    [
        ("Snapdragon(R) X Elite - X1E78100 - Qualcomm(R) Oryon(TM) CPU", 73),
        ("Snapdragon(R) X Plus - X1P42100 - Qualcomm(R) Oryon(TM) CPU", 73),
        ("Snapdragon(R) X2 Elite Extreme - X2E96100 - Qualcomm(R) Oryon(TM) CPU", 81),
        ("AMD Ryzen 9 7950X 16-Core Processor", None),
        ("Snapdragon(R) 8cx Gen 3 @ 3.0 GHz", None),
    ],
)
def test_the_chip_that_is_there(words: str, arch: int | None) -> None:
    chip = chip_named(words)
    assert (chip.htp_arch if chip else None) == arch


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a.T,
        lambda a: a[4:8],
        lambda a: a[:, 2:4],
        lambda a: a.reshape(2, 3, 2, 2, 5).transpose(0, 2, 1, 3, 4),
        lambda a: a.reshape(12, 5, 2)[:, :, -1],
        lambda a: a.reshape(3, 4, 10).transpose(1, 0, 2).reshape(12, 10),
    ],
)
def test_views_are_told_and_taken(view: Any) -> None:
    numbers = np.arange(120).reshape(12, 10)
    wanted = view(numbers)
    from training.templates import stepped  # noqa: PLC0415

    steps: list[tuple[int, int]] = []
    for axis in range(wanted.ndim):
        index: list[Any] = [0] * wanted.ndim
        index[axis] = slice(None)
        steps += stepped(wanted[tuple(index)])
    piece = Piece("f", "t", wanted.shape, int(wanted.flat[0]), tuple(steps))
    assert np.array_equal(piece.take(numbers.ravel()), wanted)
    assert Piece.of(json.loads(json.dumps(piece.to_dict()))) == piece


def test_templates_of_another_model_are_not_taken(tmp_path: Path) -> None:
    root = Path(shutil.copytree(MINI, tmp_path / "weights"))
    settings = json.loads((root / "neodragon.json").read_text("utf-8"))
    settings["geometry"]["height"] = 256
    (root / "neodragon.json").write_text(json.dumps(settings))
    with pytest.raises(BuildError, match="The geometry of .* is not that of the published model"):
        choose(Layout(root), [TEMPLATES])


def test_a_filled_pack_has_no_more_than_the_checkpoint(portable: Path) -> None:
    layout = Layout(MINI)
    made = Portable(layout, Templates(TEMPLATES), portable, remember=False)
    weights = sum(filling.weights for filling in made.fillings())
    files = sum(file.stat().st_size for file in (portable / "portable").iterdir())
    assert files < 1.6 * weights
