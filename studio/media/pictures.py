"""Pictures in and out: a user's file to pixels, a first frame to a PNG with its settings inside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from engine.errors import RequestError
from studio.media.provenance import PACKET, PNG_KEYWORD
from studio.system.paths import OutputError, partial, prepare, publish

Bytes = NDArray[np.uint8]


def read_picture(path: Path) -> Bytes:
    """The picture in a file, turned upright and laid on white: uint8 [H, W, 3].

    Raises RequestError.
    """
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file).convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or "it is damaged or no picture"
        raise RequestError(
            f"The image {path} should be a picture, but it cannot be read ({reason});"
            " choose a PNG or JPEG."
        ) from error
    paper = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(paper, picture).convert("RGB"))


def marked() -> PngInfo:
    """Text for a PNG that says it was made by a trained algorithm."""
    info = PngInfo()
    info.add_itxt(PNG_KEYWORD, PACKET)
    return info


def write_png(
    path: Path, image: Bytes, metadata: Mapping[str, Any], *, overwrite: bool = False
) -> Path:
    """Write an image, uint8 [H, W, 3], as `write_mp4` does a clip, and return its file.

    Raises OutputError.
    """
    path = prepare(path, ".png")
    part = partial(path)
    text = marked()
    text.add_itxt("Comment", json.dumps(metadata, ensure_ascii=False).encode("utf-8", "replace"))
    try:
        Image.fromarray(image).save(part, format="PNG", pnginfo=text)
        return publish(part, path, overwrite)
    except OSError as error:
        raise OutputError(
            f"The frame should be written to {path}, but it is not ({error.strerror or error});"
            " free some space or choose another folder."
        ) from error
    finally:
        part.unlink(missing_ok=True)
