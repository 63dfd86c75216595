"""What a mode of a pack means for a request: its steps and guidance, and which weights it uses."""

from __future__ import annotations

from dataclasses import replace

from engine.config import Mode, ModeConfig, Request
from engine.errors import RequestError
from engine.pack import Pack


def mode_of(pack: Pack, request: Request) -> ModeConfig:
    """The steps and guidance of the request; RequestError where the pack has no such mode."""
    modes = pack.schedule.modes
    if request.mode not in modes:
        raise RequestError(
            "{name} has no mode {mode}; choose one of {names}.",
            name=pack.name,
            names=", ".join(modes),
            mode=request.mode,
        )
    mode = modes[request.mode]
    if request.steps is None:
        return mode
    if len(request.steps) != pack.schedule.stages:
        raise RequestError(
            "{name} has {stages} stages, and the steps are {steps}; give one number per stage.",
            stages=pack.schedule.stages,
            name=pack.name,
            steps=request.steps,
        )
    return replace(mode, steps=request.steps)


def weights_of(pack: Pack, component: str, mode: Mode) -> str:
    """The component with weights of this mode's own where the pack has it, else the common one."""
    own = f"{component}_multistep"
    return own if mode == "monolithic" and pack.has(own) else component
