"""Serve the page to this machine alone: no analytics, no request to anywhere, no file left over."""

from __future__ import annotations

import importlib.util
import os
import secrets
import signal
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from engine.errors import NeodragonError
from engine.pack import Pack
from engine.session import Backend
from studio.language.catalogue import system_language
from studio.media.sidecars import KINDS
from studio.media.thumbnails import thumbnail
from studio.page.desk import Desk
from studio.system.instance import show, single
from studio.system.paths import ASSETS, cache_folder, data_folder
from studio.system.settings import Theme, clips_folder, load, settings_file

if TYPE_CHECKING:
    import gradio as gr

HOST = "127.0.0.1"
OURS = [HOST, "localhost"]
ENDS = ("SIGTERM", "SIGBREAK")  # on Windows the second alone comes from outside
LOOK = 0.3  # seconds between looks at the window


class ServerError(NeodragonError):
    """The page cannot be served."""


def serve(
    pack: Pack,
    backend: Backend,
    *,
    port: int | None = None,
    browser: bool = True,
    mcp: bool = False,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve the page until Ctrl+C, SIGTERM, Ctrl+Break, `nds quit` or its own *Quit*.

    mcp: also the tools of `page._endpoints` by the Model Context Protocol (the extra `mcp`).
    ready: called when the page is there, before it is shown.
    Where the studio is open already, that one is shown instead. Raises ServerError where the port
    is taken.
    """
    with single(data_folder()) as instance:
        if instance is None:
            _serve(pack, backend, port, browser, mcp, lambda address: ready())
            return
        if not instance.is_first:
            address = instance.other()
            ready()
            print(f"Neodragon Studio is open already, at {address}")
            if browser:
                show(address, data_folder() / "window")
            return

        def publish(address: str) -> None:
            instance.publish(address)
            ready()

        _serve(pack, backend, port, browser, mcp, publish)


def _serve(
    pack: Pack,
    backend: Backend,
    port: int | None,
    browser: bool,
    mcp: bool,
    publish: Callable[[str], None],
) -> None:
    if mcp and importlib.util.find_spec("mcp") is None:
        raise ServerError(
            "The package mcp should be installed for --mcp, but it is not;"
            " pip install 'neodragon-studio[mcp]'."
        )
    settings, problem = load(settings_file())
    if problem:
        print(problem)
    clips = clips_folder()
    language = system_language() if settings.language == "system" else settings.language
    with (
        tempfile.TemporaryDirectory(prefix="neodragon-page-") as temporary,
        Desk(pack, backend, clips, data_folder(), cache_folder(), settings.threads) as desk,
        terminating(desk.quit),
    ):
        token = secrets.token_urlsafe(24)
        blocks, address = launch(desk, Path(temporary), port, language, settings.theme, token, mcp)
        try:
            if mcp:
                print(f"MCP: {address}gradio_api/mcp/ with the header X-Token: {token}")
            address += f"?token={token}"
            publish(address)
            print(
                f"Neodragon Studio is at {address} (Ctrl+C ends it); clips go to {clips}",
                flush=True,
            )
            window = show(address, data_folder() / "window") if browser else None
            while not desk.quit.wait(LOOK):
                if window is not None and window.poll() is not None and not desk.is_busy:
                    break  # its window was closed, and nothing is being made
        finally:
            blocks.close()


@contextmanager
def terminating(quit_: threading.Event) -> Iterator[None]:
    """SIGTERM, or Ctrl+Break on Windows, sets the event meanwhile; Ctrl+C does as well."""
    numbers = [getattr(signal, name) for name in ENDS if hasattr(signal, name)]
    before = [signal.signal(number, lambda *_: quit_.set()) for number in numbers]
    try:
        yield
    except KeyboardInterrupt:
        quit_.set()
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def launch(
    desk: Desk,
    temporary: Path,
    port: int | None = None,
    language: str = "en",
    colours: Theme = "system",
    token: str | None = None,
    mcp: bool = False,
) -> tuple[gr.Blocks, str]:
    """Start the page in threads of its own; the blocks (close them) and the page's address.

    token: what every request must know (`Token`), None for no such rule; mcp: serve the
    named endpoints as tools too.
    """
    prepare_environment(temporary)
    from starlette.middleware import Middleware  # noqa: PLC0415
    from starlette.middleware.trustedhost import TrustedHostMiddleware  # noqa: PLC0415

    from studio.page import app as page  # noqa: PLC0415  Gradio reads the environment when it is imported

    blocks = page.build(desk, language)
    geometry = desk.pack.geometry
    script = (ASSETS / "page.js").read_text(encoding="utf-8")
    guards = [
        Middleware(TrustedHostMiddleware, allowed_hosts=OURS),
        Middleware(SameOrigin),
        *([Middleware(Token, token=token)] if token else []),
        Middleware(Quit, event=desk.quit),
        Middleware(Thumbnails, clips=desk.clips, cache=desk.cache),
    ]
    try:
        _, address, _ = blocks.launch(
            server_name=HOST,
            server_port=port,
            allowed_paths=[str(desk.clips), str(desk.cache), str(desk.data / "pictures")],
            app_kwargs={"middleware": guards},
            theme=page.theme(),
            css=f":root {{ --aspect: {geometry.width} / {geometry.height} }}",
            css_paths=ASSETS / "page.css",
            head=f'<meta name="colours" content="{colours}"><script>{script}</script>',
            favicon_path=ASSETS / "icon.svg",
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            mcp_server=mcp,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
        )
    except (OSError, OverflowError) as error:
        raise ServerError(
            f"The port {port or 'from 7860 to 7959'} should be there and free, but it is not;"
            " choose another with --port."
        ) from error
    return blocks, address


class SameOrigin:
    """Refuses a request that a page from elsewhere made this browser send."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer 403 where the Origin header names another host than this machine."""
        origin = dict(scope.get("headers") or ()).get(b"origin", b"").decode("latin-1")
        if origin and urlsplit(origin).hostname not in OURS:
            from starlette.responses import PlainTextResponse  # noqa: PLC0415

            refusal = PlainTextResponse("Only the studio's own page may ask.", 403)
            return await refusal(scope, receive, send)
        await self.app(scope, receive, send)


class Token:
    """Lets in who knows this launch's token: other programs and users of this machine do not.

    `?token=..` in the address, once, becomes a cookie; programs send the header `X-Token`.
    """

    OPEN = "/gradio_api/startup-events"  # Gradio calls it itself, and it tells nothing

    def __init__(self, app: Any, token: str) -> None:
        self.app, self.token = app, token
        self.cookie = f"neodragon{zlib.crc32(token.encode())}"  # ports share their cookies

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer 401 without it."""
        if scope["type"] not in ("http", "websocket") or scope["path"] == self.OPEN:
            await self.app(scope, receive, send)
            return
        from starlette.requests import HTTPConnection  # noqa: PLC0415
        from starlette.responses import PlainTextResponse, RedirectResponse  # noqa: PLC0415

        request = HTTPConnection(scope)
        asked = request.query_params.get("token", "")
        sent = request.headers.get("x-token", "") or request.cookies.get(self.cookie, "")
        response: Any = PlainTextResponse("Open the address that the studio showed.", 401)
        if secrets.compare_digest(asked.encode(), self.token.encode()):
            response = RedirectResponse(request.url.path, 303)
            response.set_cookie(self.cookie, self.token, httponly=True, samesite="strict")
        elif secrets.compare_digest(sent.encode(), self.token.encode()):
            response = self.app
        await response(scope, receive, send)


class Quit:
    """`POST /quit` closes the studio, as its own *Quit* does; for `nds quit` and other programs."""

    def __init__(self, app: Any, event: threading.Event) -> None:
        self.app, self.event = app, event

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer 202 and set the event, 405 to another method."""
        if scope["type"] != "http" or scope["path"] != "/quit":
            await self.app(scope, receive, send)
            return
        from starlette.background import BackgroundTask  # noqa: PLC0415
        from starlette.responses import Response  # noqa: PLC0415

        asked = scope["method"] == "POST"
        after = BackgroundTask(self.event.set) if asked else None
        await Response(status_code=202 if asked else 405, background=after)(scope, receive, send)


class Thumbnails:
    """Answers `/thumbnail?path=..` with a small picture of a file in the clips' folder."""

    def __init__(self, app: Any, clips: Path, cache: Path) -> None:
        self.app, self.clips, self.cache = app, clips, cache

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer 404 where there is no such file, or no picture in it."""
        if scope["type"] != "http" or scope["path"] != "/thumbnail":
            await self.app(scope, receive, send)
            return
        from starlette.concurrency import run_in_threadpool  # noqa: PLC0415
        from starlette.responses import FileResponse, Response  # noqa: PLC0415

        asked = parse_qs(scope["query_string"].decode("latin-1")).get("path", [""])[0]
        response = Response(status_code=404)
        try:
            path = Path(asked).resolve()
            if path.is_relative_to(self.clips.resolve()) and path.suffix.lower() in KINDS:
                small = await run_in_threadpool(thumbnail, path, self.cache)
                response = FileResponse(small, headers={"Cache-Control": "max-age=31536000"})
        except (NeodragonError, OSError, ValueError):
            pass
        await response(scope, receive, send)


def prepare_environment(temporary: Path) -> None:
    """What Gradio takes from the environment: to be set before it is imported."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(temporary)
    # With a proxy set, Gradio would ask it for its own page, and fail to start.
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*hosts, HOST, "localhost"]))
