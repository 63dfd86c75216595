"""The studio's page: its tabs, its look, and the endpoints that other programs may call."""

from __future__ import annotations

from typing import Any

import gradio as gr

from studio.jobs.spec import as_json
from studio.language.catalogue import Speaker
from studio.page import html
from studio.page.batch import BatchView
from studio.page.create import Create
from studio.page.desk import Desk
from studio.page.library import LibraryView
from studio.page.models import ModelsView
from studio.page.queue import QueueView
from studio.page.settings import SettingsView

FONTS = ["Segoe UI Variable", "Segoe UI", "system-ui", "sans-serif"]
MONO = ["Cascadia Mono", "Consolas", "ui-monospace", "monospace"]
BACKENDS = {"cpu": "CPU", "npu": "NPU", "npu-emulated": "NPU, emulated"}


def theme() -> gr.themes.Base:
    """Jade on paper, jade on slate; only fonts of this machine."""
    return gr.themes.Base(
        primary_hue="teal", neutral_hue="zinc", radius_size="md", font=FONTS, font_mono=MONO
    )


def build(desk: Desk, language: str) -> gr.Blocks:
    """The page of one desk in one language."""
    say = Speaker(language)
    blocks = gr.Blocks(title="Neodragon Studio", analytics_enabled=False, fill_width=True)
    with blocks:
        gr.HTML(html.header(f"{desk.pack.name} · {BACKENDS[desk.backend]}"))
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab(say("tab.create"), id="create"):
                with gr.Row(elem_id="studio", elem_classes="columns"):
                    create = Create(desk, say)
                with create.view:
                    QueueView(desk, create, say)
            with gr.Tab(say("tab.batch"), id="batch"):
                batch = BatchView(desk, say)
            with gr.Tab(say("tab.library"), id="library") as tab:
                LibraryView(desk, say).open(tab)
            with gr.Tab(say("tab.models"), id="models") as tab:
                ModelsView(desk, say).open(tab)
            with gr.Tab(say("tab.settings"), id="settings"):
                settings = SettingsView(desk, say)
        gr.HTML(html.keys(say))
        create.load(blocks)
        batch.load(blocks)
        settings.load(blocks)
        _endpoints(desk)
    return blocks


def _endpoints(desk: Desk) -> None:
    """JSON in, JSON out, for programs and as MCP tools: `/submit`, `/queue` and `/status`."""

    def submit(
        prompt: str,
        look_seed: int,
        motion_seed: int,
        kind: str = "clip",
        mode: str = "hybrid",
        upscale: bool = True,
    ) -> dict[str, Any]:
        """Ask for a clip or a first frame; the job, at once."""
        asked = {"prompt": prompt, "look": look_seed, "motion": motion_seed, "mode": mode}
        work = desk.work(asked | {"upscale": upscale}, "frame" if kind == "frame" else "clip")
        return as_json(desk.jobs(desk.ask([work]))[0])

    def queue() -> list[dict[str, Any]]:
        """Every job of the table."""
        return [as_json(job) for job in desk.table.jobs()]

    def status(job: int) -> dict[str, Any]:
        """One job."""
        return as_json(desk.table.job(job))

    for function in (submit, queue, status):
        gr.api(  # type: ignore[attr-defined]
            function, api_name=function.__name__, queue=False
        )
