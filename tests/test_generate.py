"""The published generation, end to end: embeddings and recorded draws in, latents out."""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from reference import load, weights
from torch import Tensor, nn

from engine.config import ModeConfig, ScheduleConfig, VaeConfig
from engine.latents import normalise, sample_posterior
from engine.sampler import UnitLatent, sample_latents
from engine.scheduler import Stage, stage_schedule
from engine.tokens import transformer_inputs
from training.models.context_adapter import ContextAdapter
from training.models.mmdit import PyramidMMDiT
from training.models.video_vae import CausalVideoVAE

Arrays = dict[str, NDArray[Any]]
Floats = NDArray[np.float32]

TOLERANCE = 1e-3  # of the largest value


def build(cls: Any, meta: dict[str, Any], rule: dict[str, Any]) -> Any:
    """A module with the settings of `meta` and the weights that follow from its names."""
    model = cls(**{key: meta[key] for key in inspect.signature(cls).parameters if key in meta})
    assert isinstance(model, nn.Module)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    state = {name: torch.from_numpy(value) for name, value in weights(shapes, rule).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert set(missing) <= {"pos_embed.pos_embed"} and not unexpected
    return model.eval()


class Draws:
    """The recorded draws, handed out in the order in which they were consumed."""

    def __init__(self, arrays: Arrays, kinds: Sequence[str]) -> None:
        self.left = [(kind, arrays[f"draw{i:03d}"][0]) for i, kind in enumerate(kinds)]
        self.noise = self.take("normal")

    def take(self, expected: str) -> Floats:
        kind, draw = self.left.pop(0)
        assert kind == expected
        return np.asarray(draw, np.float32)

    def initial(self, unit: int) -> Floats:
        return self.noise[:, unit : unit + 1]

    def block(self, unit: int, stage: int, shape: tuple[int, int, int, int]) -> Floats:
        draw = self.take("block")
        assert draw.shape == shape
        return draw


class Network:
    """The transformer, fed by `engine.tokens` as its graph is in production."""

    def __init__(self, arrays: Arrays, adapter: ContextAdapter, dit: PyramidMMDiT) -> None:
        self.arrays, self.dit = arrays, dit
        self.context = {
            name: adapter(torch.from_numpy(arrays[f"{name}_embeds"])) for name in ("prompt", "neg")
        }
        self.pooled = {"prompt": arrays["pooled"], "neg": arrays["neg_pooled"]}

    def __call__(
        self,
        history: Sequence[Floats],
        current: Floats,
        timestep: float,
        *,
        unit: int,
        stage: int,
        negative: bool,
    ) -> Floats:
        name = "neg" if negative else "prompt"
        text_mask = self.arrays[f"{name}_mask"][0]
        inputs = transformer_inputs(history, current, text_mask, self.dit.token_config)
        modulation = self.dit.modulate(
            torch.tensor([timestep], dtype=torch.float32), torch.from_numpy(self.pooled[name])
        )
        tables = (inputs.patches, inputs.positions, inputs.rope_cos, inputs.rope_sin, inputs.mask)
        flow: Tensor = self.dit.forward_tokens(
            *map(torch.from_numpy, tables), self.context[name][0], modulation[0]
        )
        return inputs.current_latent(flow.numpy())


def first_latent(arrays: Arrays, meta: dict[str, Any], noise: Floats) -> Floats:
    """The published path of the first frame: Lanczos to the clip's size, encode, sample."""
    vae_meta = load("video_vae")[1]
    vae = build(CausalVideoVAE, vae_meta, vae_meta["weight_rule"])
    size = meta["width"], meta["height"]
    picture = Image.fromarray(arrays["first_frame"]).resize(size, Image.Resampling.LANCZOS)
    pixels = np.asarray(picture, np.float32).transpose(2, 0, 1)[None, :, None] / 255 * 2 - 1
    moments = vae.encode(torch.from_numpy(np.ascontiguousarray(pixels))).numpy()[0]
    statistics = (vae_meta[name] for name in ("scale", "shift", "video_scale", "video_shift"))
    return normalise(sample_posterior(moments, noise), VaeConfig(*statistics))


def schedule(mode: ModeConfig) -> tuple[Stage, ...]:
    meta = load("scheduler")[1]
    borders = tuple(i / meta["stages"] for i in range(meta["stages"] + 1))
    return stage_schedule(
        ScheduleConfig(meta["num_train_timesteps"], meta["gamma"], borders, {"hybrid": mode})
    )


@pytest.mark.parametrize("name", ["generate_hybrid", "generate_monolithic"])
@torch.no_grad()
def test_generation_is_the_published_one(name: str) -> None:
    arrays, meta = load(name)
    dit_meta = load("mmdit")[1]
    adapter = build(ContextAdapter, meta["adapter"], meta["weight_rule"])
    dit = build(PyramidMMDiT, dit_meta, dit_meta["weight_rule"])
    guided = meta["do_classifier_free_guidance"]
    mode = ModeConfig(
        tuple(meta["num_inference_steps"]),
        tuple(meta["video_num_inference_steps"]),
        meta["guidance_scale"] if guided else 1.0,
        meta["video_guidance_scale"] if guided else 1.0,
    )
    draws = Draws(arrays, meta["draw_kinds"])
    first = None
    if draws.left[0][0] == "normal":
        first = first_latent(arrays, meta, draws.take("normal"))
    expected = arrays["latents"][0]
    network = Network(arrays, adapter, dit)
    events = sample_latents(network, draws, schedule(mode), mode, expected.shape[1], first)
    got = np.concatenate([event.latent for event in events if isinstance(event, UnitLatent)], 1)
    assert not draws.left
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= TOLERANCE * np.abs(expected).max()
