"""The studio's page: its tabs and its look."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from studio.language.catalogue import Speaker
from studio.page import html
from studio.page.batch import BatchView
from studio.page.create import Create
from studio.page.desk import Desk
from studio.page.events import InTurn
from studio.page.film import FilmView
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


def build(desk: Desk, language: str, functions: Mapping[str, Callable[..., Any]]) -> gr.Blocks:
    """The page of one desk in one language; functions: for other programs, by their names."""
    say = Speaker(language)
    blocks = InTurn(title="Neodragon Studio", analytics_enabled=False, fill_width=True)
    with blocks:
        gr.HTML(html.header(f"{desk.pack.name} · {BACKENDS[desk.backend]}", say))
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab(say("tab.create"), id="create"):
                with gr.Row(elem_id="studio", elem_classes="columns"):
                    create = Create(desk, say)
                with create.view:
                    queue = QueueView(desk, create, say)
            with gr.Tab(say("tab.batch"), id="batch"):
                batch = BatchView(desk, create, tabs)
            with gr.Tab(say("tab.library"), id="library") as tab:
                LibraryView(desk, create, batch, tabs).open(tab)
            with gr.Tab(say("tab.film"), id="film") as tab:
                FilmView(desk, say).open(tab)
            with gr.Tab(say("tab.models"), id="models") as tab:
                ModelsView(desk, say).open(tab)
            with gr.Tab(say("tab.settings"), id="settings"):
                settings = SettingsView(desk, say)
        queue.lay_panel()
        gr.HTML(html.keys(say))
        create.load(blocks)
        batch.load(blocks)
        settings.load(blocks)
        for name, function in functions.items():
            gr.api(function, api_name=name, queue=False)  # type: ignore[attr-defined]
    for event in blocks.fns.values():
        if event.show_progress == "hidden":  # else every answer draws all that any has changed
            event.show_progress_on = [queue.changed]
    return blocks
