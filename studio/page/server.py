"""Serve the page to this machine alone: no analytics, no request to anywhere, no file left over."""

from __future__ import annotations

import errno
import gc
import importlib.util
import json
import logging
import mimetypes
import os
import re
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from engine.errors import Message, NeodragonError
from engine.pack import Pack
from engine.session import Backend
from studio.language.catalogue import Speaker, chosen_language, gradio_language, string
from studio.media.sidecars import KINDS
from studio.media.thumbnails import thumbnail
from studio.page.changes import Changes
from studio.page.desk import Desk
from studio.page.guard import Guard
from studio.system import environment
from studio.system.instance import show, single
from studio.system.paths import ASSETS, cache_folder, data_folder, private
from studio.system.session import MINUTE, Session, end, keep, session, signed
from studio.system.settings import Theme, clips_folder, load, settings_file

if TYPE_CHECKING:
    import gradio as gr

HOST = "127.0.0.1"
ENDS = ("SIGTERM", "SIGBREAK")  # on Windows the second alone comes from outside
PORTS = range(7860, 7960)
GRADIO_LABELS = ("gradio.drop", "gradio.number", "gradio.range", "gradio.reset")
TAKEN = Message("another program uses it")
ADMINISTRATORS = Message("only an administrator may use it")
A_DAY = 86_400.0  # seconds
SCRIPTS = ("page.js", "player.js", "queue.js", "library.js", "history.js")
KEPT = ("pictures", "lists")  # folders of the data that the page shows files of
PARTS = re.compile(r"(/[0-9a-f]{32})?/(theme\.css|(assets|static)/.+|gradio_api/run/predict)?")
LEAST = 300  # bytes that are worth compressing
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
            link = _ticket(address, A_DAY) if browser else address
            print(f"Neodragon Studio is open already, at {link}")
            if browser:
                show(_ticket(address), data_folder() / "window")
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
        raise ServerError("--mcp needs the package mcp; run pip install 'neodragon-studio[mcp]'.")
    settings, problem = load(settings_file())
    if problem:
        print(problem)
    clips = clips_folder()
    with suppress(OSError):  # others find the previews nowhere
        private(cache_folder())
    language = chosen_language(settings.language)
    with (
        tempfile.TemporaryDirectory(
            prefix="neodragon-page-", dir=environment.temporary_folder(data_folder() / "temporary")
        ) as temporary,
        Desk(pack, backend, clips, data_folder(), cache_folder(), settings.threads) as desk,
        terminating(desk.quit),
    ):
        token = secrets.token_urlsafe(24)
        blocks, address = launch(desk, Path(temporary), port, language, settings.theme, token, mcp)
        try:
            if mcp:
                print(f"MCP: {address}gradio_api/mcp/ with the header X-Token: {token}")
            address += f"?token={token}"
            gc.freeze()  # what is loaded stays: else the end of the process is spent on visiting it
            publish(address)
            # Whoever sees to the browser himself gets the token, which programs need as well.
            link = _ticket(address, A_DAY) if browser else address
            print(
                f"Neodragon Studio is at {link} (Ctrl+C ends it); clips go to {clips}", flush=True
            )
            window = show(_ticket(address), data_folder() / "window") if browser else None
            while not desk.quit.wait(LOOK):
                if window is not None and window.poll() is not None and not desk.is_busy:
                    break  # its window was closed, and nothing is being made
        finally:
            blocks.close(verbose=False)
            end(data_folder())


def _ticket(address: str, seconds: float = MINUTE) -> str:
    """The address with a ticket for one use instead of the token: others see what we start."""
    page, _, token = address.partition("?token=")
    return f"{page}?token={signed(token, seconds)}"


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

    port: None for the last one or a free one from 7860 up, 0 for any; token: what every program
    must know (`Guard`), None for no such rule; mcp: serve the named endpoints as tools too.
    Raises ServerError.
    """
    known = session(desk.data) if token else Session()
    listening = bound(port, known.port)
    number = listening.getsockname()[1]
    try:
        if token:
            keep(desk.data, replace(known, port=number))
        blocks, app = _gradio(desk, temporary, number, language, colours, mcp)
        address = f"http://{HOST}:{number}/"
        if blocks.mcp_server_obj:
            blocks.mcp_server_obj._local_url = address
        guard = Guard(
            *(app, number, known, token, Speaker(language)),
            *(_script(*SCRIPTS), _script("outlive.js"), desk.quit.set),
        )
        blocks.server = Server(Compressed(guard), listening)  # type: ignore[assignment]
    except NeodragonError:
        listening.close()
        raise
    except Exception as error:  # whatever Gradio and its servers think of
        listening.close()
        raise ServerError(
            "The page could not be built ({kind}: {error}); start the studio again, and report "
            "this sentence if it comes back.",
            kind=type(error).__name__,
            error=" ".join(str(error).split())[:300],
        ) from error
    return blocks, address


def _gradio(
    desk: Desk, temporary: Path, number: int, language: str, colours: Theme, mcp: bool
) -> tuple[gr.Blocks, Any]:
    """The page's blocks, and the ASGI app that serves them."""
    prepare_environment(temporary)
    import gradio as gr  # noqa: PLC0415  it reads the environment when it is imported
    from starlette.applications import Starlette  # noqa: PLC0415

    from studio.page import app as page  # noqa: PLC0415
    from studio.page.endpoints import endpoints  # noqa: PLC0415
    from studio.page.intake import UPLOAD, Intake  # noqa: PLC0415

    functions = endpoints(desk)
    blocks = page.build(desk, language, functions)
    geometry = desk.pack.geometry
    own = {string(key, "en"): string(key, language) for key in GRADIO_LABELS}
    labels = escape(json.dumps({} if language == "en" else own))
    outer: Any = Starlette()
    gr.mount_gradio_app(
        outer,
        blocks,
        "/",
        server_name=HOST,
        server_port=number,
        allowed_paths=[
            *(str(desk.clips), str(desk.cache)),
            *(str(desk.data / name) for name in KEPT),
        ],
        theme=page.theme(),
        css=f":root {{ --aspect: {geometry.width} / {geometry.height} }}",
        css_paths=ASSETS / "page.css",
        head=f'<meta name="colours" content="{colours}"><meta name="labels" content="{labels}">'
        f"<script>{_script(*SCRIPTS)}</script>",
        favicon_path=str(ASSETS / "icon.svg"),
        footer_links=[],
        i18n=gr.I18n(
            **{gradio_language(language): {"common.complete": string("gradio.complete", language)}}
        ),
        run_history=False,
        ssr_mode=False,
        mcp_server=mcp,
        max_file_size=UPLOAD,
    )
    blocks.app = blocks.server_app = outer.routes[-1].app
    inner = Changes(Thumbnails(outer, desk.clips, desk.cache), desk.state)
    return blocks, Intake(inner, functions, temporary, Speaker(language))


def _script(*names: str) -> str:
    """The scripts as one, without indentation and comments."""
    text = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in names)
    return re.sub(r"^\s*(//.*\n\s*)*", "", text, flags=re.MULTILINE)


def bound(port: int | None, last: int | None = None) -> socket.socket:
    """A socket of 127.0.0.1 at this port; raises ServerError where there is none.

    port: None for `last`, else the first free one from 7860 up; 0 for any.
    """
    if port is not None and not 0 <= port < 65536:
        raise ServerError(
            "There is no port {port}; choose one from 0 to 65535 with --port.",
            port=port,
        )
    choice = [port] if port is not None else [*([last] if last else []), *PORTS, 0]
    for number in choice:
        listening = socket.socket()
        if sys.platform == "win32":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, number))
            listening.listen(128)
        except OSError as error:
            listening.close()
            why = ADMINISTRATORS if error.errno == errno.EACCES else TAKEN
            continue
        return listening
    raise ServerError(
        "The port {port} cannot be used: {why}; choose another with --port.",
        port=port,
        why=why,
    )


class Server:
    """uvicorn in a thread of its own, until it is closed."""

    def __init__(self, app: Any, listening: socket.socket) -> None:
        import uvicorn  # noqa: PLC0415

        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            ws="none",
            lifespan="on",
            timeout_graceful_shutdown=1,
        )
        logging.getLogger("uvicorn.error").disabled = False
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=[[listening]], daemon=True)
        self.thread.start()
        while not self.server.started:
            if not self.thread.is_alive():
                raise ServerError(
                    "The page's server ended before it was ready; start the studio again."
                )
            time.sleep(0.01)

    def close(self) -> None:
        """Answer what was asked, a second at most, and end."""
        logging.getLogger("uvicorn.error").disabled = True  # what is cut off is no news
        self.server.should_exit = True
        self.thread.join(timeout=5)


class Compressed:
    """Sends the parts of the page itself compressed; pictures and clips are so already."""

    def __init__(self, app: Any) -> None:
        from gradio.brotli_middleware import BrotliResponder, Mode  # noqa: PLC0415
        from starlette.middleware.gzip import GZipMiddleware  # noqa: PLC0415

        self.app, self.gzip = app, GZipMiddleware(app, minimum_size=LEAST, compresslevel=6)
        self.brotli = partial(BrotliResponder, app, 8, Mode.text, 22, 0, LEAST)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Compress where the browser takes it."""
        app = self.app
        if scope["type"] == "http" and PARTS.fullmatch(scope["path"]):
            takes = dict(scope["headers"]).get(b"accept-encoding", b"").replace(b" ", b"")
            app = self.brotli() if b"br" in takes.split(b",") else self.gzip
        await app(scope, receive, send)


class Thumbnails:
    """Answers `/thumbnail?path=..` with a small picture of a file in the clips' folder."""

    def __init__(self, app: Any, clips: Path, cache: Path) -> None:
        self.app, self.clips, self.cache = app, clips, cache

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer 404 where there is no such file, or no picture in it."""
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if scope["type"] != "http" or path != "/thumbnail":
            await self.app(scope, receive, send)
            return
        from starlette.concurrency import run_in_threadpool  # noqa: PLC0415
        from starlette.responses import FileResponse, Response  # noqa: PLC0415

        name = parse_qs(scope["query_string"].decode("latin-1")).get("path", [""])[0]
        response = Response(status_code=404)
        try:
            path = Path(name).resolve()
            if path.is_relative_to(self.clips.resolve()) and path.suffix.lower() in KINDS:
                small = await run_in_threadpool(thumbnail, path, self.cache)
                response = FileResponse(small, headers={"Cache-Control": "max-age=31536000"})
        except (NeodragonError, OSError, RuntimeError, ValueError):  # links in a circle, too
            pass
        await response(scope, receive, send)


def prepare_environment(temporary: Path) -> None:
    """What Gradio takes from the environment: to be set before it is imported."""
    environment.clean()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(temporary)
    mimetypes.init(files=[])  # a file is what we say, not what another program told the system
    for kind, suffix in (("text/javascript", ".js"), ("image/webp", ".webp")):
        mimetypes.add_type(kind, suffix)
