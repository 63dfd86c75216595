"""The torch modules around the transformer: parity, published names, streaming, save and load."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reference import load, official, weights
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.checkpoint import CheckpointError, load_weights
from training.models.context_adapter import ContextAdapter
from training.models.quicksrnet import QuickSRNet
from training.models.video_vae import CausalVideoVAE

TOLERANCE = 1e-4  # of the largest value
Model = TypeVar("Model", bound=nn.Module)
TINY: dict[str, Any] = {
    "encoder_out_channels": 2,
    "encoder_layers_per_block": [1, 1, 1, 1],
    "encoder_block_out_channels": [4, 4, 8, 8],
    "encoder_norm_num_groups": 2,
    "decoder_num_features": [8, 6, 4, 4],
}


def reference_model(cls: type[Model], meta: dict[str, Any]) -> Model:
    """A module with the settings and the weights of a reference file."""
    model = cls(**{key: meta[key] for key in inspect.signature(cls).parameters if key in meta})
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == meta["keys"]
    state = weights(meta["keys"], meta["weight_rule"])
    load_weights(
        model, {name: torch.from_numpy(array) for name, array in state.items()}, "the reference"
    )
    return model.eval()


def assert_close(got: Tensor, expected: NDArray[np.float32] | Tensor) -> None:
    expected = torch.as_tensor(expected)
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= TOLERANCE * expected.abs().max()


@torch.no_grad()
def stream(vae: CausalVideoVAE, latents: Tensor) -> Tensor:
    """Decode latents [B, C, T, h, w] one after the other; the frames of the clip."""
    states, frames = vae.zero_states(latents[:, :, 0]), []
    for latent in latents.unbind(2):
        unit, states = vae.step(latent, states)
        frames.append(unit)
    return torch.cat(frames, 1).transpose(1, 2)


@torch.no_grad()
def test_video_vae_parity() -> None:
    arrays, meta = load("video_vae")
    vae = reference_model(CausalVideoVAE, meta)
    image = torch.from_numpy(arrays["image"])
    assert_close(vae.encode(image), arrays["image_moments"])
    assert_close(vae.encode_image(image[:, :, 0]), arrays["image_moments"][:, :, 0])
    assert_close(vae.encode(torch.from_numpy(arrays["video"])), arrays["video_moments"])
    latents = torch.from_numpy(arrays["latents"])
    assert_close(vae.decode(latents), arrays["decoded"])
    assert_close(stream(vae, latents)[:, :, meta["frames_to_trim"] :], arrays["decoded"])


@torch.no_grad()
def test_context_adapter_parity() -> None:
    arrays, meta = load("context_adapter")
    adapter = reference_model(ContextAdapter, meta)
    assert_close(adapter(torch.from_numpy(arrays["x"])), arrays["y"])


@pytest.mark.parametrize(
    ("cls", "folder"), [(CausalVideoVAE, "causal_video_vae"), (ContextAdapter, "context_adapter")]
)
def test_full_size_is_the_published_checkpoint(cls: type[nn.Module], folder: str) -> None:
    settings = official("official_configs")[folder]
    with torch.device("meta"):
        model, default = cls(**settings), cls()
    got = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert got == official("official_state_dicts")[folder]
    assert json.loads(json.dumps(default.config)) == settings == model.config


@torch.no_grad()
def test_streaming_is_the_parallel_decode() -> None:
    torch.manual_seed(0)
    vae = CausalVideoVAE(**TINY)
    latents = torch.randn(2, 2, 3, 4, 6)
    assert_close(stream(vae, latents)[:, :, 7:], vae.decode(latents))


@torch.no_grad()
def test_later_frames_do_not_change_earlier_moments() -> None:
    torch.manual_seed(0)
    vae = CausalVideoVAE(**TINY)
    video = torch.rand(1, 3, 17, 16, 24) * 2 - 1
    moments = vae.encode(video)
    assert moments.shape == (1, 4, 3, 2, 3)
    assert_close(vae.encode(video[:, :, :9]), moments[:, :, :2])
    assert_close(vae.encode(video[:, :, :1]), moments[:, :, :1])
    assert_close(vae.encode_image(video[:, :, 0]), moments[:, :, 0])


def test_image_gradient_is_the_video_gradient() -> None:
    torch.manual_seed(0)
    vae = CausalVideoVAE(**TINY)
    video = (torch.rand(1, 3, 9, 16, 16) * 2 - 1).requires_grad_()
    image = video[:, :, 0].detach().requires_grad_()
    (expected,) = torch.autograd.grad(vae.encode(video)[:, :, 0].square().sum(), video)
    (got,) = torch.autograd.grad(vae.encode_image(image).square().sum(), image)
    assert_close(got, expected[:, :, 0])


@torch.no_grad()
def test_upscaler() -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 3, 10, 12)
    for layers in (2, 5):
        result = QuickSRNet(2, 32, layers)(image)
        assert result.shape == (2, 3, 20, 24)
        assert result.min() >= 0 and result.max() <= 1
    nearest = QuickSRNet()
    for parameter in nearest.parameters():
        parameter.copy_(parameter.round())
    expected = image.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(nearest(image), expected)


@pytest.mark.parametrize(
    "model",
    [
        CausalVideoVAE(**TINY).half(),
        ContextAdapter(6, 4, [5, 5], [True, False]),
        QuickSRNet(2, 4, 1),
    ],
    ids=lambda model: type(model).__name__,
)
def test_save_and_load(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    again = type(model).from_pretrained(tmp_path / "model")
    assert json.loads(json.dumps(model.config)) == again.config
    for name, tensor in again.state_dict().items():
        assert tensor.dtype == model.state_dict()[name].dtype
        assert torch.equal(tensor, model.state_dict()[name])
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    QuickSRNet(2, 4, 1).save_pretrained(tmp_path)
    weights_file, config_file = (
        tmp_path / "diffusion_pytorch_model.safetensors",
        tmp_path / "config.json",
    )
    state = load_file(weights_file)
    bias = state.pop("conv_last.bias")

    def refuses(message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            QuickSRNet.from_pretrained(tmp_path)

    save_file(state, weights_file)
    refuses(r"lacks the tensor conv_last.bias of shape \(12,\)")
    save_file(state | {"conv_last.bias": bias, "anchor.net.bias": bias.clone()}, weights_file)
    refuses("holds the tensor anchor.net.bias")
    save_file(state | {"conv_last.bias": bias[:3]}, weights_file)
    refuses(r"holds conv_last.bias of shape \(3,\)")
    weights_file.write_bytes(b"\0" * 20)
    refuses("cannot be read")
    config_file.write_text('{"in_channels": 3}')
    save_file(state, weights_file)
    refuses("sets in_channels")
    weights_file.unlink()
    refuses("is missing")


def test_settings_that_are_not_supported_are_refused() -> None:
    with pytest.raises(ValueError, match="encoder_act_fn"):
        CausalVideoVAE(**TINY, encoder_act_fn="relu")
    with pytest.raises(ValueError, match="pre_activation"):
        ContextAdapter(6, 4, [5], [True], pre_activation=True)
