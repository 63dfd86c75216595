"""`nds farm`: rows of one queue on many machines. Needs the extra `farm`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.cli.console import Parser, counted, print_json, shown

if TYPE_CHECKING:
    from studio.farm.register import Machine


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add those of the command."""
    actions = parser.add_subparsers(required=True, metavar="ACTION", parser_class=Parser)
    start = actions.add_parser("start", help="let other machines make this studio's rows")
    start.add_argument("--address", help="of this machine in the network to use")
    start.add_argument("--port", type=_port, help="default: the last one, or a free one")
    start.add_argument(
        "--lease",
        type=_between(2, 3600),
        default=30.0,
        help="seconds that a machine may be silent before its row goes to another",
    )
    start.set_defaults(command=_start)
    invite = actions.add_parser("invite", help="write an invitation for other machines")
    invite.add_argument(
        "-o", "--output", type=Path, default=Path("invitation.ndsfarm"), help="where to write it"
    )
    invite.add_argument(
        "--hours",
        type=_between(0.01, 8760),
        default=24.0,
        help="after which it expires; default: 24",
    )
    invite.set_defaults(command=_invite)
    join = actions.add_parser("join", help="let this machine make rows of a farm")
    join.add_argument("invitation", type=Path, nargs="?", help="none: the farm it joined before")
    join.add_argument("--name", help="of this machine, in the farm")
    join.add_argument("--fetch", action="store_true", help="get packs that rows need and it lacks")
    join.add_argument("--threads", type=counted, help="of the CPU; default: all cores")
    join.set_defaults(command=_join)
    status = actions.add_parser("status", help="which machines are online, and what they make")
    status.add_argument("--json", action="store_true", help="as JSON on stdout")
    status.set_defaults(command=_status)
    stop = actions.add_parser("stop", help="end the farm; rows go back to the queue")
    stop.set_defaults(command=_stop)
    revoke = actions.add_parser("revoke", help="shut out a machine, or end all invitations")
    revoke.add_argument("name", help="of a machine, or invitation")
    revoke.set_defaults(command=_revoke)
    admit = actions.add_parser("admit", help="give a machine that was set aside rows again")
    admit.add_argument("name")
    admit.set_defaults(command=_admit)


def _between(least: float, most: float) -> Callable[[str], float]:
    """An argument that is a number in that range."""

    def parsed(text: str) -> float:
        with suppress(ValueError):
            if least <= (number := float(text)) <= most:
                return number
        raise argparse.ArgumentTypeError(f"use a number from {least} to {most} instead of {text!r}")

    return parsed


def _port(text: str) -> int:
    """An argument that is a port."""
    if (port := counted(text)) > 65535:
        raise argparse.ArgumentTypeError(f"use a port from 1 to 65535 instead of {text!r}")
    return port


def _start(arguments: argparse.Namespace) -> None:
    _require()
    from studio.farm import host

    host.serve(arguments.address, arguments.port, arguments.lease, say=_say)


def _invite(arguments: argparse.Namespace) -> None:
    _require()
    from studio.farm import host
    from studio.farm.certificates import write
    from studio.farm.register import farm_folder, open_register
    from studio.system.files import fitted, move, unwritten, writing

    with open_register() as register:
        invitation = host.invite(register, farm_folder(), arguments.hours)
    target = arguments.output.absolute()
    if target.exists():
        target = fitted(target.with_suffix(""), f"-{datetime.now():%H%M%S}{target.suffix}")
    try:
        with writing(target) as part:
            write(part, str(invitation).encode())
            move(part, target)
    except OSError as error:
        raise unwritten(target, error) from error
    ends = datetime.fromtimestamp(invitation.ends)
    print(f"{shown(target)} lets machines in until {ends:%Y-%m-%d %H:%M}; keep it to yourselves.")


def _join(arguments: argparse.Namespace) -> None:
    _require()
    import asyncio

    from studio.farm import machine
    from studio.farm.certificates import read_invitation
    from studio.farm.register import farm_folder

    folder = farm_folder() / "joined"
    if arguments.invitation is not None:
        invitation = read_invitation(arguments.invitation)
        asyncio.run(machine.enrol(invitation, folder, arguments.name))
    machine.join(folder, fetch=arguments.fetch, threads=arguments.threads, say=_say)


def _status(arguments: argparse.Namespace) -> None:
    from studio.farm.register import open_register
    from studio.jobs.leases import LeasingTable
    from studio.jobs.spec import PENDING
    from studio.system.paths import jobs_file

    with open_register() as register, LeasingTable(jobs_file()) as table:
        farm, machines, leases = register.farm(), register.machines(), table.leases()
        doing = {lease.machine: lease.job for lease in leases if lease.begun}
        waiting = table.count(PENDING)
    if arguments.json:
        content: dict[str, Any] = {
            "on": bool(farm and farm.is_on),
            "address": farm and farm.address,
            "port": farm and farm.port,
            "waiting": waiting,
            "machines": [_as_json(one, doing.get(one.name)) for one in machines],
        }
        print_json(content)
        return
    where = f"on, at {farm.address}, port {farm.port}" if farm and farm.is_on else "off"
    print(f"the farm is {where}; {waiting} rows wait")
    for one in machines:
        print(f"{one.name:24} {_state(one, doing.get(one.name))}")


def _state(machine: Machine, job: int | None) -> str:
    """What a machine does, in a line."""
    state = "online"
    if not machine.online:
        state = f"offline since {datetime.fromtimestamp(machine.seen):%c}"
    if machine.aside:
        state = f"set aside: {machine.aside}"
    elif machine.online and job is not None:
        state = f"makes job {job}"
    elif machine.online and machine.problem:
        state = f"rests: {machine.problem}"
    pace = "" if machine.pace is None else f", {machine.pace:.1f} s a row"
    return f"{state}; {machine.made} made{pace}"


def _as_json(machine: Machine, job: int | None) -> dict[str, object]:
    return {
        "name": machine.name,
        "online": machine.online,
        "job": job,
        "made": machine.made,
        "pace": machine.pace,
        "packs": dict(machine.packs),
        "backends": list(machine.backends),
        "problem": str(machine.problem),
        "aside": str(machine.aside),
    }


def _stop(arguments: argparse.Namespace) -> None:
    from studio.farm.register import ended, open_register

    with open_register() as register:
        print("The farm has ended." if ended(register) else "The farm is not on.")


def _revoke(arguments: argparse.Namespace) -> None:
    from studio.farm.register import open_register

    with open_register() as register:
        count = register.revoke(arguments.name)
    print(f"{count} certificates of {arguments.name} are good no more.")


def _admit(arguments: argparse.Namespace) -> None:
    from engine.errors import Message
    from studio.farm.register import open_register

    with open_register() as register:
        register.set_aside(arguments.name, Message(""))


def _say(line: str) -> None:
    print(line, flush=True)


def _require() -> None:
    """Raise RegisterError where what the farm is built on is missing."""
    from studio.farm.register import RegisterError, is_available

    if not is_available():
        raise RegisterError(
            'The farm needs the extra "farm": install neodragon-studio[farm] with pip or uv.'
        )
