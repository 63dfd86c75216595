"""How the page's events are handled: Gradio options that all tabs share."""

from __future__ import annotations

from typing import Any

Update = dict[Any, Any]  # component to new value
QUICK: dict[str, Any] = {
    "queue": False,
    "show_progress": "hidden",
    "api_visibility": "private",
}
# For clicks and keys that follow one another quickly: each is handled, in order.
IN_TURN: dict[str, Any] = QUICK | {
    "queue": True,
    "trigger_mode": "multiple",
    "concurrency_id": "in turn",
    "concurrency_limit": 1,
}
