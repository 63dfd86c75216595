"""Whether a first frame may be shown: the published safety checker, where the pack has one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.errors import WithheldError
from engine.session import Session
from engine.vae import fit

Bytes = NDArray[np.uint8]

SIZE = 224  # of CLIP's pictures
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
SPECIAL_CARE = 0.01  # added to every concept once one of the special ones is seen


def check(checker: Session, image: Bytes) -> None:
    """Raise WithheldError where the checker sees a concept it was taught, in uint8 [H, W, 3]."""
    pixels = fit(image, SIZE, SIZE).astype(np.float32) / np.float32(255)
    scores = checker.run(image=((pixels - MEAN) / DEVIATION).transpose(2, 0, 1)[None])
    margin = float(scores["concepts"].max()) + SPECIAL_CARE * bool((scores["special"] > 0).any())
    if margin > 0:
        raise WithheldError(
            "The safety check withholds the first frame (by {margin:.3f}), maybe wrongly; try "
            "another look seed or prompt, or switch the check off in the settings.",
            margin=margin,
        )
