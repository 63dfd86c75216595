"""Block importance, pruning and the maps of its second stage."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from training.distil.prune_blocks import BlockTokens, choose, drawn, importance, pruned, watched
from training.distil.pruned import feature_loss, teacher_blocks
from training.models.mmdit import PyramidMMDiT
from training.recipes.grow_teacher import deeper
from training.recipes.transformer import take_blocks

TINY = {
    "sample_size": 16,
    "in_channels": 4,
    "num_layers": 4,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 8,
    "pos_embed_max_size": 16,
    "joint_attention_dim": 16,
}


def model(seed: int = 0) -> PyramidMMDiT:
    torch.manual_seed(seed)
    built = PyramidMMDiT(**TINY)
    for weight in built.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return built.eval()


def run(network: PyramidMMDiT, padded: float | None = None) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    latents = [torch.randn(2, 4, 1, size, size, generator=draw) for size in (4, 8)]
    context, pooled = (
        torch.randn(2, 5, 16, generator=draw),
        torch.randn(2, 8, generator=draw),
    )
    mask = torch.ones(2, 5, dtype=torch.long)
    if padded is not None:  # what stands where there is no token
        mask[:, 3:] = 0
        context[:, 3:] = padded
    out: Tensor = network(latents, torch.tensor([900.0, 10.0]), context, mask, pooled)
    return out


def silence(network: PyramidMMDiT, block: int) -> None:
    """Make a block the identity: its gates close."""
    for adaptive in ("norm1", "norm1_context"):
        linear = getattr(network.transformer_blocks[block], adaptive).linear
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)


def test_chance_removes_as_many_blocks_and_never_the_last() -> None:
    kept = [drawn(8, 2, seed) for seed in range(20)]
    assert all(len(blocks) == 6 and blocks[-1] == 7 for blocks in kept)
    assert kept[0] == drawn(8, 2, 0) and len({tuple(blocks) for blocks in kept}) > 5


def test_a_deeper_teacher_starts_as_the_same_function_and_can_be_pruned_back() -> None:
    network = model()
    larger = deeper(network, every=2)
    assert len(larger.transformer_blocks) == 6
    assert torch.allclose(run(larger), run(network), atol=1e-6)
    scores = importance(larger, lambda: run(larger))
    assert choose(scores, 2) == [0, 1, 3, 5]


def test_blocks_of_a_shallower_transformer_are_spread_over_a_deeper_one() -> None:
    shallow = model()
    deep = PyramidMMDiT(**(TINY | {"num_layers": 6, "in_channels": 3}))
    take_blocks(deep, shallow)
    for block, source in zip(deep.transformer_blocks, (0, 1, 1, 2, 2, 3), strict=True):
        theirs = shallow.transformer_blocks[source].state_dict()
        for name, weight in block.state_dict().items():
            assert torch.equal(weight, theirs[name]), name


def test_a_block_without_effect_has_no_importance_and_goes_unnoticed() -> None:
    network = model()
    silence(network, 1)
    scores = importance(network, lambda: run(network))
    assert scores["visual"][1] == pytest.approx(0, abs=1e-6)
    assert scores["text"][1] == pytest.approx(0, abs=1e-6)
    assert min(scores["visual"][i] for i in (0, 2, 3)) > 1e-4
    keep = choose(scores, 1)
    assert keep == [0, 2, 3]
    with torch.no_grad():
        torch.testing.assert_close(run(pruned(network, keep)), run(network))


def test_padding_has_no_part_in_importance() -> None:
    network = model()
    one, other = (importance(network, lambda p=p: run(network, p)) for p in (0.5, -7.0))
    for kind in ("visual", "text"):
        assert one[kind] == pytest.approx(other[kind], abs=1e-6)


def test_pruning_an_effective_block_shows() -> None:
    network = model()
    with torch.no_grad():
        assert not torch.allclose(run(pruned(network, [0, 2, 3])), run(network), atol=1e-3)


def test_the_last_block_stays() -> None:
    assert choose({"visual": [3, 2, 1, 0], "text": [3, 2, 1, 0]}, 2) == [0, 3]
    with pytest.raises(ValueError, match="last block"):
        pruned(model(), [0, 1])
    with pytest.raises(ValueError, match="cannot go"):
        choose({"visual": [1, 1], "text": [1, 1]}, 2)


def test_maps() -> None:
    keep = [0, 2, 5, 6]
    assert teacher_blocks(keep, "simple") == [0, 2, 5, 6]
    assert teacher_blocks(keep, "next") == [1, 4, 5, 6]


def seen(network: PyramidMMDiT) -> list[BlockTokens]:
    blocks: list[BlockTokens] = []
    with watched(network, lambda _, tokens: blocks.append(tokens)):
        run(network)
    return blocks


def test_features_of_the_same_network_agree_and_training_brings_others_closer() -> None:
    teacher = model()
    student = pruned(teacher, [0, 2, 3])
    with torch.no_grad():
        goal = seen(teacher)
        assert float(feature_loss(goal, goal, [0, 1, 2, 3])) == pytest.approx(0, abs=1e-6)
    optimiser = torch.optim.Adam(student.parameters(), 3e-3)
    losses = []
    for _ in range(8):
        loss = feature_loss(seen(student), goal, teacher_blocks([0, 2, 3], "next"))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
