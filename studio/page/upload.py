"""The control that takes a picture: the file itself, for `studio.media.pictures` to read."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.data_classes import ImageData


def upload(**options: Any) -> gr.Image:
    """Gradio's image control without its own reading of the file; its value is the path.

    Gradio knows no 16 bits, colour profiles or transparency, and of a HEIC only that it is none of
    its formats.
    """
    control = gr.Image(type="filepath", **options)
    control.preprocess = _path  # type: ignore[method-assign]  # a class of ours writes stubs to disk
    return control


def _path(payload: ImageData | None) -> str | None:
    return None if payload is None else payload.path
