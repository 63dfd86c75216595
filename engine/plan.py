"""What a request comes to with a pack: its mode, noise, prompts and first frame."""

from __future__ import annotations

from dataclasses import dataclass

from engine.config import ModeConfig, Request
from engine.errors import RequestError
from engine.modes import mode_of
from engine.noise import SeededNoise
from engine.pack import Pack
from engine.scheduler import Stage, stage_schedule


@dataclass(frozen=True, eq=False)
class Plan:
    """What a request comes to with this pack.

    prompts: the prompt and those of forks, each once; prompt_of: which of them each unit follows;
    negative: None where it is not used; first_given: the first unit is a picture, given or drawn
    by the first-frame network (draws_first), not sampled.
    """

    request: Request
    mode: ModeConfig
    stages: tuple[Stage, ...]
    noise: SeededNoise
    prompts: tuple[str, ...]
    prompt_of: tuple[int, ...]
    negative: str | None
    guided: bool
    first_given: bool
    draws_first: bool


def planned(pack: Pack, request: Request) -> Plan:
    """Raises RequestError where the pack cannot do it."""
    mode = mode_of(pack, request)
    first_given = request.image is not None or mode.first_steps is None
    draws_first = first_given and request.image is None
    if draws_first and pack.first_frame is None:
        raise RequestError(
            "The pack {pack} makes no first frame in the mode {mode}; give a picture or use "
            "--mode monolithic.",
            pack=pack.name,
            mode=request.mode,
        )
    guided = mode.guidance != 1 or (not first_given and mode.first_guidance != 1)
    negative = None
    if guided or (draws_first and pack.first_frame and pack.first_frame.guidance != 1):
        negative = request.negative_prompt
        negative = pack.prompt.negative if negative is None else negative
    geometry = pack.geometry
    prompts = [request.prompt] * geometry.units  # of each unit
    for fork in request.forks:
        if fork.unit >= geometry.units:
            raise RequestError(
                "A fork begins at unit {unit}; {pack} has units 1 to {last}.",
                unit=fork.unit,
                pack=pack.name,
                last=geometry.units - 1,
            )
        if fork.prompt is not None:
            prompts[fork.unit :] = [fork.prompt] * (geometry.units - fork.unit)
    different = list(dict.fromkeys(prompts))
    shape = (geometry.latent_channels, 1, geometry.latent_height, geometry.latent_width)
    forks = [(fork.unit, fork.motion_seed) for fork in request.forks]
    seeds = request.look_seed, request.motion_seed
    return Plan(
        request,
        mode,
        stage_schedule(pack.schedule),
        SeededNoise(*seeds, shape, pack.schedule.gamma, forks),
        tuple(prompt + pack.prompt.suffix * bool(request.suffix) for prompt in different),
        tuple(map(different.index, prompts)),
        negative,
        guided,
        first_given,
        draws_first,
    )
