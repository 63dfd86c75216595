"""`nds batch`: everything a prompt list asks for, through the job table and the worker process.

Exit code 0: every row is made; 1: some are not; 2: there is nothing to begin with.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from studio.cli.console import FAILED, SOME_FAILED, counted, engine_arguments, opened, shown

if TYPE_CHECKING:
    from studio.batch.lists import Plan, PromptList
    from studio.jobs.spec import Job


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add those of the command."""
    parser.add_argument("file", type=Path, help="a prompt list: text, .csv, .tsv or .jsonl")
    parser.add_argument("--dry-run", action="store_true", help="only say what it would take")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for the files; else Videos")
    parser.add_argument(
        "--repeats", type=counted, metavar="N", help="times with other random seeds, per row"
    )
    for name in ("look", "motion"):
        parser.add_argument(
            f"--{name}-seeds", metavar="A..B", help=f"where a row names no {name} seed"
        )
    parser.add_argument("--json", action="store_true", help="the result as JSON on stdout")
    engine_arguments(parser)
    parser.set_defaults(command=_batch)


def _batch(arguments: argparse.Namespace) -> int:
    from studio.batch import lists as batch
    from studio.batch.contact_sheet import contact_sheet
    from studio.cli import progress as cli_work
    from studio.jobs.spec import PENDING, RUNNING
    from studio.jobs.table import JobTable
    from studio.system import paths

    with opened(arguments) as (pack, backend), JobTable(paths.jobs_file()) as table:
        prompts = batch.read(arguments.file, pack, backend, defaults=_defaults(arguments))
        plan = batch.plan(prompts, table)
        for row in prompts.bad:
            print(f"line {row.line}: {row.reason}", file=sys.stderr)
        if not arguments.json:
            print(plan, flush=True)
        filled = None
        if prompts.rows and not arguments.dry_run:
            target = batch.beside(arguments.file)
            paths.prepare(target, target.suffix.lower())
            if arguments.out:
                paths.prepare(arguments.out / "clip.mp4", ".mp4")
            batch.enqueue(prompts, table, arguments.out)
            lines = {entry.key: entry.row for entry in reversed(prompts.entries)}
            ids = {
                job.id: f"line {lines[key]}"
                for key, job in table.by_key(lines).items()
                if job.state in (*PENDING, *RUNNING)
            }
            cli_work.work_off(table, ids, quiet=arguments.json)
            filled = batch.fill_beside(arguments.file, prompts, table)
        keys = dict.fromkeys(entry.key for entry in prompts.entries)
        found = table.by_key(keys)
        made = {key: found[key] for key in keys if key in found}
        sheet = None
        if filled:
            beside = filled.with_suffix(".jpg")
            sheet = contact_sheet(list(made.values()), beside, paths.cache_folder())
        if arguments.json:
            print(
                json.dumps(
                    _report(plan, prompts, made, filled, sheet), ensure_ascii=False, indent=1
                )
            )
        elif filled:
            done = sum(job.state == "done" for job in made.values())
            print(f"{done} of {len(made)} are made; the list filled in is {shown(filled)}")
            if sheet:
                print(f"the contact sheet is {shown(sheet)}")
    if not prompts.rows:
        return FAILED
    whole = arguments.dry_run or all(job.state == "done" for job in made.values())
    return 0 if whole and not prompts.bad else SOME_FAILED


def _defaults(arguments: argparse.Namespace) -> dict[str, object]:
    """What stands where a row says nothing; raises RequestError."""
    from studio.batch.rows import seed_cell

    given = {
        "repeats": arguments.repeats,
        "look_seed": arguments.look_seeds,
        "motion_seed": arguments.motion_seeds,
    }
    for name in ("look_seed", "motion_seed"):
        if given[name] is not None:
            seed_cell(name.replace("_", " "), given[name])
    return {name: value for name, value in given.items() if value is not None}


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
        "bad": [{"line": row.line, "reason": row.reason} for row in prompts.bad],
        "jobs": [
            {**as_json(made[entry.key]), "line": entry.row}
            for entry in prompts.entries
            if entry.key in made
        ],
        "filled": None if filled is None else str(filled.absolute()),
        "sheet": None if sheet is None else str(sheet.absolute()),
    }
