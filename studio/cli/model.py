"""`nds model`: download the published weights, build a pack from them, show the progress."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from studio.cli.console import Bar, Parser, print_json

if TYPE_CHECKING:
    from builder.build import Progress

LINES_EVERY = 0.5  # seconds
TARGETS = ("portable", "cpu", "x-elite", "x2-elite", "this-chip")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add those of the command."""
    actions = parser.add_subparsers(required=True, metavar="ACTION", parser_class=Parser)
    get = actions.add_parser("get", help="download the published weights, or resume the download")
    get.add_argument("folder", type=Path, nargs="?", help="default: the studio's own folder")
    get.add_argument(
        "--multistep", action="store_true", help="include the weights of the monolithic mode"
    )
    get.add_argument("--list", action="store_true", help="only print what would be downloaded")
    get.add_argument("--lines", action="store_true", help=argparse.SUPPRESS)  # for the page
    get.set_defaults(command=_get)
    build = actions.add_parser("build", help="build a pack from weights, or resume the build")
    build.add_argument("weights", type=Path, help="folder with the published weights")
    build.add_argument("-o", "--output", type=Path, metavar="PACK", help="the pack's folder")
    build.add_argument(
        "--target",
        choices=TARGETS,
        default="this-chip",
        help="ONNX for any machine, in 8 bits for any PC, or compiled for a Snapdragon",
    )
    build.add_argument(
        "--multistep", action="store_true", help="include the weights of the monolithic mode"
    )
    build.add_argument(
        "--blocks", type=int, choices=(6, 3, 2), help="blocks of the transformer in one graph"
    )
    build.add_argument(
        "--unshared", action="store_true", help="also compile graphs that npu-emulated can load"
    )
    build.add_argument(
        "--patience",
        type=float,
        default=1.0,
        metavar="MINUTES",
        help="measure a graph in the NPU's emulation if that takes no longer, else on the CPU",
    )
    build.add_argument("--pause", action="store_true", help="stop the running build")
    build.set_defaults(command=_build)
    status = actions.add_parser("status", help="how far the build is")
    status.set_defaults(command=_status)
    for action in (get, build, status):
        action.add_argument("--json", action="store_true", help="as JSON on stdout")


def _get(arguments: argparse.Namespace) -> None:
    from studio.system.environment import as_found
    from studio.system.paths import data_folder

    folder = arguments.folder or data_folder() / "weights"
    with as_found():  # the user's proxy, server and token, which nothing else of the studio heeds
        if arguments.list:
            _list(arguments)
        else:
            _fetch(arguments, folder)


def _list(arguments: argparse.Namespace) -> None:
    from studio.model import download

    _, files = download.listed(arguments.multistep)
    if arguments.json:
        listed = [{"name": file.name, "bytes": file.size} for file in files]
        print_json({"from": download.PAGE, "files": listed})
        return
    for file in files:
        print(f"{file.size / 1e6:10.1f} MB  {file.name}")
    print(f"{sum(file.size for file in files) / 1e9:.2f} GB from {download.PAGE}")


def _fetch(arguments: argparse.Namespace, folder: Path) -> None:
    from studio.model import download

    bar, fetched, printed = Bar(), list[dict[str, object]](), 0.0

    def report(done: int, total: int, name: str) -> None:
        nonlocal printed
        bar.draw(name, done / max(total, 1), f"{done / 1e9:.2f} of {total / 1e9:.2f} GB")
        if arguments.lines and (done == total or time.monotonic() - printed > LINES_EVERY):
            printed = time.monotonic()
            print(json.dumps({"done": done, "total": total, "file": name}), flush=True)

    try:
        for file in download.download(folder, report, arguments.multistep):
            fetched.append({"name": file.name, "bytes": file.size})
    except download.DownloadError as error:
        if arguments.lines:
            problem = {"template": error.message.template, "values": dict(error.message.values)}
            print(json.dumps(problem, default=str), flush=True)
        raise
    bar.clear()
    if arguments.json:
        print_json({"folder": str(folder), "files": fetched})
    elif not arguments.lines:
        print(folder)


def _build(arguments: argparse.Namespace) -> None:
    from studio.model import build

    if arguments.pause:
        build.pause()
        return
    bar = Bar()

    def report(progress: Progress) -> None:
        bar.clear()
        if not arguments.json:
            print(progress.line, flush=True)
        minutes = "" if progress.left is None else f"about {-(-int(progress.left) // 60)} min left"
        bar.draw(progress.step, progress.done / max(progress.total, 1), minutes)

    pack = arguments.output or build.target_folder(arguments.target)
    build.run(
        arguments.weights,
        pack,
        arguments.target,
        multistep=arguments.multistep,
        blocks=arguments.blocks,
        unshared=arguments.unshared,
        patience=60 * arguments.patience,
        report=report,
    )
    bar.clear()
    if arguments.json:
        _status(arguments)
    else:
        print(pack)


def _status(arguments: argparse.Namespace) -> None:
    from dataclasses import asdict

    from studio.model import build

    build_status = build.status()
    if arguments.json:
        print_json(asdict(build_status) if build_status else {})
        return
    if build_status is None:
        print("No pack has been built yet.")
        return
    left = (
        "" if build_status.left is None else f", about {-(-int(build_status.left) // 60)} min left"
    )
    print(f"{build_status.pack} for {build_status.target}: {build_status.state}")
    print(f"{build_status.step} {build_status.done} of {build_status.total}{left}")
    for line in build_status.lines:
        print(f"  {line}")
    if build_status.problem is not None:
        print(build_status.problem, file=sys.stderr)
