"""Access to the page: who may use it, and what every answer forbids the browser.

It runs before Gradio, so no request bypasses it. A browser gets access by a cookie, which it gets
for a ticket, and a program by the header `X-Token`. Both must ask for this host and port, and not
from another site's page. SECURITY.md says what is promised.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from studio.language.catalogue import Speaker, gradio_language
from studio.page import refusal
from studio.system.session import DAYS, Session, is_signed, signed

App = Callable[..., Any]
Headers = list[tuple[bytes, bytes]]

NAMES = ("127.0.0.1", "localhost")
# What Gradio can do beside our page: fetch from elsewhere, write code, tell of its users.
CLOSED = re.compile(
    r"/(gradio_api/(proxy=|file=\w\w+:/|vibe|undo-vibe|process_recording|run-history|runs|stream/"
    r"|deep_link|profiling|login|token|dev/)|monitoring|login|logout|dev/)"
)
# Nobody stands between us and the browser; what is compressed is so after it was guarded.
DROPPED = re.compile(rb"x-forwarded-|forwarded$|x-gradio-server|x-real-ip|accept-encoding$")
ALWAYS = {
    b"x-frame-options": b"DENY",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"permissions-policy": b"camera=(), geolocation=(), microphone=(), usb=()",
}
NOTHING = b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
# Gradio makes functions of strings ('unsafe-eval') and styles of its own; no more is allowed.
PAGE = (
    "default-src 'none'; script-src 'self' 'unsafe-eval' {scripts}; style-src 'self'"
    " 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:;"
    " connect-src 'self'; worker-src 'self' blob:; manifest-src 'self'; base-uri 'self';"
    " form-action 'self'; frame-ancestors 'none'; object-src 'none'"
)
# For pages inside of others and links to them: ours is neither.
UNUSED = re.compile(
    rb"<script>\s*\(\(\) => \{\s*const root = [^<]*iframeResizer[^<]*</script>"
    rb'|<meta\s+(property|name)="(og|twitter):[^>]*>\s*'
)
INLINE = re.compile(rb"<script(?![^>]*\bsrc=)[^>]*>(.*?)</script>", re.DOTALL)


@dataclass
class Guard:
    """An ASGI app around another one.

    port: our own; token: of this launch, None where anybody of this machine may ask; inline: the
    script that Gradio puts into the page later; first: the one that runs before anything is loaded;
    quit_: ends the studio.
    """

    app: App
    port: int
    session: Session
    token: str | None
    say: Speaker
    inline: str
    first: str
    quit_: Callable[[], None]
    _used: set[str] = field(default_factory=set)

    @property
    def hosts(self) -> list[str]:
        """What a browser calls us."""
        return [f"{name}:{self.port}" for name in NAMES]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer, or have it answered."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            guarded = _guarded(send, self.inline, self.first, self.say.language)
            await self._answer(scope, receive, guarded)
        else:
            await send({"type": "websocket.close", "code": 1008})  # nothing of ours needs one

    async def _answer(self, scope: Any, receive: Any, send: Any) -> Any:
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            key = name.decode("latin-1")
            headers[key] = "; ".join(filter(None, [headers.get(key), value.decode("latin-1")]))
        answer = refusal.Answer(scope, headers, self.say)
        host = headers.get("host", "").lower()
        if host not in self.hosts:
            return await answer(send, 400, "guard.host", address=f"http://{self.hosts[0]}/")
        if scope["method"] not in ("GET", "HEAD", "POST", "DELETE"):
            return await answer(send, 405, "guard.method")
        if not _is_ours(headers, host):
            return await answer(send, 403, "guard.elsewhere", way_in=True)
        ticket = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if self.token and ticket and scope["path"] == "/" and self._opens(ticket, scope["method"]):
            return await self._let_in(send)
        inside = self._inside(scope, headers)
        if inside is None:
            return await answer(send, 401, "guard.closed")
        if inside["path"] == self.session.path:
            return await answer.redirect(send, f"{self.session.path}/")
        return await self._inner(inside, receive, send, answer)

    def _opens(self, ticket: str, method: str) -> bool:
        """Whether it is this launch's token, or a ticket that was not used before."""
        assert self.token is not None
        if _same(ticket, self.token):
            return True
        if method != "GET" or ticket in self._used or not is_signed(self.token, ticket):
            return False
        self._used.add(ticket)
        return True

    async def _let_in(self, send: Any) -> None:
        cookie = (
            f"{self._cookie}={signed(self.session.secret, DAYS)}; Path={self.session.path}/;"
            " HttpOnly; SameSite=Strict"
        )
        location = f"{self.session.path}/"
        headers = [(b"location", location.encode()), (b"set-cookie", cookie.encode())]
        await refusal.send_all(send, 303, b"", [*headers, (b"cache-control", b"no-store")])

    @property
    def _cookie(self) -> str:
        return f"neodragon-{self.port}"

    def _inside(self, scope: Any, headers: dict[str, str]) -> Any:
        """The scope that Gradio is to see, None where who asks is not let in."""
        path, root = scope["path"], self.session.path
        inner = dict(scope)
        inner["headers"] = [pair for pair in scope["headers"] if not DROPPED.match(pair[0])]
        known = self.token is None or _same(headers.get("x-token", ""), self.token)
        if known or path == "/favicon.ico":  # a browser asks for it without its cookie
            if path.startswith(f"{root}/"):
                inner["root_path"] = root
            return inner
        if path != root and not path.startswith(f"{root}/"):
            return None
        for pair in headers.get("cookie", "").split(";"):
            name, _, value = pair.strip().partition("=")
            if name == self._cookie and is_signed(self.session.secret, value):
                return inner | {"root_path": root}
        return None

    async def _inner(self, scope: Any, receive: Any, send: Any, answer: Any) -> Any:
        """Our own addresses, then Gradio's."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if CLOSED.match(path):
            return await answer(send, 404, "guard.nothing")
        if path == "/quit":
            if scope["method"] != "POST":
                return await answer(send, 405, "guard.method")
            await answer(send, 202, "guard.quit")
            return self.quit_()
        return await self.app(scope, receive, send)


def _same(one: str, other: str) -> bool:
    return secrets.compare_digest(one.encode(), other.encode())


def _is_ours(headers: dict[str, str], host: str) -> bool:
    """Whether our own page asks, the user, or a program; not a page from anywhere else."""
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return False
    ours = f"http://{host}"
    origin = headers.get("origin")
    if origin is not None:
        return origin.lower() == ours
    try:
        referer = urlsplit(headers.get("referer", ours))
    except ValueError:  # it is no address
        return False
    return f"{referer.scheme}://{referer.netloc}".lower() == ours


def _guarded(send: Any, inline: str, first: str, language: str) -> Any:
    """`send` that puts our headers on the answer, and takes those off that open it to others.

    A page of Gradio's is held back until it is whole: its scripts are named by their hashes. The
    script `first` stands in front of them.
    """
    start: dict[str, Any] = {}
    page: list[bytes] = []

    async def guarded(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"], kind = _kept(message["headers"])
            if kind == b"text/html":
                start.update(message)
                return
        elif start and message["type"] == "http.response.body":
            page.append(message.get("body", b""))
            if message.get("more_body"):
                return
            body = _spoken(b"".join(page), language)
            body = body.replace(b"<head>", f"<head><script>{first}</script>".encode(), 1)
            headers = [pair for pair in start["headers"] if pair[0] != b"content-length"]
            headers += [(b"content-security-policy", policy(body, inline))]
            headers += [(b"content-length", str(len(body)).encode())]
            await send(start | {"headers": headers})
            message = {"type": "http.response.body", "body": body}
        await send(message)

    return guarded


def _spoken(body: bytes, language: str) -> bytes:
    """Gradio's page without what is `UNUSED`, with Gradio's own words in the page's language.

    It takes them from what the browser prefers, so the page tells it another preference first.
    """
    code = gradio_language(language)
    body = UNUSED.sub(b"", body)
    script = f'<script>Object.defineProperty(navigator, "language", {{value: "{code}"}})</script>'
    body = body.replace(b'<html\n\tlang="en"', f'<html\n\tlang="{code}"'.encode(), 1)
    return body.replace(b'<link rel="manifest" href="/manifest.json" />', script.encode(), 1)


def _kept(headers: Headers) -> tuple[Headers, bytes]:
    """The headers of an answer as we send them, and what kind it is."""
    known = [(name.lower(), value) for name, value in headers]
    out = [
        (name, value)
        for name, value in known
        if not name.startswith(b"access-control-") and name not in ALWAYS and name != b"server"
    ]
    kind = dict(known).get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != b"text/html":
        out.append((b"content-security-policy", NOTHING))
    return [*out, *ALWAYS.items()], kind


def policy(body: bytes, inline: str) -> bytes:
    """The Content-Security-Policy of a page: no script but ours and those that stand in it."""
    scripts = [*INLINE.findall(body), inline.encode()]
    hashes = (base64.b64encode(hashlib.sha256(script).digest()).decode() for script in scripts)
    return PAGE.format(scripts=" ".join(f"'sha256-{each}'" for each in hashes)).encode()
