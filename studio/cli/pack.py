"""`nds pack`: what a pack holds; installing, choosing, checking, repairing and removing packs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.cli.console import FAILED, Bar, Parser, print_json

if TYPE_CHECKING:
    from engine.pack import Pack
    from studio.system.packs import Installed

MEGABYTE = 1e6


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add those of the command."""
    actions = parser.add_subparsers(required=True, metavar="ACTION", parser_class=Parser)
    own = "folder or .zip; default: the one in use"
    for name, command, help_, argument in (
        ("info", _info, "what a pack holds", own),
        ("verify", _verify, "check every file's hash and load every graph", own),
        ("list", _list, "packs that are installed", None),
        ("install", _install, "copy a pack to the studio's own folder", "folder or .zip"),
        ("repair", _repair, "put right a pack whose files are damaged", "the sound pack"),
        ("use", _use, "make clips with this pack from now on", "its name in the list, or a path"),
        ("remove", _remove, "delete an installed pack", "its name in the list"),
    ):
        action = actions.add_parser(name, help=help_)
        if argument:
            action.add_argument(
                "pack", type=Path, nargs="?" if argument is own else 1, help=argument
            )
        if name == "install":
            action.add_argument("--use", action="store_true", help="use the pack from now on")
        action.add_argument("--json", action="store_true", help="as JSON on stdout")
        action.set_defaults(command=command)


def _info(arguments: argparse.Namespace) -> None:
    from engine.pack import open_pack
    from studio.system.settings import pack_path

    with open_pack(arguments.pack or pack_path()) as pack:
        if arguments.json:
            print_json(_as_json(pack))
            return
        geometry = pack.geometry
        size = sum(file.size for file in pack.files) / MEGABYTE
        print(f"{pack.name} {pack.version} ({size:.1f} MB, {pack.licence})")
        print(pack.provenance)
        for licence in pack.licences:
            print(f"licence: {licence.name}")
        print(
            f"{geometry.width} x {geometry.height}, {geometry.frames} frames at {geometry.fps} fps"
        )
        print(f"modes: {', '.join(pack.schedule.modes)}")
        print(f"compiled for: {', '.join(_as_json(pack)['chips']) or 'none, it runs on any chip'}")
        print(f"hash: {pack.pack_hash}")
        for graph in _as_json(pack)["graphs"]:
            fidelity = "" if graph["db"] is None else f"{graph['db']:8.1f} dB"
            print(
                f"  {graph['component']:24} {graph['variant']:9} {graph['graph']:20}"
                f" {graph['bytes'] / MEGABYTE:8.2f} MB{fidelity}"
            )
        for name in pack.missing:
            print(f"  {name:24} absent (optional)")


def _chip_name(htp_arch: int) -> str:
    from engine.session.chips import chip_with

    chip = chip_with(htp_arch)
    return f"{chip.name if chip else 'another chip'} (Hexagon v{htp_arch})"


def _as_json(pack: Pack) -> dict[str, Any]:
    return {
        "name": pack.name,
        "version": pack.version,
        "hash": pack.pack_hash,
        "licence": pack.licence,
        "provenance": pack.provenance,
        "licences": [file.name for file in pack.licences],
        "absent": list(pack.missing),
        "chips": [_chip_name(arch) for arch in pack.chips],
        "driver": pack.driver,
        "graphs": [
            {
                "component": component.name,
                "variant": variant,
                "graph": graph.name,
                "bytes": sum(file.size for file in graph.files),
                "db": graph.fidelity_db,
            }
            for component in pack.components.values()
            for variant, graphs in component.variants.items()
            for graph in graphs.values()
        ],
    }


def _verify(arguments: argparse.Namespace) -> int:
    from engine.errors import PackError
    from engine.pack import open_pack
    from engine.session import verify_pack
    from engine.text import PromptTokenizers
    from studio.system import packs
    from studio.system.settings import pack_path

    path = arguments.pack or pack_path()
    with open_pack(path) as pack:
        wrong = {file.name: problem for file, problem in packs.damaged(pack) if problem}
        if arguments.json:
            print_json(
                {
                    "pack": str(path),
                    "damaged": {name: str(problem) for name, problem in wrong.items()},
                }
            )
            return FAILED if wrong else 0
        if wrong:
            raise PackError(next(iter(wrong.values())))
        PromptTokenizers(pack)
        for name in verify_pack(pack):
            print(f"ok  {name}")
        print(f"{pack.name} {pack.version} is sound")
    return 0


def _list(arguments: argparse.Namespace) -> None:
    from studio.system import packs, paths
    from studio.system.settings import pack_path

    used = pack_path().resolve()
    known = [packs.look(paths.default_pack()), *packs.installed(packs.home())]
    if used not in [one.path.resolve() for one in known]:
        known.append(packs.look(used))
    if arguments.json:
        print_json([_row(one) | {"in_use": one.path.resolve() == used} for one in known])
        return
    for one in known:
        mark = "*" if one.path.resolve() == used else " "
        line = str(one.problem or f"{one.name} {one.version}, {one.size / MEGABYTE:.0f} MB")
        if one.absent:
            line += f", without {', '.join(one.absent)}"
        print(f"{mark} {one.path.name:32} {line}")


def _row(one: Installed) -> dict[str, Any]:
    return {
        "path": str(one.path),
        "name": one.name,
        "version": one.version,
        "bytes": one.size,
        "parts": list(one.parts),
        "absent": list(one.absent),
        "problem": str(one.problem or ""),
    }


def _install(arguments: argparse.Namespace) -> None:
    from studio.system import packs
    from studio.system.settings import change, settings_file

    bar = Bar()

    def report(done: int, total: int) -> None:
        bar.draw("Copying", done / total, f"{done / MEGABYTE:.0f} of {total / MEGABYTE:.0f} MB")

    try:
        target = packs.install(arguments.pack[0], packs.home(), report)
    finally:
        bar.clear()
    use = getattr(arguments, "use", False)
    if use:
        change(settings_file(), pack=str(target))
    if arguments.json:
        print_json(_row(packs.look(target)) | {"in_use": use})
    else:
        print(f"{target.name} is installed and sound{'; it is in use now' if use else ''}")


def _repair(arguments: argparse.Namespace) -> int:
    """The same as install: what is there and whole is kept."""
    from engine.pack import open_pack
    from studio.system import packs

    with open_pack(arguments.pack[0]) as pack:
        target = packs.target_of(pack, packs.home())
    if not target.is_dir():
        raise packs.InstallError(
            "{name} is not installed yet, so there is nothing to repair; install it.",
            name=target.name,
        )
    _install(arguments)
    return 0


def _use(arguments: argparse.Namespace) -> None:
    from engine.pack import open_pack
    from studio.system import paths
    from studio.system.settings import change, settings_file

    path = _named(arguments.pack[0])
    with open_pack(path) as pack:
        shipped = path.resolve() == paths.default_pack().resolve()
        change(settings_file(), pack=None if shipped else str(path.absolute()))
        if arguments.json:
            print_json({"pack": str(path.absolute()), "name": pack.name, "version": pack.version})
        else:
            print(f"clips are made with {pack.name} {pack.version} from now on")


def _remove(arguments: argparse.Namespace) -> int:
    from studio.system import packs
    from studio.system.settings import pack_path

    path = _named(arguments.pack[0])
    packs.remove(path, packs.home(), pack_path())
    if arguments.json:
        print_json({"removed": str(path)})
    else:
        print(f"{path.name} is removed")
    return 0


def _named(pack: Path) -> Path:
    """The installed pack of that name, the shipped one's too, else the path itself."""
    from studio.system import packs, paths

    if len(pack.parts) == 1 and not pack.exists():
        for one in (paths.default_pack(), packs.home() / pack):
            if one.name == pack.name:
                return one
    return pack
