"""A checkpoint becomes a pack: fidelity, sizes, what is kept, what the manifest is made of."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from onnx import numpy_helper
from random_pack import CONFIGS, LAYERS, SETTINGS, checkpoint, exported
from reference import official
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from builder import storage
from builder.contexts.calls import with_fixed_sizes
from builder.errors import BuildError
from builder.plans import plans
from engine.config import Fork, Request
from engine.events import FirstFrame, UnitFrames
from engine.measures import snr_db
from engine.pack import Pack, open_pack
from engine.pipeline import generate
from engine.session import load_graph
from training.checkpoint import CheckpointError
from training.export import graphs
from training.export import pack as packing
from training.export import source as sources
from training.export.first_frame import STREAM, first_frame_decoder
from training.export.pack import export_pack, export_traced
from training.export.source import ExportError, Source, Traced
from training.export.trace import write
from training.models.distil_t5 import T5EncoderWithProjection
from training.models.mmdit import PyramidMMDiT
from training.random_checkpoint import save, save_tokenizers

HALF = 65504.0  # the largest float16
CHECKPOINT = checkpoint()


def test_every_graph_matches_its_module() -> None:
    with open_pack(exported()) as pack:
        measured = {
            f"{component.name}/{graph.name}": graph.fidelity_db
            for component in pack.components.values()
            for graph in component.variants["portable"].values()
        }
    assert len(measured) == 11
    assert all(db is not None and db >= 100 for db in measured.values()), measured


def test_weights_are_stored_in_16_bits_and_once() -> None:
    for folder, names in (
        ("ssd_1b_unet", ("unet",)),
        ("diffusion_transformer_320p", ("transformer", "modulation")),
        ("causal_video_vae", ("video_decoder",)),
    ):
        weights = next((CHECKPOINT / folder).glob("*.safetensors")).stat().st_size
        size = sum((exported() / "portable" / f"{graph}.onnx").stat().st_size for graph in names)
        assert size < 1.15 * weights  # the checkpoint itself is float16


def test_the_video_encoder_has_lost_its_unused_taps() -> None:
    graph = onnx.load(exported() / "portable" / "video_encoder.onnx").graph
    assert {len(tensor.dims) for tensor in graph.initializer} <= {0, 1, 2, 3, 4}
    assert "Conv" in {node.op_type for node in graph.node}


def test_the_transformer_is_fit_for_the_npu() -> None:
    """No rank above 4, no shapes computed, RMS norms whole and on rows (facts of QNN 2.51)."""
    model = onnx.load(exported() / "portable" / "transformer.onnx")
    shaped = onnx.shape_inference.infer_shapes(model).graph
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in shaped.value_info}
    assert max(ranks.values()) <= 4
    kinds = [node.op_type for node in model.graph.node]
    assert "Gather" not in kinds and kinds.count("Shape") <= 1
    norms = [node for node in model.graph.node if node.op_type == "RMSNormalization"]
    assert len(norms) == 4 * LAYERS
    assert all(ranks[node.input[0]] == 2 for node in norms)


def test_an_unchanged_graph_is_kept(tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(CHECKPOINT, tmp_path / "checkpoint"))
    pack = Path(shutil.copytree(exported(), tmp_path / "pack"))
    before = open_pack(pack).pack_hash
    lines: list[str] = []
    export_pack(checkpoint, pack, emulate=False, report=lines.append)
    assert [line for line in lines if line.endswith("kept")] == lines[:-1]
    assert open_pack(pack).pack_hash == before
    # A damaged graph is made again, byte for byte; what is of no use any more goes.
    (pack / "portable" / "upscaler.onnx").write_bytes(b"damaged")
    (pack / "portable" / "stale.onnx").write_bytes(b"")
    lines.clear()
    export_pack(checkpoint, pack, emulate=False, report=lines.append)
    assert [line for line in lines[:-1] if not line.endswith("kept")][0].startswith("upscaler/")
    assert open_pack(pack).pack_hash == before
    assert not (pack / "portable" / "stale.onnx").exists()


def test_a_graph_that_strays_fails_the_export(tmp_path: Path) -> None:
    source = Source(CHECKPOINT)
    plan = next(plan for plan in plans(source) if plan.component == "upscaler")
    traced = graphs.traced(source, plan)
    traced.reference = lambda: traced.module(traced.inputs["image"]) + 1e-2
    with pytest.raises(ExportError, match=r"upscaler is within .* and 60.0 dB are needed"):
        export_traced(traced, plan, tmp_path)


def test_copies_of_clip_that_differ_are_kept_apart(tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(CHECKPOINT, tmp_path / "checkpoint"))
    pack = Path(shutil.copytree(exported(), tmp_path / "pack"))
    assert all(Source(checkpoint).copies.values()) and len(Source(checkpoint).copies) == 2
    for folder in ("ssd_1b_text_encoder", "ssd_1b_text_encoder_2"):
        (file,) = (checkpoint / folder).glob("*.safetensors")
        weights = load_file(file)
        save_file({name: 0.5 * w for name, w in weights.items()}, file, {"format": "pt"})
    export_pack(checkpoint, pack, emulate=False, report=lambda line: None)
    with open_pack(exported()) as one, open_pack(pack) as apart:
        assert set(apart.components) - set(one.components) == {
            "first_frame_clip_l",
            "first_frame_clip_g",
        }
        looks = [first_frame(opened) for opened in (one, apart)]
        assert not np.array_equal(*looks)
        given = Request("a red kite", 1, 2, upscale=False, image=looks[0], steps=(1, 1, 1))
        same = [
            next(e.frames for e in generate(opened, given, threads=1) if isinstance(e, UnitFrames))
            for opened in (one, apart)
        ]
        assert np.array_equal(*same), "the video's CLIP is the one there was"


def first_frame(pack: Pack) -> Any:
    running = generate(pack, Request("a red kite", 1, 2), threads=1)
    return next(event.image for event in running if isinstance(event, FirstFrame))


KINDS = {
    "text_encoder": CLIPTextModelWithProjection,
    "ssd_1b_text_encoder": CLIPTextModel,
    "text_encoder_3": T5EncoderWithProjection,
    "ssd_1b_unet": UNet2DConditionModel,
    "ssd_1b_vae": AutoencoderKL,
    "safety_checker": StableDiffusionSafetyChecker,
    "diffusion_transformer_320p": PyramidMMDiT,
}


@pytest.mark.parametrize("folder", KINDS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "lacks the tensor {name}"),
        ("unexpected", "holds the tensor strange.weight"),
        ("misshapen", "holds {name} of (another )?shape"),
    ],
)
def test_a_tensor_that_does_not_fit(tmp_path: Path, folder: str, change: str, message: str) -> None:
    shutil.copytree(CHECKPOINT, tmp_path / "checkpoint")
    source = Source(tmp_path / "checkpoint")
    (file,) = (source.root / folder).glob("*.safetensors")
    weights = load_file(file)
    name = max(name for name, weight in weights.items() if weight.ndim > 1)
    if change == "missing":
        del weights[name]
    else:
        weights[name if change == "misshapen" else "strange.weight"] = torch.zeros(3, 5)
    save_file(weights, file, {"format": "pt"})
    told = f"({re.escape(name)}|{re.escape(name.removeprefix('text_model.'))})"
    with pytest.raises(CheckpointError, match=f"{folder}.* {message.format(name=told)}") as error:
        source.load(KINDS[folder], folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("folder", ["diffusion_transformer_320p", "ssd_1b_unet", "text_encoder_3"])
def test_weights_in_several_files_are_loaded(tmp_path: Path, folder: str) -> None:
    shutil.copytree(CHECKPOINT / folder, tmp_path / folder)
    (tmp_path / "diffusion_transformer_320p").mkdir(exist_ok=True)
    (file,) = (tmp_path / folder).glob("*.safetensors")
    whole = {name: tensor.clone() for name, tensor in load_file(file).items()}
    expected = Source(tmp_path).load(KINDS[folder], folder).state_dict()
    parts = [f"{file.stem}-0000{number}-of-00002.safetensors" for number in (1, 2)]
    places = {name: parts[number % 2] for number, name in enumerate(whole)}
    for part in parts:
        kept = {name: tensor for name, tensor in whole.items() if places[name] == part}
        save_file(kept, tmp_path / folder / part, {"format": "pt"})
    file.unlink()
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (tmp_path / folder / f"{file.name}.index.json").write_text(json.dumps(index))
    got = Source(tmp_path).load(KINDS[folder], folder).state_dict()
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_a_config_that_lacks_a_setting_is_one_sentence(tmp_path: Path) -> None:
    folder = "diffusion_transformer_320p"
    shutil.copytree(CHECKPOINT / folder, tmp_path / folder)
    for content in ("[]", "5", "{", '{"num_layer": 1}'):
        (tmp_path / folder / "config.json").write_text(content)
        with pytest.raises(CheckpointError, match="config.json (cannot be read|sets)") as error:
            Source(tmp_path).load(KINDS[folder], folder)
        assert "\n" not in str(error.value)


def test_large_layers_keep_the_weights_they_were_stored_with(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = Source(CHECKPOINT)
    plain = {plan.graph: graphs.traced(source, plan) for plan in plans(source)}
    large = {"clip_l": 2**10, "unet": 2**14, "transformer": 2**14}
    for plan in plans(source):
        if plan.graph not in large:
            continue
        monkeypatch.setattr(sources, "KEPT", large[plan.graph])
        traced, before = graphs.traced(source, plan), plain[plan.graph]
        halves = [w for w in traced.module.parameters() if w.dtype == torch.float16]
        assert halves and all(w.dtype == torch.float32 for w in before.module.parameters())
        stored = []
        for number, call in enumerate((traced, before)):
            model, _ = write(call, tmp_path / f"{number}.onnx", external=False)
            kinds = sorted(node.op_type for node in model.graph.node)
            values = map(numpy_helper.to_array, model.graph.initializer)
            stored.append((kinds, sorted(value.tobytes() for value in values)))
        assert stored[0] == stored[1], plan.graph
        with torch.no_grad():
            got, expected = (
                packing.arrays(t.function(t.module, *t.inputs.values())) for t in (traced, before)
            )
        for a, b in zip(expected, got, strict=True):
            assert snr_db(a, b) > 110, plan.graph


def test_the_monolithic_modes_weights_can_be_left_out(tmp_path: Path) -> None:
    shutil.copytree(CHECKPOINT, tmp_path / "checkpoint")
    root = tmp_path / "checkpoint"
    for folder in ("diffusion_transformer_320p", "context_adapter"):
        shutil.copytree(root / folder, root / f"{folder}_multistep_t2v")
    assert "monolithic" in Source(root).manifest["schedule"]["modes"]
    without = Source(root, multistep=False)
    assert list(without.manifest["schedule"]["modes"]) == ["hybrid"]
    assert not [plan for plan in plans(without) if "multistep" in plan.component]
    assert "monolithic" in Source(CHECKPOINT, multistep=False).manifest["schedule"]["modes"]


def test_a_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="diffusion_transformer_320p"):
        Source(tmp_path)


def test_the_published_values_hold_without_settings(tmp_path: Path) -> None:
    configs = official("official_configs")
    save_tokenizers(tmp_path)
    folders = ("causal_video_vae", "diffusion_transformer_320p")
    given = {folder: configs[folder] for folder in folders}
    given |= {
        "text_encoder": {"max_position_embeddings": 77},
        "ssd_1b_vae": {
            "block_out_channels": [128, 256, 512, 512],
            "latent_channels": 4,
            "scaling_factor": 0.13025,
        },
        "ssd_1b_unet": {},
    }
    for folder, config in given.items():
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "config.json").write_text(json.dumps(config))
    source = Source(tmp_path)
    assert source.geometry.units == 7
    assert (source.geometry.latent_height, source.geometry.latent_width) == (40, 64)
    assert source.manifest["first_frame"]["latent_scale"] == 0.13025
    assert source.manifest["schedule"]["modes"]["monolithic"]["first_guidance"] == 7.0
    assert [source.static_tokens(stage) for stage in range(3)] == [280, 520, 1600]
    assert source.transformer_config.pos_embed_max_size == 192


def test_settings_are_laid_over_the_published_values() -> None:
    manifest = Source(CHECKPOINT).manifest
    assert manifest["version"] == SETTINGS["version"]
    assert manifest["geometry"]["fps"] == 24 and manifest["geometry"]["height"] == 128
    assert manifest["schedule"]["modes"]["monolithic"]["guidance"] == 5.0
    assert manifest["first_frame"]["beta_end"] == 0.012
    assert manifest["prompt"]["clip_l_pad"] != manifest["prompt"]["clip_g_pad"]


def test_a_checkpoint_with_multistep_weights_gives_them_a_component(tmp_path: Path) -> None:
    for folder in ("diffusion_transformer_320p", "context_adapter"):
        shutil.copytree(CHECKPOINT / folder, tmp_path / folder)
        shutil.copytree(CHECKPOINT / folder, tmp_path / f"{folder}_multistep_t2v")
    assert [plan.component for plan in plans(Source(tmp_path)) if plan.optional] == [
        "text_encoder_multistep",
        "transformer_multistep",
        "transformer_multistep",
    ]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([1.5, 0.25], "float16"), ([1e10, 0.0], "bfloat16"), ([0.1, 0.2], None)],
)
def test_16_bits_only_where_nothing_is_lost(values: list[float], dtype: str | None) -> None:
    array = np.tile(np.array(values, np.float32), 128)
    if dtype == "bfloat16":
        array = torch.from_numpy(array).bfloat16().float().numpy()
    small = storage.narrowed(array)
    assert (None if small is None else str(small.dtype)) == dtype
    assert storage.narrowed(array[:4]) is None


class Norm(nn.Module):
    """An RMS norm of heads, [T, 6, 32]."""

    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return nn.functional.rms_norm(x, (32,), weight, 1e-5)


def test_rms_norms_keep_their_shape(tmp_path: Path) -> None:
    inputs = {"x": torch.randn(7, 6, 32), "weight": torch.randn(32)}
    dynamic = {"x": ("T",), "y": ("T",)}
    call = Traced(Norm(), nn.Module.__call__, inputs, ("y",), dynamic=dynamic, opset=23)
    model, files = write(call, tmp_path / "norm.onnx", external=False)
    entry = storage.graph_entry(model, files, tmp_path)
    assert entry["outputs"]["y"]["shape"] == ["T", 6, 32]
    x = torch.randn(5, 6, 32)
    with load_graph(storage.graph_of("norm", entry), files[0]) as session:
        got = session.run(x=x.numpy(), weight=inputs["weight"].numpy())["y"]
    assert snr_db(Norm()(x, inputs["weight"]).numpy(), got) > 120


def test_the_modulation_is_the_transformers_own() -> None:
    """Modulation and transformer graphs together are the published forward pass."""
    source = Source(CHECKPOINT)
    net: Any = source.load(PyramidMMDiT, "diffusion_transformer_320p")
    with open_pack(exported()) as pack:
        rows = pack.graphs("transformer", "portable")["modulation"].outputs["modulation"].shape[0]
    assert rows == net.modulation_rows


def test_the_random_checkpoint_is_the_same_every_time(tmp_path: Path) -> None:
    again = save(tmp_path / "checkpoint", CONFIGS, SETTINGS)
    for folder in ("context_adapter", "causal_video_vae", "ssd_1b_unet"):
        name = f"{folder}/diffusion_pytorch_model.safetensors"
        assert (again / name).read_bytes() == (CHECKPOINT / name).read_bytes()


def test_graphs_in_parts_or_with_a_memory_give_the_same_clip(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(CHECKPOINT, checkpoint)
    shutil.copytree(exported(), tmp_path / "pack")
    quiet = {"emulate": False, "report": lambda line: None}
    export_pack(checkpoint, tmp_path / "pack", **quiet, remember=True, blocks=1)
    with open_pack(exported()) as whole, open_pack(tmp_path / "pack") as parts:
        names = list(parts.graphs("transformer", "htp"))
        assert names[1:3] == ["transformer_0_first_part0", "transformer_0_first_part1"]
        assert len(names) == 1 + 3 * 2 * LAYERS
        there_and_back = (Fork(3, 7, "a blue kite"), Fork(6, 8, "a red kite"))
        for steps, forks in (((1, 1, 1), ()), ((2, 1, 2), ()), ((1, 1, 1), there_and_back)):
            expected, *others = (
                clip(pack, steps, forks) for pack in (whole, parts, with_fixed_sizes(parts))
            )
            for other in others:
                assert np.abs(expected - other).max() <= 1


@torch.no_grad()
def test_what_overflows_half_precision_in_the_first_frames_decoder_no_longer_does(
    tmp_path: Path,
) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(CHECKPOINT, checkpoint)
    vae = AutoencoderKL.from_pretrained(checkpoint / "ssd_1b_vae")
    for layer in (vae.decoder.conv_in, *(r.conv2 for r in vae.decoder.mid_block.resnets)):
        layer.weight *= 3e5
    vae.float().save_pretrained(checkpoint / "ssd_1b_vae")
    traced = first_frame_decoder(Source(checkpoint))
    streams: list[float] = []
    for resnet in traced.module.decoder.mid_block.resnets:
        resnet.register_forward_hook(lambda _, given, made: streams.append(float(made.abs().max())))
    assert traced.reference is not None
    got = traced.function(traced.module, *traced.inputs.values())
    assert snr_db(traced.reference().numpy(), got.numpy()) > 100
    assert max(streams) < HALF < STREAM * max(streams)


@torch.no_grad()
def test_group_norms_of_the_first_frames_decoder_move_nothing_channels_last(
    tmp_path: Path,
) -> None:
    traced = first_frame_decoder(Source(CHECKPOINT))
    model, _ = write(traced, tmp_path / "decoder.onnx", external=False)
    made = {name: node for node in model.graph.node for name in node.output}
    norms = [node for node in model.graph.node if node.op_type == "InstanceNormalization"]
    assert len(norms) > 10
    for norm in norms:
        before = made[norm.input[0]]
        assert before.op_type == "Transpose" and list(before.attribute[0].ints) == [0, 3, 1, 2]
        assert made[before.input[0]].op_type == "Reshape"


def clip(pack: Pack, steps: tuple[int, ...], forks: tuple[Fork, ...] = ()) -> Any:
    """The frames of a clip."""
    request = Request("a red kite", 1, 2, upscale=False, steps=steps, forks=forks)
    events = generate(pack, request, threads=1)
    frames = [event.frames for event in events if isinstance(event, UnitFrames)]
    return np.concatenate(frames).astype(int)


def test_what_is_remembered_is_not_computed_again() -> None:
    """As `benchmarks.cost_graphs` counts it for the published sizes."""
    source = Source(CHECKPOINT)
    assert source.oldest_tokens == 6
    for stage in range(3):
        assert source.forgetful(stage) == stage + 1
        known = [source.known_tokens(unit, stage) for unit in range(1, 7)]
        assert known == [6 * max(0, unit - stage - 1) for unit in range(1, 7)]


def test_a_large_graph_is_the_same_with_its_weights_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "EXTERNAL_ABOVE", 0)
    source = Source(CHECKPOINT)
    (plan,) = [plan for plan in plans(source) if plan.graph == "transformer"][:1]
    entry = packing.export_portable(source, plan, tmp_path)
    assert entry["fidelity_db"] > 100
    (data,) = entry["data"]
    with open_pack(exported()) as pack:
        whole = pack.graphs("transformer", "portable")["transformer"]
    assert entry["size"] < whole.file.size / 4
    assert entry["size"] + data["size"] < 1.5 * whole.file.size  # aligned to pages


@pytest.mark.parametrize("what", ["disk", "memory"])
def test_too_little_room_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    if what == "disk":
        monkeypatch.setattr(
            packing, "disk_usage", lambda _: shutil.disk_usage("/")._replace(free=9)
        )
    else:
        monkeypatch.setattr(packing, "_memory", lambda: 9)
    with pytest.raises(ExportError, match=f"GB of .*{what}, and 0.0 GB are there"):
        export_pack(CHECKPOINT, tmp_path / "pack", emulate=False)
    assert not (tmp_path / "pack" / "portable").exists()
