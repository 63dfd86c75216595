"""What the page does, without a page: it asks for jobs, arranges the queue and keeps the draft.

All that matters is in the job table, in files or in the draft file, so that a page may be closed,
reloaded or opened twice at any moment. A thread supervises the worker process.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from engine.config import SEED_LIMIT
from engine.errors import Message, NeodragonError, RequestError, reason_of
from engine.pack import Pack
from engine.session import Backend
from engine.text import PromptTokenizers
from engine.vae import fit
from studio.farm.network import Switch
from studio.jobs.database import JobsError
from studio.jobs.spec import PENDING, RUNNING, Entry, Job, Work, content_key
from studio.jobs.supervisor import Keeper, WorkerError
from studio.jobs.table import JobTable
from studio.jobs.worker import FAULTS
from studio.language.vocabulary import Unknown, unknown_words
from studio.library.restore import Origin
from studio.media.pictures import read_picture
from studio.media.sidecars import Kind
from studio.media.video import read_mp4
from studio.page.fork_point import ForkPoint
from studio.system.files import OutputError, partial
from studio.system.packs import Installation

LOOK = 0.5  # seconds between looks at the worker
RETRY = 10.0  # the same after a worker that does not stay
CAST = 9
TAKES = 200  # ended jobs among which takes are looked for
PROMPTS = 50  # that are remembered
CALM = (*PENDING, *RUNNING)


@dataclass(frozen=True)
class Ruler:
    """How much of a prompt an encoder reads: its name, tokens asked for and taken, what is cut."""

    encoder: str
    tokens: int
    limit: int
    cut: str


class Desk:
    """Everything of one page server; close it or use it as a context manager.

    clips: folder of results; data: folder of the table, the draft and used pictures; cache: folder
    of previews; threads: of the CPU, None for all cores.
    """

    def __init__(
        self,
        pack: Pack,
        backend: Backend,
        clips: Path,
        data: Path,
        cache: Path,
        threads: int | None = None,
    ) -> None:
        self.pack, self.backend = pack, backend
        self.clips, self.data, self.cache = clips, data, cache
        self.trouble: Message | None = None  # why no worker stays
        self.table = JobTable(data / "jobs.sqlite")
        self._tokenize = PromptTokenizers(pack)
        # On the CPU the mini's graphs load in no time, and the full-size ones fill the memory.
        warm = None if backend == "cpu" else (pack.path.absolute(), backend)
        self._keeper = Keeper(self.table, clips, cache, threads, warm)
        self.installation: Installation | None = None  # the last one, of a pack
        self.farm = Switch(data, clips)
        self.quit = threading.Event()  # set: the studio is to be closed
        self._closing = threading.Event()
        self._draft_lock = threading.Lock()
        # The last failed job that the user has put aside.
        self.dismissed: int = self.draft().get("dismissed") or 0
        self._nudges = 0
        self.watched: list[Callable[[], object]] = []  # what tabs show that is not in the queue
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        while not self._closing.is_set():
            try:
                self._keeper.look()
                self.trouble = None
            except WorkerError as error:
                self.trouble = error.message
                self._closing.wait(RETRY)
            except NeodragonError as error:
                self.trouble = error.message
            except FAULTS as error:  # of ours; the next look may go well
                self.trouble = Message(
                    "The worker cannot be monitored ({error}: {text}); start the studio again.",
                    {"error": type(error).__name__, "text": str(error)[:200]},
                )
            self._closing.wait(LOOK)

    def state(self) -> object:
        """Differs whenever there is something new to show."""
        try:
            shown = [look() for look in self.watched]
            return self.table.version(), self.trouble, self._nudges, shown
        except NeodragonError as error:
            return str(error)

    @property
    def is_busy(self) -> bool:
        """Whether something is being made, or about to be."""
        waits = self.table.count(PENDING) and not self.table.queue().paused
        return bool(waits or self.table.count(RUNNING))

    def close(self) -> None:
        """Let the worker end: the job it is at waits again, the queue is paused."""
        self._closing.set()
        self._thread.join()
        self.farm.close()
        if self.table.is_working() and not self.farm.is_on:
            self._keeper.interrupt(Message("The studio was closed; resume the queue to go on."))
        self._keeper.close()
        self.table.close()

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # The draft

    def draft(self) -> dict[str, Any]:
        """What stood on the page last; {} where nothing can be read."""
        try:
            content = json.loads((self.data / "draft.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def keep_draft(self, **values: Any) -> None:
        """Remember these too. A disk that is full costs the draft, not the page."""
        with self._draft_lock:
            path = self.data / "draft.json"
            part = partial(path)
            try:
                part.write_text(json.dumps(self.draft() | values), encoding="utf-8")
                part.replace(path)
            except OSError:
                part.unlink(missing_ok=True)

    def dismiss(self, number: int) -> None:
        """Show no failure up to that job any more."""
        self.dismissed = max(self.dismissed, number)
        self.keep_draft(dismissed=self.dismissed)
        self.nudge()

    def nudge(self) -> None:
        """Let every page look again: something else than the queue is to be shown."""
        self._nudges += 1

    def prompts(self) -> list[str]:
        """The prompts that were used, newest first."""
        known = self.draft().get("prompts")
        return [prompt for prompt in known if isinstance(prompt, str)] if known else []

    def remember(self, prompt: str) -> None:
        """Keep a prompt among those that were used."""
        if prompt.strip():
            others = [other for other in self.prompts() if other != prompt]
            self.keep_draft(prompts=[prompt, *others][:PROMPTS])

    # Asking for jobs

    def work(self, settings: Mapping[str, Any], kind: Kind) -> Work:
        """The work that the page's controls describe; raises RequestError."""
        prompt = (settings["prompt"] or "").strip()
        style = (settings.get("style") or "").strip()
        return Work.from_dict(
            {
                **settings,
                "prompt": f"{prompt}, {style}" if prompt and style else prompt,
                "pack": str(self.pack.path),
                "backend": self.backend,
                "kind": kind,
            }
        )

    def ask(self, works: Sequence[Work]) -> list[int]:
        """Job ids of these works, ahead of what waits; what is made or queued is not made again.

        A paused queue with nothing else in it goes on. Raises NeodragonError.
        """
        waiting = self.table.count(PENDING)
        works = [self._with_own_image(work) for work in works]
        entries = [Entry(work, content_key(work, self.pack)) for work in works]
        ids = self.table.ensure(entries, ahead=True)
        if not waiting and self.table.queue().paused:
            self.table.resume()
        return ids

    def _with_own_image(self, work: Work) -> Work:
        """The work with its image in the studio's own folder, where nobody removes it."""
        folder = self.data / "pictures"
        if work.image is None or not isinstance(work.image, Path):
            return work
        try:
            if work.image.parent == folder:
                return work
            content = work.image.read_bytes()
            name = hashlib.sha256(content).hexdigest()[:24]
            return replace(work, image=self._stored(f"{name}{work.image.suffix}", content))
        except (OSError, ValueError) as error:
            raise RequestError(
                "The picture {image} cannot be read or kept ({reason}); choose another, or free"
                " some space.",
                image=str(work.image),
                reason=reason_of(error),
            ) from error

    def cast(self, work: Work) -> list[int]:
        """Nine takes to choose among: the work's own seed and eight others.

        First frames with other look seeds; where the work begins with a picture or as another
        clip, which no look seed changes, clips with other motion seeds.
        """
        others = [secrets.randbelow(SEED_LIMIT) for _ in range(CAST - 1)]
        if trunk := ForkPoint.below(work):
            last = work.forks[-1]
            prompt, seeds = last.prompt or trunk.prompt, [last.motion_seed, *others]
            return self.ask([trunk.grown(prompt, seed) for seed in seeds])
        if work.image is not None:
            seeds = [work.motion_seed, *others]
            return self.ask([replace(work, kind="clip", motion_seed=seed) for seed in seeds])
        seeds = [work.look_seed, *others]
        return self.ask([replace(work, kind="frame", look_seed=seed) for seed in seeds])

    def similar(self, job: Job) -> list[int]:
        """Nine first frames of a job's prompt: its own and the eight next look seeds."""
        seeds = [(job.work.look_seed + step) % SEED_LIMIT for step in range(CAST)]
        return self.ask([replace(job.work, kind="frame", look_seed=seed) for seed in seeds])

    def work_of(self, origin: Origin, job: Job | None) -> Work:
        """What a file was made by as work for this desk; job: the one that made it, if known.

        Its image is None where that is not known. Raises RequestError.
        """
        image = job.work.image if job else None
        made_by = {"pack": str(self.pack.path), "backend": self.backend, "kind": origin.kind}
        return Work.from_dict(origin.request.to_dict() | made_by | {"image": image})

    def require_same(self, work: Work, key: str) -> None:
        """Raise RequestError unless this desk makes that work as it was made, to the byte."""
        if content_key(replace(work, backend=self.backend), self.pack) != key:
            raise RequestError(
                "This clip was made with another model, device or picture, so its first frames"
                " cannot be kept; choose a clip made with {pack} on {backend}.",
                pack=self.pack.name,
                backend=self.backend,
            )

    def takes(self, job: Job) -> list[int]:
        """The newest first frames that differ from a job in their seeds alone, oldest first."""
        return self.table.takes(job.work, TAKES, CAST)

    def jobs(self, ids: Sequence[int]) -> list[Job]:
        """Those of the jobs that are still in the table, in that order."""
        jobs = []
        for number in ids:
            with suppress(JobsError):  # removed meanwhile
                jobs.append(self.table.job(number))
        return jobs

    # Pictures

    def crop(self, path: Path, zoom: float = 1, across: float = 0.5, down: float = 0.5) -> Path:
        """The part of a picture that fills the first frame, kept by its content.

        zoom: 1 shows as much as fits, 4 a quarter of the height; across, down: 0 to 1, where the
        part lies in what is left over. Raises RequestError.
        """
        picture = read_picture(path)
        height, width = picture.shape[:2]
        geometry = self.pack.geometry
        aspect = geometry.width / geometry.height
        tall = min(height, width / aspect) / max(1.0, zoom)
        rows, columns = max(1, round(tall)), max(1, round(tall * aspect))
        top, left = round((height - rows) * down), round((width - columns) * across)
        part = picture[top : top + rows, left : left + columns]
        return self._kept(fit(part, geometry.height, geometry.width))

    def file_of(self, job: Job) -> Path:
        """The clip of a job that is done; raises RequestError."""
        if job.result is None or job.work.kind != "clip":
            raise RequestError("This job has no finished clip to extend; choose another.")
        return job.result

    def frame_of(self, clip: Path, number: int) -> Path:
        """A frame of a clip, -1 for the last, to begin the next one with; raises OutputError."""
        frames, _ = read_mp4(clip)
        geometry = self.pack.geometry
        return self._kept(
            fit(frames[min(number, len(frames) - 1)], geometry.height, geometry.width)
        )

    def _kept(self, image: Any) -> Path:
        """A picture as a file that stays, since clips are made again from it."""
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, format="PNG")
        name = hashlib.sha256(image.tobytes()).hexdigest()[:24]
        try:
            return self._stored(f"{name}.png", stream.getvalue())
        except OSError as error:
            raise OutputError(
                "The picture cannot be kept in {folder} ({reason}); free some space.",
                folder=str(self.data / "pictures"),
                reason=reason_of(error),
            ) from error

    def _stored(self, name: str, content: bytes) -> Path:
        """A file of that name with that content among the pictures; raises OSError."""
        path = self.data / "pictures" / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = partial(path)
            try:
                with part.open("wb") as stream:
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())  # a row will rely on it
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        return path

    # Looking

    def unknown(self, prompt: str) -> list[Unknown]:
        """The words of a prompt that the pack was not taught."""
        return unknown_words(prompt, self.pack.knows)

    def rulers(self, prompt: str, style: str = "", suffix: bool = True) -> list[Ruler]:
        """How much each encoder reads of the prompt, its style and, if asked, the pack's words."""
        text = f"{prompt}, {style}" if prompt and style else prompt
        text += self.pack.prompt.suffix * suffix
        cut = dict(self._tokenize(text).cut)
        out = []
        for name, tokenizer in (("clip", self._tokenize.clip), ("t5", self._tokenize.t5)):
            count = len(tokenizer.encode(text.encode("utf-8", "replace").decode()).ids)
            rest = cut.get(name.upper(), "")
            if rest and text.rstrip().endswith(rest):  # from the beginning of the word that is cut
                rest = text.rstrip()[: -len(rest)].rpartition(" ")[2] + rest
            out.append(Ruler(name.upper(), count, self._tokenize.lengths[name], rest))
        return out
