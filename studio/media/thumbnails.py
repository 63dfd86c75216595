"""Small pictures of clips and first frames, made when first asked for and kept in the cache."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from PIL import Image

from studio.media.sidecars import KINDS
from studio.media.video import PICTURES, ffmpeg
from studio.system.files import OutputError, open_regular, partial

WIDTH = 320  # pixels
QUALITY = 82


def thumbnail(path: Path, cache: Path) -> Path:
    """A JPEG of a first frame, or of a clip's, WIDTH wide; raises OutputError where it is none."""
    try:
        state = path.stat()
        name = hashlib.sha256(f"{path} {state.st_mtime_ns} {state.st_size}".encode()).hexdigest()
        small = cache / "thumbnails" / f"{name[:24]}.jpg"
        if small.is_file():
            return small
        small.parent.mkdir(parents=True, exist_ok=True)
        part = partial(small)
        try:
            if KINDS.get(path.suffix.lower()) == "clip":
                _of_clip(path, part)
            else:
                with open_regular(path) as file, Image.open(file, formats=["PNG"]) as image:
                    image.thumbnail((WIDTH, WIDTH))
                    image.convert("RGB").save(part, format="JPEG", quality=QUALITY)
            part.replace(small)
        finally:
            part.unlink(missing_ok=True)
        return small
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise OutputError(
            "{name} cannot be shown ({error}); choose another clip or first frame.",
            name=path.name,
            error=error,
        ) from error


def _of_clip(path: Path, part: Path) -> None:
    command = [ffmpeg(), "-nostdin", "-loglevel", "error", "-i", str(path.absolute())]
    command += ["-frames:v", "1", "-vf", f"{PICTURES},scale={WIDTH}:-2", "-q:v", "4"]
    done = subprocess.run([*command, "-f", "mjpeg", str(part)], capture_output=True)
    if done.returncode or not part.is_file() or not part.stat().st_size:
        raise ValueError(done.stderr.decode("utf-8", "replace").strip() or "it has no pictures")
