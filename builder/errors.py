"""What a build can fail with, each one sentence for the user."""

from __future__ import annotations

from engine.errors import NeodragonError


class BuildError(NeodragonError):
    """The weights cannot become a pack as they are, or a graph strays from what it should be."""
