"""The tab *Batch*: a list of prompts, what it would cost, and everything it made, side by side."""

from __future__ import annotations

import hashlib
import shutil
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from engine.errors import NeodragonError
from studio import batch, places
from studio import stage as html
from studio.desk import Desk
from studio.page_create import QUICK
from studio.stage import Say

TICK = 1.0  # seconds
SHEET = 100  # results shown at most
BAD = 50  # bad rows named at most


class BatchView:
    """Lays the tab out; `listed` is the file of this tab's list, `made` the id of its batch."""

    def __init__(self, desk: Desk, say: Say) -> None:
        self.desk, self.say = desk, say
        self.listed = gr.State(None)
        self.batch = gr.State(None)
        self.seen = gr.State("")
        with gr.Row(elem_classes="columns"):
            with gr.Column(elem_id="list", scale=0, min_width=380):
                self.text = gr.Textbox(
                    label=say("batch.paste"),
                    placeholder=say("batch.placeholder"),
                    lines=12,
                    max_lines=24,
                    elem_id="rows",
                )
                self.file = gr.File(
                    label=say("batch.drop"),
                    file_types=[".txt", ".csv", ".tsv", ".jsonl"],
                    height=90,
                    elem_id="list-file",
                )
                with gr.Row():
                    self.check = gr.Button(say("batch.check"), elem_id="check")
                    self.queue = gr.Button(say("batch.queue"), variant="primary", elem_id="enqueue")
                self.plan = gr.HTML(elem_id="plan")
                self.download = gr.DownloadButton(
                    say("batch.filled"), visible=False, elem_id="filled"
                )
            with gr.Column(min_width=320):
                self.sheet = gr.HTML(
                    f'<p class="aside">{escape(say("batch.hint"))}</p>', elem_id="sheet"
                )
        self.timer = gr.Timer(TICK)
        self._wire()

    def _wire(self) -> None:
        given = [self.text, self.file]
        self.check.click(self._check, given, [self.plan, self.listed], **QUICK)
        self.queue.click(
            self._enqueue, given, [self.plan, self.listed, self.batch, self.download], **QUICK
        )
        self.timer.tick(self._look, [self.batch, self.seen], [self.sheet, self.seen], **QUICK)
        self.download.click(self._filled, self.listed, self.download, **QUICK)

    def load(self, blocks: gr.Blocks) -> None:
        """Let the tab show the batch it was left with."""
        blocks.load(self._load, None, [self.batch, self.listed, self.download], **QUICK)

    def _load(self) -> tuple[Any, ...]:
        draft = self.desk.draft()
        listed = draft.get("list")
        return draft.get("batch"), listed, gr.update(visible=listed is not None)

    def _kept(self, text: str, file: str | None) -> Path:
        """The list as a file of ours: the same list again draws the same seeds."""
        folder = self.desk.data / "lists"
        folder.mkdir(parents=True, exist_ok=True)
        content = Path(file).read_bytes() if file else text.encode("utf-8", "replace")
        ending = Path(file).suffix if file else ".txt"
        path = folder / f"{hashlib.sha256(content).hexdigest()[:16]}{ending}"
        if not path.exists():
            part = places.partial(path)
            part.write_bytes(content)
            part.replace(path)
        return path

    def _read(self, text: str, file: str | None) -> tuple[Path, batch.PromptList]:
        try:
            path = self._kept(text or "", file)
        except OSError as error:
            raise batch.BatchError(
                f"The list should be kept in {self.desk.data}, but it is not ({error.strerror});"
                " free some space."
            ) from error
        options: dict[str, Any] = {} if file else {"format": None}
        return path, batch.read(path, self.desk.pack, self.desk.backend, **options)

    def _check(self, text: str, file: str | None) -> tuple[str, str | None]:
        try:
            path, prompts = self._read(text, file)
            return self._told(prompts), str(path)
        except NeodragonError as error:
            return html.failure(str(error)), None

    def _enqueue(self, text: str, file: str | None) -> tuple[Any, ...]:
        try:
            path, prompts = self._read(text, file)
            words = self._told(prompts)
            batch.enqueue(prompts, self.desk.table)
            if self.desk.table.queue().paused and not self.desk.trouble:
                words += html.notice(self.say("batch.paused"))
        except NeodragonError as error:
            return html.failure(str(error)), None, None, gr.update()
        keys = [entry.key for entry in prompts.entries]
        self.desk.keep_draft(batch=keys, list=str(path))
        return words, str(path), keys, gr.update(visible=True)

    def _told(self, prompts: batch.PromptList) -> str:
        """What queueing it would do, and each row that cannot be used."""
        bad = "".join(
            f"<li><b>{row.line}</b> {escape(row.reason)}</li>" for row in prompts.bad[:BAD]
        )
        bad = bad and f'<ol class="bad">{bad}</ol>'
        return html.notice(str(batch.plan(prompts, self.desk.table))) + bad

    def _filled(self, path: str | None) -> str | None:
        """The list with what has become of its rows, as a file to download."""
        if path is None:
            return None
        prompts = batch.read(Path(path), self.desk.pack, self.desk.backend)
        folder = self.desk.cache / "lists"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        target = folder / batch.beside(Path(path)).name
        target.write_text(batch.filled(prompts, self.desk.table), encoding="utf-8")
        return str(target)

    def _look(self, keys: list[str] | None, seen: str) -> tuple[Any, Any]:
        """The contact sheet of the batch as far as it is."""
        if not keys:
            return gr.skip(), gr.skip()
        try:
            jobs = self.desk.table.by_key(keys)
        except NeodragonError as error:
            return html.failure(str(error)), str(error)
        found = [jobs[key] for key in dict.fromkeys(keys) if key in jobs]
        ended = sum(job.state == "done" for job in found)
        head = self.say("batch.progress", done=ended, all=len(set(keys)))
        strip = html.strip(found[:SHEET], self.desk.cache, [], self.say, verbs=False)
        now = f'<p class="aside" aria-live="polite">{escape(head)}</p>{strip}'
        return (gr.skip(), gr.skip()) if now == seen else (now, now)
