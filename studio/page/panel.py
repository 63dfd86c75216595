"""The queue as a panel on every tab: what runs, what waits and in which order, what has failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from studio.jobs.spec import PENDING, RUNNING, Job
from studio.language.catalogue import Speaker
from studio.page import html
from studio.page.desk import Desk

ROWS = 50  # waiting jobs listed
FAILED = 5  # failed ones

# Rows that are dragged to another place, beside the clicks.
SORT = f"{html.SEND}\nneodragonSort(element, trigger);"


@dataclass(frozen=True)
class Load:
    """What is in the queue now. seconds: until all of it is done, None where that is unknown."""

    running: Job | None
    waiting: Sequence[Job]
    count: int
    failed: Sequence[Job]
    seconds: float | None


def load(desk: Desk) -> Load:
    """The queue of a desk; of what failed, that which the user has not put aside."""
    table = desk.table
    running = next(iter(table.jobs(RUNNING)), None)
    failed = [job for job in table.jobs(["failed"], newest=FAILED) if job.id > desk.dismissed]
    waiting, count = table.jobs(PENDING, next_=ROWS), table.count(PENDING)
    listed = [*([] if running is None else [running]), *waiting]
    seconds = table.seconds_left(listed) if listed else None
    if seconds is not None and count > len(waiting):  # the others are taken to be like these
        seconds *= count / len(waiting)
    return Load(running, waiting, count, failed, seconds)


def now(queue: Load, seconds: float | None, cache: Path, say: Speaker) -> str:
    """The head of the panel: the running job; numbers for the tab's title and icon (queue.js)."""
    job = queue.running
    percent = "" if job is None else round(100 * job.fraction)
    head = say("panel.idle")
    if job or queue.count:
        head = say("panel.waiting", count=queue.count)
        if queue.seconds is not None:
            head += " · " + _time(queue.seconds, say)
    inside = ""
    if job is not None:
        left = "" if seconds is None else say("doing.left", seconds=max(1, round(seconds)))
        inside = (
            f'<div class="queued"><div class="film">{html.picture(job, cache, 0, say, still=True)}'
            f"</div><p>{escape(job.work.prompt)}<small>{percent} % {escape(left)}</small></p>"
            f"{html.button('skip', job.id, say('verb.skip'))}</div>"
            f'<progress max="100" value="{percent}" aria-label="{escape(job.work.prompt)}">'
            "</progress>"
        )
    return (
        f'<div class="load" data-percent="{percent}" data-waiting="{queue.count}"'
        f' data-failed="{len(queue.failed)}"><p class="aside">{escape(head)}</p>{inside}</div>'
    )


def rows(queue: Load, say: Speaker) -> str:
    """What waits, to be dragged or moved into another order, and red cards of what failed."""
    waiting = "".join(
        f'<li draggable="true" data-id="{job.id}"><p>{escape(job.work.prompt)}</p>'
        f"{_small('earlier', '↑', job, say)}{_small('later', '↓', job, say)}"
        f"{_small('remove', '✕', job, say)}</li>"
        for job in queue.waiting
    )
    more = queue.count - len(queue.waiting)
    more_words = f'<p class="aside">{escape(say("batch.told.more", count=more))}</p>'
    failed = "".join(
        f'<div class="failure card" role="alert"><p><b>{escape(job.work.prompt)}</b>'
        f"{escape(say.message(job.error))}</p>{html.button('retry', job.id, say('verb.retry'))}"
        f"{_small('dismiss', '✕', job, say)}</div>"
        for job in queue.failed
    )
    return f'{failed}<ol class="waiting">{waiting}</ol>{more_words if more > 0 else ""}'


def _small(verb: str, sign: str, job: Job, say: Speaker) -> str:
    label = escape(f"{say(f'verb.{verb}')}: {job.work.prompt}")
    return (
        f'<button class="verb" data-do="{verb}" data-id="{job.id}" aria-label="{label}"'
        f' title="{escape(say(f"verb.{verb}"))}">{sign}</button>'
    )


def _time(seconds: float, say: Speaker) -> str:
    if seconds < 90:
        return say("panel.seconds", count=max(1, round(seconds)))
    return say("batch.told.minutes", count=round(seconds / 60))
