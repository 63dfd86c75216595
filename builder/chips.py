"""The chips a pack can be compiled for, and which of them this machine has."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass

from builder.errors import BuildError

DEVICE = "/sys/devices/soc0/machine"  # what Linux says of a Snapdragon


@dataclass(frozen=True)
class Chip:
    """target: its name on the command line; soc_model: Qualcomm's number; htp_arch: its Hexagon;
    pattern: how Windows and Linux name its models (X1E, X1P and X1 are one Hexagon, and so on).
    """

    target: str
    name: str
    soc_model: int
    htp_arch: int
    pattern: str

    @property
    def options(self) -> dict[str, str]:
        """What QNN is to be told when it compiles for this chip."""
        return {"soc_model": str(self.soc_model), "htp_arch": str(self.htp_arch)}


CHIPS = (
    Chip("x-elite", "Snapdragon X Elite and X Plus", 60, 73, r"\bX1[EP]?\d|\bX1-|X Elite|X Plus"),
    Chip("x2-elite", "Snapdragon X2 Elite", 88, 81, r"\bX2[EP]?\d|\bX2-|X2 Elite|X2 Plus"),
)
TARGETS = ("portable", "cpu", *(chip.target for chip in CHIPS), "this-chip")


def chip_named(words: str) -> Chip | None:
    """The chip that a processor's name is of, None where it is none of these."""
    newest_first = reversed(CHIPS)
    return next((c for c in newest_first if re.search(c.pattern, words, re.IGNORECASE)), None)


def this_chip() -> Chip:
    """The chip of this machine; raises BuildError where it has none that is known."""
    words = f"{platform.processor()} {os.environ.get('PROCESSOR_IDENTIFIER', '')} {_named()}"
    chip = chip_named(words)
    if chip is None:
        known = ", ".join(chip.target for chip in CHIPS)
        raise BuildError(
            "This machine should have a known Snapdragon, but it says {value} of its "
            "processor; choose one of {known}, or cpu.",
            value=words.strip() or "nothing",
            known=known,
        )
    return chip


def chip_for(target: str) -> Chip | None:
    """The chip of a target, None where it is compiled for none; raises BuildError."""
    if target == "this-chip":
        return this_chip()
    if target not in TARGETS:
        raise BuildError(
            "The target should be one of {value}, but it is {target}; choose one.",
            value=", ".join(TARGETS),
            target=target,
        )
    return next((chip for chip in CHIPS if chip.target == target), None)


def _named() -> str:
    """The processor's marketing name: from Windows's registry, or Linux's device tree."""
    if platform.system() == "Windows":
        import winreg  # noqa: PLC0415

        key = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key) as opened:  # type: ignore[attr-defined]
                return str(winreg.QueryValueEx(opened, "ProcessorNameString")[0])  # type: ignore[attr-defined]
        except OSError:
            return ""
    try:
        with open(DEVICE, encoding="utf-8") as stream:
            return stream.read().strip()
    except OSError:
        return ""
