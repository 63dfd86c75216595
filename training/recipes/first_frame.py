"""Train the first frame's UNet with its two CLIP text encoders: `python -m
training.recipes.first_frame`.

The published roles: penultimate CLIP-L and CLIP-G states side by side for cross-attention, CLIP-G's
pooled projection and SDXL's size ids for the time embedding. The encoders learn from the UNet's
denoising loss (v-prediction on SDXL's noise schedule, captions dropped for one sample in ten so
that guidance works), then serve the video transformer frozen.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from training.data.world import Scene, caption, pose, render, scenes_of
from training.recipes.loop import arguments, train

HEIGHT, WIDTH = 128, 192
CLIP_WIDTH = 64
UNET = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [48, 96, 128],
    "layers_per_block": 1,
    "transformer_layers_per_block": [1, 1, 1],
    "attention_head_dim": [1, 3, 4],  # the number of heads, under diffusers' historic name
    "cross_attention_dim": 2 * CLIP_WIDTH,
    "norm_num_groups": 16,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": CLIP_WIDTH + 6 * 32,
}
TIME_IDS = [HEIGHT, WIDTH, 0, 0, HEIGHT, WIDTH]


def clip(tokenizer: Tokenizer, length: int, pad: int) -> CLIPTextModelWithProjection:
    """A small CLIP text encoder for this vocabulary."""
    config = CLIPTextConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=CLIP_WIDTH,
        intermediate_size=4 * CLIP_WIDTH,
        projection_dim=CLIP_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=length,
        bos_token_id=tokenizer.token_to_id("<|startoftext|>"),
        eos_token_id=tokenizer.token_to_id("<|endoftext|>"),
        pad_token_id=pad,
    )
    return CLIPTextModelWithProjection(config)


class FirstFrame(nn.Module):
    """UNet and text encoders as one trainable whole."""

    def __init__(self, tokenizer: Tokenizer, length: int) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(**UNET)
        self.clip_l = clip(tokenizer, length, tokenizer.token_to_id("<|endoftext|>"))
        self.clip_g = clip(tokenizer, length, 0)

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
        time_ids = torch.tensor(TIME_IDS, device=sample.device).float().expand(len(sample), -1)
        out = (unet or self.unet)(
            sample,
            timestep,
            encoder_hidden_states=hidden,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
        )
        return out.sample.float()

    def forward(self, sample: Tensor, timestep: Tensor, ids_l: Tensor, ids_g: Tensor) -> Tensor:
        """Predict v of sample [B, 4, h, w] at timestep [B] for token ids [B, L]."""
        return self.predict(sample, timestep, self.conditions(ids_l, ids_g))

    @classmethod
    def from_pretrained(cls, checkpoint: Path, tokenizer: Tokenizer, length: int) -> FirstFrame:
        """UNet and encoders of a checkpoint, float32."""
        model = cls(tokenizer, length)
        model.unet = UNet2DConditionModel.from_pretrained(checkpoint / "ssd_1b_unet").float()
        model.clip_l, model.clip_g = (
            CLIPTextModelWithProjection.from_pretrained(checkpoint / folder).float()
            for folder in ("text_encoder", "text_encoder_2")
        )
        return model


def clip_ids(tokenizer: Tokenizer, prompts: list[str], length: int) -> tuple[Tensor, Tensor]:
    """Ids for CLIP-L (padded with the end token) and CLIP-G (padded with 0), [B, L] each."""
    end = tokenizer.token_to_id("<|endoftext|>")
    rows = [tokenizer.encode(prompt).ids[:length] for prompt in prompts]
    rows = [row[:-1] + [end] for row in rows]
    padded = [torch.tensor([row + [pad] * (length - len(row)) for row in rows]) for pad in (end, 0)]
    return padded[0], padded[1]


@torch.no_grad()
def first_latents(vae: AutoencoderKL, scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """Scaled latents of the scenes' first frames [N, 4, h, w] (half), and a loss weight [N, 1, h,
    w] that favours the cut-out.
    """
    latents, weights = [], torch.ones(len(scenes), 1, HEIGHT // 8, WIDTH // 8)
    for start in range(0, len(scenes), 50):
        part = scenes[start : start + 50]
        frames = torch.from_numpy(
            np.concatenate([render(s, HEIGHT, WIDTH, range(1)) for s in part])
        )
        image = frames.permute(0, 3, 1, 2).float().div(127.5).sub(1)
        with torch.autocast("cpu", torch.bfloat16):
            latents.append(
                (vae.encode(image).latent_dist.mode().float() * vae.config.scaling_factor).half()
            )
    for i, scene in enumerate(scenes):
        x, y, _ = pose(scene, 0)
        rows, half = HEIGHT / 8, 0.62 * scene.size
        top, bottom = int((1 - y - 1.05 * scene.size) * rows), int((1 - y) * rows) + 1
        weights[
            i, :, max(0, top) : bottom, max(0, int((x - half) * rows)) : int((x + half) * rows) + 1
        ] = 3
    return torch.cat(latents), weights


def alpha_bars() -> Tensor:
    """SDXL's cumulative alphas [1000]: betas linear in their square root from 0.00085 to 0.012."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


def cached_frames(run: Path) -> tuple[list[Scene], Tensor, Tensor]:
    """Scenes, latents and loss weights of the training set in `run`; the file says which seed drew
    them.
    """
    seed, latents, weights = torch.load(run / "first_latents.pt", weights_only=True)
    return scenes_of(seed, len(latents)), latents, weights


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
    parser = arguments(__doc__, minutes=75, batch=32, lr=1e-3)
    parser.add_argument(
        "--scenes", type=int, default=16000, help="first frames to render and encode"
    )
    parser.add_argument(
        "--freeze-text",
        action="store_true",
        help="train the UNet alone, so that others may use the encoders already",
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    checkpoint: Path = options.checkpoint
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer" / "tokenizer.json"))
    length = 32
    cache = options.run / "first_latents.pt"
    if not cache.exists():
        vae = AutoencoderKL.from_pretrained(checkpoint / "ssd_1b_vae").float().eval()
        options.run.mkdir(parents=True, exist_ok=True)
        scenes = scenes_of(options.seed, options.scenes)
        torch.save((options.seed, *first_latents(vae, scenes)), cache)
    scenes, latents, weights = cached_frames(options.run)
    model = (
        FirstFrame.from_pretrained(checkpoint, tokenizer, length)
        if options.warm
        else FirstFrame(tokenizer, length)
    )
    if options.freeze_text:
        model.clip_l.requires_grad_(False)
        model.clip_g.requires_grad_(False)
    alphas = alpha_bars().to(options.device)

    def step(generator: torch.Generator) -> Tensor:
        pick = torch.randint(len(latents), (options.batch,), generator=generator)
        words = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        prompts = ["" if words.random() < 0.1 else caption(scenes[i], words) for i in pick.tolist()]
        ids_l, ids_g = (ids.to(options.device) for ids in clip_ids(tokenizer, prompts, length))
        clean = latents[pick].float().to(options.device)
        noise = torch.randn(clean.shape, generator=generator).to(options.device)
        timestep = torch.randint(1000, (options.batch,), generator=generator).to(options.device)
        a = alphas[timestep].view(-1, 1, 1, 1)
        noisy, target = (
            a.sqrt() * clean + (1 - a).sqrt() * noise,
            a.sqrt() * noise - (1 - a).sqrt() * clean,
        )
        with torch.autocast(options.device, torch.bfloat16):
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
