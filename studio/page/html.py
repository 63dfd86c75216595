"""What the page shows of jobs, as HTML; words from elsewhere are escaped.

What can be clicked carries `data-do` and `data-id`, which `SEND` hands to the page's handlers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote, unquote

from engine.config import Geometry
from engine.errors import Message
from studio.jobs.spec import PENDING, Job, Queue, is_finished
from studio.language.catalogue import Speaker
from studio.language.vocabulary import KINDS, Unknown
from studio.page.desk import Ruler

# The clicks on anything with `data-do` in an HTML component.
SEND = """element.addEventListener('click', event => {
  const target = event.target.closest('[data-do]');
  if (!target) return;
  event.preventDefault();
  const frames = neodragonFrames(target.closest('.player'));
  const many = event.shiftKey ? 'range' : event.ctrlKey || event.metaKey ? 'choose' : '';
  trigger('click', {verb: target.dataset.do, id: +target.dataset.id, many, ...frames});
});"""


# What can be done to a job that does not wait; all others can be retried.
EXAMPLES = 3  # prompts to click on an empty stage
MISTAKE = "data-mistake"
CUT = 40  # characters shown of what is not read
STRIP = {"running": ["skip"], "done": ["again"]}


def address(path: Path) -> str:
    """Where the page's server has a file."""
    return f"gradio_api/file={quote(path.as_posix())}"


def path_of(address: str) -> Path:
    """The file that `address` stands for."""
    return Path(unquote(address.partition("=")[2]))


def download(path: Path, label: str) -> str:
    """A link that saves a file."""
    name = escape(path.name)
    return f'<a class="download" href="{address(path)}" download="{name}">{escape(label)}</a>'


def thumbnail(path: Path, version: float) -> str:
    """Where it has a small picture of a clip or a first frame; version: changes with the file."""
    return f"thumbnail?path={quote(path.as_posix(), safe='')}&amp;v={version:.0f}"


def header(subtitle: str, say: Speaker) -> str:
    """The page's head, with what it runs on and the button of the queue's panel."""
    return (
        f'<header><div class="eye"></div><h1>Neodragon Studio</h1><p>{escape(subtitle)}</p>'
        '<button class="verb" id="queue-button" aria-expanded="false" aria-controls="queue"'
        f' title="Q">{escape(say("panel.title"))} <b>0</b></button></header>'
    )


def empty(say: Speaker, examples: Sequence[str] = ()) -> str:
    """Before anything was made: how it goes, prompts to click, and where the large model is."""
    tries = "".join(button("example", n, prompt) for n, prompt in enumerate(examples[:EXAMPLES]))
    return (
        '<div class="stage"><div class="hint"><div class="eye"></div>'
        f"<p>{escape(say('stage.empty'))}</p>{tries}"
        f"<p><kbd>Ctrl</kbd> <kbd>Enter</kbd> {escape(say('stage.enter'))}</p>"
        f'<p class="card"><b>{escape(say("full.title"))}</b>'
        '<button class="verb" data-tab="models" data-card="full-size">'
        f"{escape(say('stage.full'))}</button></p>"
        "</div></div>"
    )


def history(say: Speaker) -> str:
    """Back and on in what stood in the prompt (history.js)."""
    return "".join(
        f'<button class="verb" data-history="{name}" disabled'
        f' aria-label="{escape(say(f"prompt.{name}"))}" title="{escape(say(f"prompt.{name}"))}'
        f' ({keys})">{sign}</button>'
        for name, sign, keys in (("undo", "↶", "Ctrl+Z"), ("redo", "↷", "Ctrl+Shift+Z"))
    )


def examples(prompts: Sequence[str], say: Speaker) -> str:
    """Prompts to click."""
    lines = "".join(button("example", number, prompt) for number, prompt in enumerate(prompts))
    return f'<p class="label">{escape(say("examples.label"))}</p><div class="lines">{lines}</div>'


def wall(
    jobs: Sequence[Job], cache: Path, stride: int, say: Speaker, picked: Collection[int] = ()
) -> str:
    """One job large, or several side by side, first frames to be picked among; "" without any."""
    if not jobs:
        return ""
    if len(jobs) == 1:
        return f'<div class="stage">{picture(jobs[0], cache, stride, say)}</div>'
    cells = []
    for number, job in enumerate(jobs, 1):
        inside = picture(job, cache, stride, say, alone=False)
        on = job.id in picked
        verb = "pick" if job.work.kind == "frame" else "show"
        cells.append(
            f'<button class="cell" data-do="{verb}" data-id="{job.id}" data-key="{number}"'
            f' aria-pressed="{str(on).lower()}" aria-label="{number}, {job.work.look_seed}">'
            f"{inside}<b>{number}</b></button>"
        )
    columns = math.ceil(math.sqrt(len(jobs)))
    return f'<div class="stage wall" style="--columns: {columns}">{"".join(cells)}</div>'


def picture(
    job: Job, cache: Path, stride: int, say: Speaker, *, still: bool = False, alone: bool = True
) -> str:
    """A job as far as it is: its clip (or first frame, where `still`), what grows, or a word.

    still: a clip plays while it is pointed at; alone: with what it was before the upscaler.
    """
    label = escape(job.work.prompt)
    first = cache / str(job.id) / "first.png"
    film = ""
    if is_finished(job) and job.result is not None:
        film = f' data-film="{address(job.result)}"'
        if job.work.kind == "frame":
            return f'<img src="{address(job.result)}" alt="{label}" loading="lazy">'
        if not still:
            return (
                f'<video src="{address(job.result)}" aria-label="{label}"'
                " autoplay loop muted playsinline></video>"
            ) + (before(job, cache, stride, say) if alone and job.work.upscale else "")
    if job.state == "running" and job.units and not still:
        return (
            f'<canvas class="growing" role="img" aria-label="{label}" data-units="{job.units}"'
            f' data-stride="{stride}" data-folder="{address(first.parent)}"></canvas>'
        )
    if first.is_file():
        return f'<img src="{address(first)}" alt="{label}" loading="lazy"{film}>'
    if film and job.result is not None:  # its preview is gone
        small = thumbnail(job.result, job.finished or 0)
        return f'<img src="{small}" alt="{label}" loading="lazy"{film}>'
    return f'<p class="word">{escape(say(f"state.{job.state}"))}</p>'


def before(job: Job, cache: Path, stride: int, say: Speaker) -> str:
    """A clip as it was before the upscaler, over it as far as a slider says; "" if not kept."""
    folder = cache / str(job.id)
    if not job.units or not (folder / f"unit-{job.units - 1}.jpg").is_file():
        return ""
    label = escape(say("compare.label"))
    return (
        f'<canvas class="before" data-units="{job.units}" data-stride="{stride}"'
        f' data-folder="{address(folder)}"></canvas>'
        f'<div class="split"><span>{escape(say("compare.before"))}</span>'
        f"<span>{escape(say('compare.after'))}</span><i></i>"
        f'<input class="compare" type="range" min="0" max="100" value="0" aria-label="{label}"'
        f' title="{label}"></div>'
    )


def progress(job: Job | None, seconds: float | None, say: Speaker) -> str:
    """How far the running job is, what it does and how long it still takes."""
    if job is None:
        return ""
    percent = round(100 * job.fraction)
    stage = say(f"doing.{job.stage}") if job.stage else ""
    left = "" if seconds is None else say("doing.left", seconds=max(1, round(seconds)))
    return (
        f'<div class="progress" role="progressbar" aria-valuenow="{percent}"'
        f' aria-label="{escape(stage or job.work.prompt)}">'
        f'<div style="width: {percent}%"></div></div>'
        f'<p class="doing">{escape(stage)}<span>{percent} % {escape(left)}</span></p>'
        + "".join(f'<p class="aside">{escape(say.message(notice))}</p>' for notice in job.notices)
    )


def caption(job: Job, say: Speaker, *, takes: bool = False) -> str:
    """The facts of a job that ended, where its file is, and what to do with it.

    takes: whether its prompt has several first frames to go back to.
    """
    chips = {say("seed.look"): str(job.work.look_seed)}
    if job.work.kind == "clip":
        seeds = [job.work.motion_seed, *(fork.motion_seed for fork in job.work.forks)]
        chips[say("seed.motion")] = " → ".join(map(str, seeds))
    if job.seconds is not None and job.state == "done":
        chips[say("caption.seconds")] = f"{job.seconds:.1f} s"
    facts = "".join(
        f"<li><span>{escape(name)}</span>{escape(value)}</li>" for name, value in chips.items()
    )
    verbs: list[str] = []
    text = " ".join(map(say.message, [job.error] if job.error else job.notices))
    if is_finished(job) and job.result is not None:
        verbs = ["similar", "remix"] if job.work.kind == "frame" else ["extend", "remix"]
        verbs = ["takes"] * takes + verbs
        link = download(job.result, say("caption.download"))
        saved = say("caption.saved", name=job.result.name, folder=job.result.parent)
        text = f"{text} {saved}".strip()
    else:
        link = ""
    buttons = "".join(button(verb, job.id, say(f"verb.{verb}")) for verb in verbs)
    return f'<div class="caption"><ul>{facts}</ul>{buttons}{link}<p>{escape(text)}</p></div>'


def grouped(jobs: Sequence[Job]) -> list[Job | list[Job]]:
    """Jobs for the filmstrip: the finished first frames of one prompt become one group."""
    out: list[Job | list[Job]] = []
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        if not is_finished(job) or job.work.kind != "frame":
            out.append(job)
            continue
        key = job.work.prompt, job.work.pack
        if key not in groups:
            groups[key] = []
            out.append(groups[key])
        groups[key].append(job)
    return out


def strip(
    jobs: Sequence[Job | list[Job]],
    cache: Path,
    shown: Collection[int],
    say: Speaker,
) -> str:
    """The filmstrip: every job or group of takes, in that order, with what can be done to it."""
    if not jobs:
        return f'<p class="aside">{escape(say("queue.empty"))}</p>'
    tiles = []
    for item in jobs:
        takes = item if isinstance(item, list) else [item]
        job = takes[0]
        named = (
            ["edit", "earlier", "later", "remove"] if job.state in PENDING else STRIP.get(job.state)
        )
        buttons = "".join(
            button(verb, job.id, say(f"verb.{verb}")) for verb in (named or ["retry"])
        )
        state = say(f"state.{job.state}")
        if job.state == "running":
            state += f" {job.fraction:.0%}"
        verb = "show"
        if len(takes) > 1:
            verb, state, buttons = "takes", say("strip.takes", count=len(takes)), ""
        inside = picture(job, cache, 0, say, still=True)
        on = any(take.id in shown for take in takes)
        tiles.append(
            f'<li class="{job.state}{" shown" if on else ""}{" takes" if len(takes) > 1 else ""}">'
            f'<button class="film" data-do="{verb}" data-id="{job.id}"'
            f' title="{escape(say.message(job.error) or job.work.prompt)}">{inside}'
            f"<span>{escape(state)}</span></button>{buttons}</li>"
        )
    return f'<ul class="strip">{"".join(tiles)}</ul>'


def banner(queue: Queue, waiting: int, trouble: Message | None, say: Speaker) -> str:
    """Why nothing goes on, with the button that lets it."""
    if trouble:
        return failure(say.message(trouble))
    if not queue.paused or not waiting:
        return ""
    text = f"{say('queue.paused', count=waiting)} {say.message(queue.reason)}".strip()
    resume = button("resume", 0, say("verb.resume"))
    return f'<div class="notice banner" role="status"><p>{escape(text)}</p>{resume}</div>'


def chip(path: Path, say: Speaker) -> str:
    """What the next clips begin with, and the cross that removes it."""
    label = escape(say("picture.remove"))
    return (
        f'<p class="chip"><img src="{address(path)}" alt="">{escape(say("picture.chip"))}'
        f'<button class="verb" data-do="remove" data-id="0" aria-label="{label}"'
        f' title="{label}">✕</button></p>'
    )


def branch(unit: int, geometry: Geometry, say: Speaker) -> str:
    """Which frames the next clips keep of another, and the cross that removes it."""
    label = escape(say("fork.remove"))
    text = say("fork.chip", last=(unit - 1) * geometry.temporal_stride)
    return (
        f'<p class="chip">{escape(text)}'
        f'<button class="verb" data-do="remove" data-id="0" aria-label="{label}"'
        f' title="{label}">✕</button></p>'
    )


def crop(source: str, aspect: float, say: Speaker) -> str:
    """A picture with a frame to drag over it (`neodragonCrop` in page.js)."""
    label = escape(say("picture.crop"))
    return (
        f'<div class="crop" data-aspect="{aspect}" data-zoom="1" data-across="0.5" data-down="0.5">'
        f'<img src="{source}" alt=""><div class="frame" tabindex="0" role="application"'
        f' aria-label="{label}"></div></div><p class="aside">{label}</p>'
    )


def ruler(rulers: Sequence[Ruler], unknown: Sequence[Unknown], say: Speaker) -> str:
    """How much of the prompt each encoder reads, and the words that the pack was not taught."""
    parts = []
    for part in rulers:
        over = ' class="over"' if part.cut else ""
        cut = ""
        if part.cut:
            rest = part.cut if len(part.cut) <= CUT else part.cut[:CUT].rsplit(" ", 1)[0] + " …"
            count = escape(say("ruler.cut", count=len(part.cut)))
            cut = f' · {count} <s title="{escape(part.cut)}">{escape(rest)}</s>'
        name = escape(say(f"ruler.{part.encoder.lower()}"))
        parts.append(f"<li{over}>{name} {part.tokens}/{part.limit}{cut}</li>")
    if unknown:
        marked = ", ".join(
            f"<s>{escape(one.word)}</s>" + (f" → {escape(one.nearest)}" if one.nearest else "")
            for one in unknown
        )
        parts.append(f'<li class="unknown">{escape(say("ruler.unknown"))} {marked}</li>')
    return f'<ul class="ruler" aria-live="polite">{"".join(parts)}</ul>'


def vocabulary(knows: Mapping[str, Sequence[str]], say: Speaker) -> str:
    """The phrases a pack was taught, by kind."""
    rows = [
        f"<dt>{escape(say(f'knows.{kind}'))}</dt><dd>{escape(', '.join(knows[kind]))}</dd>"
        for kind in KINDS
        if knows.get(kind)
    ]
    return f'<dl class="knows">{"".join(rows)}</dl>'


# What each key does, by the key's name on the sheet and the string that explains it.
KEYS = (
    ("Ctrl+Enter", "verb.animate"),
    ("Ctrl+Shift+Enter", "verb.draw"),
    ("Esc", "stop.all"),
    ("Ctrl+Z", "prompt.undo"),
    ("K", "keys.play"),
    ("J L", "keys.shuttle"),
    (", .", "keys.frame"),
    ("I O", "keys.marks"),
    ("1 – 9", "keys.pick"),
    ("Alt+1 – 6", "keys.tab"),
    ("Q", "keys.queue"),
    ("← →", "keys.step"),
    ("P", "keys.keep"),
    ("X", "keys.reject"),
    ("Ctrl + ☝", "keys.choose"),
    ("Shift + ☝", "keys.range"),
    ("J", "keys.join"),
    ("1 – 5", "keys.stars"),
    ("Z", "keys.undo"),
    ("?", "keys.sheet"),
)


def keys(say: Speaker) -> str:
    """The sheet that lists every key; hidden until `?` is pressed."""
    lines = "".join(
        f"<dt><kbd>{escape(key)}</kbd></dt><dd>{escape(say(name))}</dd>" for key, name in KEYS
    )
    return (
        f'<dialog id="keys" aria-label="{escape(say("keys.title"))}"><h2>'
        f"{escape(say('keys.title'))}</h2><dl>{lines}</dl>"
        f'<form method="dialog"><button class="verb">{escape(say("keys.close"))}</button></form>'
        "</dialog>"
    )


def notice(sentence: str) -> str:
    """Something the user should know and can live with."""
    return f'<p class="notice" role="status">{escape(sentence)}</p>'


def failure(sentence: str) -> str:
    """What went wrong, in the error's one sentence."""
    return f'<p class="failure" role="alert">{escape(sentence)}</p>'


def mistake(sentence: str) -> str:
    """What is wrong in the controls; it goes when it is mended."""
    return f'<p class="failure" role="alert" {MISTAKE}>{escape(sentence)}</p>'


def button(verb: str, number: int, label: str) -> str:
    """Something to click."""
    return f'<button class="verb" data-do="{verb}" data-id="{number}">{escape(label)}</button>'
