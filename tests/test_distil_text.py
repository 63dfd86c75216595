"""Text-encoder distillation on known answers and on a tiny teacher."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import T5Config, T5EncoderModel

from training.distil.text import Denoiser, TextSide, extended, hide, joined, token_loss
from training.models.context_adapter import ContextAdapter
from training.models.distil_t5 import (
    PlainT5,
    T5EncoderWithProjection,
    T5ProjectionConfig,
    load_text_encoder,
)


def test_loss_counts_real_tokens_alone() -> None:
    goal = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    student, mask = goal.clone(), torch.tensor([[1, 1, 0], [1, 0, 0]])
    student[0, 2] = student[1, 1:] = 100
    assert float(token_loss(student, goal, mask)) == pytest.approx(0, abs=1e-6)
    student[0, 0] = -goal[0, 0]  # one of three tokens turned about: cosine -1 instead of 1
    expected = 4 * goal[0, 0].square().sum() / 12 + 0.1 * 2 / 3
    assert float(token_loss(student, goal, mask)) == pytest.approx(float(expected), rel=1e-5)


def text(width: int, out: int) -> T5EncoderWithProjection:
    return T5EncoderWithProjection(
        T5ProjectionConfig(
            vocab_size=20,
            d_model=width,
            d_kv=8,
            d_ff=2 * width,
            num_layers=1,
            num_heads=2,
            dropout_rate=0.0,
            project_in_dim=width,
            out_dim=out,
        )
    )


@pytest.mark.parametrize("mode", ["replace", "extend"])
def test_a_small_student_comes_closer(mode: str) -> None:
    torch.manual_seed(0)
    embedder = ContextAdapter(24, 12, (), ())
    teacher = TextSide(text(24, 24), embedder).eval().requires_grad_(False)
    if mode == "extend":
        student = TextSide(text(16, 16), ContextAdapter(16, 24, (16,), (True,)), embedder)
    else:
        student = TextSide(text(16, 16), ContextAdapter(16, 12, (16,), (True,)))
    before = embedder.state_dict()["network_layers.0.0.weight"].clone()
    ids = torch.randint(20, (8, 6), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    goal = teacher(ids, mask)
    weights = [weight for weight in student.parameters() if weight.requires_grad]
    optimiser = torch.optim.Adam(weights, 3e-3)
    losses = []
    for _ in range(30):
        loss = token_loss(student(ids, mask), goal, mask)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert torch.equal(embedder.state_dict()["network_layers.0.0.weight"], before)


def test_extending_needs_a_plain_embedder() -> None:
    own = {"input_dims": 16, "output_dims": 12, "layer_depths": (), "skips": ()}
    assert extended(own, ContextAdapter(24, 12, (), ()))["output_dims"] == 24
    with pytest.raises(ValueError, match="one linear layer"):
        extended(own, ContextAdapter(24, 12, (8,), (True,)))


def test_an_extended_adapter_is_saved_as_one() -> None:
    torch.manual_seed(0)
    adapter, embedder = ContextAdapter(16, 24, (20,), (True,)), ContextAdapter(24, 12, (), ())
    states = torch.randn(3, 5, 16)
    with torch.no_grad():
        torch.testing.assert_close(joined(adapter, embedder)(states), embedder(adapter(states)))


def test_pretraining_hides_real_tokens_and_learns_them() -> None:
    torch.manual_seed(0)
    ids = torch.tensor([[5, 6, 7, 8, 9, 1, 0, 0]]).repeat(64, 1)
    mask = (ids != 0).long()
    generator = torch.Generator().manual_seed(0)
    seen, hidden = hide(ids, mask, generator)
    assert 0.1 < hidden[:, :5].float().mean() < 0.4 and not hidden[:, 5:].any()
    assert (seen[hidden] == 2).all() and torch.equal(seen[~hidden], ids[~hidden])
    model = Denoiser(text(16, 16))
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        seen, hidden = hide(ids, mask, generator)
        logits = model.head(model.text(seen, mask)[hidden])
        loss = torch.nn.functional.cross_entropy(logits, ids[hidden])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]  # a token's place tells which it was


@torch.no_grad()
def test_a_published_t5_teaches_as_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1}
    plain = T5EncoderModel(T5Config(num_heads=2, **sizes)).eval()
    plain.save_pretrained(tmp_path / "plain")
    text(16, 24).save_pretrained(tmp_path / "ours")
    ids, mask = torch.randint(20, (2, 5)), torch.ones(2, 5, dtype=torch.long)
    loaded = load_text_encoder(tmp_path / "plain").eval()
    assert isinstance(loaded, PlainT5)
    torch.testing.assert_close(loaded(ids, mask), plain(ids, mask).last_hidden_state)
    assert load_text_encoder(tmp_path / "ours")(ids, mask).shape == (2, 5, 24)
