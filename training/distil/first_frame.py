"""First frame in four steps: `python -m training.distil.first_frame`.

Latent consistency distillation (arXiv 2310.04378): the student maps any noise level straight to the
clean latent, so that it agrees with itself one teacher step further on. The teacher's step is DDIM
with guidance, which thereby goes into the student; deployment takes `timesteps` 999, 749, 499, 249
without any. How the published UNet was distilled is not known; its weights look like LCM's.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from engine.first_frame_steps import SIGMA_DATA, TIMESTEP_SCALING
from training.recipes.attention import plain_on_cpu
from training.recipes.configuration import Configuration
from training.recipes.first_frame import (
    FirstFrame,
    alpha_bars,
    cached_frames,
    captions,
    clip_ids,
)
from training.recipes.loop import arguments, train
from training.recipes.precision import autocast

TIMESTEPS = (999, 749, 499, 249)
GRID = 50  # teacher steps over the whole schedule
KEEP = 0.98  # of the target network at each update


def boundary(timestep: Tensor) -> tuple[Tensor, Tensor]:
    """c_skip and c_out [B, 1, 1, 1] (arXiv 2310.04378, section 3; those of engine.lcm_step)."""
    time = timestep.float().view(-1, 1, 1, 1) * TIMESTEP_SCALING
    width = time.square() + SIGMA_DATA**2
    return SIGMA_DATA**2 / width, time / width.sqrt()


def clean_and_noise(
    noisy: Tensor, prediction: Tensor, alpha: Tensor, kind: str = "v_prediction"
) -> tuple[Tensor, Tensor]:
    """What a prediction at signal share `alpha` [B, 1, 1, 1] stands for. kind: `epsilon` or
    `v_prediction`.
    """
    signal, noise = alpha.sqrt(), (1 - alpha).sqrt()
    if kind == "epsilon":
        return (noisy - noise * prediction) / signal, prediction
    return signal * noisy - noise * prediction, signal * prediction + noise * noisy


def consistency(noisy: Tensor, clean: Tensor, timestep: Tensor) -> Tensor:
    """The consistency function: the estimate, held to the input at noise level 0."""
    skip, out = boundary(timestep)
    return skip * noisy + out * clean


class StudentAndTarget(nn.Module):
    """The student, and the slow copy of it that says what it should agree with."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.target = copy.deepcopy(student).requires_grad_(False)

    @torch.no_grad()
    def follow(self) -> None:
        """Move the target a little towards the student."""
        for slow, fast in zip(self.target.parameters(), self.student.parameters(), strict=True):
            slow.lerp_(fast, 1 - KEEP)


def main() -> None:
    parser = arguments(__doc__ or "", steps=3000, batch=24, lr=1e-4)
    parser.add_argument("--teacher", type=Path, required=True, help="checkpoint to distil")
    parser.add_argument("--guidance", type=float, default=3.0, help="of the teacher")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    tokenizer = Tokenizer.from_file(str(options.teacher / "tokenizer" / "tokenizer.json"))
    config = Configuration.read(options.config)
    length, kind = config["text"]["clip_length"], config["pack"]["first_frame"]["prediction"]
    scenes, latents = cached_frames(options.run, config.world)
    teacher = FirstFrame.from_pretrained(options.teacher, config)
    plain_on_cpu(teacher.unet, options.device)
    teacher.eval().requires_grad_(False).to(options.device)
    model = StudentAndTarget(copy.deepcopy(teacher.unet).requires_grad_(True))
    alphas = alpha_bars().to(options.device)
    grid = torch.linspace(0, 999, GRID + 1).round().long()

    def step(generator: torch.Generator) -> Tensor:
        model.follow()
        pick = torch.randint(len(latents), (options.batch,), generator=generator)
        prompts = captions(config.world, [scenes[i] for i in pick.tolist()], generator, 0)
        with torch.no_grad():
            prompted = teacher.conditions(*clip_ids(tokenizer, prompts, length))
            empty = teacher.conditions(*clip_ids(tokenizer, [""] * len(prompts), length))
        clean = latents[pick].float().to(options.device)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        place = torch.randint(1, GRID + 1, (options.batch,), generator=generator)
        late, early = grid[place].to(clean.device), grid[place - 1].to(clean.device)
        a_late, a_early = (alphas[t].view(-1, 1, 1, 1) for t in (late, early))
        noisy = a_late.sqrt() * clean + (1 - a_late).sqrt() * noise
        with autocast(options.device):
            with torch.no_grad():
                free = teacher.predict(noisy, late, empty)
                guided = free + options.guidance * (teacher.predict(noisy, late, prompted) - free)
                x, e = clean_and_noise(noisy, guided, a_late, kind)
                before = a_early.sqrt() * x + (1 - a_early).sqrt() * e
                goal = teacher.predict(before, early, prompted, model.target)
                goal = consistency(before, clean_and_noise(before, goal, a_early, kind)[0], early)
            own = teacher.predict(noisy, late, prompted, model.student)
        own = consistency(noisy, clean_and_noise(noisy, own, a_late, kind)[0], late)
        return ((own - goal).square() + 1e-3**2).sqrt().mean() - 1e-3  # pseudo-Huber

    def finish() -> None:
        model.student.half().save_pretrained(options.checkpoint / "ssd_1b_unet")
        settings = options.checkpoint / "neodragon.json"
        values = json.loads(settings.read_text("utf-8"))
        values["first_frame"] |= {
            "sampler": "lcm",
            "timesteps": list(TIMESTEPS),
            "guidance": 1.0,
        }
        settings.write_text(json.dumps(values, indent=1) + "\n")

    train("first_frame_lcm", model, step, options, finish=finish)


if __name__ == "__main__":
    main()
