"""Train the pyramid MMDiT with its T5 text encoder and context adapter: `python -m
training.train_transformer`.

Pyramidal flow matching as in Pyramid-Flow: each step trains the three stages at once, each on the
last unit of a history of random length; the history is clean latents by the inference rule,
corrupted with noise of one strength in [0, 1/3] per sample; captions are dropped for one sample in
ten. Corrected start sigmas are used (engine.scheduler).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection

from engine.scheduler import Stage, stage_schedule
from training.loop import arguments, train
from training.models.context_adapter import ContextAdapter
from training.models.distil_t5 import T5EncoderWithProjection, T5ProjectionConfig
from training.models.mmdit import PyramidMMDiT
from training.models.video_vae import CausalVideoVAE
from training.settings import SCHEDULE
from training.tokenizers import CLIP_LENGTH, T5_LENGTH
from training.train_first_frame import clip_ids
from training.world import Scene, caption, render, sample_scene

HEIGHT, WIDTH, UNITS, STAGES = 128, 192, 7, 3
T5 = {
    "d_model": 96,
    "d_kv": 32,
    "d_ff": 256,
    "num_layers": 3,
    "num_heads": 3,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.0,
    "project_in_dim": 96,
    "project_out_dim": 192,
}
ADAPTER = {"input_dims": 192, "output_dims": 192, "layer_depths": [192, 192], "skips": [True, True]}
MMDIT = {
    "sample_size": 32,
    "patch_size": 2,
    "in_channels": 12,
    "num_layers": 6,
    "attention_head_dim": 32,
    "num_attention_heads": 6,
    "caption_projection_dim": 192,
    "pooled_projection_dim": 128,
    "pos_embed_max_size": 48,
    "joint_attention_dim": 192,
}


@torch.no_grad()
def clip_latents(vae: CausalVideoVAE, scenes: list[Scene], constants: dict[str, float]) -> Tensor:
    """Normalised latents of whole clips, half [N, C, 7, h, w]."""
    out = []
    for scene in scenes:
        video = (
            torch.from_numpy(render(scene, HEIGHT, WIDTH))
            .permute(3, 0, 1, 2)[None]
            .float()
            .div(127.5)
            .sub(1)
        )
        with torch.autocast("cpu", torch.bfloat16):
            latent = vae.encode(video).float().chunk(2, 1)[0]
        first = (latent[:, :, :1] - constants["first_shift"]) * constants["first_scale"]
        later = (latent[:, :, 1:] - constants["shift"]) * constants["scale"]
        out.append(torch.cat([first, later], 2).half())
    return torch.cat(out)


def half_size(latent: Tensor) -> Tensor:
    """Bilinear /2 of [B, C, T, h, w]: at exactly half size, the mean of each 2x2 block."""
    return F.avg_pool3d(latent, (1, 2, 2))


def double_size(latent: Tensor) -> Tensor:
    """Nearest x2 of [B, C, T, h, w]."""
    return latent.repeat_interleave(2, -2).repeat_interleave(2, -1)


def history(pyramid: list[Tensor], unit: int, stage: int) -> list[Tensor]:
    """Past units 0..unit-1 as the sampler conditions on them, oldest first (engine.latents.history,
    batched).
    """
    past: list[Tensor] = []
    level, end = stage, unit
    if stage == 0 and unit:
        past, end = [pyramid[0][:, :, unit - 1 : unit]], unit - 1
    while level > 0 and end:
        past.insert(0, pyramid[level][:, :, end - 1 : end])
        level, end = level - 1, end - 1
    if end:
        past.insert(0, pyramid[0][:, :, :end])
    return past


class TextConditioned(nn.Module):
    """T5 with projection, context adapter and MMDiT as one trainable whole."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.text = T5EncoderWithProjection(T5ProjectionConfig(vocab_size=vocabulary, **T5))
        self.adapter = ContextAdapter(**ADAPTER)
        self.mmdit = PyramidMMDiT(**MMDIT)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Context tokens [B, N, W] of T5 ids and mask [B, N]."""
        return self.adapter(self.text(ids, mask))


def stage_sample(
    clean: list[Tensor],
    unit: int,
    stage: int,
    stages: tuple[Stage, ...],
    generator: torch.Generator,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Draw one flow-matching sample of `unit` at `stage` for a batch.

    clean: the pyramid of whole clips, [B, C, T, h, w] coarse to fine. Returns the network's inputs
    (corrupted history, then the noisy latent), its timesteps [B] and the target flow (start - end)
    [B, C, 1, h, w]. Pyramidal flow matching, arXiv 2410.05954, eq. 9.
    """
    now = stages[stage]
    device, batch = clean[0].device, len(clean[0])

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator).to(device)

    target = [level[:, :, unit : unit + 1] for level in clean]
    noise = normal(target[-1])
    for _ in range(len(clean) - 1 - stage):
        noise = 2 * half_size(noise)
    start = noise
    if stage > 0:
        start = now.start_sigma * noise + (1 - now.start_sigma) * double_size(target[stage - 1])
    end = now.end_sigma * noise + (1 - now.end_sigma) * target[stage]
    index = torch.randint(1000, (batch,), generator=generator)
    local = torch.from_numpy(now.sigmas(1000)[:-1])[index].float().to(device).view(-1, 1, 1, 1, 1)
    timestep = torch.from_numpy(now.timesteps(1000))[index].float().to(device)
    strength = torch.rand(batch, generator=generator).to(device).view(-1, 1, 1, 1, 1) / 3
    past = [strength * normal(part) + (1 - strength) * part for part in history(clean, unit, stage)]
    return [*past, local * start + (1 - local) * end], timestep, start - end


def main() -> None:
    parser = arguments(__doc__, minutes=90, batch=8, lr=1e-3)
    parser.add_argument("--scenes", type=int, default=2400, help="clips to render and encode")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    checkpoint: Path = options.checkpoint
    constants = json.loads((options.run / "video_vae" / "constants.json").read_text())
    rng = np.random.default_rng(options.seed + 7)
    scenes = [sample_scene(rng) for _ in range(options.scenes)]
    cache = options.run / "clip_latents.pt"
    if not cache.exists():
        vae = CausalVideoVAE.from_pretrained(checkpoint / "causal_video_vae").float().eval()
        torch.save(clip_latents(vae, scenes, constants), cache)
    latents = torch.load(cache, weights_only=True)
    scenes = scenes[: len(latents)]
    clip_tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer" / "tokenizer.json"))
    t5_tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer_3" / "tokenizer.json"))
    clips = [
        CLIPTextModelWithProjection.from_pretrained(checkpoint / folder)
        .float()
        .eval()
        .to(options.device)
        for folder in ("text_encoder", "text_encoder_2")
    ]
    stages = stage_schedule(SCHEDULE)
    model = TextConditioned(t5_tokenizer.get_vocab_size())
    if options.warm:
        model.text = T5EncoderWithProjection.from_pretrained(checkpoint / "text_encoder_3").float()
        model.adapter = ContextAdapter.from_pretrained(checkpoint / "context_adapter").float()
        model.mmdit = PyramidMMDiT.from_pretrained(
            checkpoint / "diffusion_transformer_320p"
        ).float()
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters")

    def conditions(prompts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """T5 ids and mask [B, N], pooled CLIP [B, D]."""
        rows = [t5_tokenizer.encode(prompt).ids[:T5_LENGTH] for prompt in prompts]
        ids = torch.tensor([row + [0] * (T5_LENGTH - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (T5_LENGTH - len(row)) for row in rows])
        with torch.no_grad():
            pairs = zip(clips, clip_ids(clip_tokenizer, prompts, CLIP_LENGTH), strict=True)
            pooled = torch.cat(
                [clip(part.to(options.device)).text_embeds for clip, part in pairs], -1
            )
        return ids.to(options.device), mask.to(options.device), pooled

    def step(generator: torch.Generator) -> Tensor:
        losses = []
        pick = torch.randint(len(latents), (options.batch,), generator=generator)
        words = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        prompts = ["" if words.random() < 0.1 else caption(scenes[i], words) for i in pick.tolist()]
        ids, mask, pooled = conditions(prompts)
        clean = [latents[pick].float().to(options.device)]
        for _ in range(STAGES - 1):
            clean.insert(0, half_size(clean[0]))
        with torch.autocast(options.device, torch.bfloat16):
            context = model(ids, mask)
            for stage in range(STAGES):
                unit = int(torch.randint(UNITS, (1,), generator=generator))
                inputs, timestep, target = stage_sample(clean, unit, stage, stages, generator)
                flow = model.mmdit(inputs, timestep, context, mask, pooled)
                losses.append((flow.float() - target).square().mean())
        return torch.stack(losses).mean()

    def finish() -> None:
        model.half()
        model.text.save_pretrained(checkpoint / "text_encoder_3")
        model.adapter.save_pretrained(checkpoint / "context_adapter")
        model.mmdit.save_pretrained(checkpoint / "diffusion_transformer_320p")

    train("transformer", model, step, options, finish=finish)


if __name__ == "__main__":
    main()
