"""What passes after the guard: uploads within limits, whole requests, known files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from engine.errors import Message, NeodragonError, RequestError
from studio.language.catalogue import Speaker
from studio.page.endpoints import completed
from studio.page.refusal import send_all

UPLOAD = 256 * 2**20  # bytes of one upload
UPLOADS = 2 * 2**30  # bytes of all that this launch keeps
FILES = 500  # uploaded files that it keeps
BODY = 2**20  # bytes of a program's request
CALL = re.compile(r"/gradio_api/(run|api|call/v2|call)/(\w+)/?$")
OWN = re.compile(r"/gradio_api/(queue/join|run/predict)/?$")  # calls by number, of the page itself
# The files that the page hands out, and as what; those in the second list are saved, not shown.
SHOWN = {
    **{".mp4": "video/mp4", ".mov": "video/quicktime", ".webm": "video/webm", ".gif": "image/gif"},
    **{".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"},
    **{".bmp": "image/bmp", ".tif": "image/tiff", ".tiff": "image/tiff", ".avif": "image/avif"},
}
PASSING = (b"etag", b"last-modified", b"accept-ranges")  # how a browser asks for a file again
SAVED = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".zip", ".heic", ".heif", ".ndpack")


class Intake:
    """An ASGI app around Gradio's. functions: the endpoints by name; temporary: of uploads."""

    def __init__(
        self, app: Any, functions: Mapping[str, Callable[..., Any]], temporary: Path, say: Speaker
    ) -> None:
        self.app, self.functions, self.temporary, self.say = app, functions, temporary, say

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        """Pass on what is in order."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        send = _understood(send, OWN.match(path) is not None)
        called = CALL.match(path)
        if re.match(r"/gradio_api/file[=/]", path):
            kind = kind_of(path)
            if kind is None:
                return await _say(send, 404, self.say("guard.nothing"))
            send = _as(kind, send)
        elif path.startswith("/assets/"):
            send = _lasting(send)
        elif path.startswith("/gradio_api/upload") and scope["method"] == "POST":
            problem = self._too_much(scope)
            if problem:
                return await _say(send, 413, problem)
        elif called and scope["method"] == "POST" and called[2] != "predict":  # the page's own
            function = self.functions.get(called[2])
            if function is None:
                return await _say(send, 404, self.say("guard.nothing"))
            try:
                body = completed(function, await _body(receive), called[1] == "call/v2")
            except NeodragonError as error:
                return await _say(send, 400, json.dumps({"error": str(error)}), "application/json")
            scope = dict(scope, headers=_sized(scope["headers"], len(body)))
            receive, send = _once(body, receive), _mistaken(send)
        await self.app(scope, receive, send)

    def _too_much(self, scope: Any) -> str:
        """Why this upload is not taken; "" where it is."""
        length = dict(scope["headers"]).get(b"content-length", b"")
        if not length.isdigit() or int(length) > UPLOAD:
            return self.say("upload.large", size=UPLOAD // 2**20)
        kept = [size for entry in _files(self.temporary) if (size := _size(entry)) is not None]
        if len(kept) >= FILES or sum(kept) + int(length) > UPLOADS:
            return self.say("upload.many", count=FILES, size=UPLOADS // 2**30)
        return ""


def kind_of(path: str) -> str | None:
    """As what a file is handed out, None where it is not."""
    suffix = PurePosixPath(path).suffix.lower()
    return SHOWN.get(suffix, "application/octet-stream" if suffix in SAVED else None)


def _size(entry: os.DirEntry[str]) -> int | None:
    """Bytes of a file, None where it has gone meanwhile."""
    try:
        return entry.stat().st_size
    except OSError:
        return None


def _files(folder: Path) -> list[os.DirEntry[str]]:
    files: list[os.DirEntry[str]] = []
    try:
        entries = list(os.scandir(folder))
    except OSError:  # it has gone meanwhile
        return files
    for entry in entries:
        files += _files(Path(entry.path)) if entry.is_dir(follow_symlinks=False) else [entry]
    return files


def _as(kind: str, send: Any) -> Any:
    """`send` that says this kind, whatever the system calls it."""
    how = b"inline" if kind in SHOWN.values() else b"attachment"

    async def sent(message: Any) -> None:
        if message["type"] == "http.response.start" and message["status"] < 300:
            named = dict(message["headers"]).get(b"content-disposition", b"").partition(b";")
            disposition = how + named[1] + named[2]
            other = (b"content-type", b"content-disposition")
            headers = [pair for pair in message["headers"] if pair[0] not in other]
            headers += [(b"content-type", kind.encode()), (b"content-disposition", disposition)]
            message = {**message, "headers": headers}
        await send(message)

    return sent


def _lasting(send: Any) -> Any:
    """`send` of a file whose name changes with its content: the browser keeps it, unasked."""

    async def sent(message: Any) -> None:
        if message["type"] == "http.response.start" and message["status"] == 200:
            headers = [pair for pair in message["headers"] if pair[0] not in PASSING]
            message = {**message, "headers": [*headers, (b"cache-control", b"max-age=31536000")]}
        await send(message)

    return sent


async def _body(receive: Any) -> bytes:
    """A whole request; raises RequestError where it is too long."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > BODY:
            raise RequestError(
                "The request is longer than {limit} bytes; shorten it.",
                limit=BODY,
            )
    return body


def _once(body: bytes, receive: Any) -> Any:
    """`receive` that gives this body first."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Any:
        return left.pop() if left else await receive()

    return received


def _sized(headers: list[tuple[bytes, bytes]], size: int) -> list[tuple[bytes, bytes]]:
    ours = (b"content-length", b"transfer-encoding", b"content-type")
    kept = [pair for pair in headers if pair[0] not in ours]
    length = (b"content-length", str(size).encode())
    return [*kept, length, (b"content-type", b"application/json")]


def _mistaken(send: Any) -> Any:
    """`send` that answers 400 where Gradio says 500 of what was asked wrongly."""
    start: dict[str, Any] = {}

    async def sent(message: Any) -> None:
        if message["type"] == "http.response.start" and message["status"] == 500:
            start.update(message)
            return
        if start and message["type"] == "http.response.body":
            ours = b'"title"' in message.get("body", b"")
            await send(start | {"status": 400 if ours else 500})
            start.clear()
        await send(message)

    return sent


def _understood(send: Any, own: bool) -> Any:
    """`send` that says in one sentence what Gradio says in a table of its own fields.

    own: a call of the page itself; of a function that there is not, Gradio says a plain 500.
    """
    held = False

    async def sent(message: Any) -> None:
        nonlocal held
        if message["type"] == "http.response.start":
            plain = dict(message["headers"]).get(b"content-type", b"").startswith(b"text/plain")
            held = message["status"] == 422 or (own and plain and message["status"] == 500)
        if not held:
            await send(message)
        elif message["type"] == "http.response.body" and not message.get("more_body"):
            problem = Message("The request cannot be read; correct it and send it again.")
            body = json.dumps({"error": str(problem)})
            await _say(send, 400, body, "application/json")

    return sent


async def _say(send: Any, status: int, text: str, kind: str = "text/plain") -> None:
    headers = [(b"content-type", f"{kind}; charset=utf-8".encode())]
    await send_all(send, status, text.encode(), headers)
