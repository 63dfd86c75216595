"""Two blocks of the transformer at the published width, compiled for the NPU and run in emulation.

All graphs at full size: `python -m benchmarks.full_size`, whose results are in docs/.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import cost_graphs
from engine.latents import history, image_pyramid
from engine.session import available, load_graph
from engine.tokens import transformer_inputs
from training.contexts import FP16_FLOOR, compile_graphs
from training.models.mmdit import PyramidMMDiT
from training.onnx_graphs import Call, export_large, file_entry, graph_of, snr_db, tensor_specs

UNIT, STAGE = 6, 0


@pytest.mark.skipif("npu-emulated" not in available(), reason="no NPU emulation here")
@torch.no_grad()
def test_two_blocks_at_full_width(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = PyramidMMDiT(num_layers=2).half_split_().eval()
    for weight in net.parameters():
        weight.copy_((torch.randn_like(weight) * 0.02).half())
    config, g = net.token_config, cost_graphs.GEOMETRY
    shape = (g.latent_channels, g.units, g.latent_height, g.latent_width)
    rng = np.random.default_rng(0)
    pyramid = image_pyramid(rng.standard_normal(shape, np.float32), g.stages)
    made = transformer_inputs(
        history(pyramid, UNIT, STAGE),
        rng.standard_normal(pyramid[STAGE][:, :1].shape, np.float32),
        np.ones(cost_graphs.TEXT),
        config,
    )
    past = cost_graphs.past_tokens(UNIT, STAGE)
    image = past - cost_graphs.TEXT
    rows = torch.randn(net.modulation_rows, config.width)
    kept = torch.randn(2, 2, net.config["num_attention_heads"], past, config.head_dim)
    inputs = {
        "patches": torch.from_numpy(made.patches[image:]),
        "positions": torch.from_numpy(made.positions[image:]),
        "rope_cos": torch.from_numpy(made.rope_cos[past:]),
        "rope_sin": torch.from_numpy(made.rope_sin[past:]),
        "mask": torch.from_numpy(made.mask[past:]),
        "modulation": rows,
        "past_keys": kept[0],
        "past_values": kept[1],
    }

    def later(
        net: PyramidMMDiT, patches: Tensor, positions: Tensor, *others: Tensor
    ) -> tuple[Tensor, ...]:
        *tables, rows, keys, values = others
        before = list(zip(keys, values, strict=True))
        tokens, _ = net.blocks(net.embed(patches, positions), None, rows[:-2], *tables, before)
        return net.project(tokens, rows[-2:]), tokens

    expected = later(net, *inputs.values())
    path, names = tmp_path / "later.onnx", ("flow", "tokens")
    model, _ = export_large(Call(net, later), inputs, names, {}, 23, path)  # type: ignore[arg-type]
    entry = file_entry(path, tmp_path) | {
        "inputs": tensor_specs(model.graph.input),
        "outputs": tensor_specs(model.graph.output),
    }
    (compiled,) = compile_graphs([(path, {}, tmp_path / "context.onnx")], shared=False)
    weights = sum(cost_graphs.weight_bytes(cost_graphs.image_only(net), eight_bit=False)[:1])
    assert compiled.files[1].stat().st_size < 1.05 * weights
    with load_graph(graph_of("later", entry), compiled.files[0], "npu-emulated") as session:
        outputs = session.run(**{name: tensor.numpy() for name, tensor in inputs.items()})
    for name, tensor in zip(names, expected, strict=True):
        assert snr_db(tensor.numpy(), outputs[name]) > FP16_FLOOR
