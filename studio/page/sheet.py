"""The contact sheet of a batch: its tiles, and the one that is open."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from engine.config import Geometry
from studio.jobs.spec import Job, is_finished
from studio.language.catalogue import Speaker
from studio.page import html
from studio.page.player import bar


def sheet(rows: Sequence[Sequence[Job]], at: int | None, cache: Path, say: Speaker) -> str:
    """A strip for each prompt, or one of all where each has one; at: the job that is open."""
    if any(len({job.work.prompt for job in row}) == 1 < len(row) for row in rows):
        sets = (f"<section>{_strip(row, at, cache, say)}</section>" for row in rows)
        return f'<div class="sets">{"".join(sets)}</div>'
    return _strip([job for row in rows for job in row], at, cache, say)


def _strip(jobs: Sequence[Job], at: int | None, cache: Path, say: Speaker) -> str:
    """Tiles with their prompt, or below it where all have the same one."""
    common = len(jobs) > 1 and len({job.work.prompt for job in jobs}) == 1
    head = f"<h3>{escape(jobs[0].work.prompt)}</h3>" if common else ""
    tiles = "".join(_tile(job, job.id == at, cache, say, named=not common) for job in jobs)
    return f'{head}<ul class="strip">{tiles}</ul>'


def _tile(job: Job, shown: bool, cache: Path, say: Speaker, *, named: bool) -> str:
    prompt = escape(job.work.prompt)
    state = say(f"state.{job.state}")
    if job.state == "running":
        state += f" {job.fraction:.0%}"
    elif job.state == "done":
        state = " / ".join(map(str, (job.work.look_seed, job.work.motion_seed)))
    inside = html.picture(job, cache, 0, say, still=True)
    words = f'<p class="prompt">{prompt}</p>' if named else ""
    return (
        f'<li class="{job.state}{" shown" * shown}"><button class="film" data-do="open"'
        f' data-id="{job.id}" title="{escape(say.message(job.error) or job.work.prompt)}">'
        f"{inside}<span>{escape(state)}</span></button>{words}</li>"
    )


def opened(job: Job, cache: Path, geometry: Geometry, say: Speaker) -> str:
    """A job of the batch, large, with its prompt and what can be done to it."""
    stage = html.wall([job], cache, geometry.temporal_stride, say)
    player = bar(job.id, geometry, say) if is_finished(job) and job.work.kind == "clip" else ""
    steps = (
        ("before", "batch.before", "ArrowLeft"),
        ("after", "batch.after", "ArrowRight"),
        ("create", "player.create", ""),
        ("shut", "batch.shut", "Escape"),
    )
    buttons = "".join(
        f'<button class="verb" data-do="{verb}" data-id="{job.id}"'
        + (f' data-key="{key}"' if key else "")
        + f">{escape(say(name))}</button>"
        for verb, name, key in steps
    )
    return (
        f'{stage}{player}<p class="prompt">{escape(job.work.prompt)}</p>'
        f'<div class="caption">{buttons}</div>{html.caption(job, say)}'
    )
