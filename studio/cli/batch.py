"""`nds batch`: everything a prompt list asks for, through the job table and the worker process.

Exit code 0: every row is made. 1: some are not. 2: there is nothing to make.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import Message
from studio.cli.console import (
    FAILED,
    SOME_FAILED,
    counted,
    engine_arguments,
    opened,
    print_json,
    shown,
)

if TYPE_CHECKING:
    from engine.pack import Pack
    from studio.batch.lists import Plan, PromptList
    from studio.jobs.spec import Job
    from studio.jobs.table import JobTable


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add those of the command."""
    parser.add_argument(
        "file",
        type=Path,
        help="a prompt list: text, .csv, .tsv, .json or .jsonl; - for standard input",
    )
    parser.add_argument("--dry-run", action="store_true", help="only print what is needed")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="folder for the files; default: the clips folder",
    )
    parser.add_argument(
        "--repeats", type=counted, metavar="N", help="make each row so often, with new random seeds"
    )
    for name in ("look", "motion"):
        parser.add_argument(
            f"--{name}-seeds", metavar="A..B", help=f"{name} seeds of rows that name none"
        )
    parser.add_argument("--farm", action="store_true", help="let the farm's machines make it")
    parser.add_argument("--json", action="store_true", help="the result as JSON on stdout")
    engine_arguments(parser)
    parser.set_defaults(command=_batch)


def _batch(arguments: argparse.Namespace) -> int:
    from studio.batch import filling
    from studio.batch import lists as batch
    from studio.jobs.table import JobTable
    from studio.system import paths

    piped = _is_stream(arguments.file)
    with opened(arguments) as (pack, backend), JobTable(paths.jobs_file()) as table:
        read = _read_stream if piped else batch.read
        prompts = read(arguments.file, pack, backend, defaults=_defaults(arguments))
        # A list that is piped in goes out again filled in; what there is to say stands aside.
        through = piped and not (arguments.out or arguments.dry_run or arguments.json)
        made, filled, sheet = {}, None, None
        with redirect_stdout(sys.stderr if through else sys.stdout):
            plan = _preview(arguments, prompts, table)
            if prompts.rows and not arguments.dry_run:
                target = None if through or (piped and not arguments.out) else arguments.file
                if piped and arguments.out:
                    target = arguments.out / f"list{batch.suffix_of(prompts.format)}"
                filled, sheet = _made(arguments, prompts, table, target)
            made = _jobs(prompts, table)
            if filled and not arguments.json:
                done = sum(job.state == "done" for job in made.values())
                print(f"{done} of {len(made)} are made; the list filled in is {shown(filled)}")
                if sheet:
                    print(f"the contact sheet is {shown(sheet)}")
        if arguments.json:
            print_json(_report(plan, prompts, made, filled, sheet))
        elif through and prompts.rows:
            sys.stdout.write(filling.filled(prompts, table))
    if not prompts.rows:
        return FAILED
    whole = arguments.dry_run or all(job.state == "done" for job in made.values())
    return 0 if whole and not prompts.bad else SOME_FAILED


def _is_stream(path: Path) -> bool:
    """Whether a list comes from a pipe or device, which has no folder to write beside it."""
    absolute = path.absolute()
    device = os.name == "posix" and absolute.parts[1:2] in (("dev",), ("proc",))
    special = os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)
    return str(path) == "-" or device or special


def _read_stream(path: Path, pack: Pack, backend: str, **options: Any) -> PromptList:
    """The list in a pipe or on standard input (`-`); files it names are in the current folder."""
    from studio.batch import lists as batch
    from studio.batch.records import LIST_LIMIT

    if str(path) != "-":
        here = {"folder": Path.cwd(), "wildcards": Path.cwd() / "wildcards"}
        return batch.read(path, pack, backend, **{**here, "name": str(Path.cwd() / "-"), **options})
    if sys.stdin.isatty():
        key = "Ctrl+Z and Enter" if os.name == "nt" else "Ctrl+D"
        print(f"Write one prompt a line; {key} ends the list.", file=sys.stderr)
    return batch.parse(
        sys.stdin.buffer.read(LIST_LIMIT + 1),
        pack,
        backend,
        folder=Path.cwd(),
        wildcards=Path.cwd() / "wildcards",
        name=str(Path.cwd() / "-"),
        **options,
    )


def _preview(arguments: argparse.Namespace, prompts: PromptList, table: JobTable) -> Plan:
    """Say how the list was understood and what it would take; the plan."""
    from studio.batch import lists as batch

    unit = "item" if prompts.format == "json" else "line"
    for row in prompts.bad:
        print(f"{unit} {row.line}: {row.reason}", file=sys.stderr)
    for note in prompts.notes:
        print(f"note: {note}", file=sys.stderr)
    sys.stderr.flush()
    plan = batch.plan(prompts, table)
    if arguments.json:
        return plan
    first, rest = plan.summary(plurals=sys.stdout.isatty())  # in a pipe the form is always the same
    if not arguments.dry_run:
        print(f"{first}, {rest}", flush=True)
        if prompts.assumed:
            print(prompts.assumed, flush=True)
        return plan
    print(first)
    if prompts.assumed:
        print(prompts.assumed)
    for line, work, count in batch.sample(prompts):
        more = f" (the first of {count})" if count > 1 else ""
        print(f"  {unit} {line}: {work.prompt}\n    {batch.settings_of(work)}{more}")
    print(rest, flush=True)
    return plan


def _made(
    arguments: argparse.Namespace, prompts: PromptList, table: JobTable, target: Path | None
) -> tuple[Path | None, Path | None]:
    """Make everything; the filled-in list beside `target` and its contact sheet."""
    from studio.batch import filling
    from studio.batch import lists as batch
    from studio.batch.contact_sheet import contact_sheet
    from studio.cli import progress as cli_work
    from studio.jobs.spec import PENDING, RUNNING
    from studio.system import paths
    from studio.system.files import prepare

    if arguments.out:
        prepare(arguments.out / "clip.mp4", ".mp4")
    if target:
        target = _writable(target, arguments.out)
    batch.enqueue(prompts, table, arguments.out)
    lines = {entry.key: entry.row for entry in reversed(prompts.entries)}
    ids = {
        job.id: f"line {lines[key]}"
        for key, job in table.by_key(lines).items()
        if job.state in (*PENDING, *RUNNING)
    }
    cli_work.work_off(table, ids, quiet=arguments.json, farm=arguments.farm)
    if target is None:
        return None, None
    filled = filling.fill_beside(target, prompts, table)
    jobs = list(_jobs(prompts, table).values())
    return filled, contact_sheet(jobs, filled.with_suffix(".jpg"), paths.cache_folder())


def _writable(path: Path, out: Path | None) -> Path:
    """`path`, or its name in `out` where nothing can be written beside it; raises OutputError."""
    from studio.batch import filling
    from studio.system.files import OutputError, prepare

    beside = filling.beside(path)
    try:
        prepare(beside, beside.suffix.lower())
    except OutputError:  # a list on a stick that may only be read
        if out is None:
            raise
        return _writable(out / path.name, None)
    return path


def _jobs(prompts: PromptList, table: JobTable) -> dict[str, Job]:
    """The jobs that the table has of a list, in its order."""
    keys = dict.fromkeys(entry.key for entry in prompts.entries)
    jobs = table.by_key(keys)
    return {key: jobs[key] for key in keys if key in jobs}


def _defaults(arguments: argparse.Namespace) -> dict[str, object]:
    """What stands where a row says nothing; raises RequestError."""
    from studio.batch.values import seeds

    options = {
        "repeats": arguments.repeats,
        "look_seed": arguments.look_seeds,
        "motion_seed": arguments.motion_seeds,
    }
    for name in ("look_seed", "motion_seed"):
        if options[name] is not None:
            option = Message("--{name}s", {"name": name.replace("_", "-")})
            seeds(name.replace("_", " "), option, options[name])
    return {name: value for name, value in options.items() if value is not None}


def _report(
    plan: Plan,
    prompts: PromptList,
    made: dict[str, Job],
    filled: Path | None,
    sheet: Path | None,
) -> dict[str, object]:
    """What there is to know, for other programs."""
    from studio.jobs.spec import as_json

    return {
        "rows": plan.rows,
        "clips": plan.clips,
        "frames": plan.frames,
        "existing": plan.existing,
        "queued": plan.queued,
        "seconds": plan.seconds,
        "bytes": plan.size,
        "notes": [str(note) for note in (prompts.assumed, *prompts.notes) if note],
        "bad": [{"line": row.line, "reason": str(row.reason)} for row in prompts.bad],
        "jobs": [
            {**as_json(made[entry.key]), "line": entry.row}
            for entry in prompts.entries
            if entry.key in made
        ],
        "filled": None if filled is None else str(filled.absolute()),
        "sheet": None if sheet is None else str(sheet.absolute()),
    }
