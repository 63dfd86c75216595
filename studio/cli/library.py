"""`nds library` and `nds verify`: search, mark and reject clips; render clips again and compare."""

from __future__ import annotations

import argparse
import os
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from studio.cli.console import (
    SOME_FAILED,
    Bar,
    counted,
    each,
    engine_arguments,
    print_json,
    seed,
    shown,
)

if TYPE_CHECKING:
    from engine.events import Event
    from studio.library.store import Item, Library

WORDS_SHOWN = 60  # characters of a prompt
FILTERS = ("star", "since", "until", "seed", "kind", "rejected", "limit")
# An action, and which of the options it takes.
ACTIONS = {"mark": ("star", "keep", "note"), "reject": (), "bring-back": ()}


def library_arguments(parser: argparse.ArgumentParser) -> None:
    """Add those of `nds library`."""
    parser.usage = (
        "nds library [WORDS ...] [options]\n"
        "       nds library mark CLIP ... [--star N] [--keep | --no-keep] [--note TEXT]\n"
        "       nds library reject|bring-back CLIP ..."
    )
    parser.add_argument(
        *("terms",),
        nargs="*",
        metavar="WORDS",
        help="words to search in prompts, notes and file names; or an action and its clips",
    )
    parser.add_argument(
        "--star",
        type=_stars,
        metavar="N",
        help="at least this many stars, 0 to 5; with mark: the stars to give",
    )
    parser.add_argument(
        "--since", type=_day, metavar="DATE", help="only from this day on, such as 2026-11-22"
    )
    parser.add_argument("--until", type=_day, metavar="DATE", help="only up to this day")
    parser.add_argument(
        "--seed", type=seed, metavar="N", help="look seed or motion seed to search for"
    )
    parser.add_argument("--kind", choices=("clip", "frame"))
    parser.add_argument("--rejected", action="store_true", default=None, help="clips in the bin")
    parser.add_argument("--limit", type=counted, metavar="N", help="at most this many")
    parser.add_argument(
        "--keep", action=argparse.BooleanOptionalAction, help="with mark: worth keeping, or not"
    )
    parser.add_argument("--note", metavar="TEXT", help="with mark: a note to find the clip by")
    parser.add_argument("--json", action="store_true", help="as JSON on stdout")
    parser.set_defaults(command=_library)


def verify_arguments(parser: argparse.ArgumentParser) -> None:
    """Add those of `nds verify`."""
    parser.add_argument("clip", type=Path, nargs="+", metavar="CLIP", help="clip or first frame")
    parser.add_argument(
        "--image", "--picture", type=Path, help="your picture that the clip began with"
    )
    parser.add_argument("--json", action="store_true", help="as JSON on stdout")
    engine_arguments(parser)
    parser.set_defaults(command=_verify)


def _library(arguments: argparse.Namespace) -> int:
    from studio.library.store import Library, LibraryError
    from studio.system import paths, settings

    action = arguments.terms[0] if arguments.terms[:1] and arguments.terms[0] in ACTIONS else None
    clips = arguments.terms[1:]
    refused = {*FILTERS, "keep", "note"} - set(FILTERS if action is None else ACTIONS[action])
    for name in sorted(refused):
        if getattr(arguments, name) is not None:
            raise LibraryError(
                "`nds library{action}` has no option --{name}; leave it out.",
                action=f" {action}" * bool(action),
                name=name,
            )
    if action and not clips:
        raise LibraryError(
            "`nds library {action}` needs clips; name some after it.",
            action=action,
        )
    if action == "mark" and all(getattr(arguments, name) is None for name in ACTIONS["mark"]):
        raise LibraryError(
            "`nds library mark` needs --star, --keep, --no-keep or --note; say what to change."
        )
    with Library(paths.jobs_file(), settings.clips_folder()) as library:
        if action is None:
            library.scan()
            items = [as_json(item) for item in _search(arguments, library)]
            code = 0
        else:
            items, code = each(
                map(Path, clips), lambda clip: as_json(_done(action, arguments, library, clip))
            )
    if arguments.json:
        print_json(items)
        return code
    for item in items:
        if "error" not in item:
            print(_line(item))
    return code


def _search(arguments: argparse.Namespace, library: Library) -> list[Item]:
    return library.search(
        " ".join(arguments.terms),
        seed=arguments.seed,
        since=arguments.since,
        until=arguments.until,
        stars=arguments.star or 0,
        kind=arguments.kind,
        verdict="reject" if arguments.rejected else None,
        limit=arguments.limit,
    )


def _done(action: str, arguments: argparse.Namespace, library: Library, clip: Path) -> Item:
    """What became of a clip, named from here, from the library's folder or as it was once."""
    from studio.library.store import BIN

    places = [clip, library.folder / clip]
    if action == "bring-back":
        places.append(library.folder / BIN / clip)
    path = next((place for place in places if os.path.isfile(place)), clip)
    if action == "mark":
        return library.mark(path, stars=arguments.star, keep=arguments.keep, note=arguments.note)
    return library.reject(path) if action == "reject" else library.bring_back(path)


def as_json(item: Item) -> dict[str, object]:
    """An item for other programs."""
    return {
        "file": str(item.path),
        "kind": item.kind,
        "prompt": item.prompt,
        "look_seed": item.look_seed,
        "motion_seed": item.motion_seed,
        "created": datetime.fromtimestamp(item.created).astimezone().isoformat("T", "seconds"),
        "stars": item.stars,
        "verdict": item.verdict,
        "note": item.note,
    }


def _line(item: dict[str, object]) -> str:
    stars = "*" * int(str(item["stars"]))
    prompt = " ".join(str(item["prompt"]).split())[:WORDS_SHOWN]
    return f"{stars:5} {item['verdict']:6}  {shown(Path(str(item['file'])))}  {prompt}"


def _verify(arguments: argparse.Namespace) -> int:
    from engine.pack import open_pack
    from studio.jobs.render import Meter
    from studio.language.catalogue import string
    from studio.library.verify import verify
    from studio.system import settings

    bar = Bar()

    def verified(clip: Path) -> dict[str, object]:
        meter = Meter("first_frame" if clip.suffix.lower() == ".png" else "transformer")

        def watch(event: Event) -> None:
            if meter.update(event):
                bar.draw(string(f"doing.{meter.stage}", "en"), meter.fraction, clip.name)

        try:
            result = verify(
                clip, pack, backend=arguments.backend, image=arguments.image, watch=watch
            )
        finally:
            bar.clear()
        if not arguments.json:
            print(f"{shown(clip.absolute())}: {result}", flush=True)
        return {
            "file": str(clip.absolute()),
            "outcome": result.outcome,
            "psnr": result.psnr,
            "notes": [str(note) for note in result.notes],
        }

    with open_pack(arguments.pack or settings.pack_path()) as pack:
        results, code = each(arguments.clip, verified)
    if arguments.json:
        print_json(results)
    different = any(result.get("outcome") == "different" for result in results)
    return code or (SOME_FAILED if different else 0)


def _stars(text: str) -> int:
    if text not in tuple("012345"):
        raise argparse.ArgumentTypeError(f"give 0 to 5 stars instead of {text!r}")
    return int(text)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"write a day such as 2026-11-22 instead of {text!r}"
        ) from None
