"""What the studio's programs say on stderr."""

from __future__ import annotations

NO_GRAPHICS = "Failed to create DXGI factory.\n"  # ONNX Runtime's, on Wine; of no account


def ours(said: str) -> str:
    """The studio's own lines."""
    return said.replace(NO_GRAPHICS, "")
