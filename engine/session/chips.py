"""The chips that packs are compiled for, in one table, and which of them this machine has.

A compiled graph fits by its Hexagon's architecture, never by a chip's name: new names of old chips
need no new pack. To add a chip, add a row.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path

DEVICE = Path("/sys/devices/soc0/machine")  # what Linux says of a Snapdragon


@dataclass(frozen=True)
class Chip:
    """target: its name on the command line; soc_model: Qualcomm's number; htp_arch: its Hexagon;
    pattern: how Windows and Linux name its models.
    """

    target: str
    name: str
    soc_model: int
    htp_arch: int
    pattern: str

    @property
    def options(self) -> dict[str, str]:
        """What QNN is told to compile for this chip, or to emulate it.

        Without these it assumes a smaller one and fails.
        """
        return {"soc_model": str(self.soc_model), "htp_arch": str(self.htp_arch), "vtcm_mb": "8"}


CHIPS = (
    Chip("x-elite", "Snapdragon X Elite and Plus", 60, 73, r"\bX1[EP]?-?\d|X[ -]Elite|X[ -]Plus"),
    # Third parties give 87 or 88 for its number; no such machine was tried.
    Chip("x2-elite", "Snapdragon X2 Elite", 88, 81, r"\bX2[EP]?-?\d|X2[ -]Elite|X2[ -]Plus"),
)
ASSUMED = CHIPS[0]  # where a machine does not say what it is, and for the emulation


def chip_with(htp_arch: int) -> Chip | None:
    """The chip of a Hexagon's architecture, None where the table has none."""
    return next((chip for chip in CHIPS if chip.htp_arch == htp_arch), None)


def chip_named(text: str) -> Chip | None:
    """The chip that a processor's name is of, None where it is none of these."""
    return next((c for c in reversed(CHIPS) if re.search(c.pattern, text, re.IGNORECASE)), None)


def this_chip() -> Chip | None:
    """The chip of this machine, None where it has none of the table's."""
    return chip_named(processor_name())


def processor_name() -> str:
    """What the system says of its processor, the marketing name included."""
    known = (platform.processor(), os.environ.get("PROCESSOR_IDENTIFIER", ""), _marketing_name())
    return " ".join(filter(None, known))


def _marketing_name() -> str:
    """From Windows's registry, or Linux's device tree."""
    try:
        if sys.platform == "win32":
            import winreg  # noqa: PLC0415

            key = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key) as opened:
                return str(winreg.QueryValueEx(opened, "ProcessorNameString")[0])
        return DEVICE.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
