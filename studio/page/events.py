"""How the page's events are handled: Gradio options that all tabs share."""

from __future__ import annotations

import asyncio
from typing import Any

import gradio as gr

Update = dict[Any, Any]  # component to new value
QUICK: dict[str, Any] = {
    "queue": False,
    "show_progress": "hidden",
    "api_visibility": "private",
}
# For clicks and keys that follow one another quickly: each is handled, in order (`InTurn`).
IN_TURN: dict[str, Any] = QUICK | {"trigger_mode": "multiple", "concurrency_id": "in turn"}


class InTurn(gr.Blocks):
    """A page whose `IN_TURN` events are handled one after the other, each on what the last left.

    Gradio's own queue can do that too, but it sends results by a stream that it closes when nothing
    waits; the result of an event that comes just then is never shown.
    """

    _turn: asyncio.Lock | None = None

    async def process_api(self, block_fn: Any, *values: Any, **named: Any) -> dict[str, Any]:
        """Handle an event, with what it reads and what it leaves."""
        event = self.fns[block_fn] if isinstance(block_fn, int) else block_fn
        if event.concurrency_id != IN_TURN["concurrency_id"]:
            return await super().process_api(block_fn, *values, **named)
        self._turn = self._turn or asyncio.Lock()
        async with self._turn:
            return await super().process_api(block_fn, *values, **named)
