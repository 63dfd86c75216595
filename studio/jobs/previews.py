"""What the page shows of a job before it is done: a folder of the cache for each job.

`first.png`, and while a clip grows, and of the last ones that are done, `unit-0.jpg` ..
`unit-6.jpg`: the frames of a unit, not upscaled, below each other.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.events import UnitFrames
from studio.media.pictures import write_png
from studio.system.files import partial

WIDTH = 512  # pixels, at most
KEPT = 50  # jobs whose units stay


class Previews:
    """The folders of all jobs in `cache`."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache

    def clear(self, job_id: int) -> None:
        """Remove everything of a job."""
        shutil.rmtree(self.cache / str(job_id), ignore_errors=True)

    def keep_first(self, job_id: int, image: NDArray[np.uint8], metadata: dict[str, Any]) -> None:
        """Write the first frame, uint8 [H, W, 3]; it stays even where its clip is given up."""
        write_png(self.cache / str(job_id) / "first.png", image, metadata, overwrite=True)

    def add(self, job_id: int, event: UnitFrames) -> None:
        """Write the frames of a unit before they are upscaled, below each other."""
        step = -(-event.plain.shape[2] // WIDTH)
        strip = np.concatenate(event.plain[:, ::step, ::step])
        path = self.cache / str(job_id) / f"unit-{event.unit}.jpg"
        part = partial(path)
        with suppress(OSError):  # a clip is not given up for want of its preview
            Image.fromarray(strip).save(part, format="JPEG", quality=85)
            part.replace(path)

    def forget(self, recent: Collection[int]) -> None:
        """Remove the units of all other jobs."""
        names = set(map(str, recent))
        units: list[Path] = []
        with suppress(OSError):
            units += self.cache.glob("*/unit-*.jpg")
        for path in units:
            if path.parent.name not in names:
                with suppress(OSError):  # on Windows, while the page reads it
                    path.unlink()

    def sweep(self, folders: Collection[Path], older: float) -> None:
        """Remove parts of files that killed workers left here and in `folders`.

        older: seconds since the last write after which a part is nobody's any more.
        """
        parts: list[Path] = []
        for folder in folders:
            with suppress(OSError):  # the next job says what is wrong with it
                parts += folder.glob(".????????????.part")
        with suppress(OSError):
            parts += self.cache.glob("*/.*.part")
        for path in parts:
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > older:
                    path.unlink()
