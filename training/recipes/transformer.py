"""Train the pyramid MMDiT with its T5 text encoder and context adapter: `python -m
training.recipes.transformer`.

Pyramidal flow matching as in Pyramid-Flow: each step trains several stages at once, each on the
last unit of a history of random length; the history is clean latents by the inference rule,
corrupted with noise of one strength in [0, 1/3] per sample; captions are dropped for one sample in
ten. Corrected start sigmas are used (engine.scheduler). Nearly all the error is the finest stage's,
which therefore comes up twice a step and the others in turn (published: once each).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.scheduler import stage_schedule
from training.data.worlds import scenes_of
from training.models.context_adapter import ContextAdapter
from training.models.distil_t5 import T5EncoderWithProjection, T5ProjectionConfig
from training.models.mmdit import PyramidMMDiT
from training.models.video_vae import CausalVideoVAE
from training.recipes.clips import CACHE, clip_latents, open_clips
from training.recipes.conditions import Conditions
from training.recipes.configuration import CONSTANTS, Configuration
from training.recipes.loop import arguments, train
from training.recipes.precision import autocast
from training.recipes.pyramid import levels, stage_sample


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


def take_blocks(model: PyramidMMDiT, other: PyramidMMDiT) -> None:
    """Start `model` from a transformer of the same width whose latents may be others: its blocks,
    spread over the depth, some of them twice, and what embeds the time. What they know of copying
    from the history holds for other pictures.
    """
    mine, theirs = model.transformer_blocks, other.transformer_blocks
    for i, block in enumerate(mine):
        source = round(i * (len(theirs) - 1) / (len(mine) - 1))
        block.load_state_dict(theirs[source].state_dict())
    time = other.time_text_embed.timestep_embedder.state_dict()
    model.time_text_embed.timestep_embedder.load_state_dict(time)
    model.norm_out.load_state_dict(other.norm_out.state_dict())


def start(options: argparse.Namespace, config: Configuration, vocabulary: int) -> TextConditioned:
    """The model to train, as the options say."""
    checkpoint: Path = options.checkpoint
    model = (
        TextConditioned.from_pretrained(checkpoint)
        if options.warm
        else TextConditioned.fresh(config, vocabulary)
    )
    if options.warm_text:
        model.text = T5EncoderWithProjection.from_pretrained(checkpoint / "text_encoder_3").float()
    if options.blocks_from and not options.warm:
        other = PyramidMMDiT.from_pretrained(options.blocks_from / "diffusion_transformer_320p")
        take_blocks(model.mmdit, other.float())
    if options.compile:
        for block in model.mmdit.transformer_blocks:
            block.compile(dynamic=True)
    if options.freeze_text:
        model.text.requires_grad_(False)
        model.adapter.requires_grad_(False)
    if options.freeze_transformer:
        model.mmdit.requires_grad_(False)
    return model


def main() -> None:
    parser = arguments(__doc__ or "", steps=16000, batch=8, lr=8e-4)
    parser.add_argument("--scenes", type=int, default=4000, help="clips to render and encode")
    parser.add_argument("--shards", type=Path, help="learn from these latent shards instead")
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
    parser.add_argument(
        "--blocks-from",
        type=Path,
        help="start the transformer's blocks from those of this checkpoint, of the same width",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the blocks: two minutes, then a quarter less time a step",
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    config = Configuration.read(options.config)
    checkpoint: Path = options.checkpoint
    cache = options.run / CACHE
    if not options.shards and not cache.exists():
        constants = json.loads((checkpoint / CONSTANTS).read_text(encoding="utf-8"))
        vae = CausalVideoVAE.from_pretrained(checkpoint / "causal_video_vae").float().eval()
        seed = options.seed + 7
        made = scenes_of(config.world, seed, options.scenes)
        torch.save((seed, clip_latents(vae.to(options.device), made, constants, config)), cache)
    clips = open_clips(options, config)
    conditions = Conditions(checkpoint, options.device, config)
    stages = stage_schedule(config.schedule)
    model = start(options, config, conditions.t5_tokenizer.get_vocab_size())
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    last, units = len(stages) - 1, config.units

    def step(generator: torch.Generator) -> Tensor:
        losses = []
        latents, prompts, weights = clips.draw(options.batch, generator)
        ids, mask, pooled = conditions(prompts)
        clean = levels(latents.to(options.device), len(stages))
        weight = levels(weights.to(options.device), len(stages))
        with autocast(options.device):
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
