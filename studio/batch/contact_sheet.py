"""The contact sheet of a batch: a row for each prompt, a column for each pair of its seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from engine.errors import NeodragonError
from studio.jobs.spec import Job, is_finished
from studio.media.thumbnails import WIDTH, thumbnail
from studio.system.files import prepare, publish, writing

GAP = 16  # pixels
LINE = 22
PAPER, INK, FAINT = (250, 250, 249), (24, 24, 27), (113, 113, 122)
MOST = 400  # pictures on a sheet


def rows_of(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs of each prompt together, prompts and seeds in the order of the list.

    Where every prompt has one, they go side by side, as many rows as columns.
    """
    prompts: dict[str, list[Job]] = {}
    for job in jobs:
        prompts.setdefault(job.work.prompt, []).append(job)
    rows = list(prompts.values())
    if rows and max(map(len, rows)) == 1:
        columns = math.ceil(math.sqrt(len(rows)))
        rows = [list(jobs[k : k + columns]) for k in range(0, len(jobs), columns)]
    return rows


def contact_sheet(jobs: Sequence[Job], target: Path, cache: Path) -> Path | None:
    """Write the sheet of what is finished (`*.jpg`), over nothing; where it is, None for nothing.

    cache: folder of small pictures. Raises OutputError.
    """
    target = prepare(target, ".jpg")
    small = [(job, _picture(job, cache)) for job in jobs if is_finished(job)][:MOST]
    shown = {job.id: picture for job, picture in small if picture is not None}
    if not shown:
        return None
    rows = rows_of([job for job in jobs if job.id in shown])
    height = max(picture.height for picture in shown.values())
    across, down = WIDTH + GAP, height + 2 * LINE + GAP
    size = (GAP + across * max(map(len, rows)), GAP + down * len(rows))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    font, thin = ImageFont.load_default(15), ImageFont.load_default(13)
    for y, row in enumerate(rows):
        for x, job in enumerate(row):
            left, top = GAP + x * across, GAP + y * down
            sheet.paste(shown[job.id], (left, top))
            caption = _fitting(job.work.prompt, font)
            seeds = str(job.work.look_seed)
            if job.work.kind == "clip":
                seeds += f" / {job.work.motion_seed}"
            draw.text((left, top + height + 2), caption, INK, font)
            draw.text((left, top + height + LINE), seeds, FAINT, thin)
    with writing(target) as part:
        sheet.save(part, format="JPEG", quality=88)
        return publish(part, target, overwrite=False)


def _picture(job: Job, cache: Path) -> Image.Image | None:
    """A small picture of a finished job, None where it cannot be read any more."""
    assert job.result is not None
    try:
        with Image.open(thumbnail(job.result, cache), formats=["JPEG"]) as image:
            picture: Image.Image = image.convert("RGB")
        return picture
    except (NeodragonError, OSError):
        return None


def _fitting(caption: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The words in one line, as many as are no wider than a picture."""
    caption = " ".join(caption.split())
    if font.getlength(caption) <= WIDTH:
        return caption
    while caption and font.getlength(caption + "…") > WIDTH:
        caption = caption[:-1]
    return caption + "…"
