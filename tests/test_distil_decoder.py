"""Decoder distillation: its measures on known answers, its surgery, and that it learns."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL

from training.distil.decoder import PerceptualDistance, grown, ssim
from training.models.native_decoder import NativeDecoder
from training.models.video_vae import CausalVideoVAE

DECODER = {
    "encoder_out_channels": 4,
    "encoder_block_out_channels": (8, 8, 8, 8),
    "encoder_layers_per_block": (1, 1, 1, 1),
    "encoder_norm_num_groups": 2,
    "decoder_num_features": (8, 8, 8, 8),
}
NATIVE = {"latent_channels": 4, "block_out_channels": (8, 8, 8, 8), "norm_num_groups": 2}


def test_ssim() -> None:
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert ssim(image, image) == pytest.approx(1.0)
    assert ssim(-image, image) < 0  # what is bright in one is dark in the other


def test_perceptual_distance() -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 8],
        norm_num_groups=2,
    )
    distance = PerceptualDistance(vae)
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    assert float(distance(image, image)) == 0
    near, far = image + 0.02 * torch.randn_like(image), torch.rand_like(image) * 2 - 1
    assert 0 < float(distance(near, image)) < float(distance(far, image))


def test_a_growth_layer_starts_by_repeating_its_frames() -> None:
    torch.manual_seed(0)
    small = CausalVideoVAE(**DECODER, decoder_time_upscale=(False, True, True))
    large = CausalVideoVAE(**DECODER)
    shapes = {name: tuple(w.shape) for name, w in large.decoder.state_dict().items()}
    large.decoder.load_state_dict(grown(small.decoder.state_dict(), shapes))
    latent = torch.randn(1, 4, 2, 2)
    with torch.no_grad():
        frames, _ = large.decoder.step(latent, large.zero_states(latent))
        fewer, _ = small.decoder.step(latent, small.zero_states(latent))
    assert (len(frames), len(fewer)) == (8, 4)
    with pytest.raises(ValueError, match="cannot become"):
        grown({"w": torch.zeros(4, 3)}, {"w": (6, 3)})


def test_the_native_decoder_is_causal_and_of_the_right_length() -> None:
    torch.manual_seed(0)
    native = NativeDecoder(**NATIVE).eval()
    latents = torch.randn(1, 4, 3, 2, 3)
    with torch.no_grad():
        video = native(latents)
        assert video.shape == (1, 3, 17, 16, 24)
        torch.testing.assert_close(native(latents[:, :, :2]), video[:, :, :9])


@pytest.mark.parametrize("which", ["native", "streaming"])
def test_a_few_steps_lower_the_loss(which: str) -> None:
    torch.manual_seed(0)
    model = NativeDecoder(**NATIVE) if which == "native" else CausalVideoVAE(**DECODER)
    decode = model if isinstance(model, NativeDecoder) else model.decode
    latents, video = torch.randn(1, 4, 2, 2, 2), torch.rand(1, 3, 9, 16, 16) - 0.5
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(8):
        loss = (decode(latents) - video).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
