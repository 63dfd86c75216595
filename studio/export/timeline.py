"""Join clips to one film with titles and sound, and write timelines for editors.

A timeline is FCPXML 1.10, which Final Cut Pro, DaVinci Resolve and others read, or a CMX 3600 EDL,
which everything reads: both name the original files and count in whole frames.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from xml.etree import ElementTree as xml

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from studio import __version__
from studio.export.cuts import Cut, ExportError, cut_frames
from studio.export.formats import Shot, read_shot
from studio.media import sidecars
from studio.media.provenance import mark
from studio.media.video import ffmpeg, read_mp4, stream_mp4
from studio.system.files import prepare, publish, writing

Bytes = NDArray[np.uint8]

NUMBER_HEIGHT = 1 / 14  # of the frame
FADE = 0.5  # seconds in which the sound comes and goes
SOUNDS = (".wav", ".mp3")
NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Take:
    """A clip in a film: of its frames those from `start` to `end`, None for its own; its title."""

    clip: Path
    start: int | None = None
    end: int | None = None
    title: str = ""


def film(
    takes: Sequence[Take], target: Path, *, numbers: bool = False, sound: Path | None = None
) -> Path:
    """Join takes into one MP4 and return where it is.

    It has the size of the first clip, into which the others are fitted. numbers: each shot's in the
    corner; sound: a WAV or MP3, cut or filled with silence to the length of the film, fading in and
    out. Raises ExportError, OutputError.
    """
    target = prepare(target, ".mp4")
    read = _shots(takes)
    first = next(read)
    shots = [{"file": take.clip.name} for take in takes]
    metadata = {
        "software": f"{sidecars.SOFTWARE}{__version__}",
        "kind": "clip",
        "export": {"shots": shots},
    }
    frames = _joined(chain([first], read), [take.title for take in takes], first.size, numbers)
    if sound is None:
        return stream_mp4(target, frames, first.size, first.fps, metadata)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".film-") as folder:
        silent = stream_mp4(Path(folder, "film.mp4"), frames, first.size, first.fps, metadata)
        with writing(target) as part:
            _add_sound(silent, sound, part)
            mark(part, "mp4")
            return publish(part, target, overwrite=False)


def _add_sound(silent: Path, sound: Path, part: Path) -> None:
    """Copy a film with that sound; raises ExportError where ffmpeg does not take it."""
    frames, fps = read_mp4(silent)
    seconds = len(frames) / fps
    fade = min(FADE, seconds / 2)
    sound_filter = (
        f"apad,atrim=0:{seconds},afade=t=in:d={fade},afade=t=out:st={seconds - fade}:d={fade}"
    )
    command = [ffmpeg(), "-nostdin", "-hide_banner", "-v", "error", "-y", "-i", str(silent)]
    command += ["-i", str(sound), "-map", "0:v", "-map", "1:a:0", "-map_metadata", "0"]
    command += ["-c:v", "copy", "-c:a", "aac", "-b:a", "192k", "-af", sound_filter]
    command += ["-movflags", "+faststart", "-f", "mp4", str(part)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise ExportError(
            "{name} cannot be read as sound; choose a WAV or MP3 file.", name=sound.name
        )


def edl(takes: Sequence[Take], target: Path) -> Path:
    """Write an edit decision list (`*.edl`) of takes; where it is. Raises as `timeline`."""
    target = prepare(target, ".edl")
    lines, at = [f"TITLE: {_ascii(target.stem)}", "FCM: NON-DROP FRAME"], 0
    for number, (take, shot) in enumerate(zip(takes, _shots(takes), strict=True), 1):
        start, count, rate = take.start or 0, len(shot.frames), shot.fps
        times = [_timecode(frame, rate) for frame in (start, start + count, at, at + count)]
        lines.append(f"{number:03}  AX       V     C        {' '.join(times)}")
        lines.append(f"* FROM CLIP NAME: {_ascii(shot.path.name)}")
        if take.title:
            lines.append(f"* COMMENT: {_ascii(take.title)}")
        at += count
    with writing(target) as part:
        part.write_text("\n".join([*lines, ""]), encoding="ascii", newline="\r\n")
        return publish(part, target, overwrite=False)


def _timecode(frame: int, rate: int) -> str:
    seconds, frames = divmod(frame, rate)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}:{frames:02}"


def _ascii(text: str) -> str:
    return " ".join(text.encode("ascii", "replace").decode().split())


def timeline(takes: Sequence[Take], target: Path) -> Path:
    """Write a timeline of takes (`*.fcpxml`), whose clips stay where they are; where it is.

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
    for number, (take, shot) in enumerate(zip(takes, _shots(takes), strict=True), 1):
        path, count, rate = shot.path.absolute(), len(shot.frames), shot.fps
        duration = f"{count}/{rate}s"
        start = f"{take.start}/{rate}s" if take.start else "0s"
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
            _add_asset(resources, path, assets[path], f"{shot.length}/{rate}s", format)
        clip = xml.SubElement(
            *(spine, "asset-clip"),
            ref=assets[path],
            name=f"{number:02} {_plain(take.title or path.stem)}",
            offset=f"{at}/{rate}s",
            start=start,
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


def _shots(takes: Sequence[Take]) -> Iterator[_Part]:
    """The takes' clips one by one, all of one frame rate; raises ExportError, OutputError."""
    if not takes:
        raise ExportError("There are no clips to join; choose some.")
    fps = None
    for take in takes:
        clip, shot = take.clip, read_shot(take.clip)
        fps = fps or shot.fps
        if shot.fps != fps:
            raise ExportError(
                "{name} has {got} frames per second, and the first clip has {fps}; leave it out.",
                name=clip.name,
                fps=fps,
                got=shot.fps,
            )
        frames, _ = cut_frames(shot.frames, shot.fps, Cut(start=take.start, end=take.end))
        yield _Part(shot.path, frames, shot.fps, shot.recorded, len(shot.frames))


@dataclass(frozen=True, eq=False)
class _Part(Shot):
    """What a film shows of a clip that has `length` frames."""

    length: int


def _joined(
    shots: Iterable[Shot], titles: Sequence[str], size: tuple[int, int], numbers: bool
) -> Iterator[Bytes]:
    """The frames of all shots, uint8 [H, W, 3] of this size."""
    height, width = size
    for number, (shot, title) in enumerate(zip(shots, titles, strict=True), 1):
        plate = _plate(f"{number:02}", height)
        title_plate = _plate(title, height) if title.strip() else None
        for frame in shot.frames:
            picture = Image.fromarray(frame)
            if shot.size != size:
                picture = ImageOps.pad(picture, (width, height), Image.Resampling.LANCZOS)
            if numbers:
                corner = (height // 32, height - height // 32 - plate.height)
                picture.paste(plate, corner, plate)
            if title_plate is not None:
                place = (
                    (width - title_plate.width) // 2,
                    height - height // 12 - title_plate.height,
                )
                picture.paste(title_plate, place, title_plate)
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
