"""What the page does with a finished clip: show, continue, remix, fork, restore."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from engine.errors import NeodragonError
from studio.export.formats import still
from studio.jobs.spec import Job, Work
from studio.library.restore import restore
from studio.library.store import EXPORTS
from studio.page import film, html
from studio.page.controls import Controls, fresh_seed
from studio.page.events import Update
from studio.page.fork_point import ForkPoint
from studio.page.player import unit_of


class Again(Controls):
    """Every control as a job or a file had it."""

    def show(self, number: int) -> Update:
        """Put one job on the stage and its settings into the controls.

        What is on the stage is what *Animate* moves: its look seed counts as used, so it stays.
        """
        try:
            return self._staged(self.desk.table.job(number), [number])
        except NeodragonError as error:
            return self._failed(error)

    def show_takes(self, number: int) -> Update:
        """Put the takes of a job's prompt on the stage, side by side."""
        try:
            job = self.desk.table.job(number)
            return self._staged(job, self.desk.takes(job))
        except NeodragonError as error:
            return self._failed(error)

    def _staged(self, job: Job, ids: list[int]) -> Update:
        update = self.controls_of(job.work)
        used = {"prompt": update[self.prompt], "look": job.work.look_seed}
        if job.work.kind == "clip":
            used["motion"] = int(update[self.motion])
        self.desk.keep_draft(watching=ids, used=used)
        return update | {self.watching: ids, self.picked: [], self.used: used, self.message: ""}

    def _failed(self, error: NeodragonError) -> Update:
        return {self.message: html.failure(self.say.error(error))}

    def act(self, values: Update, event: gr.EventData) -> Update:
        """Go on from the job that was clicked, or from a frame of it."""
        try:
            return self._acted(self.desk.table.job(int(event.id)), event)
        except NeodragonError as error:
            return self._failed(error)

    def _acted(self, job: Job, event: gr.EventData) -> Update:
        desk = self.desk
        if event.verb == "takes":
            return self.show_takes(job.id)
        if event.verb == "similar":
            ids = desk.similar(job)
            desk.keep_draft(watching=ids)
            return {self.watching: ids, self.picked: [], self.message: ""}
        if event.verb == "still":
            path = still(desk.file_of(job), desk.clips / EXPORTS, int(event.frame))
            notice = self.say("player.saved", name=path.name, folder=path.parent)
            return {self.message: html.notice(notice)}
        if event.verb == "film":
            count = film.add(desk, desk.file_of(job), int(event.start), int(event.end))
            return {self.message: html.notice(self.say("film.added", count=count))}
        if event.verb in ("extend", "begin"):
            frame = -1 if event.verb == "extend" else int(event.frame)
            picture = desk.frame_of(desk.file_of(job), frame)
            update = {self.picture: str(picture), self.motion: str(fresh_seed())}
            return update | self.forking(None)
        if event.verb == "fork":
            return self.fork_of(job.work, job.key, int(event.frame))
        update = self.controls_of(job.work)
        if event.verb == "remix":
            update |= {self.look: str(fresh_seed()), self.motion: str(fresh_seed())}
            update |= self.forking(None)
        return update

    def sent(self, path: Path, verb: str, frame: int) -> Update:
        """What the library hands over: a clip's settings, a frame of it, or its beginning."""
        if verb == "begin":
            picture = self.desk.frame_of(path, frame)
            update = {self.picture: str(picture), self.motion: str(fresh_seed())}
            return update | self.forking(None)
        if verb == "create":
            return self._restore(str(path))
        origin = restore(path)
        known = self.desk.table.by_key([origin.key]) if origin.key else {}
        job = known.get(origin.key or "")
        work = self.desk.work_of(origin, job)
        update = self.fork_of(work, origin.key or "", frame)
        return update | {self.watching: [job.id] if job else []}

    def fork_of(self, work: Work, key: str, frame: int) -> Update:
        """Let the next clip be this one up to the unit of a frame; raises RequestError."""
        self.desk.require_same(work, key)
        trunk = ForkPoint.of(work, unit_of(frame, self.desk.pack.geometry))
        update = self.controls_of(work)
        update |= {self.prompt: trunk.prompt, self.motion: str(fresh_seed())}
        return update | self.forking(trunk.to_dict()) | {self.message: ""}

    def controls_of(self, work: Work) -> Update:
        """Every control as the work had it; a fork's as it was rolled from its parent."""
        trunk = ForkPoint.below(work)
        last = work.forks[-1] if work.forks else work
        values = work.to_dict()
        return {
            **{control: values[name] for name, control in self.fields.items()},
            self.prompt: last.prompt or (trunk.prompt if trunk else work.prompt),
            self.style: "",
            self.look: str(work.look_seed),
            self.motion: str(last.motion_seed),
            self.used: {},
        } | self.forking(None if trunk is None else trunk.to_dict())

    def _restore(self, path: str | None) -> Update:
        """Every control as the dropped file says."""
        if path is None:
            return {self.message: ""}
        try:
            origin = restore(Path(path))
            known = self.desk.table.by_key([origin.key]) if origin.key else {}
            job = known.get(origin.key or "")
            pack = self.desk.pack
            other = origin.pack_note(pack.name, pack.version, pack.pack_hash)
            notes = [self.say.message(other)] if other else []
            work = self.desk.work_of(origin, job)
            if origin.request.image and not work.image:
                notes.append(self.say("restore.picture", name=str(origin.request.image)))
        except NeodragonError as error:
            return self._failed(error)
        sentence = " ".join(notes)
        return self.controls_of(work) | {
            self.watching: [job.id] if job else [],
            self.message: html.notice(sentence) if sentence else "",
        }

    def forking(self, trunk: dict[str, Any] | None) -> Update:
        """Let the next clips keep the beginning of another, or none; a chip says so."""
        self.desk.keep_draft(fork=trunk)
        chip = ""
        if trunk is not None:
            chip = html.branch(ForkPoint.from_dict(trunk).unit, self.desk.pack.geometry, self.say)
        return {self.forked: trunk, self.branch: chip}
