"""Making a clip again from what it says of itself, and comparing the two."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.config import Request
from engine.errors import NeodragonError
from engine.measures import psnr
from engine.pack import Pack
from engine.pipeline import Event, FirstFrame, UnitFrames, generate
from engine.session import Backend, require
from studio.jobs.render import with_pixels
from studio.jobs.spec import Work, content_key
from studio.library.restore import Origin, restore
from studio.media import sidecars
from studio.media.pictures import read_picture
from studio.media.video import read_mp4, write_mp4

Bytes = NDArray[np.uint8]
Outcome = Literal["identical", "close", "different"]

# dB: rounding on another processor or backend stays above 46; another motion seed gets to 24.
CLOSE = 35.0


class VerifyError(NeodragonError):
    """A clip cannot be made again here."""


@dataclass(frozen=True)
class Verification:
    """How a clip compares with what its settings make here and now.

    psnr: dB over all frames, None where they are identical or of another size; notes: sentences
    about what was not the same as when it was made.
    """

    outcome: Outcome
    psnr: float | None
    notes: tuple[str, ...]

    def __str__(self) -> str:
        number = "" if self.psnr is None else f" ({self.psnr:.1f} dB)"
        return " ".join([f"{self.outcome.capitalize()}{number}.", *self.notes])


def verify(
    path: Path,
    pack: Pack,
    *,
    backend: Backend | None = None,
    image: Path | None = None,
    threads: int | None = None,
    watch: Callable[[Event], None] = lambda event: None,
) -> Verification:
    """Render a clip or first frame again and compare every pixel; nothing is kept of it.

    backend: None for the one it was made on; image: the user's own that it began with; watch:
    gets the engine's events, and may raise to cancel. A clip is compared as its file shows it.
    Raises VerifyError, and what `restore` and `generate` do.
    """
    origin = restore(path)
    metadata = sidecars.inside(path)
    if "export" in metadata:
        raise VerifyError(
            "{name} should be a clip as it was made, but it is an export of one; verify"
            " the original.",
            name=path.name,
        )
    if origin.request.image is not None and image is None:
        raise VerifyError(
            "{name} begins with the picture {image}; choose that too.",
            name=path.name,
            image=str(origin.request.image),
        )
    backend = require(origin.backend) if backend is None else backend
    notes = [origin.pack_note(pack.name, pack.version, pack.pack_hash)]
    if backend != origin.backend:
        notes.append(f"It was made on {origin.backend}, but compared on {backend}.")
    request = replace(origin.request, image=image)
    if image is not None:
        notes.append(_image_note(origin, pack, request))
    frames: list[Bytes] = []
    with closing(generate(pack, with_pixels(request), backend, threads, checked=False)) as events:
        for event in events:
            watch(event)
            if isinstance(event, FirstFrame) and origin.kind == "frame":
                frames.append(event.image[None])
                break
            if isinstance(event, UnitFrames):
                frames.append(event.frames)
    again = np.concatenate(frames)
    if origin.kind == "frame":
        before = read_picture(path)[None]
    else:
        before, _ = read_mp4(path)
        with tempfile.TemporaryDirectory(prefix="neodragon-") as folder:
            copy = write_mp4(Path(folder) / "again.mp4", again, pack.geometry.fps, metadata)
            again, _ = read_mp4(copy)
    return _compared(before, again, tuple(note for note in notes if note))


def _compared(before: Bytes, again: Bytes, notes: tuple[str, ...]) -> Verification:
    if before.shape != again.shape:
        sizes = [f"{len(f)} of {f.shape[2]} x {f.shape[1]}" for f in (before, again)]
        note = f"Its frames are {sizes[0]}, but they should be {sizes[1]}."
        return Verification("different", None, (*notes, note))
    if np.array_equal(before, again):
        return Verification("identical", None, notes)
    decibels = psnr(before, again)
    return Verification("close" if decibels >= CLOSE else "different", decibels, notes)


def _image_note(origin: Origin, pack: Pack, request: Request) -> str:
    """A sentence where the key it was made under tells that the image is another, else ""."""
    if origin.key is None or pack.pack_hash != origin.pack_hash:
        return ""
    made_by = {"pack": str(pack.path), "backend": origin.backend, "kind": origin.kind}
    work = Work.from_dict(request.to_dict() | made_by)
    if content_key(work, pack) == origin.key:
        return ""
    return f"The picture {Path(str(request.image)).name} is not the one that it began with."
