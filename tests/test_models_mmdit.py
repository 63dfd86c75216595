"""MMDiT and DistilT5 against the published implementation, and the forms they are exported in."""

from __future__ import annotations

import copy
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import load, official, weights
from safetensors import safe_open
from torch import Tensor

from engine.tokens import transformer_inputs
from training.models.distil_t5 import T5EncoderWithProjection, T5ProjectionConfig
from training.models.mmdit import PyramidMMDiT, patchify, unpatchify

MINI = Path(__file__).parents[1] / "checkpoints" / "mini"
CASES = sorted(name[:-2] for name in load("mmdit")[0] if name.endswith("_x"))


def shapes(module: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


def assert_close(got: Tensor, expected: Tensor, relative: float) -> None:
    assert got.shape == expected.shape
    assert (got - expected).abs().max() < relative * expected.abs().max()


def loaded(model: torch.nn.Module, meta: dict[str, Any]) -> torch.nn.Module:
    """`model` with the weights that follow from its names."""
    assert shapes(model) == meta["keys"]
    state = {k: torch.from_numpy(v) for k, v in weights(meta["keys"], meta["weight_rule"]).items()}
    missing = model.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys and set(missing.missing_keys) <= {"pos_embed.pos_embed"}
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def mmdit() -> PyramidMMDiT:
    meta = load("mmdit")[1]
    known = inspect.signature(PyramidMMDiT).parameters
    model = PyramidMMDiT(**{key: value for key, value in meta.items() if key in known})
    loaded(model, meta)
    return model


def case(name: str) -> tuple[list[Tensor], Tensor, Tensor]:
    """Conditions with the noisy latent last, timestep and expected flow of unit{u}_stage{s}."""
    arrays, meta = load("mmdit")
    past = load("history")[0]
    conditions = [past[key] for key in sorted(past) if key.startswith(f"{name}_cond")]
    conditions.append(arrays[f"{name}_x"])
    timestep = float(meta["timesteps"][int(name[-1])])
    return (
        [torch.from_numpy(part) for part in conditions],
        torch.tensor([timestep]),
        torch.from_numpy(arrays[f"{name}_v"]),
    )


def text() -> tuple[Tensor, Tensor, Tensor]:
    """Context, text mask and pooled text."""
    arrays = load("mmdit")[0]
    context, mask, pooled = (
        torch.from_numpy(arrays[name]) for name in ("context", "text_mask", "pooled")
    )
    return context, mask, pooled


@pytest.mark.parametrize("name", CASES)
def test_flow_is_the_published_one(mmdit: PyramidMMDiT, name: str) -> None:
    conditions, timestep, expected = case(name)
    assert_close(mmdit(conditions, timestep, *text()), expected, 1e-4)


def test_samples_of_a_batch_are_independent(mmdit: PyramidMMDiT) -> None:
    conditions, timestep, expected = case(CASES[0])
    context, mask, pooled = text()
    other = mask.roll(1, 1)
    both = mmdit(
        [torch.cat([part, part + 1]) for part in conditions],
        torch.cat([timestep, timestep - 100]),
        torch.cat([context, -context]),
        torch.cat([mask, other]),
        torch.cat([pooled, pooled]),
    )
    assert_close(both[:1], expected, 1e-4)
    alone = mmdit([part + 1 for part in conditions], timestep - 100, -context, other, pooled)
    assert_close(both[1:], alone, 1e-5)


@pytest.mark.parametrize("half_split", [False, True])
def test_token_core_with_engine_inputs(mmdit: PyramidMMDiT, half_split: bool) -> None:
    """The two graphs, without a batch axis, on what the engine feeds them, padded and not."""
    model = copy.deepcopy(mmdit).half_split_() if half_split else mmdit
    conditions, timestep, expected = case(CASES[-1])
    context, mask, pooled = text()
    *past, current = (part[0].numpy() for part in conditions)
    modulation = model.modulate(timestep, pooled)[0]
    assert modulation.shape == (model.modulation_rows, model.token_config.width)
    tokens = sum(part[0].size // 4 for part in past)
    for history_tokens in (None, tokens + 3):
        inputs = transformer_inputs(
            past, current, mask[0].numpy(), model.token_config, history_tokens
        )
        names = ("patches", "positions", "rope_cos", "rope_sin", "mask")
        arrays = {name: torch.from_numpy(getattr(inputs, name)) for name in names}
        flow = model.forward_tokens(**arrays, context=context[0], modulation=modulation)
        got = torch.from_numpy(inputs.current_latent(flow.numpy()))
        assert_close(got[None], expected, 1e-4)


def test_half_split_changes_nothing_else(mmdit: PyramidMMDiT) -> None:
    half = copy.deepcopy(mmdit).half_split_()
    conditions, timestep, _ = case(CASES[0])
    context, mask, pooled = text()
    rows = mmdit.modulate(timestep, pooled)
    assert_close(half.modulate(timestep, pooled), rows, 1e-6)
    inputs = (conditions, timestep, context, mask, pooled)
    assert_close(half(*inputs), mmdit(*inputs), 1e-5)
    again = copy.deepcopy(half).half_split_()
    assert torch.equal(again(*inputs), half(*inputs))


def test_patches_are_inverted() -> None:
    latent = torch.randn(2, 3, 2, 4, 6)
    assert torch.equal(unpatchify(patchify(latent, 2), latent.shape, 2), latent)


def test_untrained_flow_is_zero_and_every_weight_can_learn(mmdit: PyramidMMDiT) -> None:
    fresh = PyramidMMDiT(**mmdit.config)
    conditions, timestep, _ = case(CASES[0])
    assert not fresh(conditions, timestep, *text()).any()
    trained = copy.deepcopy(mmdit).requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        flow = trained(conditions, timestep, *text())
    flow.float().square().mean().backward()
    last = f"transformer_blocks.{len(trained.transformer_blocks) - 1}.attn"
    unread = (f"{last}.add_q_proj", f"{last}.norm_add_q")  # the last block gives no text
    for name, parameter in trained.named_parameters():
        assert parameter.grad is not None
        assert bool(parameter.grad.any()) != name.startswith(unread), name


def test_mmdit_round_trip(mmdit: PyramidMMDiT, tmp_path: Path) -> None:
    mmdit.save_pretrained(tmp_path)
    again = PyramidMMDiT.from_pretrained(tmp_path)
    assert again.config == mmdit.config
    for name, tensor in mmdit.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    conditions, timestep, expected = case(CASES[0])
    assert_close(again(conditions, timestep, *text()), expected, 1e-4)


def test_an_unsupported_setting_is_refused() -> None:
    with pytest.raises(ValueError, match="qk_norm is 'layer_norm'"):
        PyramidMMDiT(qk_norm="layer_norm")


def test_full_size_names_and_shapes() -> None:
    config = official("official_configs")["diffusion_transformer_320p"]
    with torch.device("meta"):
        model = PyramidMMDiT(**config)
    assert model.config == config
    assert shapes(model) == official("official_state_dicts")["diffusion_transformer_320p"]


def t5_config(meta: dict[str, Any]) -> T5ProjectionConfig:
    about = ("keys", "note", "weight_rule")
    return T5ProjectionConfig(**{key: value for key, value in meta.items() if key not in about})


def t5() -> T5EncoderWithProjection:
    meta = load("distil_t5")[1]
    model = T5EncoderWithProjection(t5_config(meta))
    loaded(model, meta)
    return model


def test_t5_states_are_the_published_ones(tmp_path: Path) -> None:
    arrays = {name: torch.from_numpy(array) for name, array in load("distil_t5")[0].items()}
    model = t5()
    assert_close(model(arrays["ids"], arrays["mask"]), arrays["y"], 1e-4)
    model.save_pretrained(tmp_path)
    assert {"config.json", "model.safetensors"} <= {path.name for path in tmp_path.iterdir()}
    again = T5EncoderWithProjection.from_pretrained(tmp_path).eval()
    assert again.config.out_dim == model.config.out_dim
    assert_close(again(arrays["ids"], arrays["mask"]), arrays["y"], 1e-4)
    saved = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert {"project_in_dim", "out_dim"} <= saved.keys()  # which the published class reads
    saved["project_out_dim"] = saved.pop("out_dim")  # as ours was called
    (tmp_path / "config.json").write_text(json.dumps(saved))
    assert T5EncoderWithProjection.from_pretrained(tmp_path).config.out_dim == model.config.out_dim


def test_the_minis_t5_is_what_the_published_class_reads() -> None:
    config = json.loads((MINI / "text_encoder_3" / "config.json").read_text("utf-8"))
    with safe_open(MINI / "text_encoder_3" / "model.safetensors", "pt") as tensors:
        shape = tensors.get_slice("final_projection.0.weight").get_shape()
    assert [config["out_dim"], config["project_in_dim"]] == shape


def test_untrained_t5_projection_keeps_its_scale() -> None:
    config = t5_config(load("distil_t5")[1])
    states = torch.randn(64, config.project_in_dim)
    projected = T5EncoderWithProjection(config).eval().final_projection(states)
    assert 0.1 < projected.std() < 3


def test_t5_full_size_names_and_shapes() -> None:
    expected = official("official_state_dicts")["distil_t5"]
    stack = "encoder.encoder.block"
    attention = f"{stack}.0.layer.0.SelfAttention"
    vocabulary, width = expected["encoder.shared.weight"]
    heads = expected[f"{attention}.relative_attention_bias.weight"][1]
    config = T5ProjectionConfig(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=expected[f"{attention}.q.weight"][0] // heads,
        d_ff=expected[f"{stack}.0.layer.1.DenseReluDense.wi_0.weight"][0],
        num_layers=sum(name.endswith("SelfAttention.q.weight") for name in expected),
        num_heads=heads,
        feed_forward_proj="gated-gelu",
        project_in_dim=expected["final_projection.0.weight"][1],
        out_dim=expected["final_projection.0.weight"][0],
    )
    with torch.device("meta"):
        model = T5EncoderWithProjection(config)
    assert shapes(model) == expected
