"""Train the pyramid MMDiT with its T5 text encoder and context adapter: `python -m
training.recipes.transformer`.

Pyramidal flow matching as in Pyramid-Flow: each step trains several stages at once, each on the
last unit of a history of random length; the history is clean latents by the inference rule,
corrupted with noise of one strength in [0, 1/3] per sample; captions are dropped for one sample in
ten. Corrected start sigmas are used (engine.scheduler). Nearly all the error is the finest stage's,
which therefore comes up twice a step and the others in turn (published: once each).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.scheduler import stage_schedule
from training.data.worlds import World, box_weights, scenes_of
from training.models.context_adapter import ContextAdapter
from training.models.distil_t5 import T5EncoderWithProjection, T5ProjectionConfig
from training.models.mmdit import PyramidMMDiT
from training.models.video_vae import CausalVideoVAE
from training.recipes.conditions import Conditions
from training.recipes.configuration import CONSTANTS, STRIDE, Configuration
from training.recipes.first_frame import captions
from training.recipes.loop import arguments, train
from training.recipes.pyramid import levels, stage_sample
from training.recipes.video_vae import reads_key_frames


@torch.no_grad()
def clip_latents(
    vae: CausalVideoVAE, scenes: Sequence[Any], constants: dict[str, float], config: Configuration
) -> Tensor:
    """Normalised latents of whole clips, half [N, C, T, h, w]. Where the encoder reads key frames
    alone (`training.recipes.video_vae`), only those are drawn.
    """
    out, device = [], next(vae.parameters()).device
    keys = reads_key_frames(vae)
    for scene in scenes:
        times = range(0, config.frames, STRIDE if keys else 1)
        frames = torch.from_numpy(config.world.render(scene, config.height, config.width, times))
        images = frames.permute(0, 3, 1, 2).to(device).float().div(127.5).sub(1)
        with torch.autocast(device.type, torch.bfloat16):
            if keys:
                moments = vae.encode_image(images).transpose(0, 1)[None]
            else:
                moments = vae.encode(images.transpose(0, 1)[None])
        latent = moments.float().chunk(2, 1)[0].cpu()
        first = (latent[:, :, :1] - constants["first_shift"]) * constants["first_scale"]
        later = (latent[:, :, 1:] - constants["shift"]) * constants["scale"]
        out.append(torch.cat([first, later], 2).half())
    return torch.cat(out)


def cached_clips(run: Path, world: World) -> tuple[list[Any], Tensor]:
    """Scenes and latents of the training set in `run`; the file says which seed drew them."""
    seed, latents = torch.load(run / "clip_latents.pt", weights_only=True)
    return scenes_of(world, seed, len(latents)), latents


def subject_weights(config: Configuration, scenes: Sequence[Any], times: float) -> Tensor:
    """Loss weights [N, 1, T, h, w]: `times` where a subject is or was one unit before, else 1."""
    units = []
    for unit in range(config.units):
        now, before = (
            box_weights(config.world, scenes, STRIDE * frame, *config.grid, times=times)
            for frame in (unit, max(unit - 1, 0))
        )
        units.append(torch.from_numpy(now).maximum(torch.from_numpy(before)))
    return torch.stack(units, 1)[:, None]


class TextConditioned(nn.Module):
    """T5 with projection, context adapter and MMDiT as one trainable whole."""

    def __init__(
        self, text: T5EncoderWithProjection, adapter: ContextAdapter, mmdit: PyramidMMDiT
    ) -> None:
        super().__init__()
        self.text, self.adapter, self.mmdit = text, adapter, mmdit

    @classmethod
    def fresh(cls, config: Configuration, vocabulary: int) -> TextConditioned:
        """Random weights of the configuration's sizes."""
        return cls(
            T5EncoderWithProjection(T5ProjectionConfig(vocab_size=vocabulary, **config["t5"])),
            ContextAdapter(**config["adapter"]),
            PyramidMMDiT(**config["mmdit"]),
        )

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Context tokens [B, N, W] of T5 ids and mask [B, N]."""
        return self.adapter(self.text(ids, mask))

    @classmethod
    def from_pretrained(cls, checkpoint: Path) -> TextConditioned:
        """The three parts of a checkpoint, float32."""
        return cls(
            T5EncoderWithProjection.from_pretrained(checkpoint / "text_encoder_3").float(),
            ContextAdapter.from_pretrained(checkpoint / "context_adapter").float(),
            PyramidMMDiT.from_pretrained(checkpoint / "diffusion_transformer_320p").float(),
        )

    def save_pretrained(self, checkpoint: Path) -> None:
        """Write the three published folders."""
        self.text.save_pretrained(checkpoint / "text_encoder_3")
        self.adapter.save_pretrained(checkpoint / "context_adapter")
        self.mmdit.save_pretrained(checkpoint / "diffusion_transformer_320p")


def main() -> None:
    parser = arguments(__doc__ or "", steps=16000, batch=8, lr=8e-4)
    parser.add_argument("--scenes", type=int, default=4000, help="clips to render and encode")
    parser.add_argument(
        "--subject", type=float, default=4, help="weight of the subjects' latents in the loss"
    )
    parser.add_argument(
        "--fine", type=int, default=2, help="how often a step trains the finest stage"
    )
    parser.add_argument(
        "--freeze-text", action="store_true", help="train the transformer alone, as after pruning"
    )
    parser.add_argument(
        "--freeze-transformer",
        action="store_true",
        help="train the text side alone, best with --fine 0: motion is decided in coarse stages",
    )
    parser.add_argument(
        "--warm-text", action="store_true", help="start T5 from the checkpoint, the rest afresh"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    config = Configuration.read(options.config)
    checkpoint: Path = options.checkpoint
    constants = json.loads((checkpoint / CONSTANTS).read_text(encoding="utf-8"))
    cache = options.run / "clip_latents.pt"
    if not cache.exists():
        vae = CausalVideoVAE.from_pretrained(checkpoint / "causal_video_vae").float().eval()
        seed = options.seed + 7
        made = scenes_of(config.world, seed, options.scenes)
        latents = clip_latents(vae.to(options.device), made, constants, config)
        torch.save((seed, latents), cache)
    scenes, latents = cached_clips(options.run, config.world)
    conditions = Conditions(checkpoint, options.device, config)
    stages = stage_schedule(config.schedule)
    weights = subject_weights(config, scenes, options.subject)
    model = (
        TextConditioned.from_pretrained(checkpoint)
        if options.warm
        else TextConditioned.fresh(config, conditions.t5_tokenizer.get_vocab_size())
    )
    if options.warm_text:
        model.text = T5EncoderWithProjection.from_pretrained(checkpoint / "text_encoder_3").float()
    if options.freeze_text:
        model.text.requires_grad_(False)
        model.adapter.requires_grad_(False)
    if options.freeze_transformer:
        model.mmdit.requires_grad_(False)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    last, units = len(stages) - 1, config.units

    def step(generator: torch.Generator) -> Tensor:
        losses = []
        pick = torch.randint(len(latents), (options.batch,), generator=generator)
        words = captions(config.world, [scenes[i] for i in pick.tolist()], generator)
        ids, mask, pooled = conditions(words)
        clean = levels(latents[pick].float().to(options.device), len(stages))
        weight = levels(weights[pick].to(options.device), len(stages))
        with torch.autocast(options.device, torch.bfloat16):
            context = model(ids, mask)
            coarse = int(torch.randint(last, (1,), generator=generator))
            for stage in [coarse] + [last] * options.fine:
                # Half as often the first unit: the hybrid mode takes it from the first frame.
                unit = int(torch.randint(2 * units - 1, (1,), generator=generator) + 1) // 2
                inputs, timestep, target = stage_sample(clean, unit, stage, stages, generator)
                flow = model.mmdit(inputs, timestep, context, mask, pooled)
                error = (flow.float() - target).square() * weight[stage][:, :, unit : unit + 1]
                losses.append(error.mean())
        return torch.stack(losses).mean()

    def finish() -> None:
        model.half().save_pretrained(checkpoint)

    # Copying from the history needs sharp attention, and that the norms of q and k to grow.
    def sharpness(name: str) -> bool:
        return ".norm_q." in name or ".norm_k." in name

    train("transformer", model, step, options, fast=sharpness, finish=finish)


if __name__ == "__main__":
    main()
