"""Convert pixels of any kind to what the model takes: sRGB, 8 bits, opaque.

Colours go through the embedded ICC profile where there is one that works, by Little CMS
(`PIL.ImageCms`). Transparent parts are put on white.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

Paint = Callable[[Image.Image], Image.Image]

GREY = ("1", "L", "LA", "La", "I", "F")  # and those that begin with `I;16`
SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # of a profile, and Pillow's mode for it
SCALES = (1.0, 255.0, 65535.0)  # white in floats: the first that the brightest is not far above
BITS_PER_SAMPLE, SAMPLE_FORMAT, SIGNED = 258, 339, 2  # TIFF
BAND = 2**22  # pixels


def painter(picture: Image.Image) -> Paint:
    """What turns a part of `picture` into an opaque sRGB image, mode RGB, of the same size."""
    deep = picture.mode == "F" or picture.mode.startswith("I")
    low, high = _range(picture) if deep else (0.0, 255.0)
    transform = _transform(picture)

    def paint(part: Image.Image) -> Image.Image:
        alpha = _clear(part) if deep else None
        if deep:
            part = _to_grey(part, low, high)
        elif part.has_transparency_data:
            part = part.convert("RGBA")
            alpha = part.getchannel("A")
        if transform is None:
            part = part.convert("RGB")
        else:
            part = transform.apply(part.convert(transform.input_mode))
        if alpha is not None:
            part = Image.composite(part, Image.new("RGB", part.size, "white"), alpha)
        return part

    return paint


def _transform(picture: Image.Image) -> ImageCms.ImageCmsTransform | None:
    """From the picture's own colours to sRGB; None where it has no profile that fits and works."""
    try:
        if picture.mode == "LAB":
            profile, mode = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), "LAB"
        else:
            data = picture.info.get("icc_profile")
            if not data:
                return None
            profile = ImageCms.ImageCmsProfile(BytesIO(data))
            mode = SPACES[profile.profile.xcolor_space.strip()]
            grey = picture.mode in GREY or picture.mode.startswith("I;16")
            if (mode == "CMYK") != (picture.mode == "CMYK") or (mode == "L" and not grey):
                return None
        return ImageCms.buildTransform(
            profile,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, KeyError, OSError, TypeError, ValueError):
        return None  # a broken profile costs the right colours, not the picture


def _range(picture: Image.Image) -> tuple[float, float]:
    """The values of black and white in a picture of more than 8 bits."""
    if picture.mode.startswith("I;16"):
        return 0.0, 65535.0
    if picture.mode == "I":
        tags = getattr(picture, "tag_v2", {})
        bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
        signed = SIGNED in np.atleast_1d(tags.get(SAMPLE_FORMAT, 1))
        return 0.0, 2.0 ** (bits - signed) - 1
    brightest = 0.0
    rows = max(1, BAND // picture.width)
    for top in range(0, picture.height, rows):
        band = np.asarray(picture.crop((0, top, picture.width, min(top + rows, picture.height))))
        brightest = max(brightest, float(band.max(initial=0, where=np.isfinite(band))))
    return 0.0, next((scale for scale in SCALES if brightest <= 2 * scale), brightest)


def _to_grey(part: Image.Image, low: float, high: float) -> Image.Image:
    """Values from `low` to `high` as mode L."""
    values: NDArray[np.generic] = np.asarray(part)
    if part.mode == "I" and high >= 2**31:
        values = values.view(np.uint32)  # Pillow has no mode for them
    floats = np.nan_to_num(values.astype(np.float32), nan=low, posinf=high, neginf=low)
    grey = (floats.clip(low, high) - low) * (255 / (high - low))
    return Image.fromarray(np.rint(grey).astype(np.uint8))


def _clear(part: Image.Image) -> Image.Image | None:
    """What is opaque in a deep grey picture that has a transparent value."""
    value = part.info.get("transparency")
    if not isinstance(value, int):
        return None
    return Image.fromarray(np.where(np.asarray(part) == value, 0, 255).astype(np.uint8))
