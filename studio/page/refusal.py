"""The server's own refusals: a sentence for programs, a small page for people."""

from __future__ import annotations

from html import escape
from typing import Any

from studio.language.catalogue import Speaker

PAGE = """<!doctype html><html lang="{language}"><meta charset="utf-8">
<title>Neodragon Studio</title>
<meta name="viewport" content="width=device-width">{again}
<style>body{{font:16px/1.5 system-ui;max-width:34rem;margin:20vh auto 0;padding:0 1rem;
color-scheme:light dark}}a{{font-weight:600}}</style>
<h1>Neodragon Studio</h1><p>{words}</p>{link}</html>"""
# A tab that was let in meanwhile, in another tab of this browser, goes on by itself.
AGAIN = '<meta http-equiv="refresh" content="5">'


class Answer:
    """The answer to one request; call it to send it."""

    def __init__(self, scope: Any, headers: dict[str, str], say: Speaker) -> None:
        self.scope, self.headers, self.say = scope, headers, say

    async def __call__(
        self, send: Any, status: int, key: str, *, way_in: bool = False, **values: object
    ) -> None:
        """Say `key`; way_in: with a link to here, that the user may follow."""
        text = self.say(key, **values)
        if "text/html" not in self.headers.get("accept", ""):
            await send_all(send, status, text.encode(), _typed("text/plain"))
            return
        link = f'<p><a href="">{escape(self.say("guard.go"))}</a></p>' if way_in else ""
        again = AGAIN if status == 401 else ""
        page = PAGE.format(
            words=escape(text), link=link, again=again, language=self.say("guard.language")
        )
        await send_all(send, status, page.encode(), _typed("text/html"))

    async def redirect(self, send: Any, path: str) -> None:
        """To another path."""
        await send_all(send, 307, b"", [(b"location", path.encode())])


def _typed(kind: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", f"{kind}; charset=utf-8".encode()),
        (b"cache-control", b"no-store"),
    ]


async def send_all(send: Any, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """A whole answer."""
    headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
