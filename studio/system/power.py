"""Power while a queue runs: keep awake, pause on a low battery, notify at the end.

Windows is asked by its own calls (wakepy, psutil, a toast by PowerShell), Linux over D-Bus and by
`notify-send`. Where the machine offers none of these, the queue runs all the same.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import Any

import psutil

from engine.errors import Message

TOAST = """
[void][Windows.UI.Notifications.ToastNotificationManager,Windows.UI.Notifications,ContentType=WindowsRuntime]
$xml = [Windows.UI.Notifications.ToastNotificationManager]::GetTemplateContent(1)
$lines = $xml.GetElementsByTagName('text')
[void]$lines.Item(0).AppendChild($xml.CreateTextNode($env:NEODRAGON_TITLE))
[void]$lines.Item(1).AppendChild($xml.CreateTextNode($env:NEODRAGON_WORDS))
$app = '{1AC14E77-02E7-4E5D-B744-2EB1AE5198B7}\\WindowsPowerShell\\v1.0\\powershell.exe'
$toast = [Windows.UI.Notifications.ToastNotification]::new($xml)
[Windows.UI.Notifications.ToastNotificationManager]::CreateToastNotifier($app).Show($toast)
"""
SECONDS = 20.0  # that a notification may take


def memory() -> int:
    """Bytes of memory the machine has."""
    return int(psutil.virtual_memory().total)


class Awake:
    """Keeps the machine, not its screen, from falling asleep between `hold` and `release`."""

    def __init__(self) -> None:
        self._mode: Any = None

    def hold(self) -> None:
        """Stay awake from now on."""
        if self._mode is None:
            from wakepy import keep  # noqa: PLC0415  only who runs a queue needs it

            self._mode = keep.running(on_fail="pass")
            self._mode.__enter__()

    def release(self) -> None:
        """Sleep as the user set it."""
        if self._mode is not None:
            self._mode.__exit__(None, None, None)
            self._mode = None


def low_battery(percent: int) -> Message | None:
    """What to say where the machine runs on its battery and less than `percent` is left."""
    try:
        battery = psutil.sensors_battery()
    except (AttributeError, OSError):  # a system without one, or that does not say
        battery = None
    if battery is None or battery.power_plugged or battery.percent >= percent:
        return None
    return Message(
        "The battery has {left:.0f} % left, less than {percent} %; plug the machine in and resume"
        " the queue.",
        {"left": battery.percent, "percent": percent},
    )


def tell(title: str, text: str) -> None:
    """Show a notification of the system; where it has none, nothing happens."""
    env = os.environ | {"NEODRAGON_TITLE": title, "NEODRAGON_WORDS": text}
    if sys.platform == "win32":
        command = ["powershell", "-NoProfile", "-NonInteractive", "-Command", TOAST]
    else:
        command = ["notify-send", "--app-name", title, title, text]
    program = shutil.which(command[0])
    if program is None:
        return
    try:
        subprocess.run(
            [program, *command[1:]],
            env=env,
            timeout=SECONDS,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except (OSError, subprocess.TimeoutExpired):
        return
