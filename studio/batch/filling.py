"""A list filled in with what its jobs have become: status, file, seeds, seconds and error."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from studio.batch.columns import FILLED, UNNAMED
from studio.batch.lists import PromptList, Row
from studio.batch.record import NOTE, Cells
from studio.batch.tables import table_line
from studio.jobs.spec import Job
from studio.jobs.table import JobTable
from studio.system.files import fitted, move, publish, writing


def fill(path: Path, prompts: PromptList, table: JobTable) -> Path:
    """Write the list that was read from `path` back to it with what its jobs have become.

    What was there first is kept beside it; returns where (`name.csv.original`). Raises
    OutputError, JobsError.
    """
    kept = path.with_name(f"{path.name}.original")
    with _written(path, prompts, table) as part:
        if not kept.exists():
            with writing(kept) as before, suppress(FileExistsError):
                before.write_bytes(path.read_bytes())
                move(before, kept)
        publish(part, path, overwrite=True)
    return kept


def fill_beside(path: Path, prompts: PromptList, table: JobTable) -> Path:
    """Write the filled-in list beside the one at `path`, over nothing; returns where.

    Raises OutputError, JobsError.
    """
    target = beside(path)
    with _written(target, prompts, table) as part:
        return publish(part, target, overwrite=False)


def beside(path: Path) -> Path:
    """What the filled-in list is called: `name-filled.csv`; another number where that is taken."""
    stem = re.sub(r"-filled(-[0-9]+)?$", "", path.stem)
    return fitted(path.with_name(stem), f"-filled{path.suffix}")


def filled(prompts: PromptList, table: JobTable) -> str:
    """The list as text, filled in with what its jobs have become. Raises JobsError."""
    jobs = table.by_key(entry.key for entry in prompts.entries)
    rows = {row.line: row for row in prompts.rows}
    header = list(prompts.header) + [name for name in FILLED if name not in prompts.header]
    lines: list[str] = []
    if prompts.header:
        named = ("" if name.startswith(UNNAMED) else name for name in header)
        lines.append(table_line(named, prompts.delimiter))
    for record in prompts.records:
        progress: Cells = {"status": "bad", "error": str(record.reason)}
        if record.line in rows:
            progress = _progress(rows[record.line], jobs)
        elif record.reason is None:
            lines.append(record.raw)
            continue
        cells = {**(record.cells or {}), **dict.fromkeys(FILLED, ""), **progress}
        if record.cells is None and prompts.format == "json":
            lines.append(record.raw)
        elif record.cells is None or prompts.format == "text":
            lines += [record.raw, NOTE + _json_line(progress)]
        elif prompts.format in ("json", "jsonl"):
            lines.append(_json_line(cells))
        else:
            row = [str(cells.get(name, "")) for name in header]
            lines.append(table_line([*row, *record.extra], prompts.delimiter))
    if prompts.format == "json":
        return "[\n" + ",\n".join(lines) + "\n]\n"
    return "\n".join(lines) + "\n"


def _json_line(cells: Cells) -> str:
    text = json.dumps(cells, ensure_ascii=False)
    return text.replace("\u2028", r"\u2028").replace("\u2029", r"\u2029")  # they end a line


@contextmanager
def _written(path: Path, prompts: PromptList, table: JobTable) -> Iterator[Path]:
    """A file with the filled-in list, to be moved to `path`."""
    # Spreadsheets take a table without the mark for Windows-1252.
    encoding = "utf-8-sig" if prompts.format in ("csv", "tsv") else "utf-8"
    text = filled(prompts, table)
    with writing(path) as part:
        part.write_text(text, encoding=encoding, errors="replace", newline="\n")
        yield part


def _progress(row: Row, jobs: Mapping[str, Job]) -> Cells:
    """What the filled-in columns say of a row."""
    made = [jobs.get(entry.key) for entry in row.entries]
    states = Counter("not queued" if job is None else job.state for job in made)
    done = [job for job in made if job is not None and job.state == "done"]
    pairs = dict.fromkeys(
        f"{entry.work.look_seed}/{entry.work.motion_seed}" for entry in row.entries
    )
    if len(made) == 1:
        status = next(iter(states))
    else:
        status = ", ".join(f"{count} {state}" for state, count in states.items())
    return {
        "status": status,
        "file": "; ".join(str(job.result) for job in done),
        "seeds": "; ".join(pairs),
        "seconds": f"{sum(job.seconds or 0 for job in done):.1f}" if done else "",
        "error": " ".join(dict.fromkeys(str(job.error) for job in made if job and job.error)),
    }
