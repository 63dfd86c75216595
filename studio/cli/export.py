"""`nds export`: clips in other formats, trimmed, looped, or joined to one film."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
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
ASPECTS = ("9:16", "4:5", "1:1", "16:9")
PRESETS = ("story", "portrait", "square", "loop", "smooth", "slow")
CUTS = ("start", "end", "crop", "across", "down", "rate", "slow", "fade", "ping_pong", "loops")
FLAGS = {"rate": "48", "fade": "seamless", "loops": "loop"}
FADE = 12  # frames


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add those of the command."""
    parser.add_argument("clip", type=Path, nargs="+", metavar="CLIP")
    parser.add_argument(
        "--format", choices=FORMATS, help="png is a folder of pictures; default: mp4"
    )
    parser.add_argument("--preset", choices=PRESETS, help="a usual cut, to which others add")
    parser.add_argument("--start", type=int, metavar="N", help="first frame, counted from 0")
    parser.add_argument("--end", type=int, metavar="N", help="last frame")
    parser.add_argument("--crop", choices=ASPECTS, help="a part of the frame")
    parser.add_argument(
        "--across", type=float, metavar="X", help="where the part is: 0 left, 1 right"
    )
    parser.add_argument("--down", type=float, metavar="Y", help="0 top, 1 bottom")
    parser.add_argument(
        "--48", action="store_const", const=2, dest="rate", help="twice as many frames"
    )
    parser.add_argument("--slow", action="store_true", default=None, help="half the speed")
    parser.add_argument(
        "--seamless",
        action="store_const",
        const=FADE,
        dest="fade",
        help="the end fades into the beginning, for a loop",
    )
    parser.add_argument(
        "--loop", type=counted, metavar="N", dest="loops", help="repeat the clip this many times"
    )
    parser.add_argument(
        "--ping-pong", action="store_true", default=None, help="play it forwards, then backwards"
    )
    parser.add_argument("--still", type=int, metavar="N", help="one frame, as PNG, and no clip")
    parser.add_argument(
        "--join", action="store_true", help="join the clips into one MP4 and number each shot"
    )
    parser.add_argument(
        "--fcpxml",
        action="store_true",
        default=None,
        help="with --join: a timeline for editors too",
    )
    parser.add_argument("--edl", action="store_true", default=None, help="with --join: an EDL too")
    parser.add_argument("--sound", type=Path, metavar="FILE", help="with --join: a WAV or MP3")
    parser.add_argument(
        "--no-numbers", action="store_true", default=None, help="with --join: without numbers"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="PATH",
        help="a file, or a folder for several (Exports among the clips); an existing file is"
        " kept, the new one numbered",
    )
    parser.add_argument("--json", action="store_true", help="as JSON on stdout")
    parser.set_defaults(command=_export)


def _export(arguments: argparse.Namespace) -> int:
    from studio.export.cuts import ExportError

    alone = ("format", "preset", "still", *CUTS)
    for name in alone if arguments.join else ("fcpxml", "edl", "sound", "no_numbers"):
        if getattr(arguments, name) is not None:
            name = FLAGS.get(name, name)
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
        for name in ("export", "timeline", "edl"):
            if name in result:
                print(shown(Path(str(result[name]))))
    return code


def _exporter(arguments: argparse.Namespace) -> Callable[[Path], dict[str, object]]:
    """What exports one clip as the arguments say."""
    from studio.export.cuts import PRESETS, Cut
    from studio.export.formats import export, still, target_of

    usual, cut = PRESETS[arguments.preset] if arguments.preset else ("mp4", Cut())
    format = FORMATS[arguments.format or usual]
    cuts = {name: getattr(arguments, name) for name in CUTS}
    cut = replace(cut, **{name: value for name, value in cuts.items() if value is not None})
    output = arguments.output
    folder = output is not None and output.is_dir() and format != "png"  # else it is that folder
    several = len(arguments.clip) > 1 or output is None or folder

    def one(clip: Path) -> dict[str, object]:
        if arguments.still is not None:
            written = still(clip, output or _folder(), arguments.still)
            return {"file": str(clip.absolute()), "export": str(written)}
        target = target_of(clip, output or _folder(), format, cut) if several else output
        written = export(clip, target, format, cut)
        return {"file": str(clip.absolute()), "export": str(written)}

    return one


def _joined(arguments: argparse.Namespace) -> dict[str, object]:
    """The clips in a row, and the timeline of them where it is asked for."""
    from studio.export.timeline import Take, edl, film, timeline
    from studio.system.files import fitted

    target = arguments.output or _folder()
    if arguments.output is None or target.is_dir():
        target = fitted(target / arguments.clip[0].stem, "_joined.mp4")
    takes = [Take(clip) for clip in arguments.clip]
    written = film(takes, target, numbers=not arguments.no_numbers, sound=arguments.sound)
    result: dict[str, object] = {
        "files": [str(clip.absolute()) for clip in arguments.clip],
        "export": str(written),
    }
    if arguments.fcpxml:
        target = fitted(written.with_suffix(""), ".fcpxml")
        result["timeline"] = str(timeline(takes, target))
    if arguments.edl:
        result["edl"] = str(edl(takes, fitted(written.with_suffix(""), ".edl")))
    return result


def _folder() -> Path:
    """Where copies go when nothing else is said."""
    from studio.library.store import EXPORTS
    from studio.system import settings

    return settings.clips_folder() / EXPORTS
