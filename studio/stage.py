"""What stands on the page's stage and around it, as HTML; words from elsewhere are escaped."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from studio.render import Meter

Bytes = NDArray[np.uint8]


def header(words: str) -> str:
    """The page's head, with what it runs on."""
    return (
        f'<header><div class="eye"></div><h1>Neodragon Studio</h1><p>{escape(words)}</p></header>'
    )


def empty() -> str:
    """Before anything was made."""
    return _box(
        '<div class="hint"><div class="eye"></div>'
        "<p>Describe a clip, try first frames until one is right, then animate it.</p>"
        "<p><kbd>Ctrl</kbd> <kbd>Enter</kbd> animates</p></div>"
    )


def picture(image: Bytes, label: str) -> str:
    """A first frame or the newest frame of a clip that is being made, uint8 [H, W, 3]."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="JPEG", quality=92, subsampling=0)
    data = base64.b64encode(file.getvalue()).decode()
    return _box(f'<img src="data:image/jpeg;base64,{data}" alt="{escape(label)}">')


def clip(path: Path, prompt: str) -> str:
    """A finished clip, looped."""
    return _box(
        f'<video src="{_address(path)}" aria-label="{escape(prompt)}"'
        " autoplay loop muted playsinline controls></video>"
    )


def progress(meter: Meter) -> str:
    """How far the work is."""
    percent = round(100 * meter.fraction)
    return (
        f'<div class="progress" role="progressbar" aria-valuenow="{percent}"'
        f' aria-label="{meter.words}"><div style="width: {percent}%"></div></div>'
        f'<p class="doing">{meter.words}<span>{percent} %</span></p>'
    )


def waiting() -> str:
    """Between the click and the work: another tab may be rendering."""
    return '<div class="progress waiting"><div></div></div><p class="doing">Starting</p>'


def caption(chips: dict[str, str], words: str, path: Path | None = None) -> str:
    """The facts of what is on the stage, a sentence and, of a clip, where to get it."""
    facts = "".join(
        f"<li><span>{escape(name)}</span>{escape(value)}</li>" for name, value in chips.items()
    )
    link = ""
    if path is not None:
        name = escape(path.name)
        link = f'<a class="download" href="{_address(path)}" download="{name}">Download</a>'
    return f'<div class="caption"><ul>{facts}</ul>{link}<p>{escape(words)}</p></div>'


def notice(sentence: str) -> str:
    """Something the user should know and can live with."""
    return f'<p class="notice" role="status">{escape(sentence)}</p>'


def failure(sentence: str) -> str:
    """What went wrong, in the error's one sentence."""
    return f'<p class="failure" role="alert">{escape(sentence)}</p>'


def _box(content: str) -> str:
    return f'<div class="stage">{content}</div>'


def _address(path: Path) -> str:
    return f"/gradio_api/file={quote(path.as_posix())}"
