"""Pictures in and out: a user's file to pixels, a first frame to a PNG with its settings inside."""

from __future__ import annotations

import json
import math
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import EpsImagePlugin, ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from engine.errors import Message, RequestError, reason_of
from studio.media.colour import BAND, painter
from studio.media.provenance import PACKET, PNG_KEYWORD
from studio.system.files import prepare, publish, writing

Bytes = NDArray[np.uint8]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
PIXELS = 2**24  # a larger picture is read at 1/2, 1/3.. of its size: the model draws 0.65 million
# Pixels that are taken at all: most formats are decoded whole, at 4 bytes a pixel; of a baseline
# JPEG only the pixels that stay; WebP and AVIF keep further copies.
LIMIT = 2**27
LIMITS = {"JPEG": 2**28, "MPO": 2**28, "WEBP": 5 * 10**7, "AVIF": 5 * 10**7}
HEAD = 64  # bytes that tell a format
OTHERS = {  # formats that are told by name
    b"%!PS": "a PostScript file",
    b"\xc5\xd0\xd3\xc6": "a PostScript file",
    b"%PDF": "a PDF document",
    b"8BPS": "a Photoshop file",
    b"gimp xcf": "a GIMP file",
    b"<svg": "an SVG drawing",
    b"\xff\x0a": "a JPEG XL picture",
    b"\0\0\0\x0cJXL ": "a JPEG XL picture",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 picture",
    b"\xff\x4f\xff\x51": "a JPEG 2000 picture",
    b"\0\0\1\0": "an icon",
    b"FUJIFILM": "camera raw",
}
KNOWN = (  # what begins like this is one of FORMATS
    *(b"\x89PNG", b"\xff\xd8", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"RIFF"),
)
SUBFILE, REDUCED = 254, 1  # TIFF: this one is a small copy of the picture, as in a camera's raw
# What Pillow's decoders raise for a file that is not as it should be.
DAMAGED = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, OSError),
    *(RuntimeError, SyntaxError, TypeError, ValueError, struct.error, zlib.error),
)

Image.MAX_IMAGE_PIXELS = max(LIMITS.values())
EpsImagePlugin.gs_binary = False  # whoever opens a picture in this process, it starts no program


def read_picture(path: Path) -> Bytes:
    """The picture in a file, upright, in sRGB, laid on white: uint8 [H, W, 3].

    Of an animation it is the first picture. One of more than PIXELS comes smaller. Raises
    RequestError.
    """
    with _opened(path) as file:
        _check_size(path, file)
        shrink = _shrink(file)
        file.draft(None, (file.width // shrink, file.height // shrink))  # a JPEG, when it is read
        shrink = _shrink(file)
        file.load()
        small = Image.new("RGB", (-(-file.width // shrink), -(-file.height // shrink)))
        paint = painter(file)
        rows = max(1, BAND // file.width // shrink) * shrink
        for top in range(0, file.height, rows):
            part = file.crop((0, top, file.width, min(top + rows, file.height)))
            small.paste(paint(part).reduce(shrink), (0, top // shrink))
        _turn_upright(small, file)
    return np.asarray(small)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The open picture; raises RequestError in place of whatever reading it does."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for without end
            raise RequestError(
                "{path} is a folder or a device and cannot be read; choose a picture.", path=path
            )
        with path.open("rb") as stream:
            head = stream.read(HEAD)
            stream.seek(0)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    warnings.simplefilter("error", Image.DecompressionBombWarning)
                    with Image.open(stream, formats=FORMATS) as file:
                        yield file
            except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
                raise RequestError(
                    "The picture {path} has more than the {limit} million pixels that can be "
                    "read; make it smaller first.",
                    path=path,
                    limit=LIMITS["JPEG"] // 10**6,
                ) from error
            except MemoryError as error:
                raise RequestError(
                    "The picture {path} needs more memory than is free; make it smaller first.",
                    path=path,
                ) from error
            except DAMAGED as error:
                if isinstance(error, OSError) and error.errno:
                    raise
                raise _explained(path, head, isinstance(error, UnidentifiedImageError)) from error
    except (OSError, ValueError) as error:  # a NUL in the name is a ValueError
        raise RequestError(
            "The picture {path} cannot be read ({reason}); choose another file.",
            path=path,
            reason=reason_of(error),
        ) from error


def _explained(path: Path, head: bytes, unidentified: bool) -> RequestError:
    """What is wrong with a picture that could not be read, by its first bytes."""
    if not head:
        return RequestError(
            "The picture {path} is empty and cannot be read; choose another.", path=path
        )
    kind = _other_format(head) if unidentified else ""
    if kind:
        return _unread(path, kind)
    if unidentified and not head.startswith(KNOWN):
        return RequestError(
            "{path} is not a picture and cannot be read; choose a PNG or JPEG.", path=path
        )
    return RequestError(
        "The picture {path} is damaged or incomplete and cannot be read; save or copy it once more,"
        " or choose another.",
        path=path,
    )


def _unread(path: Path, kind: str) -> RequestError:
    return RequestError(
        "The picture {path} is {kind}, which cannot be read here; save it as PNG or JPEG first.",
        path=path,
        kind=Message(kind),
    )


def _other_format(head: bytes) -> str:
    """The name of a format that is none of ours, "" where it is not known."""
    if head[4:8] == b"ftyp":
        brands = {head[k : k + 4] for k in range(8, len(head) - 3, 4)}
        if brands & {b"avif", b"avis"}:
            return "an AVIF picture"
        if brands & {b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"}:
            return "a HEIC picture"
        return "camera raw" if b"crx " in brands else "a video"
    return next((name for start, name in OTHERS.items() if head.startswith(start)), "")


def _check_size(path: Path, file: Image.Image) -> None:
    """Raise RequestError for more pixels than are taken, or where they are not the picture's."""
    tags = getattr(file, "tag_v2", {})
    if tags.get(SUBFILE, 0) & REDUCED:
        raise _unread(path, "camera raw")
    limit = LIMITS.get(str(file.format), LIMIT)
    if file.info.get("progressive"):  # all of its coefficients are kept until the end
        limit = LIMIT
    if file.width * file.height > limit:
        raise RequestError(
            "The picture {path} has {width} x {height} pixels; at most {limit} million can be "
            "read. Make it smaller first.",
            path=path,
            width=file.width,
            height=file.height,
            limit=limit // 10**6,
        )


def _shrink(file: Image.Image) -> int:
    """Every so many rows and columns of a picture become one."""
    return math.ceil(math.sqrt(file.width * file.height / PIXELS))


def _turn_upright(picture: Image.Image, file: Image.Image) -> None:
    """Turn the picture as its file says; TIFFs are turned when they are loaded."""
    turn = Image.Exif()
    try:
        turn[ExifTags.Base.Orientation] = file.getexif().get(ExifTags.Base.Orientation, 1)
        picture.info["exif"] = turn.tobytes()
    except DAMAGED:
        return
    ImageOps.exif_transpose(picture, in_place=True)


def marked() -> PngInfo:
    """Text for a PNG that says it was made by a trained algorithm."""
    info = PngInfo()
    info.add_itxt(PNG_KEYWORD, PACKET)
    return info


def write_png(
    path: Path,
    image: Bytes,
    metadata: Mapping[str, Any],
    *,
    overwrite: bool = False,
    accept: Callable[[Path], bool] = lambda path: True,
) -> Path:
    """Write an image, uint8 [H, W, 3], as `write_mp4` does a clip, and return its file.

    Raises OutputError.
    """
    path = prepare(path, ".png")
    text = marked()
    text.add_itxt("Comment", json.dumps(metadata, ensure_ascii=False).encode("utf-8", "replace"))
    with writing(path) as part:
        Image.fromarray(image).save(part, format="PNG", pnginfo=text)
        return publish(part, path, overwrite, accept)
