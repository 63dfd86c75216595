"""What docs/full_size.json says of each graph at full size; `pytest -m full_size` measures it anew.

That takes hours, 24 GB of memory and 60 GB of disk.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cost
from builder.contexts.work import FLOORS, FP16_FLOOR, WEIGHTS_ALONE
from engine.pack import REQUIRED
from training.random_checkpoint import save

FORMS = [f"transformer_{form}_part{part}" for form in ("first", "later") for part in range(3)]


def floor(graph: str) -> float:
    row = re.sub("^first_frame_(?=clip)|(_first|_later)?(_part.*)?$", "", graph)
    return {**FLOORS, **WEIGHTS_ALONE}.get(row, FP16_FLOOR)


def check(told: dict[str, Any]) -> None:
    """The bars that a device's pack is held to, before there is one."""
    graphs = {name.split("/")[1]: found for name, found in told["graphs"].items()}
    parts = {re.split(",", name)[0]: found for name, found in told["in_part"].items()}
    exported = {name for name, found in graphs.items() if "portable_db" in found}
    single = {re.sub("_part.*", "", name) for name in exported}
    assert single >= {*REQUIRED, "unet", "first_frame_decoder", "modulation", "upscaler"}
    assert exported >= {*FORMS, *(f"transformer_part{part}" for part in range(3))}
    assert all(graphs[name]["portable_db"] >= 60 for name in exported)
    compiled = {name for name, found in graphs.items() if "context_mb" in found}
    assert compiled >= {f"transformer_part{part} shared" for part in range(3)}
    transformers = {name for name in exported if name.startswith("transformer")}
    assert compiled >= exported - transformers
    assert all(graphs[name]["nodes"] and graphs[name]["compile_peak_gb"] < 24 for name in compiled)
    for name, found in (*graphs.items(), *parts.items()):
        for measured in ("emulated_db", "cpu_db"):
            db = found.get(measured, {}).get(found.get("precision"))
            assert db is None or db >= floor(name), name
    every = {name for name in graphs if name in single or re.match(r"transformer_\d", name)}
    every -= {"transformer", "transformer_first", "transformer_later"}
    emulated = {name for name in graphs if "emulated_db" in graphs[name]}
    assert all(name.startswith("transformer_2") for name in every - emulated)
    assert "transformer_2_later" in parts
    rows = cost.rows(cost.stored(told))
    assert cost.disk(rows)["stored_bytes"] <= cost.TARGET["disk_bytes"]
    assert cost.memory(rows)["peak_bytes"] <= cost.TARGET["resident_bytes"]


def test_what_was_measured() -> None:
    check(json.loads(cost.MEASURED.read_text(encoding="utf-8")))


@pytest.mark.full_size
def test_measured_anew(tmp_path: Path) -> None:
    checkpoint, found = save(tmp_path / "checkpoint", full=True), tmp_path / "full_size.json"
    command = ["benchmarks.full_size", str(checkpoint), str(tmp_path / "work"), "-o", str(found)]
    subprocess.run([sys.executable, "-m", *command], check=True)
    check(json.loads(found.read_text(encoding="utf-8")))
