"""The tab *Batch*: a list of prompts, what it would cost, and what it has made."""

from __future__ import annotations

import hashlib
import math
import shutil
from contextlib import suppress
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
from studio.page import html, sheet
from studio.page.create import Create
from studio.page.desk import CALM, Desk
from studio.page.events import IN_TURN, QUICK, Update
from studio.system.files import partial

SHEET = 100  # results shown at most
BAD = 50  # bad rows named at most
SEEN = "() => document.getElementById('opened').scrollIntoView({block: 'nearest'})"
TAKEN = [".txt", ".csv", ".tsv", ".tab", ".json", ".jsonl", ".ndjson"]
TAKEN += [".xlsx", ".xls", ".ods", ".docx"]  # not read, but told how to save them


class BatchView:
    """Lays the tab out.

    listed: the file of this tab's list; batch: the keys of its jobs; at: the job that is open.
    """

    def __init__(self, desk: Desk, create: Create, tabs: Any) -> None:
        self.desk, self.say, self.create, self.tabs = desk, create.say, create, tabs
        say = self.say
        self.listed = gr.State(None)
        self.batch = gr.State(None)
        self.at = gr.State(None)
        self.seen: Any = gr.State(["", ""])
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
                self.message = gr.HTML(elem_id="batch-message")
                self.opened = gr.HTML(js_on_load=html.SEND, elem_id="opened")
                self.sheet = gr.HTML(
                    f'<p class="aside">{escape(say("batch.hint"))}</p>',
                    js_on_load=html.SEND,
                    elem_id="sheet",
                )
        self.kept = gr.Textbox(visible=False)
        self.changes = gr.HTML(js_on_load="neodragonHeard(element, trigger)", elem_classes="news")
        self._wire()

    def _wire(self) -> None:
        inputs = [self.text, self.file]
        self.check.click(self._check, inputs, [self.plan, self.listed], **QUICK)
        self.queue.click(self._enqueue, inputs, [self.plan, self.listed, self.batch], **QUICK)
        held = [self.batch, self.listed, self.at, self.seen]
        shown = [self.sheet, self.opened, self.seen]
        latest = QUICK | {"trigger_mode": "always_last"}
        gr.on([self.changes.click, self.batch.change], self._look, held, shown, **latest)
        self.text.change(self._typed, self.text, None, **latest)
        self.file.change(self._dropped, self.file, None, **QUICK)
        edits = [self.text.input, self.file.upload, self.file.clear]  # not what a reload brings
        gr.on(edits, None, None, self.plan, js="() => ''", trigger_mode="multiple")
        out = [self.tabs, self.at, self.message, *self.create.every]
        state: set[Any] = {self.at, self.batch, *self.create.controls}
        for part in (self.sheet, self.opened):
            acted = part.click(self._act, state, out, **IN_TURN)
            acted.then(self._look, held, shown, **QUICK).then(None, js=SEEN)
            self.create.staged(acted)

    def load(self, blocks: gr.Blocks) -> None:
        """Let the tab show the batch it was left with."""
        out = [self.kept, self.file, self.batch, self.listed]
        loaded = blocks.load(self._load, None, out, **QUICK)
        both = [self.kept, self.text]  # what was typed before the answer came stays
        loaded.then(None, both, self.text, js="(kept, typed) => typed || kept", **QUICK)

    def _load(self) -> tuple[Any, ...]:
        draft = self.desk.draft()
        file = Path(draft.get("list_file") or "")
        text = ""
        with suppress(OSError):
            text = self._draft.read_text(encoding="utf-8")
        shown = str(file) if file.is_file() else None
        return text, shown, draft.get("batch"), draft.get("list")

    @property
    def _draft(self) -> Path:
        """Where the text is kept as it stands."""
        return self.desk.data / "lists" / "draft.txt"

    def _dropped(self, file: str | None) -> None:
        """Keep a copy of the file under its name."""
        folder = self.desk.data / "lists" / "dropped"
        if file and Path(file).parent == folder:
            return
        with suppress(OSError):
            for old in folder.glob("*"):
                old.unlink()
            if file:
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, folder / Path(file).name)
        self.desk.keep_draft(list_file=file and str(folder / Path(file).name))

    def _typed(self, text: str | None) -> None:
        """Keep the text."""
        with suppress(OSError):  # a full disk costs the draft, not the page
            self._draft.parent.mkdir(parents=True, exist_ok=True)
            part = partial(self._draft)
            part.write_text(text or "", encoding="utf-8", errors="replace")
            part.replace(self._draft)

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

    def _which(self, text: str, file: str | None) -> str:
        """That a file counts and not the text, where there are both."""
        if not file or not (text or "").strip():
            return ""
        return html.notice(self.say("batch.file_counts", name=Path(file).name))

    def _check(self, text: str, file: str | None) -> tuple[str, str | None]:
        try:
            path, prompts = self._read(text, file)
            return self._which(text, file) + self._summary(prompts), str(path)
        except NeodragonError as error:
            return html.failure(self.say.error(error)), None

    def _enqueue(self, text: str, file: str | None) -> tuple[Any, ...]:
        try:
            path, prompts = self._read(text, file)
            summary = self._which(text, file) + self._summary(prompts)
            batch.enqueue(prompts, self.desk.table)
            if self.desk.table.queue().paused and not self.desk.trouble:
                summary += html.notice(self.say("batch.paused"))
        except NeodragonError as error:
            return html.failure(self.say.error(error)), None, None
        keys = [entry.key for entry in prompts.entries]
        self.desk.keep_draft(batch=keys, list=str(path))
        self.desk.nudge()
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

    # What it made

    def _act(self, state: Update, event: gr.EventData) -> Update:
        """What was clicked on a tile or on the job that is open."""
        verb, number = event.verb, int(event.id)
        create, nothing = self.create, {self.message: ""}
        if verb == "open":
            return nothing | {self.at: None if state[self.at] == number else number}
        if verb == "shut":
            return nothing | {self.at: None}
        if verb in ("before", "after"):
            ids = [job.id for job in self._jobs(state[self.batch] or [])]
            place = ids.index(number) + (1 if verb == "after" else -1) if number in ids else 0
            return nothing | {self.at: ids[min(max(0, place), len(ids) - 1)]}
        update = create.show(number) if verb == "create" else create.act(state, event)
        message = update.pop(create.message, "")
        if set(update) <= {create.message}:  # nothing for the other tab
            return {self.message: message}
        return update | nothing | {self.tabs: gr.Tabs(selected="create"), create.message: message}

    def _look(
        self, keys: list[str] | None, path: str | None, at: int | None, seen: list[str]
    ) -> tuple[Any, ...]:
        """The contact sheet of the batch as far as it is; at its end, the files to take along."""
        if not keys:
            return gr.skip(), gr.skip(), gr.skip()
        desk = self.desk
        try:
            jobs = self._jobs(keys)
            links = ""
            if path and not any(job.state in CALM for job in jobs):
                links = self._links(Path(path), jobs)
        except NeodragonError as error:
            return html.failure(self.say.error(error)), "", [str(error), ""]
        ended = sum(job.state == "done" for job in jobs)
        head = self.say("batch.progress", done=ended, all=len(set(keys)))
        tiles = sheet.sheet(rows_of(jobs[:SHEET]), at, desk.cache, self.say)
        job = next((job for job in jobs if job.id == at), None)
        now = [
            f'<p class="aside" aria-live="polite">{escape(head)}</p>{links}{tiles}',
            sheet.opened(job, desk.cache, desk.pack.geometry, self.say) if job else "",
        ]
        news = [gr.skip() if a == b else a for a, b in zip(now, seen, strict=True)]
        return (*news, gr.skip() if now == seen else now)

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
