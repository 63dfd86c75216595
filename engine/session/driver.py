"""The version of the NPU's driver that Windows has."""

from __future__ import annotations

import sys
from collections.abc import Iterator

# Windows's class of devices that the Hexagon NPU is in, "Compute accelerators".
CLASS = r"SYSTEM\CurrentControlSet\Control\Class\{f01a9d53-3ff6-48d2-9f97-c8a7004be10c}"


def npu_driver() -> str:
    """As 30.0.140.1000; "" where there is none, or no Windows."""
    return next((version for name, version in _drivers() if "qualcomm" in name.lower()), "")


def _drivers() -> Iterator[tuple[str, str]]:
    """Maker and description, and version, of each driver of the class."""
    if sys.platform != "win32":
        return
    import winreg  # noqa: PLC0415

    try:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, CLASS) as devices:
            for number in range(winreg.QueryInfoKey(devices)[0]):
                try:
                    with winreg.OpenKey(devices, winreg.EnumKey(devices, number)) as device:
                        known = {
                            name: str(winreg.QueryValueEx(device, name)[0])
                            for name in ("ProviderName", "DriverDesc", "DriverVersion")
                        }
                except OSError:  # "Properties", which only the system may read
                    continue
                yield f"{known['ProviderName']} {known['DriverDesc']}", known["DriverVersion"]
    except OSError:
        return
