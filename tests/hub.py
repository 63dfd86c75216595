"""A server on 127.0.0.1 that speaks the hub's protocol, with faults to order."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """files: content by name; asked: paths in order; cut: bytes after which a file breaks off once,
    by name; wrong: names whose bytes are others than their hash says; code: answered to everything
    when it is not 0; ranges: what was asked of files that were gone on with.
    """

    files: dict[str, bytes]
    asked: list[str] = field(default_factory=list)
    cut: dict[str, int] = field(default_factory=dict)
    wrong: set[str] = field(default_factory=set)
    code: int = 0
    tokens: set[str] = field(default_factory=set)
    ranges: list[str] = field(default_factory=list)
    url: str = ""

    def siblings(self) -> list[dict[str, Any]]:
        """What the repository lists; a .safetensors file is kept apart from git, as on the hub."""
        listed = []
        for name, content in self.files.items():
            told: dict[str, Any] = {"rfilename": name, "size": len(content)}
            told["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            if name.endswith(".safetensors"):
                digest = hashlib.sha256(content).hexdigest()
                told["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
            listed.append(told)
        return listed


@contextmanager
def served(files: dict[str, bytes]) -> Iterator[Hub]:
    """The repository on a free port."""
    hub = Hub(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = re.sub(r"^http://[^/]+", "", self.path)  # as a proxy gets it
            hub.asked.append(f"{self.command} {path}")
            hub.tokens.add(self.headers.get("Authorization", ""))
            if hub.code:
                self.reply(hub.code, b"{}" if body else b"", {})
                return
            if path.startswith("/api/models/"):
                told = {"id": "x/y", "modelId": "x/y", "sha": COMMIT, "siblings": hub.siblings()}
                self.reply(200, json.dumps(told).encode(), {"Content-Type": "application/json"})
                return
            name = path.split(f"/resolve/{COMMIT}/")[-1]
            if name not in hub.files:
                self.reply(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            self.file(name, body)

        def file(self, name: str, body: bool) -> None:
            content = hub.files[name]
            headers = {"X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            headers["ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
            wanted = self.headers.get("Range")
            sent = bytes(len(content)) if name in hub.wrong else content
            code, start = 200, 0
            if wanted and body:
                hub.ranges.append(f"{name} {wanted}")
                start = int(wanted.removeprefix("bytes=").split("-")[0])
                code = 206
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            sent = sent[start:]
            stop = hub.cut.pop(name, None) if body else None
            self.reply(code, sent if body else b"", headers, len(sent), stop)

        def reply(
            self,
            code: int,
            content: bytes,
            headers: dict[str, str],
            length: int | None = None,
            stop: int | None = None,
        ) -> None:
            self.send_response(code)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content) if length is None else length))
            self.end_headers()
            self.wfile.write(content[:stop])
            if stop is not None:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
