"""The card *Neodragon, full size* in *Models*: its licence, its weights, a pack built of them.

Nothing is fetched until *Download* is pressed. A download is a process that ends with the app
and goes on from where it was; a build is one of its own (`studio.model.build`) that outlives it.
"""

from __future__ import annotations

import json
import subprocess
import threading
from html import escape
from pathlib import Path

import gradio as gr

from builder.published import LICENCES
from engine.errors import Message, NeodragonError
from engine.session import CHIPS, this_chip
from studio.language.catalogue import Speaker
from studio.model import build, download
from studio.page import html
from studio.page.desk import Desk
from studio.page.events import QUICK
from studio.system.environment import as_found

GIGABYTE = 1e9
LICENCE_LIMIT = 2**16  # bytes of each that are shown


class Fetching:
    """A download in a process of its own, which ends with this one: where it is, or why it ended.

    Of its own because the user's proxy, server and token are for it alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done = self.total = 0
        self.file = ""
        self.problem: Message | None = None
        with as_found():
            self.process = subprocess.Popen(
                [*build.command(), "model", "get", str(folder), "--lines"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="utf-8",
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def running(self) -> bool:
        """Whether it still fetches."""
        return self.process.poll() is None

    def stop(self) -> None:
        """End it; the next one goes on from what is there."""
        self.process.terminate()

    def _watch(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            report = json.loads(line)
            if "template" in report:
                self.problem = Message(report["template"], report["values"])
            else:
                self.done, self.total, self.file = report["done"], report["total"], report["file"]
        self.process.wait()


def licences(folder: Path) -> dict[str, str]:
    """The licence files that lie with weights, by name."""
    files = sorted(path for path in folder.glob("*") if path.is_file())
    named = [path for path in files if path.name.upper().startswith(LICENCES)]
    return {
        path.name: path.read_bytes()[:LICENCE_LIMIT].decode("utf-8", "replace") for path in named
    }


def targets() -> tuple[list[tuple[str, str]], str]:
    """What a pack can be built for, as name and value, and the one for this machine."""
    choices = [(chip.name, chip.target) for chip in CHIPS]
    mine = this_chip()
    return choices, mine.target if mine else "cpu"


class FullSizeCard:
    """Lays the card out."""

    def __init__(self, desk: Desk, say: Speaker, changes: gr.HTML) -> None:
        self.desk, self.say, self.changes = desk, say, changes
        desk.watched.append(self._progress)
        self.agreed_file = desk.data / "licence.json"
        self.fetching: Fetching | None = None
        choices, mine = targets()
        every = [(say("full.cpu"), "cpu"), (say("full.portable"), "portable"), *choices]
        with gr.Accordion(say("full.title"), open=False, elem_id="full-size"):
            gr.HTML(f"<p>{escape(say('full.about'))}</p>")
            self.weights = gr.Textbox(
                label=say("full.weights"),
                value=str(desk.data / "weights"),
                elem_id="full-weights",
            )
            text = say("full.from", page=download.PAGE, folder="text_encoder")
            gr.HTML(f"<p>{escape(text)}</p>")
            with gr.Row():
                self.fetch = gr.Button(say("full.download"), elem_id="full-download")
                self.stop = gr.Button(say("full.stop"), elem_id="full-stop", interactive=False)
            self.fetched = gr.HTML(elem_id="full-fetched")
            self.terms = gr.HTML(elem_id="full-licence")
            self.agree = gr.Checkbox(label=say("full.agree"), elem_id="full-agree")
            self.target = gr.Dropdown(every, value=mine, label=say("full.for"), elem_id="full-for")
            with gr.Row():
                self.go = gr.Button(say("full.build"), variant="primary", elem_id="full-build")
                self.pause = gr.Button(say("full.pause"), elem_id="full-pause", interactive=False)
            self.built = gr.HTML(elem_id="full-built")
        self._wire()

    def _wire(self) -> None:
        halts = [self.stop, self.pause]
        self.fetch.click(self._download, self.weights, [self.fetched, *halts], **QUICK)
        self.stop.click(self._stop, None, [self.fetched, *halts], **QUICK)
        self.weights.change(self._terms, self.weights, [self.terms, self.agree], **QUICK)
        asked = [self.weights, self.target, self.agree]
        self.go.click(self._build, asked, [self.built, *halts], **QUICK)
        self.pause.click(self._pause, None, [self.built, *halts], **QUICK)
        self.changes.click(
            self._look,
            [self.weights, self.fetched, self.built, self.terms],
            [self.fetched, self.built, self.terms, *halts],
            **QUICK,
        )

    def open(self, tab: gr.Tab) -> None:
        """Show what an unfinished build is of and for, the licence, and whether it was accepted."""
        shown = [self.weights, self.target, self.terms, self.agree, self.stop, self.pause]
        tab.select(self._unfinished, self.weights, shown, **QUICK)

    def _halts(self) -> tuple[gr.Button, gr.Button]:
        """The buttons that stop something, alive where it runs."""
        status = build.status()
        fetches = self.fetching is not None and self.fetching.running
        builds = status is not None and status.state == "running"
        return gr.Button(interactive=fetches), gr.Button(interactive=builds)

    # The weights

    def _download(self, folder: str) -> tuple[str, gr.Button, gr.Button]:
        if self.fetching is None or not self.fetching.running:
            self.fetching = Fetching(Path(folder.strip().strip('"')))
        return self._fetched(), *self._halts()

    def _progress(self) -> object:
        """Differs whenever there is something new about the download or the build."""
        one, built = self.fetching, build.status_file()
        progress = one and (one.running, 100 * one.done // max(1, one.total), one.file, one.problem)
        return progress, built.stat().st_mtime_ns if built.exists() else 0

    def _stop(self) -> tuple[str, gr.Button, gr.Button]:
        if self.fetching is not None:
            self.fetching.stop()
        return self._fetched(), *self._halts()

    def _fetched(self) -> str:
        """How far the download is."""
        one = self.fetching
        if one is None:
            return ""
        if one.problem is not None:
            return html.failure(self.say.message(one.problem))
        if one.total and one.done == one.total and not one.running:
            return html.notice(self.say("full.fetched", folder=one.folder))
        done, total = (self.say.number(n / GIGABYTE, 2) for n in (one.done, one.total))
        text = self.say("full.fetching", done=done, total=total, file=one.file)
        bar = f'<progress max="{max(1, one.total)}" value="{one.done}"></progress>'
        return f'{bar}<p class="aside" aria-live="polite">{escape(text)}</p>'

    def _unfinished(self, folder: str) -> tuple[object, ...]:
        status = build.status()
        if status is None or status.state not in ("paused", "interrupted", "failed"):
            # An answer would close the list of targets, which may be open by now.
            return gr.skip(), gr.skip(), *self._terms(folder), *self._halts()
        return status.weights, status.target, *self._terms(status.weights), *self._halts()

    # The licence

    def _terms(self, folder: str) -> tuple[str, bool]:
        try:
            agreed = json.loads(self.agreed_file.read_text(encoding="utf-8")) == folder
        except (OSError, ValueError):  # never agreed, or the note of it is damaged: ask again
            agreed = False
        return self._shown_terms(folder), agreed

    def _shown_terms(self, folder: str) -> str:
        texts = licences(Path(folder.strip().strip('"')))
        if not texts:
            return f'<p class="aside">{escape(self.say("full.no_licence"))}</p>'
        return "".join(
            f"<details><summary>{escape(name)}</summary><pre>{escape(text)}</pre></details>"
            for name, text in texts.items()
        )

    # The pack

    def _build(self, folder: str, target: str, agreed: bool) -> tuple[str, gr.Button, gr.Button]:
        if not agreed:
            return html.failure(self.say("full.agree_first")), *self._halts()
        self.agreed_file.parent.mkdir(parents=True, exist_ok=True)
        self.agreed_file.write_text(json.dumps(folder), encoding="utf-8")
        weights = Path(folder.strip().strip('"'))
        try:
            build.start(weights, target)
        except NeodragonError as error:
            return html.failure(self.say.error(error)), *self._halts()
        return self._built(), *self._halts()

    def _pause(self) -> tuple[str, gr.Button, gr.Button]:
        try:
            build.pause()
        except NeodragonError as error:
            return html.failure(self.say.error(error)), *self._halts()
        return self._built(), *self._halts()

    def _built(self) -> str:
        """How far the build is, or how it ended; each graph's line."""
        status = build.status()
        if status is None:
            return ""
        name = Path(status.pack).name
        if status.problem is not None:
            head = html.failure(self.say.message(status.problem))
        elif status.state == "done":
            head = html.notice(self.say("full.built", name=name))
        else:
            text = self.say(f"full.{status.state}", name=name)
            step = self.say(f"full.step_{status.step}") if status.step else ""
            if status.left is not None and status.state == "running":
                step += " " + self.say("full.left", count=max(1, round(status.left / 60)))
            bar = f'<progress max="{max(1, status.total)}" value="{status.done}"></progress>'
            head = f'<p aria-live="polite">{escape(text)} {escape(step)}</p>{bar}'
        lines = escape("\n".join(status.lines))
        report = escape(self.say("full.report"))
        return f"{head}<details><summary>{report}</summary><pre>{lines}</pre></details>"

    def _look(
        self, folder: str, fetched: str | None, built: str | None, terms: str | None
    ) -> tuple[object, ...]:
        now = self._fetched(), self._built(), self._shown_terms(folder)
        changed = (
            gr.skip() if new == (old or "") else new
            for new, old in zip(now, (fetched, built, terms), strict=True)
        )
        return *changed, *self._halts()
