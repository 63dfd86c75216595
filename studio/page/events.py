"""How the page's events are handled: Gradio options that all tabs share."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr

Update = dict[Any, Any]  # component to new value
QUICK: dict[str, Any] = {
    "queue": False,
    "show_progress": "hidden",
    "api_visibility": "private",
}
# For clicks and keys that follow one another quickly: each is handled, in order (`InTurn`).
IN_TURN: dict[str, Any] = QUICK | {"trigger_mode": "multiple", "concurrency_id": "in turn"}
PATIENCE = 2.0  # seconds for an event that another one overtook


class InTurn(gr.Blocks):
    """A page whose `IN_TURN` events are handled one after the other, each on what the last left.

    An event whose data has a `count` is handled after the one of the same tab before it, even if it
    overtook that one on its way.

    Gradio's own queue can do that too, but it sends results by a stream that it closes when nothing
    waits; the result of an event that comes just then is never shown.
    """

    _turn: asyncio.Condition | None = None
    _handled: WeakKeyDictionary[Any, int] = WeakKeyDictionary()  # the last `count` of each tab

    async def process_api(self, block_fn: Any, *values: Any, **named: Any) -> dict[str, Any]:
        """Handle an event, with what it reads and what it leaves."""
        event = self.fns[block_fn] if isinstance(block_fn, int) else block_fn
        if event.concurrency_id != IN_TURN["concurrency_id"]:
            return await super().process_api(block_fn, *values, **named)
        tab, count = named.get("state"), _count(named.get("event_data"))
        turn = self._turn = self._turn or asyncio.Condition()
        async with turn:
            if tab is not None and count:
                before = turn.wait_for(lambda: self._handled.get(tab, 0) >= count - 1)
                with suppress(TimeoutError):
                    await asyncio.wait_for(before, PATIENCE)
            try:
                return await super().process_api(block_fn, *values, **named)
            finally:
                if tab is not None and count:
                    self._handled[tab] = max(count, self._handled.get(tab, 0))
                    turn.notify_all()


def _count(event: gr.EventData | None) -> int:
    data = getattr(event, "_data", None)
    count = data.get("count") if isinstance(data, dict) else None
    return count if isinstance(count, int) else 0
