"""Step distillation by pyramidal DMD: `python -m training.distil.steps --few 1 1 1`.

Distribution matching (DMD2, arXiv 2405.14867) on the stages of the pyramid as in Neodragon (arXiv
2511.06055, section 3.4): a frozen teacher with guidance, a student and a fake model that learns the
student's distribution, one student update for every two of the fake model, and a supervised Cauchy
term. The data are the teacher's own samples. Where the paper does not say: the history is, in a
share of updates (`--own`), the student's own units, sampled from the same first unit as in Self
Forcing (arXiv 2506.08009), since its errors add up when sampling; else the teacher sample's,
corrupted as in flow matching. Normaliser and Cauchy term are means over a sample, so that they do
not depend on its size; no adversarial loss.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.config import ModeConfig
from engine.scheduler import Stage, stage_schedule
from training.data.worlds import scenes_of
from training.recipes.clips import cached_clips
from training.recipes.conditions import Conditions
from training.recipes.configuration import Configuration
from training.recipes.first_frame import captions
from training.recipes.loop import arguments, train
from training.recipes.precision import autocast
from training.recipes.pyramid import (
    GRID,
    Line,
    corrupt,
    double_size,
    grid_point,
    half_size,
    history,
    levels,
    line,
    normal,
    stage_line,
)
from training.recipes.sample import Flow, guided, sample_clips
from training.recipes.transformer import TextConditioned

FAKE_UPDATES = 2  # for each update of the student
LEVELS = (0.125, 0.375, 0.625, 0.875)  # local noise levels at which teacher and fake are compared
CAUCHY = 0.5


def clean_estimate(stage: Stage, noisy: Tensor, flow: Tensor, sigma: Tensor) -> Tensor:
    """The clean latent that `flow` at local noise level `sigma` stands for: the stage's line drawn
    on to no noise at all.

    At a stage's start it is exact in the first and the last stage, in between slightly sharpened.
    """
    start, end = stage.start_sigma, stage.end_sigma
    noise = (1 - sigma) * end + sigma * start
    return noisy - noise / (start - end) * flow


def true_estimate(stage: Stage, index: int, clean: Sequence[Tensor]) -> Tensor:
    """What `clean_estimate` gives at a stage's start for the true flow: the clean latent, in
    between slightly sharpened.
    """
    if index == 0:
        return clean[0]
    start, end = stage.start_sigma, stage.end_sigma
    excess = end * (1 - start) / (start - end)
    return clean[index] + excess * (clean[index] - double_size(clean[index - 1]))


def renoised(stage: Stage, index: int, clean: Tensor, generator: torch.Generator) -> Line:
    """The stage's line to an estimate, with fresh noise."""
    return line(stage, clean, half_size(clean) if index else None, normal(clean, generator))


def dmd_gradient(teacher: Tensor, fake: Tensor, flow: Tensor) -> Tensor:
    """Gradient for the estimate, of its shape: where the student's distribution is denser than the
    teacher's; normalised per sample by the teacher's mean error against `flow`.
    """
    error = (teacher - flow).abs().mean((1, 2, 3, 4), keepdim=True)
    return torch.nan_to_num((teacher - fake) / error)


def dmd_loss(estimate: Tensor, gradient: Tensor) -> Tensor:
    """A number whose gradient for `estimate` is `gradient` over its size."""
    return 0.5 * (estimate - (estimate - gradient).detach()).square().mean()


def cauchy_loss(estimate: Tensor, clean: Tensor) -> Tensor:
    """log(1 + mean square error) of each sample, averaged."""
    return (estimate - clean).square().mean((1, 2, 3, 4)).log1p().mean()


class StudentAndFake(nn.Module):
    """What is trained; `updates` counts them, so that a resumed run keeps their order."""

    updates: Tensor

    def __init__(self, student: TextConditioned, fake: TextConditioned) -> None:
        super().__init__()
        self.student, self.fake = student, fake
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    @property
    def student_next(self) -> bool:
        """Whether this update is the student's: every third one, the last of its three."""
        return int(self.updates) % (FAKE_UPDATES + 1) == FAKE_UPDATES


def step_loss(
    model: StudentAndFake,
    flows: tuple[Flow, Flow, Flow],
    clips: Tensor,
    unit: int,
    index: int,
    stages: Sequence[Stage],
    steps: int,
    guidance: float,
    generator: torch.Generator,
    own: Tensor | None = None,
) -> Tensor:
    """One loss, the student's or the fake model's, at one stage of one unit of teacher samples.

    flows: of teacher, student, fake, given the conditions of `clips` [B, C, T, h, w]. steps: how
    many the student is to take in this stage; it learns at one of its own noise levels. own: the
    student's clips of the same shape, whose units are the history as the sampler has it.
    """
    teacher, student, fake = flows
    stage, pyramid = stages[index], levels(clips, len(stages))
    past = (
        corrupt(history(pyramid, unit, index), generator)
        if own is None
        else history(levels(own, len(stages)), unit, index)
    )
    path = stage_line(pyramid, unit, index, stages, generator)
    own = int(torch.randint(steps, (1,), generator=generator))
    sigma = torch.full((len(clips), 1, 1, 1, 1), float(stage.sigmas(steps)[own])).to(clips)
    timestep = torch.full((len(clips),), float(stage.timesteps(steps)[own])).to(clips)
    noisy = path.at(sigma)
    learns = model.student_next
    with torch.set_grad_enabled(learns):
        predicted = student([*past, noisy], timestep, False).float()
        estimate = clean_estimate(stage, noisy, predicted, sigma)
    again = renoised(stage, index, estimate.detach(), generator)
    if learns:
        choice = torch.randint(len(LEVELS), (len(clips),), generator=generator)
        point = ((1 - torch.tensor(LEVELS)[choice]) * GRID).long()
    else:
        point = torch.randint(GRID, (len(clips),), generator=generator)
    sigma, timestep = grid_point(stage, point.to(clips.device))
    inputs = [*past, again.at(sigma)]
    if not learns:
        return (fake(inputs, timestep, False).float() - again.flow).square().mean()
    with torch.no_grad():
        real = guided(teacher, inputs, timestep, guidance).float()
        gradient = dmd_gradient(real, fake(inputs, timestep, False).float(), again.flow)
    target = true_estimate(stage, index, [level[:, :, unit : unit + 1] for level in pyramid])
    return dmd_loss(estimate, gradient) + CAUCHY * cauchy_loss(estimate, target)


def flow_of(
    model: TextConditioned, inputs: tuple[Tensor, Tensor, Tensor], empty: tuple[Tensor, ...] | None
) -> Flow:
    """The model's flow under these T5 ids, mask and pooled embeddings; `empty`: those of the
    negative prompt.
    """

    def flow(latents: list[Tensor], timestep: Tensor, negative: bool) -> Tensor:
        ids, mask, pooled = empty if negative and empty is not None else inputs
        return model.mmdit(latents, timestep, model(ids, mask), mask, pooled)

    return flow


def teacher_samples(
    teacher: TextConditioned,
    conditions: Conditions,
    config: Configuration,
    mode: ModeConfig,
    count: int,
    seed: int,
    first: tuple[list[Any], Tensor] | None = None,
    batch: int = 8,
) -> tuple[list[str], Tensor]:
    """Captions and normalised latents [N, C, T, h, w] (half) of clips by the teacher.

    first: the clips that the teacher goes on from, their scenes and latents [N, C, T, h, w], for a
    mode that does not generate the first unit.
    """
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    scenes = scenes_of(config.world, seed, count) if first is None else first[0]
    prompts = [config.world.caption(scene, rng) for scene in scenes[:count]]
    stages, device = stage_schedule(config.schedule), conditions.device
    clips = []
    for start in range(0, count, batch):
        part = prompts[start : start + batch]
        flow = flow_of(teacher, conditions(part), conditions([""] * len(part)))
        shape = (len(part), teacher.mmdit.config["in_channels"], config.units, *config.grid)
        first_units = None if first is None else first[1][start : start + len(part), :, :1].float()
        made = sample_clips(flow, stages, mode, shape, generator, first_units, device)
        clips.append(made.half().cpu())
    return prompts, torch.cat(clips)


def main() -> None:
    parser = arguments(__doc__ or "", steps=3000, batch=8, lr=2e-5)
    parser.add_argument("--teacher", type=Path, required=True, help="checkpoint to distil")
    parser.add_argument("--samples", type=int, default=400, help="clips the teacher makes as data")
    parser.add_argument(
        "--mode",
        default="monolithic",
        choices=("hybrid", "monolithic"),
        help="of those clips; hybrid ones go on from the first frames of the clips in --run",
    )
    parser.add_argument(
        "--real",
        action="store_true",
        help="learn from the clips in --run instead: a small teacher's own wear out in time",
    )
    parser.add_argument("--few", type=int, nargs="+", default=[1, 1, 1], help="steps of each stage")
    parser.add_argument("--guidance", type=float, default=5.0, help="of the teacher in the loss")
    parser.add_argument(
        "--first-guidance", type=float, default=7.0, help="the same in a clip's first unit"
    )
    parser.add_argument(
        "--own", type=float, default=0.5, help="share of updates whose history the student made"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    config = Configuration.read(options.config)
    stages = stage_schedule(config.schedule)
    conditions = Conditions(options.teacher, options.device, config)
    teacher = TextConditioned.from_pretrained(options.teacher).eval().requires_grad_(False)
    teacher.to(options.device)
    cache = options.run / "teacher_clips.pt"
    if options.real:
        scenes, latents = cached_clips(options.run, config.world)
    elif not cache.exists():
        mode = config.schedule.modes[options.mode]
        first = None if mode.first_steps else cached_clips(options.run, config.world)
        options.run.mkdir(parents=True, exist_ok=True)
        made = teacher_samples(
            teacher, conditions, config, mode, options.samples, options.seed, first
        )
        torch.save(made, cache)
    if not options.real:
        prompts, latents = torch.load(cache, weights_only=True)
    model = StudentAndFake(*(TextConditioned.from_pretrained(options.teacher) for _ in range(2)))
    for part in (model.student, model.fake):  # the text side stays the teacher's
        part.text.requires_grad_(False)
        part.adapter.requires_grad_(False)
    sampling = ModeConfig(None, tuple(options.few), None, 1.0)

    def step(generator: torch.Generator) -> Tensor:
        pick = torch.randint(len(latents), (options.batch,), generator=generator)
        clips = latents[pick].float().to(options.device)
        if options.real:
            drawn = captions(config.world, [scenes[i] for i in pick.tolist()], generator, 0)
        else:
            drawn = [prompts[i] for i in pick.tolist()]
        inputs = conditions(drawn)
        empty = conditions([""] * options.batch)
        losses = []
        with autocast(options.device):
            flows = (
                flow_of(teacher, inputs, empty),
                flow_of(model.student, inputs, None),
                flow_of(model.fake, inputs, None),
            )
            own = None
            if torch.rand(1, generator=generator) < options.own:
                own = sample_clips(
                    flows[1],
                    stages,
                    sampling,
                    clips.shape,
                    generator,
                    clips[:, :, :1],
                    clips.device,
                )
            for index, steps in enumerate(options.few):
                unit = int(torch.randint(config.units, (1,), generator=generator))
                guidance = options.guidance if unit else options.first_guidance
                losses.append(
                    step_loss(
                        model, flows, clips, unit, index, stages, steps, guidance, generator, own
                    )
                )
        model.updates += 1
        return torch.stack(losses).mean()

    def finish() -> None:
        model.student.half().save_pretrained(options.checkpoint)
        settings = options.checkpoint / "neodragon.json"
        values = json.loads(settings.read_text(encoding="utf-8"))
        own = {"steps": options.few, "guidance": 1.0}
        first = {"first_steps": options.few, "first_guidance": 1.0}
        values["schedule"]["modes"] = {
            "hybrid": {**own, "first_steps": None, "first_guidance": None},
            "monolithic": own | first,
        }
        settings.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    train("steps_" + "-".join(map(str, options.few)), model, step, options, finish=finish)


if __name__ == "__main__":
    main()
