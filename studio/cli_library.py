"""`nds library`, `nds verify`, `nds export`: what was made, found again, proved and taken along."""

from __future__ import annotations

import argparse
import json
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import NeodragonError
from studio.console import FAILED, SOME_FAILED, Parser, counted, engine_arguments, seed, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from studio.library import Item, Library

WORDS_SHOWN = 60  # characters of a prompt
FORMATS = ("mp4", "gif", "webp", "webm", "mov", "png")  # of studio.exports, which is slow to import


def library_arguments(parser: argparse.ArgumentParser) -> None:
    """Add those of `nds library`."""
    parser.set_defaults(command=_library, action=_search, words=[], **NOTHING_ASKED)
    parser.add_argument("--json", action="store_true", help="as JSON on stdout")
    actions = parser.add_subparsers(metavar="ACTION", parser_class=Parser)
    for name, action, help_ in (
        ("search", _search, "clips and first frames, the newest first (all when absent)"),
        ("mark", _mark, "give stars or a note"),
        ("reject", _reject, "move to the bin, from which nothing is deleted"),
        ("bring-back", _bring_back, "move out of the bin"),
    ):
        command = actions.add_parser(name, help=help_)
        command.set_defaults(action=action)
        command.add_argument("--json", action="store_true", default=argparse.SUPPRESS)
        if action is _search:
            command.add_argument("words", nargs="*", metavar="WORD", help="in prompt, note or name")
            command.add_argument("--seed", type=seed, metavar="N", help="look or motion seed")
            command.add_argument("--since", type=_day, metavar="YYYY-MM-DD")
            command.add_argument("--until", type=_day, metavar="YYYY-MM-DD")
            command.add_argument("--stars", type=int, default=0, metavar="N", help="at least")
            command.add_argument("--kind", choices=("clip", "frame"))
            command.add_argument("--bin", action="store_true", help="what was rejected")
            command.add_argument("--limit", type=counted, metavar="N", help="at most")
        else:
            command.add_argument("clip", type=Path, nargs="+", help="a file in the library")
        if action is _mark:
            command.add_argument("--stars", type=int, metavar="N", help="0 to 5")
            command.add_argument("--note", metavar="TEXT")


NOTHING_ASKED = {
    **{"seed": None, "since": None, "until": None, "stars": 0, "kind": None},
    **{"bin": False, "limit": None},
}


def verify_arguments(parser: argparse.ArgumentParser) -> None:
    """Add those of `nds verify`."""
    parser.set_defaults(command=_verify)
    parser.add_argument("clip", type=Path, nargs="+", help="made by the studio")
    parser.add_argument("--image", type=Path, help="the picture that it began with, if any")
    parser.add_argument("--json", action="store_true", help="as JSON on stdout")
    engine_arguments(parser)


def export_arguments(parser: argparse.ArgumentParser) -> None:
    """Add those of `nds export`."""
    parser.set_defaults(command=_export)
    parser.add_argument("clip", type=Path, nargs="+", help="made by the studio")
    parser.add_argument(
        "--format", choices=FORMATS, default="mp4", help="png: a folder of pictures; mov: ProRes"
    )
    parser.add_argument("--loop", type=int, default=1, metavar="N", help="how often it plays")
    parser.add_argument("--ping-pong", action="store_true", help="there and back")
    parser.add_argument("--join", action="store_true", help="all in one MP4, with shot numbers")
    parser.add_argument("--no-numbers", action="store_true", help="joined without shot numbers")
    parser.add_argument("--fcpxml", action="store_true", help="a timeline for editors instead")
    parser.add_argument(
        "-o", "--output", type=Path, help="the file, or of several the folder; beside it if absent"
    )
    parser.add_argument("--json", action="store_true", help="as JSON on stdout")


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"it should be a day such as 2026-11-23, but it is {text!r}"
        ) from None


@contextmanager
def _opened() -> Iterator[Library]:
    from studio import places, settings
    from studio.library import Library

    with Library(places.data_folder() / "library.sqlite", settings.clips_folder()) as library:
        library.scan()
        yield library


def _library(arguments: argparse.Namespace) -> int | None:
    with _opened() as library:
        items: list[Item] = arguments.action(arguments, library)
    if arguments.json:
        print(json.dumps([_told(item) for item in items], ensure_ascii=False, indent=1))
        return None
    for item in items:
        made = datetime.fromtimestamp(item.created)
        stars = "*" * item.stars
        words = item.prompt[:WORDS_SHOWN]
        print(f"{made:%Y-%m-%d %H:%M}  {item.kind:5}  {stars:5}  {shown(item.path)}  {words}")
    return None


def _told(item: Item) -> dict[str, object]:
    """An item for other programs."""
    return {
        "file": str(item.path),
        "kind": item.kind,
        "prompt": item.prompt,
        "look_seed": item.look_seed,
        "motion_seed": item.motion_seed,
        "created": datetime.fromtimestamp(item.created).astimezone().isoformat(),
        "verdict": item.verdict,
        "stars": item.stars,
        "note": item.note,
    }


def _search(arguments: argparse.Namespace, library: Library) -> list[Item]:
    return library.search(
        " ".join(arguments.words),
        seed=arguments.seed,
        since=arguments.since,
        until=arguments.until,
        stars=arguments.stars,
        kind=arguments.kind,
        verdict="reject" if arguments.bin else None,
        limit=arguments.limit,
    )


def _mark(arguments: argparse.Namespace, library: Library) -> list[Item]:
    marks = {"stars": arguments.stars, "note": arguments.note}
    return [library.mark(path, **marks) for path in arguments.clip]


def _reject(arguments: argparse.Namespace, library: Library) -> list[Item]:
    return [library.reject(path) for path in arguments.clip]


def _bring_back(arguments: argparse.Namespace, library: Library) -> list[Item]:
    return [library.bring_back(path) for path in arguments.clip]


def _verify(arguments: argparse.Namespace) -> int:
    from engine.pack import open_pack
    from engine.session import require
    from studio import places
    from studio.verify import verify

    rows: list[dict[str, object]] = []
    with open_pack(arguments.pack or places.default_pack()) as pack:
        backend = None if arguments.backend is None else require(arguments.backend)
        for path in arguments.clip:
            row: dict[str, object] = {"file": str(path)}
            try:
                found = verify(path, pack, backend=backend, picture=arguments.image)
                row |= {"outcome": found.outcome, "psnr": found.psnr, "notes": found.notes}
                words = str(found)
            except NeodragonError as error:
                row |= {"outcome": "failed", "error": str(error)}
                words = str(error)
            rows.append(row)
            if not arguments.json:
                print(f"{shown(path)}: {words}", flush=True)
    if arguments.json:
        print(json.dumps(rows, ensure_ascii=False, indent=1))
    outcomes = {row["outcome"] for row in rows}
    if outcomes <= {"failed"}:
        return FAILED
    return SOME_FAILED if outcomes & {"different", "failed"} else 0


def _export(arguments: argparse.Namespace) -> None:
    from studio import animatic, exports

    clips: list[Path] = arguments.clip
    output: Path | None = arguments.output
    if arguments.join or arguments.fcpxml:
        ending = ".fcpxml" if arguments.fcpxml else ".mp4"
        target = output or clips[0].with_name(f"{clips[0].stem}_and-{len(clips) - 1}-more{ending}")
        if arguments.fcpxml:
            written = [animatic.timeline(clips, target)]
        else:
            written = [animatic.animatic(clips, target, numbers=not arguments.no_numbers)]
    else:
        how = {"loops": arguments.loop, "ping_pong": arguments.ping_pong}
        written = []
        for clip in clips:
            folder = clip.parent if output is None or len(clips) == 1 else output
            target = exports.target_of(clip, folder, arguments.format, **how)
            if output is not None and len(clips) == 1:
                target = output
            written.append(exports.export(clip, target, arguments.format, **how))
    if arguments.json:
        print(json.dumps([str(path) for path in written], ensure_ascii=False))
    else:
        for path in written:
            print(shown(path))
