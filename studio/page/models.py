"""The tab *Models & device*: packs to install, choose and check; checks of this machine.

A pack comes from a folder or a .zip of this machine, or is built here (`full_size.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path

import gradio as gr

from engine.errors import NeodragonError
from engine.pack import open_pack
from studio.health import doctor
from studio.language.catalogue import Speaker
from studio.page import html
from studio.page.desk import Desk
from studio.page.events import QUICK
from studio.page.farm import FarmCard
from studio.page.full_size import FullSizeCard
from studio.system import packs, paths
from studio.system.settings import change

MEGABYTE = 1e6
HEARD = "neodragonHeard(element, trigger, 10)"  # what other machines do is no news here


class ModelsView:
    """Lays the tab out; an install goes on in the desk when the tab is closed."""

    def __init__(self, desk: Desk, say: Speaker) -> None:
        self.desk, self.say = desk, say
        self.home = desk.data / "packs"
        self.changes = gr.HTML(js_on_load=HEARD, elem_classes="news")
        desk.watched.append(self._progress)
        with gr.Row(elem_classes="columns"):
            with gr.Column(min_width=320):
                gr.HTML(f"<h2>{say('models.packs')}</h2>")
                self.list = gr.HTML(js_on_load=html.SEND, elem_id="packs")
                self.message = gr.HTML(elem_id="models-message")
                gr.HTML(f"<h3>{say('models.install')}</h3>")
                self.source = gr.Textbox(label=say("models.source"), elem_id="pack-source")
                self.dropped = gr.File(
                    label=say("models.drop"), file_types=[".zip"], height=140, elem_id="pack-file"
                )
                self.start = gr.Button(say("models.start"), elem_id="install")
                self.progress = gr.HTML(elem_id="install-progress")
                self.full_size = FullSizeCard(desk, say, self.changes)
            with gr.Column(min_width=320):
                gr.HTML(f"<h2>{say('models.device')}</h2>")
                self.examine = gr.Button(say("models.examine"), elem_id="examine")
                self.lines = gr.HTML(elem_id="doctor")
                FarmCard(desk, say, self.changes)
        self._wire()

    def _wire(self) -> None:
        both = [self.list, self.message]
        self.start.click(self._install, [self.source, self.dropped], both, **QUICK)
        self.list.click(self._act, None, both, **QUICK)
        shown = [self.progress, self.list]
        self.changes.click(self._look, shown, shown, **QUICK)
        ended = [self.progress, self.message]
        self.source.change(self._mended, None, ended, **QUICK | {"trigger_mode": "always_last"})
        self.dropped.change(self._mended, None, ended, **QUICK)
        self.examine.click(self._examine, None, self.lines, queue=True, api_visibility="private")

    def open(self, tab: gr.Tab) -> None:
        """List the packs whenever the tab is opened."""
        tab.select(self._listed, None, self.list, **QUICK)
        self.full_size.open(tab)

    def _known(self) -> list[packs.Installed]:
        return [packs.look(paths.default_pack()), *packs.installed(self.home)]

    def _listed(self) -> str:
        used = self.desk.pack.path.resolve()
        rows = []
        for number, one in enumerate(self._known()):
            text = f"{one.name} {one.version}, {one.size / MEGABYTE:.0f} MB"
            if one.path.parent == self.home and one.path.name != one.name:
                text += f" ({one.path.name})"
            if one.problem:
                text = self.say.message(one.problem)
            if one.absent:
                text += ", " + self.say("models.without", parts=", ".join(one.absent))
            verbs = ["use", "check"] + ["remove"] * (one.path.parent == self.home)
            is_used = one.path.resolve() == used
            buttons = f"<b>{escape(self.say('models.in_use'))}</b> " if is_used else ""
            buttons += "".join(
                html.button(verb, number, self.say(f"models.{verb}"))
                for verb in verbs
                if verb == "check" or not is_used
            )
            problem = ' class="failure"' if one.problem else ""
            rows.append(f"<li><p{problem}>{escape(text)}</p>{buttons}</li>")
        return f'<ul class="packs">{"".join(rows)}</ul>'

    def _act(self, event: gr.EventData) -> tuple[str, str]:
        """Use, check or remove the pack that was clicked."""
        known, number = self._known(), int(event.id)
        if number >= len(known):
            return self._listed(), ""
        one = known[number]
        try:
            if event.verb == "check":
                with open_pack(one.path) as pack:
                    for _, problem in packs.damaged(pack):
                        if problem:
                            return self._listed(), html.failure(self.say.message(problem))
                text = self.say("models.sound", name=one.name)
            elif event.verb == "use":
                with open_pack(one.path):
                    shipped = one.path == paths.default_pack()
                    change(
                        self.desk.data / "settings.json", pack=None if shipped else str(one.path)
                    )
                text = self.say("models.used", name=one.name)
            else:
                packs.remove(one.path, self.home, self.desk.pack.path)
                text = self.say("models.removed", name=one.name)
        except NeodragonError as error:
            return self._listed(), html.failure(self.say.error(error))
        return self._listed(), html.notice(text)

    # Installing

    def _install(self, source: str, dropped: str | None) -> tuple[str, str]:
        path = (source or "").strip().strip('"') or dropped
        if not path:
            return self._listed(), html.failure(self.say("models.no_source"))
        running = self.desk.installation
        if running is None or not running.running:
            self.desk.installation = packs.Installation(Path(path), self.home)
        return self._listed(), ""

    def _mended(self) -> tuple[object, str]:
        """Something else is to be installed: what failed is forgotten."""
        installation = self.desk.installation
        if installation is None or installation.running or installation.problem is None:
            return gr.skip(), ""
        self.desk.installation = None
        return "", ""

    def _progress(self) -> object:
        """Differs whenever there is something new about the install."""
        one = self.desk.installation
        return one and (one.running, 100 * one.done // max(1, one.total), one.problem)

    def _look(self, progress: str | None, listed: str | None) -> tuple[object, object]:
        """What has changed of the install and of the packs, which a build adds to."""
        now = self._installing(), self._listed()
        return tuple(  # type: ignore[return-value]
            gr.skip() if new == (old or "") else new
            for new, old in zip(now, (progress, listed), strict=True)
        )

    def _installing(self) -> str:
        """How far the install is, or how it ended."""
        installation = self.desk.installation
        if installation is None:
            return ""
        if installation.running:
            done, total = (round(n / MEGABYTE) for n in (installation.done, installation.total))
            text = self.say("models.copying", done=done, total=total)
            return (
                f'<progress max="{max(1, total)}" value="{done}"></progress>'
                f'<p class="aside" aria-live="polite">{escape(text)}</p>'
            )
        if installation.problem:
            return html.failure(self.say.message(installation.problem))
        assert installation.target is not None
        name = packs.look(installation.target).name
        return html.notice(self.say("models.installed", name=name))

    # The device

    def _examine(self) -> Iterator[str]:
        """Every check as soon as it is done, the report at the end."""
        lines, rows = [], []
        for line in doctor.examine():
            lines.append(line)
            say = self.say.message
            action = f"<em>{escape(say(line.action))}</em>" if line.action else ""
            state = escape(self.say(f"models.{line.state}"))
            rows.append(
                f'<li class="{line.state}"><b>{line.code} {state}</b>'
                f" {escape(say(line.sentence))} {action}</li>"
            )
            yield f'<ul class="doctor" aria-busy="true">{"".join(rows)}</ul>'
        copied = escape(doctor.report(lines), quote=True)
        yield (
            f'<ul class="doctor">{"".join(rows)}</ul>'
            f'<button class="verb" data-copy="{copied}">{escape(self.say("models.copy"))}</button>'
        )
