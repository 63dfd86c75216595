"""Output streams: UTF-8 for other programs, redrawn in place where a console can."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TextIO

VIRTUAL_TERMINAL = 4  # ENABLE_VIRTUAL_TERMINAL_PROCESSING


def prepare() -> None:
    """Make stdout and stderr UTF-8 where they are read by a program and not by a person.

    Windows would give a pipe the code page of its region, in which most prompts cannot be written.
    A console shows what it can of them.
    """
    _keep_stdout()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            encoding = stream.encoding if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="replace")


def _keep_stdout() -> None:
    """Let native libraries that print do so on stderr: what a program reads on stdout is ours."""
    out = sys.__stdout__
    if out is None or out is not sys.stdout or out.isatty():
        return
    with suppress(OSError, ValueError):  # no such descriptors: nobody reads them
        if out.fileno() == 1:
            out.flush()
            kept = os.dup(1)
            os.dup2(2, 1)
            sys.stdout = open(kept, "w", encoding="utf-8", errors="replace")  # noqa: SIM115


def is_drawn_on(stream: TextIO) -> bool:
    """Whether `stream` is a terminal that obeys escape sequences, told to do so on Windows."""
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        return False
    if sys.platform != "win32":
        return True
    import ctypes  # noqa: PLC0415  Windows' alone
    import msvcrt  # noqa: PLC0415

    kernel = ctypes.WinDLL("kernel32")
    try:
        console = ctypes.c_void_p(msvcrt.get_osfhandle(stream.fileno()))
    except OSError:  # a window that some program draws
        return False
    mode = ctypes.c_ulong()
    if not kernel.GetConsoleMode(console, ctypes.byref(mode)):
        return False
    return bool(kernel.SetConsoleMode(console, mode.value | VIRTUAL_TERMINAL))
