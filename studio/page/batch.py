"""The tab *Batch*: a list of prompts, what it would cost, and what it has made."""

from __future__ import annotations

import hashlib
import math
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from engine.errors import NeodragonError, reason_of
from studio.batch import lists as batch
from studio.batch.contact_sheet import contact_sheet, rows_of
from studio.batch.encodings import BatchError
from studio.batch.filling import beside, filled
from studio.batch.records import guess
from studio.jobs.spec import Job, Work
from studio.language.catalogue import Speaker
from studio.page import html
from studio.page.desk import CALM, Desk
from studio.page.events import QUICK
from studio.system.files import partial

TICK = 1.0  # seconds
SHEET = 100  # results shown at most
BAD = 50  # bad rows named at most
TAKEN = [".txt", ".csv", ".tsv", ".tab", ".json", ".jsonl", ".ndjson"]
TAKEN += [".xlsx", ".xls", ".ods", ".docx"]  # not read, but told how to save them


class BatchView:
    """Lays the tab out; `listed` is the file of this tab's list, `made` the id of its batch."""

    def __init__(self, desk: Desk, say: Speaker) -> None:
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
                    file_types=TAKEN,
                    height=90,
                    elem_id="list-file",
                )
                with gr.Row():
                    self.check = gr.Button(say("batch.check"), elem_id="check")
                    self.queue = gr.Button(say("batch.queue"), variant="primary", elem_id="enqueue")
                self.plan = gr.HTML(elem_id="plan")
            with gr.Column(min_width=320):
                self.sheet = gr.HTML(
                    f'<p class="aside">{escape(say("batch.hint"))}</p>', elem_id="sheet"
                )
        self.timer = gr.Timer(TICK)
        self._wire()

    def _wire(self) -> None:
        inputs = [self.text, self.file]
        self.check.click(self._check, inputs, [self.plan, self.listed], **QUICK)
        self.queue.click(self._enqueue, inputs, [self.plan, self.listed, self.batch], **QUICK)
        shown = [self.sheet, self.seen]
        self.timer.tick(self._look, [self.batch, self.listed, self.seen], shown, **QUICK)

    def load(self, blocks: gr.Blocks) -> None:
        """Let the tab show the batch it was left with."""
        blocks.load(self._load, None, [self.batch, self.listed], **QUICK)

    def _load(self) -> tuple[Any, ...]:
        draft = self.desk.draft()
        return draft.get("batch"), draft.get("list")

    def _kept(self, text: str, file: str | None) -> Path:
        """The list as a file of ours: the same list again draws the same seeds."""
        folder = self.desk.data / "lists"
        folder.mkdir(parents=True, exist_ok=True)
        content = Path(file).read_bytes() if file else text.encode("utf-8", "replace")
        if file:
            ending = Path(file).suffix
        else:
            ending = batch.suffix_of(guess(text))
        path = folder / f"{hashlib.sha256(content).hexdigest()[:16]}{ending}"
        if not path.exists():
            part = partial(path)
            part.write_bytes(content)
            part.replace(path)
        return path

    def _read(self, text: str, file: str | None) -> tuple[Path, batch.PromptList]:
        try:
            path = self._kept(text or "", file)
        except OSError as error:
            raise BatchError(
                "The list cannot be kept in {folder} ({reason}); free some space.",
                folder=self.desk.data,
                reason=reason_of(error),
            ) from error
        return path, batch.read(path, self.desk.pack, self.desk.backend)

    def _check(self, text: str, file: str | None) -> tuple[str, str | None]:
        try:
            path, prompts = self._read(text, file)
            return self._summary(prompts), str(path)
        except NeodragonError as error:
            return html.failure(self.say.error(error)), None

    def _enqueue(self, text: str, file: str | None) -> tuple[Any, ...]:
        try:
            path, prompts = self._read(text, file)
            summary = self._summary(prompts)
            batch.enqueue(prompts, self.desk.table)
            if self.desk.table.queue().paused and not self.desk.trouble:
                summary += html.notice(self.say("batch.paused"))
        except NeodragonError as error:
            return html.failure(self.say.error(error)), None, None
        keys = [entry.key for entry in prompts.entries]
        self.desk.keep_draft(batch=keys, list=str(path))
        return summary, str(path), keys

    def _summary(self, prompts: batch.PromptList) -> str:
        """How the list was understood, what queueing it would do, and what cannot be used."""
        say, plan = self.say, batch.plan(prompts, self.desk.table)
        counts = {"rows": plan.rows, "clips": plan.clips, "frames": plan.frames}
        facts = [say(f"batch.told.{name}", count=n) for name, n in counts.items() if n]
        if not plan.new:
            facts.append(say("batch.told.nothing"))
        elif plan.seconds is None or plan.size is None:
            facts.append(say("batch.told.unknown"))
        else:
            facts.append(say("batch.told.minutes", count=max(1, round(plan.seconds / 60))))
            facts.append(say("batch.told.disk", size=say.number(math.ceil(plan.size / 1e6))))
        counts = {"existing": plan.existing, "queued": plan.queued, "bad": plan.bad}
        facts += [say(f"batch.told.{name}", count=n) for name, n in counts.items() if n]
        notes = [say.message(note) for note in (prompts.assumed, *prompts.notes) if note]
        good = [
            (line, work.prompt, self._settings(work, count))
            for line, work, count in batch.sample(prompts)
        ]
        bad = [(row.line, say.message(row.reason), "") for row in prompts.bad[:BAD]]
        return (
            html.notice(" · ".join(facts))
            + "".join(map(html.notice, notes))
            + _rows("bad", bad)
            + _rows("sample", good)
        )

    def _settings(self, work: Work, count: int) -> str:
        """The settings of a row's first clip or frame, and how many more it has."""
        seeds = {"look": work.look_seed, "motion": work.motion_seed}
        facts = [
            self.say("batch.told.seeds" if work.kind == "clip" else "batch.told.seed", **seeds)
        ]
        facts += [work.mode] if work.mode != "hybrid" else []
        facts += [work.negative_prompt] if work.negative_prompt else []
        facts += [work.image.name] if isinstance(work.image, Path) else []
        facts += [self.say("batch.told.more", count=count - 1)] if count > 1 else []
        return " · ".join(facts)

    def _jobs(self, keys: list[str]) -> list[Job]:
        """The jobs of a batch, in its order."""
        jobs = self.desk.table.by_key(keys)
        return [jobs[key] for key in dict.fromkeys(keys) if key in jobs]

    def _look(self, keys: list[str] | None, path: str | None, seen: str) -> tuple[Any, Any]:
        """The contact sheet of the batch as far as it is; at its end, the files to take along."""
        if not keys:
            return gr.skip(), gr.skip()
        try:
            jobs = self._jobs(keys)
            links = ""
            if path and not any(job.state in CALM for job in jobs):
                links = self._links(Path(path), jobs)
        except NeodragonError as error:
            return html.failure(self.say.error(error)), str(error)
        ended = sum(job.state == "done" for job in jobs)
        head = self.say("batch.progress", done=ended, all=len(set(keys)))
        strip = html.grid(rows_of(jobs[:SHEET]), self.desk.cache, self.say)
        now = f'<p class="aside" aria-live="polite">{escape(head)}</p>{links}{strip}'
        return (gr.skip(), gr.skip()) if now == seen else (now, now)

    def _links(self, path: Path, jobs: list[Job]) -> str:
        """Links to the list filled in and the contact sheet, made once for what became of it."""
        became = " ".join(f"{job.id} {job.state} {job.finished}" for job in jobs)
        folder = self.desk.cache / "lists" / hashlib.sha256(became.encode()).hexdigest()[:16]
        if not folder.exists() and path.exists():
            prompts = batch.read(path, self.desk.pack, self.desk.backend)
            folder.mkdir(parents=True, exist_ok=True)
            contact_sheet(jobs, folder / "contact-sheet.jpg", self.desk.cache)
            text = filled(prompts, self.desk.table)
            (folder / beside(Path("list" + path.suffix)).name).write_text(
                text, encoding="utf-8-sig" if path.suffix in (".csv", ".tsv") else "utf-8"
            )
        links = [
            html.download(
                file, self.say("batch.sheet" if file.suffix == ".jpg" else "batch.filled")
            )
            for file in sorted(folder.glob("[!.]*"))
        ]
        return f'<p class="links">{"".join(links)}</p>' if links else ""


def _rows(kind: str, rows: list[tuple[int, str, str]]) -> str:
    """Rows of the list by their line, each with something smaller below."""
    items = "".join(
        f"<li><b>{line}</b> {escape(text)}"
        + (f"<small>{escape(more)}</small>" if more else "")
        + "</li>"
        for line, text, more in rows
    )
    return items and f'<ol class="{kind}">{items}</ol>'
