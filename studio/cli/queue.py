"""`nds queue`: show and arrange the job table, whichever process works on it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from studio.cli.console import SOME_FAILED, Parser, counted, print_json

if TYPE_CHECKING:
    from studio.jobs.spec import Job
    from studio.jobs.table import JobTable

WORDS_SHOWN = 60  # characters of a prompt


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add those of the command."""
    parser.set_defaults(command=_queue, action=_list, all=False)
    parser.add_argument("--json", action="store_true", help="as JSON on stdout")
    actions = parser.add_subparsers(metavar="ACTION", parser_class=Parser)
    for name, action, help_ in (
        ("list", _list, "what waits, runs and has ended, in order (default)"),
        ("resume", _resume, "go on, here if nothing else works on it"),
        ("pause", _pause, "start nothing after the running one"),
        ("skip", _skip, "stop the running job and go on with the next"),
        ("stop", _stop, "stop the running job and pause"),
        ("retry", _retry, "let those that failed wait again"),
        ("remove", _remove, "take out what is waiting"),
        ("move", _move, "put what is waiting at another place"),
    ):
        command = actions.add_parser(name, help=help_)
        command.set_defaults(action=action)
        # A flag that is absent here leaves the one before the action as it is.
        command.add_argument("--json", action="store_true", default=argparse.SUPPRESS)
        if action is _list:
            command.add_argument("--all", action="store_true", help="also what is made already")
        if action in (_retry, _remove):
            several = "*" if action is _retry else "+"
            help_ = "default: all that failed" if action is _retry else "as `list` says"
            command.add_argument("id", type=counted, nargs=several, metavar="ID", help=help_)
        if action is _move:
            command.add_argument("id", type=counted, metavar="ID")
            command.add_argument(
                "place", type=counted, metavar="N", help="position in the queue; 1 is next"
            )


def _queue(arguments: argparse.Namespace) -> int | None:
    from studio.jobs.table import JobTable
    from studio.system import paths

    with JobTable(paths.jobs_file()) as table:
        code: int | None = arguments.action(arguments, table)
        (_print_json if arguments.json else _print)(arguments, table)
        return code


def _list(arguments: argparse.Namespace, table: JobTable) -> None:
    """Nothing but what every action ends with."""


def _print(arguments: argparse.Namespace, table: JobTable) -> None:
    for job in _shown(arguments, table):
        of = f"{job.fraction:4.0%}" if job.state == "running" else ""
        line = str(job.error) or job.work.prompt[:WORDS_SHOWN]
        print(f"{job.id:6}  {job.state:11} {of:5} {job.work.kind:5}  {line}")
    for row in table.damaged():
        print(f"{row['id']:6}  damaged: kept apart in {table.path.name}, and not made")
    queue = table.queue()
    print(f"paused. {queue.reason}".strip() if queue.paused else "not paused")


def _shown(arguments: argparse.Namespace, table: JobTable) -> list[Job]:
    from studio.jobs.spec import STATES

    return table.jobs([state for state in STATES if arguments.all or state != "done"])


def _print_json(arguments: argparse.Namespace, table: JobTable) -> None:
    from studio.jobs.spec import as_json

    queue = table.queue()
    jobs = [as_json(job) for job in _shown(arguments, table)]
    content = {"paused": queue.paused, "reason": str(queue.reason), "jobs": jobs}
    print_json(content | {"damaged": table.damaged()})


def _resume(arguments: argparse.Namespace, table: JobTable) -> int | None:
    from studio.cli.progress import work_off
    from studio.jobs.spec import PENDING, RUNNING

    with table.deserted() as alone:
        if not alone:  # an open app sees to it
            table.resume()
            return None
    ids = {number: f"job {number}" for number in table.ids((*RUNNING, *PENDING))}
    work_off(table, ids, quiet=arguments.json)
    whole = all(job.state == "done" for job in table.jobs() if job.id in ids)
    return None if whole else SOME_FAILED


def _pause(arguments: argparse.Namespace, table: JobTable) -> None:
    table.pause()


def _skip(arguments: argparse.Namespace, table: JobTable) -> None:
    from studio.jobs.spec import RUNNING

    for number in table.ids(RUNNING):
        table.skip(number)


def _stop(arguments: argparse.Namespace, table: JobTable) -> None:
    table.stop_all()


def _retry(arguments: argparse.Namespace, table: JobTable) -> None:
    table.retry(arguments.id or None)


def _remove(arguments: argparse.Namespace, table: JobTable) -> None:
    table.remove(arguments.id)


def _move(arguments: argparse.Namespace, table: JobTable) -> None:
    from studio.jobs.spec import PENDING

    others = [other for other in table.ids(PENDING) if other != arguments.id]
    before = others[arguments.place - 1 : arguments.place]
    table.move([arguments.id], before[0] if before else None)
