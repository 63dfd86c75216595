"""Several clips in a row: joined into an MP4 with shot numbers, and as a timeline for editors.

The timeline is FCPXML 1.10, which Final Cut Pro, DaVinci Resolve and others read: it names the
original files and counts in whole frames.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from xml.etree import ElementTree as xml

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from studio import __version__
from studio.export.cuts import ExportError
from studio.export.formats import Shot, read_shot
from studio.media import sidecars
from studio.media.video import stream_mp4
from studio.system.files import prepare, publish, writing

Bytes = NDArray[np.uint8]

NUMBER_HEIGHT = 1 / 14  # of the frame
NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def animatic(clips: Sequence[Path], target: Path, *, numbers: bool = True) -> Path:
    """Join clips into one MP4, each with the number of its shot in the corner; where it is.

    It has the size of the first clip, into which the others are fitted. Raises ExportError,
    OutputError.
    """
    target = prepare(target, ".mp4")
    read = _shots(clips)
    first = next(read)
    shots = [{"file": clip.name} for clip in clips]
    metadata = {
        "software": f"{sidecars.SOFTWARE}{__version__}",
        "kind": "clip",
        "export": {"shots": shots},
    }
    frames = _joined(chain([first], read), first.size, numbers)
    return stream_mp4(target, frames, first.size, first.fps, metadata)


def timeline(clips: Sequence[Path], target: Path) -> Path:
    """Write a timeline of clips (`*.fcpxml`), which stay where they are; where it is.

    Raises ExportError, OutputError.
    """
    target = prepare(target, ".fcpxml")
    root = xml.Element("fcpxml", version="1.10")
    resources = xml.SubElement(root, "resources")
    event = xml.SubElement(xml.SubElement(root, "library"), "event", name="Neodragon Studio")
    project = xml.SubElement(event, "project", name=_plain(target.stem))
    sequence = xml.SubElement(project, "sequence", tcStart="0s", tcFormat="NDF")
    spine = xml.SubElement(sequence, "spine")
    formats: dict[tuple[int, int], str] = {}
    assets: dict[Path, str] = {}
    at = 0
    for number, shot in enumerate(_shots(clips), 1):
        path, count, rate = shot.path.absolute(), len(shot.frames), shot.fps
        duration = f"{count}/{rate}s"
        if shot.size not in formats:
            formats[shot.size] = f"f{len(formats) + 1}"
            height, width = shot.size
            xml.SubElement(
                *(resources, "format"),
                id=formats[shot.size],
                frameDuration=f"1/{rate}s",
                width=str(width),
                height=str(height),
                colorSpace="1-1-1 (Rec. 709)",
            )
        format = formats[shot.size]
        if path not in assets:
            assets[path] = f"a{len(assets) + 1}"
            _add_asset(resources, path, assets[path], duration, format)
        clip = xml.SubElement(
            *(spine, "asset-clip"),
            ref=assets[path],
            name=f"{number:02} {_plain(path.stem)}",
            offset=f"{at}/{rate}s",
            start="0s",
            duration=duration,
            format=format,
            tcFormat="NDF",
        )
        xml.SubElement(clip, "note").text = _plain(str(shot.recorded.get("prompt", "")))
        at += count
        sequence.set("duration", f"{at}/{rate}s")
        sequence.set("format", next(iter(formats.values())))
    xml.indent(root)
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE fcpxml>\n'
    text = f"{head}{xml.tostring(root, 'unicode')}\n"
    with writing(target) as part:
        part.write_text(text, encoding="utf-8", newline="\n")
        return publish(part, target, overwrite=False)


def _add_asset(resources: xml.Element, path: Path, number: str, duration: str, format: str) -> None:
    """Name a clip's file among the resources, which shots refer to by `number`."""
    asset = xml.SubElement(
        *(resources, "asset"),
        id=number,
        name=_plain(path.stem),
        start="0s",
        duration=duration,
        hasVideo="1",
        videoSources="1",
        format=format,
    )
    xml.SubElement(asset, "media-rep", kind="original-media", src=path.as_uri())


def _shots(clips: Sequence[Path]) -> Iterator[Shot]:
    """The clips one by one, all of one frame rate; raises ExportError, OutputError."""
    if not clips:
        raise ExportError("There are no clips to join; choose some.")
    fps = None
    for clip in clips:
        shot = read_shot(clip)
        fps = fps or shot.fps
        if shot.fps != fps:
            raise ExportError(
                "{name} has {got} frames per second, and the first clip has {fps}; leave it out.",
                name=clip.name,
                fps=fps,
                got=shot.fps,
            )
        yield shot


def _joined(shots: Iterable[Shot], size: tuple[int, int], numbers: bool) -> Iterator[Bytes]:
    """The frames of all shots, uint8 [H, W, 3] of this size."""
    height, width = size
    for number, shot in enumerate(shots, 1):
        plate = _plate(f"{number:02}", height)
        for frame in shot.frames:
            picture = Image.fromarray(frame)
            if shot.size != size:
                picture = ImageOps.pad(picture, (width, height), Image.Resampling.LANCZOS)
            if numbers:
                corner = (height // 32, height - height // 32 - plate.height)
                picture.paste(plate, corner, plate)
            yield np.asarray(picture)


def _plate(label: str, height: int) -> Image.Image:
    """White words on a dark plate, for frames of this height."""
    font = ImageFont.load_default(max(8, round(height * NUMBER_HEIGHT)))
    left, top, right, bottom = font.getbbox(label)
    edge = round(height * NUMBER_HEIGHT / 3)
    size = (round(right - left) + 2 * edge, round(bottom - top) + 2 * edge)
    plate = Image.new("RGBA", size, (0, 0, 0, 170))
    ImageDraw.Draw(plate).text((edge - left, edge - top), label, "white", font)
    return plate


def _plain(text: str) -> str:
    """The text without what XML does not take."""
    return NOT_IN_XML.sub("\ufffd", text)
