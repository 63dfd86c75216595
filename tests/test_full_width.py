"""Two blocks of the transformer at the published width, compiled for the NPU and run in emulation.

All graphs at full size: `python -m benchmarks.full_size`, whose results are in docs/.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import cost_graphs
from benchmarks.full_size import two_blocks
from builder.contexts.work import FLOORS
from engine.session import available
from training.models.mmdit import PyramidMMDiT


@pytest.mark.skipif("npu-emulated" not in available(), reason="no NPU emulation here")
def test_two_blocks_at_full_width(tmp_path: Path) -> None:
    found = two_blocks(0, tmp_path)
    assert found["emulated_db"]["w8a16"] > FLOORS["transformer_0"]
    net = cost_graphs.image_only(PyramidMMDiT(num_layers=2))
    weights, _ = cost_graphs.weight_bytes(net, eight_bit=True)
    assert found["context_mb"] < 1.05 * weights / 1e6
