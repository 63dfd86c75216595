"""Serve the page to this machine alone: no analytics, no request to anywhere, no file left over."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import NeodragonError
from engine.pack import Pack
from engine.session import Backend
from studio.places import ASSETS, clips_folder

if TYPE_CHECKING:
    import gradio as gr

HOST = "127.0.0.1"


class ServerError(NeodragonError):
    """The page cannot be served."""


def serve(pack: Pack, backend: Backend, *, port: int | None = None, browser: bool = True) -> None:
    """Serve the page until Ctrl+C; raises ServerError where the port is taken."""
    with tempfile.TemporaryDirectory(prefix="neodragon-page-") as temporary:
        blocks, address = launch(pack, backend, clips_folder(), Path(temporary), port)
        print(f"Neodragon Studio is at {address} (Ctrl+C ends it); clips go to {clips_folder()}")
        if browser:
            import webbrowser  # noqa: PLC0415

            webbrowser.open(address)
        try:
            blocks.block_thread()
        finally:
            blocks.close()


def launch(
    pack: Pack, backend: Backend, clips: Path, temporary: Path, port: int | None = None
) -> tuple[gr.Blocks, str]:
    """Start the page in threads of its own; the blocks (close them) and the page's address."""
    prepare_environment(temporary)
    from studio import page  # noqa: PLC0415  Gradio reads the environment when it is imported

    blocks = page.build(pack, backend, clips)
    geometry = pack.geometry
    script = (ASSETS / "page.js").read_text(encoding="utf-8")
    try:
        _, address, _ = blocks.launch(
            server_name=HOST,
            server_port=port,
            allowed_paths=[str(clips)],
            theme=page.theme(),
            css=f":root {{ --aspect: {geometry.width} / {geometry.height} }}",
            css_paths=ASSETS / "page.css",
            head=f"<script>{script}</script>",
            favicon_path=ASSETS / "icon.svg",
            footer_links=[],
            run_history=False,
            ssr_mode=False,
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


def prepare_environment(temporary: Path) -> None:
    """What Gradio takes from the environment: to be set before it is imported."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(temporary)
    # With a proxy set, Gradio would ask it for its own page, and fail to start.
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*hosts, HOST, "localhost"]))
