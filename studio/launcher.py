"""What a double click starts, and the one program behind every name in the frozen folder.

`neodragon-studio` opens the studio; with arguments, or called `nds`, it is the command line;
`--worker` is the worker, `--farm` the farm's host, `--compile-context` the NPU's compiler. An
error before the page is there becomes a file that opens in the browser.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import sys
import traceback
import webbrowser
from collections.abc import Callable
from datetime import datetime
from html import escape
from pathlib import Path

from studio import __version__
from studio.cli.console import HARMLESS
from studio.language.catalogue import string, system_language
from studio.system import environment, paths, splash, streams
from studio.system.privacy import redacted

PAGE = """<!doctype html><meta charset="utf-8"><title>Neodragon Studio</title>
<style>body{{font:16px/1.5 system-ui;max-width:52rem;margin:3rem auto;padding:0 1rem}}
pre{{background:#f4f4f5;padding:1rem;overflow:auto;font-size:13px}}</style>
<h1>Neodragon Studio had to stop</h1>
<p>{sentence}</p><p>Your clips and the queue are safe. Start the studio again; if this comes back,
send the report below to whoever helps you. Paths in it do not name you.</p>
<p><button onclick="navigator.clipboard.writeText(document.querySelector('pre').innerText)">
Copy report</button></p><pre>{report}</pre>
"""


def main(argv: list[str] | None = None) -> int:
    """Run what the arguments and the program's name ask for; the exit code."""
    multiprocessing.freeze_support()
    streams.prepare()
    arguments = sys.argv[1:] if argv is None else argv
    environment.clean()
    windowed = sys.stdout is None or sys.stderr is None
    if windowed:
        _redirect()
    if arguments[:1] == ["--worker"]:
        from studio.jobs import worker  # noqa: PLC0415

        return worker.main(arguments[1:])
    if arguments[:1] == ["--farm"]:
        from studio.farm import host  # noqa: PLC0415

        return host.main(arguments[1:])
    if arguments[:1] == ["--compile-context"]:
        from builder.contexts import compile_context  # noqa: PLC0415

        compile_context.main()
        return 0
    if arguments or Path(sys.executable).stem == "nds":
        from studio.cli import main as cli  # noqa: PLC0415

        return cli.main(arguments[1:] if arguments[:1] == ["--cli"] else arguments)
    return open_studio()


def open_studio() -> int:
    """Open the studio and stay until it is closed; the exit code."""
    print(f"Neodragon Studio {__version__} is starting ..", flush=True)
    with splash.shown(string("splash.starting", system_language())) as ready:
        return _open_studio(ready)


def _open_studio(ready: Callable[[], None]) -> int:
    try:
        from engine.errors import NeodragonError  # noqa: PLC0415
        from engine.pack import open_pack  # noqa: PLC0415
        from engine.session import available, require  # noqa: PLC0415
        from studio.page import server  # noqa: PLC0415
        from studio.system import settings  # noqa: PLC0415

        try:
            chosen = settings.load(settings.settings_file())[0].backend
            with open_pack(settings.pack_path()) as pack:
                backend = require(chosen) if chosen else available()[0]
                server.serve(pack, backend, ready=ready)
        except NeodragonError as error:
            _say(str(error), redacted(str(error)))
            return 2
    except KeyboardInterrupt:
        return 0
    except Exception as error:
        report = "".join(traceback.format_exception(error))
        _say("It made a mistake of its own.", redacted(report))
        return 1
    return 0


def _say(sentence: str, report: str) -> None:
    """Write the report beside the studio's data, and show it."""
    machine = f"{platform.system()} {platform.release()} {platform.machine()}"
    report = f"Neodragon Studio {__version__}, {machine}, {datetime.now():%Y-%m-%d %H:%M}\n{report}"
    print(f"nds: {sentence.translate(HARMLESS)}", file=sys.stderr)
    page = PAGE.format(sentence=escape(sentence), report=escape(report))
    try:
        folder = paths.data_folder() / "reports"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{datetime.now():%Y-%m-%d_%H%M%S}.html"
        path.write_text(page, encoding="utf-8")
        print(f"The report is {path}", file=sys.stderr)
        if os.environ.get("NEODRAGON_NO_BROWSER") is None:
            with environment.as_found():
                webbrowser.open(path.as_uri())
    except OSError:
        print(report, file=sys.stderr)


def _redirect() -> None:
    """A windowed program has no console: what it says goes to a file."""
    try:
        folder = paths.data_folder()
        paths.private(folder)
        paths.private_file(folder / "studio.log")
        log = (folder / "studio.log").open("w", encoding="utf-8", errors="replace", buffering=1)
    except OSError:
        log = Path(os.devnull).open("w", encoding="utf-8")
    sys.stdout = sys.stdout or log
    sys.stderr = sys.stderr or log


if __name__ == "__main__":
    sys.exit(main())
