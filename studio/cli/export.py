"""`nds export`: clips in other formats, several times over, there and back; or joined."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from studio.cli.console import counted, each, print_json, shown

if TYPE_CHECKING:
    from studio.export.formats import Format

# What users call a format: its ending.
FORMATS: dict[str, Format] = {
    **{"mp4": "mp4", "gif": "gif", "webp": "webp", "webm": "webm", "png": "png"},
    "prores": "mov",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add those of the command."""
    parser.add_argument("clip", type=Path, nargs="+", metavar="CLIP")
    parser.add_argument(
        "--format", choices=FORMATS, help="png is a folder of pictures; mp4 when absent"
    )
    parser.add_argument("--loop", type=counted, metavar="N", help="so many times over")
    parser.add_argument("--ping-pong", action="store_true", default=None, help="there and back")
    parser.add_argument(
        "--join", action="store_true", help="into one MP4, with the number of each shot"
    )
    parser.add_argument(
        "--fcpxml",
        action="store_true",
        default=None,
        help="with --join: a timeline for editors too",
    )
    parser.add_argument(
        "--no-numbers", action="store_true", default=None, help="with --join: without those"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="PATH",
        help="a file, or a folder for several (Exports among the clips); a file that is there is"
        " kept, the new one numbered",
    )
    parser.add_argument("--json", action="store_true", help="as JSON on stdout")
    parser.set_defaults(command=_export)


def _export(arguments: argparse.Namespace) -> int:
    from studio.export.formats import ExportError

    for name in ("format", "loop", "ping_pong") if arguments.join else ("fcpxml", "no_numbers"):
        if getattr(arguments, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise ExportError(
                "{flag} works only without --join; leave one of them out."
                if arguments.join
                else "{flag} works only with --join; add it.",
                flag=flag,
            )
    if arguments.join:
        results: list[dict[str, object]] = [_joined(arguments)]
        code = 0
    else:
        results, code = each(arguments.clip, _exporter(arguments))
    if arguments.json:
        print_json(results)
        return code
    for result in results:
        for name in ("export", "timeline"):
            if name in result:
                print(shown(Path(str(result[name]))))
    return code


def _exporter(arguments: argparse.Namespace) -> Callable[[Path], dict[str, object]]:
    """What exports one clip as the arguments say."""
    from studio.export.formats import export, target_of

    format = FORMATS[arguments.format or "mp4"]
    loops, ping_pong = arguments.loop or 1, bool(arguments.ping_pong)
    output = arguments.output
    folder = output is not None and output.is_dir() and format != "png"  # else it is that folder
    several = len(arguments.clip) > 1 or output is None or folder

    def one(clip: Path) -> dict[str, object]:
        target = output
        if several:
            target = target_of(clip, output or _folder(), format, loops=loops, ping_pong=ping_pong)
        written = export(clip, target, format, loops=loops, ping_pong=ping_pong)
        return {"file": str(clip.absolute()), "export": str(written)}

    return one


def _joined(arguments: argparse.Namespace) -> dict[str, object]:
    """The clips in a row, and the timeline of them where it is asked for."""
    from studio.export.timeline import animatic, timeline
    from studio.system.files import fitted

    target = arguments.output or _folder()
    if arguments.output is None or target.is_dir():
        target = fitted(target / arguments.clip[0].stem, "_joined.mp4")
    written = animatic(arguments.clip, target, numbers=not arguments.no_numbers)
    result: dict[str, object] = {
        "files": [str(clip.absolute()) for clip in arguments.clip],
        "export": str(written),
    }
    if arguments.fcpxml:
        target = fitted(written.with_suffix(""), ".fcpxml")
        result["timeline"] = str(timeline(arguments.clip, target))
    return result


def _folder() -> Path:
    """Where copies go when nothing else is said."""
    from studio.library.store import EXPORTS
    from studio.system import settings

    return settings.clips_folder() / EXPORTS
