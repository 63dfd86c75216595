"""Train few steps on own clips: `python -m training.distil.self_forcing --few 1 1 1`.

Flow matching and step distillation learn from histories that are true but for noise; when sampling,
a unit follows units that the network made, and its errors add up: shapes degrade over time. As in
Self Forcing (arXiv 2506.08009), each step here samples a whole clip after a real first unit, every
unit conditioned on the network's own ones, and compares each clean estimate with the training
clip's. Given first frame and caption a clip of the paper theatre is known, so the comparison is a
plain squared error; elsewhere a distribution loss (`training.distil.steps`) must take its place.
Gradients end at each evaluation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from torch import Tensor

from engine.scheduler import Stage, stage_schedule
from training.distil.steps import clean_estimate, flow_of, true_estimate
from training.recipes.clips import cached_clips, subject_weights
from training.recipes.conditions import Conditions
from training.recipes.configuration import Configuration
from training.recipes.first_frame import captions
from training.recipes.loop import arguments, train
from training.recipes.precision import autocast
from training.recipes.pyramid import double_size, half_size, history, levels, normal
from training.recipes.sample import Flow, block_noise
from training.recipes.transformer import TextConditioned


def rollout_losses(
    flow: Flow,
    stages: Sequence[Stage],
    steps: Sequence[int],
    clips: Tensor,
    weights: Tensor,
    generator: torch.Generator,
) -> list[Tensor]:
    """One loss for each evaluation while sampling what follows the first unit of `clips`.

    clips: normalised latents [B, C, T, h, w]; weights [B, 1, T, h, w] of the squared error. The
    sampler is that of `training.recipes.sample` without guidance.
    """
    goal, weight = levels(clips, len(stages)), levels(weights, len(stages))
    done, losses = [clips[:, :, :1]], []
    for unit in range(1, clips.shape[2]):
        past = levels(torch.cat(done, 2), len(stages))
        latent = normal(clips[:, :, :1], generator)
        for _ in stages[1:]:
            latent = 2 * half_size(latent)
        for index, stage in enumerate(stages):
            if index:
                latent = double_size(latent)
                latent = stage.alpha * latent + stage.beta * block_noise(latent, generator)
            before = history(past, unit, index)
            sigmas = stage.sigmas(steps[index])
            here = [level[:, :, unit : unit + 1] for level in goal]
            for step, timestep in enumerate(stage.timesteps(steps[index])):
                times = torch.full((len(clips),), float(timestep)).to(clips)
                predicted = flow([*before, latent], times, False).float()
                sigma = torch.full((1, 1, 1, 1, 1), float(sigmas[step])).to(clips)
                estimate = clean_estimate(stage, latent, predicted, sigma)
                error = (estimate - true_estimate(stage, index, here)).square()
                losses.append((error * weight[index][:, :, unit : unit + 1]).mean())
                latent = latent + float(sigmas[step + 1] - sigmas[step]) * predicted.detach()
        done.append(latent)
    return losses


def main() -> None:
    parser = arguments(__doc__ or "", steps=800, batch=6, lr=2e-4)
    parser.add_argument("--few", type=int, nargs="+", default=[1, 1, 1], help="steps of each stage")
    parser.add_argument("--subject", type=float, default=4, help="weight of the cut-out's latents")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    config = Configuration.read(options.config)
    scenes, latents = cached_clips(options.run, config.world)
    weights = subject_weights(config, scenes, options.subject)
    conditions = Conditions(options.checkpoint, options.device, config)
    stages = stage_schedule(config.schedule)
    model = TextConditioned.from_pretrained(options.checkpoint)
    model.text.requires_grad_(False)
    model.adapter.requires_grad_(False)

    def step(generator: torch.Generator) -> Tensor:
        pick = torch.randint(len(latents), (options.batch,), generator=generator)
        clips = latents[pick].float().to(options.device)
        prompts = captions(config.world, [scenes[i] for i in pick.tolist()], generator, 0)
        flow = flow_of(model, conditions(prompts), None)
        with autocast(options.device):
            losses = rollout_losses(
                flow, stages, options.few, clips, weights[pick].to(options.device), generator
            )
        return torch.stack(losses).mean()

    def finish() -> None:
        model.half().save_pretrained(options.checkpoint)
        settings = options.checkpoint / "neodragon.json"
        values = json.loads(settings.read_text(encoding="utf-8"))
        values["schedule"]["modes"]["hybrid"] |= {"steps": options.few, "guidance": 1.0}
        settings.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    train("self_forcing", model, step, options, finish=finish)


if __name__ == "__main__":
    main()
