"""Train the first frame's UNet with its two CLIP text encoders: `python -m
training.recipes.first_frame`.

The published roles: penultimate CLIP-L and CLIP-G states side by side for cross-attention, CLIP-G's
pooled projection and SDXL's size ids for the time embedding. The loss is that of v- or
noise prediction on SDXL's noise schedule, captions dropped for one sample in ten so that guidance
works. The encoders may learn along or come frozen from `training.recipes.text`; either way they
serve the video transformer frozen.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from training.data.worlds import World, box_weights, scenes_of
from training.recipes.attention import plain_on_cpu
from training.recipes.configuration import Configuration
from training.recipes.loop import arguments, train
from training.recipes.precision import autocast

KINDS = ("epsilon", "v_prediction")
DROPPED = 0.1  # share of captions left out, for guidance


def clip(
    sizes: Mapping[str, Any], tokenizer: Tokenizer, length: int, pad: int
) -> CLIPTextModelWithProjection:
    """A CLIP text encoder of these sizes for this vocabulary."""
    config = CLIPTextConfig(
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=length,
        bos_token_id=tokenizer.token_to_id("<|startoftext|>"),
        eos_token_id=tokenizer.token_to_id("<|endoftext|>"),
        pad_token_id=pad,
        **sizes,
    )
    return CLIPTextModelWithProjection(config)


def time_ids(height: int, width: int) -> list[int]:
    """SDXL's size ids of an uncropped picture: original size, crop, target size."""
    return [height, width, 0, 0, height, width]


class FirstFrame(nn.Module):
    """UNet and text encoders as one trainable whole."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        clip_l: CLIPTextModelWithProjection,
        clip_g: CLIPTextModelWithProjection,
        sizes: Sequence[int],
    ) -> None:
        """`sizes`: see `time_ids`."""
        super().__init__()
        self.unet, self.clip_l, self.clip_g, self.sizes = unet, clip_l, clip_g, list(sizes)

    @classmethod
    def fresh(cls, config: Configuration, tokenizer: Tokenizer) -> FirstFrame:
        """Random weights of the configuration's sizes."""
        length = config["text"]["clip_length"]
        ends = (tokenizer.token_to_id("<|endoftext|>"), 0)
        clips = [clip(config["clip"], tokenizer, length, pad) for pad in ends]
        unet = UNet2DConditionModel(**config["unet"])
        return cls(unet, *clips, time_ids(config.height, config.width))

    def conditions(self, ids_l: Tensor, ids_g: Tensor) -> tuple[Tensor, Tensor]:
        """States [B, L, 128] for cross-attention and CLIP-G's pooled projection [B, 64], from token
        ids [B, L] padded with each encoder's own id.
        """
        device = self.unet.device
        states_l = self.clip_l(ids_l.to(device), output_hidden_states=True)
        states_g = self.clip_g(ids_g.to(device), output_hidden_states=True)
        hidden = torch.cat([states_l.hidden_states[-2], states_g.hidden_states[-2]], -1)
        return hidden, states_g.text_embeds

    def predict(
        self,
        sample: Tensor,
        timestep: Tensor,
        conditions: tuple[Tensor, Tensor],
        unet: UNet2DConditionModel | None = None,
    ) -> Tensor:
        """Predict v of sample [B, 4, h, w] at timestep [B], by another UNet if one is given."""
        hidden, pooled = conditions
        sizes = torch.tensor(self.sizes, device=sample.device).float().expand(len(sample), -1)
        out = (unet or self.unet)(
            sample,
            timestep,
            encoder_hidden_states=hidden,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes},
        )
        return out.sample.float()

    def forward(self, sample: Tensor, timestep: Tensor, ids_l: Tensor, ids_g: Tensor) -> Tensor:
        """Predict v of sample [B, 4, h, w] at timestep [B] for token ids [B, L]."""
        return self.predict(sample, timestep, self.conditions(ids_l, ids_g))

    @classmethod
    def from_pretrained(cls, checkpoint: Path, config: Configuration) -> FirstFrame:
        """UNet and encoders of a checkpoint, float32."""
        unet = UNet2DConditionModel.from_pretrained(checkpoint / "ssd_1b_unet").float()
        clips = [
            CLIPTextModelWithProjection.from_pretrained(checkpoint / folder).float()
            for folder in ("text_encoder", "text_encoder_2")
        ]
        return cls(unet, *clips, time_ids(config.height, config.width))


def captions(
    world: World, scenes: Sequence[Any], generator: torch.Generator, dropped: float = DROPPED
) -> list[str]:
    """A fresh wording of each scene, empty for a share of them."""
    rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
    return ["" if rng.random() < dropped else world.caption(scene, rng) for scene in scenes]


def clip_ids(tokenizer: Tokenizer, prompts: list[str], length: int) -> tuple[Tensor, Tensor]:
    """Ids for CLIP-L (padded with the end token) and CLIP-G (padded with 0), [B, L] each."""
    end = tokenizer.token_to_id("<|endoftext|>")
    rows = [tokenizer.encode(prompt).ids[:length] for prompt in prompts]
    rows = [row[:-1] + [end] for row in rows]
    padded = [torch.tensor([row + [pad] * (length - len(row)) for row in rows]) for pad in (end, 0)]
    return padded[0], padded[1]


@torch.no_grad()
def first_latents(
    vae: AutoencoderKL, world: World, scenes: list[Any], height: int, width: int
) -> Tensor:
    """Scaled latents of the scenes' first frames [N, C, h, w], half."""
    latents = []
    for start in range(0, len(scenes), 50):
        part = scenes[start : start + 50]
        frames = np.concatenate([world.render(s, height, width, range(1)) for s in part])
        image = torch.from_numpy(frames).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        with autocast(vae.device.type):
            latent = vae.encode(image.to(vae.device)).latent_dist.mode().float()
        latents.append((latent * vae.config.scaling_factor).half().cpu())
    return torch.cat(latents)


def alpha_bars() -> Tensor:
    """SDXL's cumulative alphas [1000]: betas linear in their square root from 0.00085 to 0.012."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


def noisy_and_target(
    clean: Tensor, noise: Tensor, alpha: Tensor, kind: str
) -> tuple[Tensor, Tensor]:
    """The noised latent and what a network of this kind (`KINDS`) is to say of it; alpha is the
    cumulative one, [B, 1, 1, 1].
    """
    signal, share = alpha.sqrt(), (1 - alpha).sqrt()
    noisy = signal * clean + share * noise
    return noisy, noise if kind == "epsilon" else signal * noise - share * clean


def spread(count: int, generator: torch.Generator, steps: int = 1000) -> Tensor:
    """Timesteps [count], each from its own part of the schedule, so that a batch has all noise
    levels and its loss varies less: the low-discrepancy sampler of Variational Diffusion Models
    (arXiv 2107.00630, appendix I.1).
    """
    parts = torch.arange(count) + torch.rand(1, generator=generator)
    return (parts / count * steps).long()


def middling(count: int, generator: torch.Generator, alphas: Tensor) -> Tensor:
    """Timesteps [count] whose log signal-to-noise ratio is normal around 0, as SD3's logit-normal
    times have it (arXiv 2403.03206, section 3.1: m = 0, s = 1); spread like `spread`.

    Where there is hardly any noise, or hardly anything else, a network has little to learn.
    """
    parts = (torch.arange(count) + torch.rand(1, generator=generator)) / count
    wanted = 2 * torch.special.ndtri(parts.double().clamp(1e-6, 1 - 1e-6))
    noisiness = torch.log((1 - alphas) / alphas).double()
    return torch.searchsorted(noisiness, wanted).clamp(max=len(alphas) - 1)


def cached_frames(run: Path, world: World) -> tuple[list[Any], Tensor]:
    """Scenes and latents of the training set in `run`; the file says which seed drew them."""
    seed, latents = torch.load(run / "first_latents.pt", weights_only=True)
    return drawn(world, seed, len(latents)), latents


def drawn(world: World, seed: int, count: int) -> list[Any]:
    """The scenes whose first frames are learned."""
    return [world.settled(scene) for scene in scenes_of(world, seed, count)]


def save_without_projection(clip: CLIPTextModelWithProjection, folder: Path) -> None:
    """The weights of `clip` as the published `ssd_1b_text_encoder`, a `CLIPTextModel`, has them."""
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(clip.config)
    config.architectures = ["CLIPTextModel"]
    config.save_pretrained(folder)
    weights = {
        name: weight.contiguous()
        for name, weight in clip.state_dict().items()
        if not name.startswith("text_projection")
    }
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def main() -> None:
    parser = arguments(__doc__ or "", steps=40000, batch=32, lr=6e-4)
    parser.add_argument(
        "--scenes", type=int, default=16000, help="first frames to render and encode"
    )
    parser.add_argument("--subject", type=float, default=3, help="weight of the subjects' latents")
    parser.add_argument(
        "--middling",
        action="store_true",
        help="draw timesteps of middling noise more often, as SD3 does",
    )
    parser.add_argument(
        "--freeze-text",
        action="store_true",
        help="train the UNet alone, so that others may use the encoders already",
    )
    parser.add_argument(
        "--warm-text", action="store_true", help="start the encoders from the checkpoint"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    config = Configuration.read(options.config)
    checkpoint: Path = options.checkpoint
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer" / "tokenizer.json"))
    length, kind = config["text"]["clip_length"], config["pack"]["first_frame"]["prediction"]
    size = config.height, config.width
    cache = options.run / "first_latents.pt"
    if not cache.exists():
        vae = AutoencoderKL.from_pretrained(checkpoint / "ssd_1b_vae").float().eval()
        vae.to(options.device)
        options.run.mkdir(parents=True, exist_ok=True)
        scenes = drawn(config.world, options.seed, options.scenes)
        torch.save((options.seed, first_latents(vae, config.world, scenes, *size)), cache)
    scenes, latents = cached_frames(options.run, config.world)
    weights = torch.from_numpy(
        box_weights(config.world, scenes, 0, *config.grid, times=options.subject)
    )[:, None]
    model = (
        FirstFrame.from_pretrained(checkpoint, config)
        if options.warm
        else FirstFrame.fresh(config, tokenizer)
    )
    if options.warm_text:
        model.clip_l, model.clip_g = (
            CLIPTextModelWithProjection.from_pretrained(checkpoint / folder).float()
            for folder in ("text_encoder", "text_encoder_2")
        )
    plain_on_cpu(model.unet, options.device)
    if options.freeze_text:
        model.clip_l.requires_grad_(False)
        model.clip_g.requires_grad_(False)
    alphas = alpha_bars().to(options.device)
    timesteps = partial(middling, alphas=alpha_bars()) if options.middling else spread

    def step(generator: torch.Generator) -> Tensor:
        pick = torch.randint(len(latents), (options.batch,), generator=generator)
        prompts = captions(config.world, [scenes[i] for i in pick.tolist()], generator)
        ids_l, ids_g = (ids.to(options.device) for ids in clip_ids(tokenizer, prompts, length))
        clean = latents[pick].float().to(options.device)
        noise = torch.randn(clean.shape, generator=generator).to(options.device)
        timestep = timesteps(options.batch, generator).to(options.device)
        noisy, target = noisy_and_target(clean, noise, alphas[timestep].view(-1, 1, 1, 1), kind)
        with autocast(options.device):
            predicted = model(noisy, timestep, ids_l, ids_g)
        return ((predicted - target).square() * weights[pick].to(options.device)).mean()

    def finish() -> None:
        model.half()
        model.unet.save_pretrained(checkpoint / "ssd_1b_unet")
        for folder in ("text_encoder", "text_encoder_2", "ssd_1b_text_encoder_2"):
            (model.clip_l if folder == "text_encoder" else model.clip_g).save_pretrained(
                checkpoint / folder
            )
        save_without_projection(model.clip_l, checkpoint / "ssd_1b_text_encoder")

    train("first_frame", model, step, options, finish=finish)


if __name__ == "__main__":
    main()
