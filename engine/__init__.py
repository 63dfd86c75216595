"""The Neodragon engine: a prompt and two seeds in, the frames of a clip out.

`open_pack` opens the weights, a `Request` says what to draw, and `generate` yields the events of
one clip, its frames among them. The names in `__all__` are the public surface; they are loaded
when they are first used, so that importing `engine` costs nothing.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

# ONNX Runtime's official builds report to Microsoft unless told before they are loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# msvc-runtime puts MSVCP140.dll there, where Windows would not look in a virtual environment.
if sys.platform == "win32":
    os.add_dll_directory(sys.prefix)

if TYPE_CHECKING:
    from engine.config import Request
    from engine.errors import (
        BackendError,
        Message,
        NeodragonError,
        PackError,
        RequestError,
        WithheldError,
    )
    from engine.events import (
        Event,
        Finished,
        FirstFrame,
        Progress,
        StageDone,
        Truncated,
        UnitFrames,
    )
    from engine.graph_cache import GraphCache
    from engine.pack import Pack, open_pack
    from engine.pipeline import generate, prewarm
    from engine.session import Backend, available, verify_pack

__all__ = [
    "Backend",
    "BackendError",
    "Event",
    "Finished",
    "FirstFrame",
    "GraphCache",
    "Message",
    "NeodragonError",
    "Pack",
    "PackError",
    "Progress",
    "Request",
    "RequestError",
    "StageDone",
    "Truncated",
    "UnitFrames",
    "WithheldError",
    "available",
    "generate",
    "open_pack",
    "prewarm",
    "verify_pack",
]

_HOMES = {
    "config": ("Request",),
    "errors": (
        "BackendError",
        "Message",
        "NeodragonError",
        "PackError",
        "RequestError",
        "WithheldError",
    ),
    "events": (
        "Event",
        "Finished",
        "FirstFrame",
        "Progress",
        "StageDone",
        "Truncated",
        "UnitFrames",
    ),
    "graph_cache": ("GraphCache",),
    "pack": ("Pack", "open_pack"),
    "pipeline": ("generate", "prewarm"),
    "session": ("Backend", "available", "verify_pack"),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"engine.{module}"), name)
    raise AttributeError(f"module 'engine' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
