"""The cost model: known layers, published figures, the paper's own seconds, sums that add up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import official
from torch import Tensor, nn

from benchmarks import cost, cost_graphs
from builder.published import PUBLISHED
from engine.config import ModeConfig
from engine.latents import history, image_pyramid
from engine.sampler import evaluations
from engine.tokens import transformer_inputs
from training.models.context_adapter import ContextAdapter
from training.models.mmdit import PyramidMMDiT
from training.models.video_vae import CausalVideoVAE

PAGE = Path(__file__).parents[1] / "docs" / "cost.md"
WIDTH, BLOCKS = 1536, 18


@pytest.fixture(scope="module")
def found() -> Iterator[dict[str, Any]]:
    """The whole report, counted once."""
    yield cost.report()


def on_meta(module: nn.Module) -> nn.Module:
    return module.to("meta")


def test_macs_and_weights_of_known_layers() -> None:
    linear = on_meta(nn.Linear(30, 50))
    counted = cost_graphs.count([linear], linear, (cost_graphs.meta(7, 30),), eight_bit=True)
    assert counted.macs == 7 * 30 * 50
    assert counted.weights == 30 * 50 + 2 * 50, "8-bit weights, a 16-bit bias"
    assert counted.activations == 2 * 7 * 50
    assert counted.live == 2 * 7 * (30 + 50)
    conv = on_meta(nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False))
    counted = cost_graphs.count([conv], conv, (cost_graphs.meta(1, 4, 8, 10),), eight_bit=False)
    assert counted.macs == 4 * 5 * 6 * 4 * 9
    assert counted.weights == 2 * 6 * 4 * 9


def test_attention_is_two_products() -> None:
    heads = cost_graphs.meta(1, 3, 11, 8)
    attend = nn.functional.scaled_dot_product_attention
    counted = cost_graphs.count([], attend, (heads, heads, heads), eight_bit=True)
    assert counted.macs == 2 * 3 * 11 * 11 * 8


def test_activations_die_when_nobody_reads_them() -> None:
    net = on_meta(nn.Sequential(nn.ReLU(), nn.ReLU(), nn.ReLU(), nn.Flatten()))
    counted = cost_graphs.count([net], net, (cost_graphs.meta(1, 5, 20),), eight_bit=True)
    assert counted.activations == 3 * 200, "a view is no activation"
    assert counted.live == 3 * 200, "the input, one that is read and one that is written"


def test_embedding_tables_are_looked_up_and_shared_weights_held_once() -> None:
    first, second = on_meta(nn.Embedding(100, 8)), on_meta(nn.Embedding(100, 8))
    second.weight = first.weight
    assert cost_graphs.weight_bytes([first, second], eight_bit=True) == (1600, 1600)


def test_nothing_is_allocated() -> None:
    for name in cost_graphs.MODULES:
        assert all(weight.is_meta for weight in cost_graphs.built(name).parameters())


def transformer_macs(tokens: int, text: int = cost_graphs.TEXT) -> int:
    """MACs of the transformer over so many image and text tokens, modulation given."""
    each = 12 * WIDTH**2  # query, key, value, output, and twice four widths of feed-forward
    macs = BLOCKS * (tokens * each + 2 * (tokens + text) ** 2 * WIDTH)
    macs += (BLOCKS - 1) * text * each + text * 3 * WIDTH**2  # the last only reads the text
    return macs + 2 * tokens * 64 * WIDTH


def test_macs_of_the_transformer() -> None:
    tokens, text = 280, cost_graphs.TEXT
    assert cost_graphs.transformer(tokens).macs == transformer_macs(tokens)
    rows = 12 * (BLOCKS - 1) + 8 + 2
    embedded = (256 + WIDTH + cost_graphs.POOLED + WIDTH) * WIDTH
    assert cost_graphs.modulation().macs == rows * WIDTH**2 + embedded
    adapter = 4096**2 + 3 * 8192 * 4096 + 8192 * WIDTH
    pooled = (cost_graphs.POOLED + WIDTH) * WIDTH
    more = text * adapter + rows * WIDTH**2 + pooled
    assert cost_graphs.paper_transformer(tokens).macs == transformer_macs(tokens) + more


def test_a_monolithic_clip_is_what_others_counted() -> None:
    """395 TFLOPs with guidance and nothing padded (facts 1.11)."""
    macs = 0
    for stage in range(3):
        first = transformer_macs(cost_graphs.frame_tokens(stage))
        later = [cost_graphs.image_tokens(unit, stage) for unit in range(1, 7)]
        macs += 2 * (20 * first + 10 * sum(map(transformer_macs, later)))
    assert 2 * macs / 1e12 == pytest.approx(395, rel=0.01)


def test_macs_that_others_counted() -> None:
    """Facts 7 and 8.5, to the digits given; they make the padded encoder 1071."""
    assert round(cost_graphs.video_encoder().macs / 1e9) == 363
    assert cost_graphs.paper_video_encoder().macs / 1e9 == pytest.approx(1071, rel=0.006)
    assert round(cost_graphs.video_decoder(published=True).macs / 1e9) == 205
    assert round(cost_graphs.upscaler().macs / 1e9, 2) == 3.73


def test_parameters_are_the_published_ones() -> None:
    counted = cost.published_parameters()
    expected = {
        "text_encoders": 947.9,
        "context_adapter": 130.0,
        "transformer": 1512.2,
        "video_vae": 119.5,
        "first_frame": 2232.7,
        "total": 4942.3,
    }
    assert {name: round(counted[name] / 1e6, 1) for name in expected} == expected
    assert counted["total"] == pytest.approx(cost.PUBLISHED_PARAMETERS, rel=6e-4)


def test_configurations_are_the_published_ones() -> None:
    configs = official("official_configs")
    own = {
        "context_adapter": ContextAdapter,
        "causal_video_vae": CausalVideoVAE,
        "diffusion_transformer_320p": PyramidMMDiT,
    }
    for name, kind in own.items():
        with torch.device("meta"):
            assert json.loads(json.dumps(kind().config)) == configs[name]
    shapes = {k: list(v.shape) for k, v in cost_graphs.built("t5").state_dict().items()}
    assert shapes == official("official_state_dicts")["distil_t5"]


def test_history_is_the_engines() -> None:
    table = [[80, 120, 160, 200, 240, 280], [320, 360, 400, 440, 480, 520]]
    table.append([1280, 1440, 1480, 1520, 1560, 1600])  # facts 1.8
    pyramid = image_pyramid(np.zeros((1, 7, 40, 64), np.float32), 3)
    for stage in range(3):
        for unit in range(1, 7):
            past = history(pyramid, unit, stage)
            read = [part.shape[2] // 20 for part in past for _ in range(part.shape[1])]
            levels = [int(height).bit_length() for height in read]  # 10, 20, 40 rows
            assert cost_graphs.levels(unit, stage) == [*levels, stage]
            assert cost_graphs.image_tokens(unit, stage) == table[stage][unit - 1]


def test_runs_are_those_of_a_hybrid_clip(found: dict[str, Any]) -> None:
    runs = {row["graph"]: row["runs"] for row in found["graphs"]}
    mode = ModeConfig(
        **{
            k: tuple(v) if isinstance(v, list) else v
            for k, v in PUBLISHED["schedule"]["modes"]["hybrid"].items()
        }
    )
    steps = sum(count for name, count in runs.items() if name.startswith("transformer"))
    assert steps == evaluations(mode, cost_graphs.GEOMETRY.units, True) == 18
    assert len(found["histories"]) == 18
    assert runs["unet"] == len(PUBLISHED["first_frame"]["timesteps"]) == 4
    assert runs["video_decoder"] == 7 and runs["upscaler"] == 49


def test_the_papers_form_predicts_the_papers_time(found: dict[str, Any]) -> None:
    once = sum(ms for name, ms in cost.TABLE_7.items() if name not in cost.PAPER_RUNS)
    repeated = sum(cost.PAPER_RUNS[name] * cost.TABLE_7[name] for name in cost.PAPER_RUNS)
    assert found["time"]["paper_seconds"] == pytest.approx((once + repeated) / 1000)
    assert round(found["time"]["paper_seconds"], 2) == 6.84


def test_totals_are_the_sums_of_their_rows(found: dict[str, Any]) -> None:
    time, graphs = found["time"], found["graphs"]
    for total, part in (
        ("seconds", "clip_ms"),
        ("seconds_by_macs", "clip_ms_by_macs"),
        ("paper_seconds", "paper_clip_ms"),
    ):
        assert time[total] == pytest.approx(sum(row[part] for row in graphs) / 1000)
    for row in graphs:
        largest = max(row["macs_ratio"], row["bytes_ratio"])
        assert row["ms"] == pytest.approx(largest * row["basis_ms"])
        assert row["ms_by_macs"] <= row["ms"]
    phases = found["memory"]["phases"]
    assert sum((phase["graphs"] for phase in phases), []) == [row["graph"] for row in graphs]
    assert found["memory"]["peak_bytes"] == max(phase["bytes"] for phase in phases)
    assert found["disk"]["stored_bytes"] == pytest.approx(
        sum(phase["weight_bytes"] for phase in phases), abs=len(phases)
    )
    lengths = {(row["stage"], row["unit"]): row["macs"] for row in found["histories"]}
    first = [row for row in graphs if row["graph"].endswith("_first")]
    assert [row["ours_macs"] for row in first] == [
        lengths[stage, row["runs"]] for stage, row in enumerate(first)
    ], "the last of its units is the one that is not padded"


def test_the_page_has_the_table(found: dict[str, Any]) -> None:
    kept = json.loads(PAGE.with_suffix(".json").read_text(encoding="utf-8"))
    assert kept == json.loads(json.dumps(found)), "python -m benchmarks.cost > docs/cost.json"
    assert cost.table(found) in PAGE.read_text(encoding="utf-8"), (
        "docs/cost.md should have the output of python -m benchmarks.cost --table"
    )


@torch.no_grad()
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_kept_keys_and_values_change_nothing(stage: int) -> None:
    """The unit after, from what the unit before has computed, as from nothing."""
    torch.manual_seed(stage)
    net = PyramidMMDiT(
        num_layers=3,
        in_channels=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        pooled_projection_dim=4,
        joint_attention_dim=16,
        pos_embed_max_size=16,
        sample_size=16,
    )
    for weight in net.parameters():
        weight.data = 0.3 * torch.randn(weight.shape)
    net.half_split_().eval()
    rng = np.random.default_rng(stage)
    pyramid = image_pyramid(rng.standard_normal((2, 7, 8, 16), np.float32), 3)
    context, real = torch.randn(5, 16), np.array([1, 1, 1, 0, 0])
    rows = net.modulate(torch.tensor([744.0]), torch.randn(1, 4))[0]

    def inputs(unit: int) -> list[Tensor]:
        current = rng.standard_normal(pyramid[stage][:, :1].shape, np.float32)
        made = transformer_inputs(history(pyramid, unit, stage), current, real, net.token_config)
        names = ("patches", "positions", "rope_cos", "rope_sin", "mask")
        return [torch.from_numpy(getattr(made, name)) for name in names]

    unit = 6
    before, now = inputs(unit - 1), inputs(unit)
    expected = net.forward_tokens(*now, context, rows)
    seen: list[tuple[Tensor, Tensor]] = []
    patches, positions, *tables = before
    net.blocks(net.embed(patches, positions), context, rows[:-2], *tables, own=seen)
    frames = cost_graphs.remembered(unit, stage)
    assert frames == (5, 4, 3)[stage]
    image = sum(2 * 4**level for level in cost_graphs.levels(unit, stage)[:frames])
    past = len(context) + image
    kept = [(keys[:, :past], values[:, :past]) for keys, values in seen]
    patches, positions, *tables = now
    fresh = net.embed(patches[image:], positions[image:])
    tokens, _ = net.blocks(fresh, None, rows[:-2], *(table[past:] for table in tables), kept)
    got = net.project(tokens, rows[-2:])
    assert (got - expected[image:]).abs().max() < 1e-4 * expected.abs().max()
