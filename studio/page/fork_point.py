"""Where a clip is forked: the beginning that other clips share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from engine.config import Fork
from engine.errors import RequestError
from studio.jobs.spec import Work


@dataclass(frozen=True)
class ForkPoint:
    """What is kept of a clip: all units of `work` before `unit`, which no fork of it reaches."""

    work: Work
    unit: int

    @classmethod
    def of(cls, work: Work, unit: int) -> Self:
        """A clip's units before `unit`, of its own forks those that they need."""
        forks = tuple(fork for fork in work.forks if fork.unit < unit)
        return cls(replace(work, kind="clip", forks=forks), unit)

    @classmethod
    def below(cls, work: Work) -> Self | None:
        """What a clip was last forked from; None where it is no fork."""
        return cls.of(work, work.forks[-1].unit) if work.forks else None

    @property
    def prompt(self) -> str:
        """That of its last unit."""
        prompts = [fork.prompt for fork in self.work.forks if fork.prompt is not None]
        return prompts[-1] if prompts else self.work.prompt

    def grown(self, prompt: str, motion_seed: int) -> Work:
        """The clip that goes on from here."""
        fork = Fork(self.unit, motion_seed, None if prompt == self.prompt else prompt)
        return replace(self.work, forks=(*self.work.forks, fork))

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"work": self.work.to_dict(), "unit": self.unit}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Raises RequestError."""
        return cls(Work.from_dict(values["work"]), values["unit"])

    @classmethod
    def kept(cls, values: Any) -> dict[str, Any] | None:
        """What a draft says, None where it says nothing of use."""
        try:
            return cls.from_dict(values).to_dict()
        except (RequestError, TypeError, LookupError):
            return None
