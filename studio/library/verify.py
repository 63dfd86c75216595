"""Render a clip again from the settings inside it, and compare the two."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.config import Request
from engine.errors import Message, NeodragonError
from engine.events import Event, FirstFrame, UnitFrames
from engine.graph_cache import GraphCache
from engine.measures import psnr
from engine.pack import Pack
from engine.pipeline import generate
from engine.session import Backend, require
from studio.jobs.render import with_pixels
from studio.jobs.spec import Work, content_key
from studio.library.restore import Origin, restore
from studio.media import sidecars
from studio.media.pictures import read_picture
from studio.media.sidecars import Kind
from studio.media.video import read_mp4, write_mp4
from studio.system.paths import graphs_folder

Bytes = NDArray[np.uint8]
Outcome = Literal["identical", "close", "different"]

# dB: rounding on another processor or backend stays above 46; another motion seed gets to 24.
CLOSE = 35.0


OUTCOMES: Mapping[tuple[Outcome, bool], str] = {
    ("identical", False): "Identical.",
    ("close", True): "Close ({db:.1f} dB).",
    ("different", True): "Different ({db:.1f} dB).",
    ("different", False): "Different.",
}


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
    notes: tuple[Message, ...]

    @property
    def messages(self) -> tuple[Message, ...]:
        """The outcome and the notes, to show one after the other."""
        values = {} if self.psnr is None else {"db": self.psnr}
        return (Message(OUTCOMES[self.outcome, bool(values)], values), *self.notes)

    def __str__(self) -> str:
        return " ".join(map(str, self.messages))


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
            "{name} is an export of a clip; verify the original.",
            name=path.name,
        )
    if origin.request.image is not None and image is None:
        raise VerifyError(
            "{name} begins with the picture {image}; choose that too.",
            name=path.name,
            image=str(origin.request.image),
        )
    backend = require(origin.backend) if backend is None else backend
    notes: list[Message | None] = [origin.pack_note(pack.name, pack.version, pack.pack_hash)]
    if backend != origin.backend:
        values = {"made_on": origin.backend, "here": backend}
        notes.append(Message("It was made on {made_on} and is compared on {here}.", values))
    request = replace(origin.request, image=image)
    if image is not None:
        notes.append(_image_note(origin, pack, request))
    frames: list[Bytes] = []
    running = generate(
        *(pack, with_pixels(request), backend, threads),
        checked=False,
        cache=GraphCache(0, graphs_folder()),
    )
    with closing(running) as events:
        for event in events:
            watch(event)
            if isinstance(event, FirstFrame) and origin.kind == "frame":
                frames.append(event.image[None])
                break
            if isinstance(event, UnitFrames):
                frames.append(event.frames)
    again = np.concatenate(frames)
    before = frames_of(path, origin.kind)
    if origin.kind == "clip":
        with tempfile.TemporaryDirectory(prefix="neodragon-") as folder:
            copy = write_mp4(Path(folder) / "again.mp4", again, pack.geometry.fps, metadata)
            again, _ = read_mp4(copy)
    return compared(before, again, tuple(note for note in notes if note))


def frames_of(path: Path, kind: Kind) -> Bytes:
    """The frames that a clip or a first frame shows, uint8 [T, H, W, 3]; raises OutputError."""
    if kind == "frame":
        return read_picture(path)[None]
    return read_mp4(path)[0]


def compared(before: Bytes, again: Bytes, notes: tuple[Message, ...] = ()) -> Verification:
    """How the frames of two clips compare, uint8 [T, H, W, 3]."""
    if before.shape != again.shape:
        sizes = [f"{len(f)} x {f.shape[2]} x {f.shape[1]}" for f in (before, again)]
        note = Message(
            "Its frames (number, width, height) are {got}, those made now {made}.",
            {"got": sizes[0], "made": sizes[1]},
        )
        return Verification("different", None, (*notes, note))
    if np.array_equal(before, again):
        return Verification("identical", None, notes)
    decibels = psnr(before, again)
    return Verification("close" if decibels >= CLOSE else "different", decibels, notes)


def _image_note(origin: Origin, pack: Pack, request: Request) -> Message | None:
    """A sentence where the key it was made under tells that the image is another."""
    if origin.key is None or pack.pack_hash != origin.pack_hash:
        return None
    made_by = {"pack": str(pack.path), "backend": origin.backend, "kind": origin.kind}
    work = Work.from_dict(request.to_dict() | made_by)
    if content_key(work, pack) == origin.key:
        return None
    return Message(
        "The picture {image} is not the one that it began with.",
        {"image": Path(str(request.image)).name},
    )
