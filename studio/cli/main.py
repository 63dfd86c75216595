"""The command line: `nds render`, `nds frame`, `nds ui`, and the parsers of all other commands.

It turns arguments into a `Request`, draws the engine's events and writes what comes out. Every
expected failure is one sentence on stderr and exit code 2.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import Message, NeodragonError
from studio import __version__
from studio.cli import batch as cli_batch
from studio.cli import doctor as cli_doctor
from studio.cli import export as cli_export
from studio.cli import farm as cli_farm
from studio.cli import library as cli_library
from studio.cli import model as cli_model
from studio.cli import pack as cli_pack
from studio.cli import queue as cli_queue
from studio.cli import result
from studio.cli import settings as cli_settings
from studio.cli.console import (
    Bar,
    Parser,
    Plain,
    complain,
    engine_arguments,
    opened,
    seed,
)
from studio.system import environment, streams

if TYPE_CHECKING:
    from engine.config import Request
    from engine.events import Event
    from engine.pack import Pack
    from engine.session import Backend
    from studio.jobs.render import Meter

STOPPED = 130  # what a shell says of Ctrl+C
UNREAD = 141  # and of a pipe that nobody reads any more


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    streams.prepare()
    environment.clean()
    out: Any = Plain(sys.stdout)
    err: Any = Plain(sys.stderr)
    try:
        try:
            with redirect_stdout(out), redirect_stderr(err):
                return _run(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:  # what is left goes nowhere, and says nothing when Python ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return UNREAD


def _run(argv: list[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        _stand()
        code: int | None = arguments.command(arguments)
    except NeodragonError as error:
        return complain(error)
    except KeyboardInterrupt:
        print("nds: stopped.", file=sys.stderr)
        return STOPPED
    return code or 0


def _stand() -> None:
    """Raise NeodragonError where there is no folder for paths to begin in."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise NeodragonError("The current folder was removed; go to another one.") from None


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="nds", description="A prompt becomes a two-second clip, on this machine.")
    parser.add_argument("--version", action="version", version=f"Neodragon Studio {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    render = commands.add_parser("render", help="make a clip of a prompt")
    _request_arguments(render, Path("clip.mp4"))
    render.add_argument(
        "--motion-seed", type=seed, metavar="N", help="decides how it moves; random by default"
    )
    render.add_argument(
        "--image", type=Path, help="picture to begin with instead of a generated one"
    )
    render.add_argument(
        *("--no-upscale",),
        dest="upscale",
        action="store_false",
        help="keep the model's own frame size",
    )
    render.set_defaults(command=_render)

    frame = commands.add_parser("frame", help="make only the first frame of a prompt")
    _request_arguments(frame, Path("frame.png"))
    frame.set_defaults(command=_frame)

    batch = commands.add_parser("batch", help="make everything a prompt list asks for")
    cli_batch.arguments(batch)
    queue = commands.add_parser("queue", help="show and arrange the queue")
    cli_queue.arguments(queue)
    library = commands.add_parser("library", help="search, mark and reject clips")
    cli_library.library_arguments(library)
    verify = commands.add_parser("verify", help="make clips again and compare")
    cli_library.verify_arguments(verify)
    export = commands.add_parser("export", help="clips in other formats, looped or joined")
    cli_export.arguments(export)
    settings = commands.add_parser("settings", help="show or change settings")
    cli_settings.arguments(settings)

    ui = commands.add_parser("ui", help="open the studio's page in the browser")
    engine_arguments(ui)
    ui.add_argument("--port", type=int, help="on 127.0.0.1; default: a free one from 7860 up")
    ui.add_argument("--mcp", action="store_true", help="offer its tools to language models, too")
    ui.add_argument("--no-browser", action="store_true", help="only print the address")
    ui.set_defaults(command=_ui)
    end = commands.add_parser("quit", help="end the studio that is open")
    end.set_defaults(command=_quit)

    doctor = commands.add_parser("doctor", help="whether the studio works on this machine")
    cli_doctor.arguments(doctor)
    pack = commands.add_parser("pack", help="packs: what they hold; install, choose, check them")
    cli_pack.arguments(pack)
    farm = commands.add_parser("farm", help="other machines that make this studio's rows")
    cli_farm.arguments(farm)
    model = commands.add_parser("model", help="the full-size model: get its weights, build a pack")
    cli_model.arguments(model)
    return parser


def _request_arguments(parser: argparse.ArgumentParser, output: Path) -> None:
    parser.add_argument("prompt", help="what to show")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=output,
        help=f"where to write it ({output}); an existing file is kept",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.add_argument(
        "--look-seed", type=seed, metavar="N", help="decides the first frame; random by default"
    )
    parser.add_argument(
        "--mode", choices=("hybrid", "monolithic"), default="hybrid", help="default: hybrid"
    )
    parser.add_argument(
        "--steps", type=_steps, metavar="A,B,C", help="network steps per stage, coarse to fine"
    )
    parser.add_argument("--negative-prompt", "--negative", metavar="TEXT", help="what to avoid")
    parser.add_argument(
        *("--no-suffix",),
        dest="suffix",
        action="store_false",
        help="do not add the pack's own words to the prompt",
    )
    parser.add_argument("--profile", action="store_true", help="print how long each stage took")
    parser.add_argument("--json", action="store_true", help="what was made, as JSON on stdout")
    engine_arguments(parser)


def _steps(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"write three whole numbers such as 1,1,1 instead of {text!r}"
        ) from None


def _render(arguments: argparse.Namespace) -> None:
    started = time.perf_counter()
    from engine.events import UnitFrames
    from studio.jobs import render
    from studio.media import sidecars, video
    from studio.system.files import prepare

    request = _request(arguments)
    pixels = render.with_pixels(request)
    output = prepare(arguments.output, ".mp4")
    with opened(arguments) as (pack, backend):
        metadata = result.metadata(pack, result.work(pack, request, backend, "clip"))
        if not arguments.json:
            print(f"look seed {request.look_seed}, motion seed {request.motion_seed}", end="")
            print(f" ({pack.name} {pack.version}, {backend})", flush=True)
        times = {"start": time.perf_counter() - started}
        drawn = time.perf_counter()

        def frames() -> Generator[Any, None, None]:
            nonlocal drawn
            with closing(_watched(pack, pixels, backend, render.Meter(), times)) as events:
                for event in events:
                    if isinstance(event, UnitFrames):
                        yield from event.frames
            drawn = time.perf_counter()

        height, width = size = pack.frame_size(request.upscale)
        with _noted(metadata), closing(frames()) as coming:
            path = video.stream_mp4(
                *(output, coming, size, pack.geometry.fps, metadata),
                overwrite=arguments.overwrite,
                accept=sidecars.is_free,
            )
        times["mp4"] = time.perf_counter() - drawn
    result.made(
        *(arguments, path, f"{pack.geometry.frames} frames, {width} x {height}"),
        *(metadata, times, time.perf_counter() - started),
    )


def _frame(arguments: argparse.Namespace) -> None:
    started = time.perf_counter()
    from engine.events import FirstFrame
    from studio.cli import open_studio
    from studio.jobs import render
    from studio.media import sidecars
    from studio.media.pictures import write_png
    from studio.system.files import prepare

    request = _request(arguments)
    output = prepare(arguments.output, ".png")
    with opened(arguments) as (pack, backend):
        work = result.work(pack, request, backend, "frame")
        metadata = result.metadata(pack, work)
        if not arguments.json:
            print(f"look seed {request.look_seed}", end="")
            print(f" ({pack.name} {pack.version}, {backend})", flush=True)
        times = {"start": time.perf_counter() - started}
        drawn = open_studio.draw(work, metadata["key"])
        if drawn is not None:
            job, image = drawn
            times |= job.stages
            for notice in job.notices:
                print(notice, file=sys.stderr)
        else:
            watched = _watched(pack, request, backend, render.Meter("first_frame"), times)
            with _noted(metadata), closing(watched) as events:
                image = next(event.image for event in events if isinstance(event, FirstFrame))
        path = write_png(
            *(output, image, metadata),
            overwrite=arguments.overwrite,
            accept=sidecars.is_free,
        )
    height, width = image.shape[:2]
    result.made(
        *(arguments, path, f"{width} x {height}"),
        *(metadata, times, time.perf_counter() - started),
    )


@contextmanager
def _noted(metadata: dict[str, Any]) -> Iterator[None]:
    """What the engine has to say goes to stderr and into the metadata."""
    from engine.session import notices_to

    def noted(notice: Message) -> None:
        print(notice, file=sys.stderr)
        metadata.setdefault("notices", []).append(str(notice))

    with notices_to(noted):
        yield


def _watched(
    pack: Pack, request: Request, backend: Backend, meter: Meter, times: dict[str, float]
) -> Generator[Event, None, None]:
    """The events of a generation as they are drawn; the seconds of each stage go into `times`."""
    from engine.events import Finished, StageDone, Truncated
    from engine.graph_cache import GraphCache
    from engine.pipeline import generate
    from studio.jobs.render import unread
    from studio.language.catalogue import string
    from studio.system.paths import graphs_folder
    from studio.system.settings import load, settings_file

    checked = load(settings_file())[0].safety
    bar = Bar()
    started = time.perf_counter()
    try:
        kept = GraphCache(0, graphs_folder())
        with closing(generate(pack, request, backend, checked=checked, cache=kept)) as events:
            for event in events:
                if isinstance(event, StageDone):
                    times[event.stage] = event.seconds
                elif isinstance(event, Finished):
                    times["loading graphs"] = event.load_seconds
                    times["inside graphs"] = event.graph_seconds
                elif isinstance(event, Truncated):
                    bar.clear()
                    print(unread(event), file=sys.stderr)
                if meter.update(event):
                    spent = time.perf_counter() - started
                    stage = string(f"doing.{meter.stage}", "en")
                    bar.draw(stage, meter.fraction, f"{spent:5.1f} s")
                yield event
    finally:
        bar.clear()


def _ui(arguments: argparse.Namespace) -> None:
    from studio.page import server

    with opened(arguments) as (pack, backend):
        server.serve(
            pack,
            backend,
            port=arguments.port,
            browser=not arguments.no_browser,
            mcp=arguments.mcp,
        )


def _quit(arguments: argparse.Namespace) -> None:
    from studio.system.instance import end
    from studio.system.paths import data_folder

    ended = end(data_folder())
    print("Neodragon Studio has ended." if ended else "Neodragon Studio is not open.")


def _request(arguments: argparse.Namespace) -> Request:
    """The request that the arguments name, seeds that they do not being random."""
    import secrets

    from engine.config import SEED_LIMIT, Request

    values = vars(arguments) | {"motion_seed": getattr(arguments, "motion_seed", 0)}
    for name in ("look_seed", "motion_seed"):
        if values[name] is None:
            values[name] = secrets.randbelow(SEED_LIMIT)
    return Request.from_dict(values)


if __name__ == "__main__":
    sys.exit(main())
