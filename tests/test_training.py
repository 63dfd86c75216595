"""The training loop resumes, and flow-matching samples are what the sampler will see."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import latents as engine_latents
from engine.scheduler import stage_schedule
from training.models.distil_t5 import T5EncoderWithProjection
from training.recipes.conditions import Conditions
from training.recipes.configuration import FOLDER, Configuration
from training.recipes.first_frame import alpha_bars, middling, spread
from training.recipes.loop import learning_rate, train
from training.recipes.milestone import keep, keep_rows, same
from training.recipes.muon import Muon, orthogonal
from training.recipes.precision import autocast, multiplies_bfloat16
from training.recipes.pyramid import double_size, half_size, history, stage_sample
from training.recipes.settings import SCHEDULE

STAGES = stage_schedule(SCHEDULE)
ROOT = Path(__file__).parents[1]


def options(folder: Path, steps: int, hours: float) -> argparse.Namespace:
    return argparse.Namespace(
        name=None,
        run=folder,
        steps=steps,
        hours=hours,
        batch=1,
        accumulate=2,
        lr=0.05,
        seed=0,
        begun=0,
        spent=0.0,
        threads=1,
        device="cpu",
        parallel="ddp",
        recompute=False,
        muon=0.0,
    )


def test_training_resumes_and_records_its_cost(tmp_path: Path) -> None:
    def run(steps: int, hours: float = 1) -> tuple[dict[str, float], float]:
        torch.manual_seed(0)
        model = nn.Linear(4, 1)
        train(
            "line",
            model,
            lambda g: (model(torch.randn(8, 4, generator=g)) - 1).square().mean(),
            options(tmp_path, steps, hours),
        )
        with torch.no_grad():
            return json.loads((tmp_path / "line" / "cost.json").read_text("utf-8")), float(
                (model(torch.zeros(1, 4)) - 1).abs()
            )

    first, _ = run(300, 1e-5)
    assert 0 < first["steps"] < 300  # stopped by its hours
    second, error = run(300)
    assert second["steps"] == 300 and second["samples"] == 600
    assert error < 0.2
    assert json.loads((tmp_path / "line" / "options.json").read_text("utf-8"))["seed"] == "0"
    third, _ = run(300)  # nothing left to do
    assert third["steps"] == second["steps"]


def test_begun_updates_are_not_made_again(tmp_path: Path) -> None:
    model, updates = nn.Linear(4, 1), []

    def step(generator: torch.Generator) -> Tensor:
        updates.append(generator.initial_seed())
        return model(torch.randn(8, 4, generator=generator)).square().mean()

    settings = options(tmp_path, 10, 1)
    settings.begun, settings.spent = 8, 60.0
    train("line", model, step, settings)
    assert updates == [16, 17, 18, 19]  # two losses an update, numbered on
    cost = json.loads((tmp_path / "line" / "cost.json").read_text("utf-8"))
    assert cost["steps"] == 10 and cost["seconds"] >= 60


def test_muon_moves_matrices_in_blocks_alike_however_often_it_is_stopped(tmp_path: Path) -> None:
    def run(folder: str, hours: float, muon: float = 4.0) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = nn.ModuleDict(
            {
                "conv_in": nn.Conv2d(2, 4, 1),
                "blocks": nn.Conv2d(4, 4, 3),
                "conv_out": nn.Conv2d(4, 2, 1),
            }
        )

        def step(generator: torch.Generator) -> Tensor:
            x = torch.randn(4, 2, 6, 6, generator=generator)
            for layer in model.values():
                x = layer(x)
            return (x - 1).square().mean()

        settings = options(tmp_path / folder, 12, hours)
        settings.muon = muon
        train("line", model, step, settings)
        return torch.load(tmp_path / folder / "line" / "state.pt", weights_only=True)["model"]

    whole = run("whole", 1)
    first = run("parts", 1e-12)  # one update each
    for _ in range(11):
        parts = run("parts", 1e-12)
    for name, weight in whole.items():
        torch.testing.assert_close(parts[name], weight)
    with pytest.raises(ValueError, match="begun with another --muon"):
        run("parts", 1, 0.0)
    torch.manual_seed(0)
    nn.Conv2d(2, 4, 1)
    moved = first["blocks.weight"] - nn.Conv2d(4, 4, 3).weight.detach()
    singular = torch.linalg.svdvals(moved.flatten(1))
    # As far in both directions that the two outputs ask for; AdamW's first step is mostly in one.
    assert singular[1] > 0.5 * singular[0]


@pytest.mark.parametrize("shape", [(24, 24), (24, 30), (16, 144), (144, 16)])
def test_muon_steps_as_torchs_does(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(5)
    ours, theirs = (nn.Parameter(torch.ones(shape)) for _ in range(2))
    muon = Muon([ours], lr=0.1, weight_decay=1e-3)
    other = torch.optim.Muon([theirs], lr=0.1, weight_decay=1e-3, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        ours.grad = torch.randn(shape, generator=generator)
        theirs.grad = ours.grad.clone()
        muon.step()
        other.step()
    moved = (theirs - 1).detach().norm()
    assert float((ours - theirs).detach().norm() / moved) < 0.02  # theirs are bfloat16 products
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=generator)))
    assert values.max() < 1.25 and values.median() > 0.6


def test_a_step_is_bfloat16_where_the_processor_multiplies_it() -> None:
    with autocast("cpu"):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert (product.dtype == torch.bfloat16) == multiplies_bfloat16()


@pytest.mark.skipif(os.name == "nt", reason="a shell script")
def test_the_recipe_goes_on_from_a_milestone(tmp_path: Path) -> None:
    """On a machine without states `runs/mini.sh` starts from the kept weights: what is done is not
    asked for again, what was under way goes on from its update.
    """
    out, run = tmp_path / "out", tmp_path / "run"
    (out / "tokenizer_3").mkdir(parents=True)
    (out / "tokenizer_3" / "tokenizer.json").write_text("{}")
    read_from = {"_name_or_path": str(out), "channels": 4}
    (out / "tokenizer_3" / "config.json").write_text(json.dumps(read_from))
    for stage, done, of in (("image_vae", 3900, 4000), ("text", 2000, 2000)):
        (tmp_path / "old" / stage).mkdir(parents=True)
        cost = {"steps": done, "of": of, "seconds": 60, "loss": 0.1}
        (tmp_path / "old" / stage / "cost.json").write_text(json.dumps(cost))
    keep(tmp_path / "old", out, tmp_path / "kept")
    config = json.loads((tmp_path / "kept" / "tokenizer_3" / "config.json").read_text("utf-8"))
    assert config == {"channels": 4}  # no path of this machine
    asked = tmp_path / "asked"
    python = tmp_path / "python"  # trains nothing
    python.write_text(
        f'#!/bin/sh\n[ "$1" != - ] || exec "{sys.executable}" "$@"\n'
        f'echo "$@" >> "{asked}"\nexit 1\n'
    )
    python.chmod(0o755)
    places = {"RUN": run, "OUT": run / "checkpoint", "KEPT": tmp_path / "kept", "PYTHON": python}
    subprocess.run(
        ["sh", "runs/mini.sh"],
        env=os.environ | {name: str(place) for name, place in places.items()},
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    stages = {line.split()[2]: line for line in asked.read_text("utf-8").splitlines()}
    assert stages["training.recipes.image_vae"].endswith("--warm --begun 3900 --spent 60")
    assert "--begun" not in stages["training.recipes.video_vae"]
    assert not {"training.recipes.text", "training.data.tokenizers"} & {*stages}
    assert (run / "checkpoint" / "tokenizer_3" / "tokenizer.json").exists()
    assert [file.name for file in run.glob("*.done")] == ["text.done"]  # no stage that failed
    assert (run / "stopped").exists()


@pytest.mark.skipif(os.name == "nt", reason="a shell script")
def test_the_chain_goes_on_from_rows_that_were_kept(tmp_path: Path) -> None:
    """What of a row is not the teacher's is enough to have it again."""
    rows = tmp_path / "rows"
    for row, own in (("teacher", "a"), ("donor", "b")):
        for part in ("text", "vae"):
            (rows / row / part).mkdir(parents=True)
            (rows / row / part / "weights").write_text(own if part == "vae" else "same")
    kept = tmp_path / "kept"
    keep_rows(rows, ["donor"], kept)
    assert [file.name for file in (kept / "rows" / "donor").iterdir()] == ["vae"]
    places = {"RUN": tmp_path / "run", "OUT": rows / "teacher", "KEPT": kept, "PYTHON": "false"}
    subprocess.run(
        ["sh", "runs/chain.sh"],
        env=os.environ | {name: str(place) for name, place in places.items()},
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    run = tmp_path / "run"
    assert [file.name for file in run.glob("*.done")] == ["donor.done"]
    assert same(run / "rows" / "donor", rows / "donor")


def test_learning_rate_warms_up_and_falls() -> None:
    assert learning_rate(0, 1000, 1.0) < 0.06
    assert learning_rate(20, 1000, 1.0) == learning_rate(749, 1000, 1.0) == 1.0
    assert learning_rate(1000, 1000, 1.0) == pytest.approx(0.05)
    assert learning_rate(500, 100_000, 1.0) == 1.0  # no long warm-up for a long run


def pyramid(batch: int = 2) -> list[Tensor]:
    clips = torch.randn(batch, 3, 7, 16, 24, generator=torch.Generator().manual_seed(1))
    levels = [clips]
    while len(levels) < 3:
        levels.insert(0, half_size(levels[0]))
    return levels


def test_history_is_the_samplers() -> None:
    levels = pyramid(1)
    for unit in range(1, 7):
        past = levels[-1][0, :, :unit].numpy()
        for stage in range(3):
            expected = engine_latents.history(engine_latents.image_pyramid(past, 3), unit, stage)
            found = history(levels, unit, stage)
            # Training joins neighbours of one level; the frames and their order are the same.
            flat = [frame for part in expected for frame in np.moveaxis(part, 1, 0)]
            mine = [frame for part in found for frame in np.moveaxis(part[0].numpy(), 1, 0)]
            assert len(flat) == len(mine)
            for one, other in zip(flat, mine, strict=True):
                np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_stage_sample_lies_on_the_line_with_corrected_sigmas(stage: int) -> None:
    levels = pyramid()
    inputs, timestep, target = stage_sample(
        levels, 3, stage, STAGES, torch.Generator().manual_seed(2)
    )
    now = STAGES[stage]
    grid = torch.from_numpy(now.timesteps(1000)).float()
    index = [int((grid - t).abs().argmin()) for t in timestep]
    local = torch.from_numpy(now.sigmas(1000)).float()[index].view(-1, 1, 1, 1, 1)
    end = inputs[-1] - local * target
    clean = levels[stage][:, :, 3:4]
    if stage == 2:  # the last stage ends in the clean latent
        torch.testing.assert_close(end, clean, atol=1e-4, rtol=1e-4)
    noise = (end - (1 - now.end_sigma) * clean) / now.end_sigma if now.end_sigma else None
    start = end + target
    if noise is not None and stage > 0:
        below = double_size(levels[stage - 1][:, :, 3:4])
        expected = now.start_sigma * noise + (1 - now.start_sigma) * below
        torch.testing.assert_close(start, expected, atol=1e-3, rtol=1e-3)
        assert now.start_sigma > now.original_start_sigma
    if stage == 0:
        torch.testing.assert_close(start, noise, atol=1e-3, rtol=1e-3)


def test_padding_no_prompt_needs_is_left_out() -> None:
    """It changes no token that is read."""
    kept = ROOT / "checkpoints" / "emoji"
    config = Configuration.read(FOLDER / "emoji.json")
    conditions = Conditions(kept, "cpu", config)
    ids, mask = conditions.tokens(["a cat", "a red fox jumps on the meadow in daylight"])
    gap = config["text"]["t5_length"] - ids.shape[1]
    assert gap > 0 and mask[1].sum() > mask[0].sum()
    text = T5EncoderWithProjection.from_pretrained(kept / "text_encoder_3").float().eval()
    with torch.no_grad():
        short, whole = text(ids, mask), text(*(F.pad(part, (0, gap)) for part in (ids, mask)))
    real = mask.bool()
    torch.testing.assert_close(short[real], whole[:, : ids.shape[1]][real])


def test_noise_levels_are_spread_over_a_batch() -> None:
    times = spread(8, torch.Generator().manual_seed(3))
    assert [int(time) // 125 for time in times] == list(range(8))


def test_middling_times_have_a_normal_signal_to_noise_ratio() -> None:
    alphas = alpha_bars()
    times = middling(4000, torch.Generator().manual_seed(3), alphas)
    ratio = torch.log(alphas[times] / (1 - alphas[times]))
    assert abs(float(ratio.median())) < 0.05
    within = float(((ratio > -2) & (ratio < 2)).float().mean())
    assert 0.66 < within < 0.7  # one standard deviation, 2
    assert times.min() >= 0 and times.max() <= 999


def test_the_chain_makes_every_row_of_the_table() -> None:
    chain = (ROOT / "runs" / "chain.sh").read_text("utf-8")
    rows = json.loads((ROOT / "benchmarks" / "distillation.json").read_text("utf-8"))
    made = {
        line.split()[1] for line in chain.splitlines() if line.split()[:1] in (["row"], ["prune"])
    }
    assert {row["checkpoint"] for row in rows} <= made | {"teacher", "shipped"}
