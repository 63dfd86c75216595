"""Two processes under torchrun learn what one does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from parallel_training import Whole, main

from training.recipes.parallel import join
from training.recipes.recompute import recompute

HERE = Path(__file__).parent

STEPS = 4


def torchrun(folder: Path, kind: str, steps: int) -> dict[str, Any]:
    """Two processes; `--standalone` takes a free port of its own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", str(HERE / "parallel_training.py")]
    done = subprocess.run(
        [*command, str(folder), kind, "1", str(steps)],
        cwd=HERE.parent,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "tiny" / "cost.json").read_text("utf-8"))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process that accumulates two losses an update."""
    folder = tmp_path_factory.mktemp("one")
    main(folder, "ddp", 2, STEPS)
    return folder


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_do_what_one_does(kind: str, one: Path, tmp_path: Path) -> None:
    torchrun(tmp_path, kind, STEPS // 2)
    cost = torchrun(tmp_path, kind, STEPS)  # resumed, so the state was whole
    alone = json.loads((one / "tiny" / "cost.json").read_text("utf-8"))
    assert cost["processes"] == 2 and cost["samples"] == alone["samples"] == 16
    states = [
        torch.load(folder / "tiny" / "state.pt", weights_only=True) for folder in (one, tmp_path)
    ]
    for part in ("model", "averaged"):
        for name, tensor in states[0][part].items():
            torch.testing.assert_close(states[1][part][name], tensor, atol=2e-5, rtol=1e-4)


def test_losses_are_the_same(one: Path, tmp_path: Path) -> None:
    """The mean loss of each update, over both processes, is that of the one."""
    cost = torchrun(tmp_path, "ddp", STEPS)
    alone = json.loads((one / "tiny" / "cost.json").read_text("utf-8"))
    assert cost["loss"] == pytest.approx(alone["loss"], rel=1e-4)


def test_recomputing_changes_no_gradient() -> None:
    gradients = []
    for again in (False, True):
        torch.manual_seed(0)
        model = Whole().train()
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.05 * torch.randn(weight.shape))
        if again:
            recompute(model)
        given = [torch.randn(2, 4, 1, 8, 8)], torch.tensor([900.0, 10.0])
        text = torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.long), torch.randn(2, 8)
        model.mmdit(*given, *text).square().mean().backward()
        gradients.append([w.grad for w in model.parameters()])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)


def test_an_unknown_way_to_share_is_refused() -> None:
    with pytest.raises(ValueError, match="ddp, fsdp"):
        join("alone", "cpu")


def test_torchrun_leaves_a_recipes_options_to_it(tmp_path: Path) -> None:
    """As docs/training.md has it: torchrun has options that begin like ours."""
    written = (HERE.parent / "docs" / "training.md").read_text("utf-8")
    assert "torchrun --nproc-per-node N -m -- training.recipes..." in written
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    recipe = ["training.recipes.first_frame", "--run", str(tmp_path), "--help"]
    done = subprocess.run(
        [*command, "-m", "--", *recipe],
        cwd=HERE.parent,
        capture_output=True,
        encoding="utf-8",
        timeout=240,
    )
    assert done.returncode == 0 and "--freeze-text" in done.stdout, done.stderr[-3000:]
