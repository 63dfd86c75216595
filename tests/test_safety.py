"""The safety checker: its graph against the published rule, and a clip that it withholds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import random_pack
from random_pack import exported

from engine.config import Request
from engine.errors import WithheldError
from engine.events import FirstFrame, StageDone
from engine.pack import open_pack
from engine.pipeline import generate
from engine.safety import DEVIATION, MEAN, SIZE

REQUEST = Request("a red kite", 1, 2, upscale=False)


def test_pictures_are_normalised_as_clip_does() -> None:
    import torch  # noqa: PLC0415 (the others need none)
    from transformers import CLIPImageProcessor  # noqa: PLC0415

    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    expected = CLIPImageProcessor()(torch.from_numpy(image.transpose(2, 0, 1)))["pixel_values"][0]
    mine = (image.astype(np.float32) / 255 - MEAN) / DEVIATION
    assert np.allclose(mine.transpose(2, 0, 1), np.asarray(expected), atol=1e-5)


@pytest.fixture(scope="module")
def strict() -> Path:
    """The random pack with a checker that withholds everything."""
    return random_pack.strict()


def test_a_withheld_clip_says_why_before_it_is_shown(strict: Path) -> None:
    seen = []
    with open_pack(strict) as pack, pytest.raises(WithheldError, match="safety check") as error:
        seen.extend(generate(pack, REQUEST, threads=1))
    assert not any(isinstance(event, FirstFrame) for event in seen)
    assert "switch the check off in the settings" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("lenient", "checked"), [(False, False), (True, True)])
def test_what_passes_or_is_not_checked_is_shown(strict: Path, lenient: bool, checked: bool) -> None:
    with open_pack(exported() if lenient else strict) as pack:
        done = set()
        for event in generate(pack, REQUEST, threads=1, checked=checked):
            if isinstance(event, StageDone):
                done.add(event.stage)
            if isinstance(event, FirstFrame):
                break
    assert ("safety" in done) is checked
