"""Tells a page when there is something new, so that it need not ask: the stream `/changes`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

LOOK = 0.2  # seconds between looks at what may change
QUIET = 15.0  # seconds after which a line keeps the connection alive


class Changes:
    """An ASGI app around another one.

    state: what a page shows the look of, as anything that can be compared.
    """

    def __init__(self, app: Any, state: Callable[[], object]) -> None:
        self.app, self.state = app, state

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer until the page leaves; one event at once, then one for every change."""
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if scope["type"] != "http" or path != "/changes":
            await self.app(scope, receive, send)
            return
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        before, quiet = object(), 0.0
        while True:
            now = await asyncio.to_thread(self.state)  # it may wait for a lock
            quiet += LOOK
            if now != before or quiet > QUIET:
                line = b"data: news\n\n" if now != before else b":\n\n"
                await send({"type": "http.response.body", "body": line, "more_body": True})
                before, quiet = now, 0.0
            try:
                message = await asyncio.wait_for(receive(), LOOK)
            except TimeoutError:
                continue
            if message["type"] == "http.disconnect":
                return
