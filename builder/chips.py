"""What a pack can be built for: the engine's table of chips, and the targets beside it."""

from __future__ import annotations

from builder.errors import BuildError
from engine.session import CHIPS, Chip, this_chip
from engine.session.chips import processor_name

TARGETS = ("portable", "cpu", *(chip.target for chip in CHIPS), "this-chip")


def chip_for(target: str) -> Chip | None:
    """The chip of a target, None where it is compiled for none; raises BuildError."""
    if target not in TARGETS:
        raise BuildError(
            "There is no target {target}; choose one of {known}.",
            known=", ".join(TARGETS),
            target=target,
        )
    if target != "this-chip":
        return next((chip for chip in CHIPS if chip.target == target), None)
    chip = this_chip()
    if chip is None:
        raise BuildError(
            "The processor {processor} is not a known Snapdragon; choose one of {known}, or cpu.",
            processor=processor_name() or "?",
            known=", ".join(chip.target for chip in CHIPS),
        )
    return chip
