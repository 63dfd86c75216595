"""The card *Other machines*: who is in the farm, what they make, how fast, and the switch."""

from __future__ import annotations

from html import escape
from pathlib import Path

import gradio as gr

from engine.errors import NeodragonError
from studio.farm.network import Switch, addresses
from studio.farm.register import Machine, is_available
from studio.jobs.leases import LeasingTable
from studio.language.catalogue import Speaker
from studio.page import html
from studio.page.desk import Desk
from studio.page.events import QUICK


class FarmCard:
    """Lays the card out; the farm is the desk's, and ends with it."""

    def __init__(self, desk: Desk, say: Speaker, changes: gr.HTML) -> None:
        self.desk, self.say, self.farm = desk, say, desk.farm
        desk.watched.append(lambda: (self.farm.is_on, self.farm.is_turning, self.farm.problem))
        gr.HTML(f"<h2>{escape(say('farm.title'))}</h2>")
        if not is_available():
            gr.HTML(f'<p class="aside">{escape(say("farm.missing"))}</p>')
            return
        here = addresses()
        self.address = gr.Dropdown(
            here,
            value=here[0] if here else None,
            label=say("farm.address"),
            visible=len(here) > 1,
            elem_id="farm-address",
        )
        self.switch = gr.Checkbox(
            value=self.farm.is_on, label=say("farm.switch"), container=False, elem_id="farm-switch"
        )
        self.list = gr.HTML(self._shown(), elem_id="farm")
        self.switch.input(self._turn, [self.switch, self.address], self.list, **QUICK)
        changes.click(self._look, [self.switch, self.list], [self.switch, self.list], **QUICK)

    def _turn(self, on: bool, address: str | None) -> str:
        """Turn the farm on or off."""
        try:
            if on:
                self.farm.on(address)
            else:
                self.farm.off()
        except (NeodragonError, OSError) as error:
            return html.failure(str(error))
        return f'<p class="aside">{escape(self.say("farm.turning"))}</p>'

    def _look(self, on: bool, shown: str | None) -> tuple[object, object]:
        """What is new."""
        now = self._shown()
        is_on = self.farm.is_on
        return (
            gr.skip() if is_on == on or self.farm.is_turning else is_on,
            gr.skip() if now == shown else now,
        )

    def _shown(self) -> str:
        return shown(self.farm, self.desk.table.path, self.say)


def shown(farm: Switch, jobs: Path, say: Speaker) -> str:
    """The farm in HTML; jobs: the job table."""
    if problem := farm.problem:
        return html.failure(say.message(problem))
    how = f'<p class="aside">{escape(say("farm.how"))}</p>'
    register = farm.register
    known = None if register is None else register.farm()
    if register is None or known is None:
        return how
    with LeasingTable(jobs) as table:
        doing = {lease.machine: lease.job for lease in table.leases() if lease.begun}
    line = say("farm.off")
    if known.is_on:
        line = say("farm.on", address=known.address, port=known.port)
    rows = "".join(
        f"<li><b>{escape(one.name)}</b> {escape(_state(one, doing.get(one.name), say))}</li>"
        for one in register.machines()
    )
    return f'<p aria-live="polite">{escape(line)}</p>' + (f"<ul>{rows}</ul>" if rows else how)


def _state(machine: Machine, job: int | None, say: Speaker) -> str:
    """What a machine does and how fast it is."""
    if machine.aside:
        state = say.message(machine.aside)
    elif not machine.online:
        state = say("farm.away")
    elif machine.problem:
        state = say.message(machine.problem)
    elif job is not None:
        state = say("farm.makes", job=job)
    else:
        state = say("farm.idle")
    if machine.pace is None:
        return state
    return f"{state} · " + say("farm.pace", made=machine.made, seconds=f"{machine.pace:.1f}")
