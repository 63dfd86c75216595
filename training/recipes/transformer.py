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
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.scheduler import stage_schedule
from training.data.world import FRAMES, Scene, pose, render, scenes_of
from training.models.context_adapter import ContextAdapter
from training.models.distil_t5 import T5EncoderWithProjection, T5ProjectionConfig
from training.models.mmdit import PyramidMMDiT
from training.models.video_vae import CausalVideoVAE
from training.recipes.conditions import Conditions, captions
from training.recipes.loop import arguments, train
from training.recipes.pyramid import levels, stage_sample
from training.recipes.settings import SCHEDULE

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
    """Normalised latents of whole clips, half [N, C, 7, h, w]; one latent frame is that of one key
    frame (`train_video_vae`), so that only those are drawn.
    """
    out = []
    for scene in scenes:
        frames = torch.from_numpy(render(scene, HEIGHT, WIDTH, range(0, FRAMES, 8)))
        images = frames.permute(0, 3, 1, 2).float().div(127.5).sub(1)
        with torch.autocast("cpu", torch.bfloat16):
            latent = vae.encode_image(images).float().chunk(2, 1)[0].transpose(0, 1)[None]
        first = (latent[:, :, :1] - constants["first_shift"]) * constants["first_scale"]
        later = (latent[:, :, 1:] - constants["shift"]) * constants["scale"]
        out.append(torch.cat([first, later], 2).half())
    return torch.cat(out)


def cached_clips(run: Path) -> tuple[list[Scene], Tensor]:
    """Scenes and latents of the training set in `run`; the file says which seed drew them."""
    seed, latents = torch.load(run / "clip_latents.pt", weights_only=True)
    return scenes_of(seed, len(latents)), latents


def subject_weights(scenes: list[Scene], times: int) -> Tensor:
    """Loss weights [N, 1, 7, h, w]: `times` where the cut-out is or was one unit before, else 1."""
    rows, cols = HEIGHT // 8, WIDTH // 8
    weights = torch.ones(len(scenes), 1, UNITS, rows, cols)
    for i, scene in enumerate(scenes):
        for unit in range(UNITS):
            for frame in (8 * max(unit - 1, 0), 8 * unit):
                x, y, zoom = pose(scene, frame)
                size = scene.size * zoom
                top, bottom = (1 - y - 1.1 * size) * rows, (1 - y + 0.05 * size) * rows
                left, right = (x - 0.65 * size) * rows, (x + 0.65 * size) * rows
                weights[
                    i,
                    0,
                    unit,
                    max(0, int(top)) : int(bottom) + 1,
                    max(0, int(left)) : int(right) + 1,
                ] = times
    return weights


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

    @classmethod
    def from_pretrained(cls, checkpoint: Path) -> TextConditioned:
        """The three parts of a checkpoint, float32."""
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model.text = T5EncoderWithProjection.from_pretrained(checkpoint / "text_encoder_3").float()
        model.adapter = ContextAdapter.from_pretrained(checkpoint / "context_adapter").float()
        model.mmdit = PyramidMMDiT.from_pretrained(
            checkpoint / "diffusion_transformer_320p"
        ).float()
        return model

    def save_pretrained(self, checkpoint: Path) -> None:
        """Write the three published folders."""
        self.text.save_pretrained(checkpoint / "text_encoder_3")
        self.adapter.save_pretrained(checkpoint / "context_adapter")
        self.mmdit.save_pretrained(checkpoint / "diffusion_transformer_320p")


def main() -> None:
    parser = arguments(__doc__, minutes=90, batch=8, lr=1e-3)
    parser.add_argument("--scenes", type=int, default=2500, help="clips to render and encode")
    parser.add_argument(
        "--subject", type=int, default=4, help="weight of the cut-out's latents in the loss"
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
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    checkpoint: Path = options.checkpoint
    constants = json.loads((options.run / "video_vae" / "constants.json").read_text())
    cache = options.run / "clip_latents.pt"
    if not cache.exists():
        vae = CausalVideoVAE.from_pretrained(checkpoint / "causal_video_vae").float().eval()
        seed = options.seed + 7
        torch.save((seed, clip_latents(vae, scenes_of(seed, options.scenes), constants)), cache)
    scenes, latents = cached_clips(options.run)
    conditions = Conditions(checkpoint, options.device)
    stages = stage_schedule(SCHEDULE)
    weights = subject_weights(scenes, options.subject)
    model = (
        TextConditioned.from_pretrained(checkpoint)
        if options.warm
        else TextConditioned(conditions.t5_tokenizer.get_vocab_size())
    )
    if options.freeze_text:
        model.text.requires_grad_(False)
        model.adapter.requires_grad_(False)
    if options.freeze_transformer:
        model.mmdit.requires_grad_(False)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters")

    def step(generator: torch.Generator) -> Tensor:
        losses = []
        pick = torch.randint(len(latents), (options.batch,), generator=generator)
        ids, mask, pooled = conditions(captions([scenes[i] for i in pick.tolist()], generator))
        clean = levels(latents[pick].float().to(options.device), STAGES)
        weight = levels(weights[pick].to(options.device), STAGES)
        with torch.autocast(options.device, torch.bfloat16):
            context = model(ids, mask)
            coarse = int(torch.randint(STAGES - 1, (1,), generator=generator))
            for stage in [coarse] + [STAGES - 1] * options.fine:
                # Half as often the first unit: the hybrid mode takes it from the first frame.
                unit = int(torch.randint(2 * UNITS - 1, (1,), generator=generator) + 1) // 2
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
