"""What a command makes: as a job, inside its file, beside it and on the terminal."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.cli.console import print_json, shown

if TYPE_CHECKING:
    from engine.config import Request
    from engine.pack import Pack
    from engine.session import Backend
    from studio.jobs.spec import Work
    from studio.media.sidecars import Kind


def work(pack: Pack, request: Request, backend: Backend, kind: Kind) -> Work:
    """The same as a job."""
    from studio.jobs.spec import Work

    made_by = {"pack": str(pack.path), "backend": backend, "kind": kind}
    return Work.from_dict(request.to_dict() | made_by)


def metadata(pack: Pack, work: Work) -> dict[str, Any]:
    """What goes into the file, as the worker puts it there."""
    from studio.jobs.render import record
    from studio.jobs.spec import content_key

    return record(pack, work, work.backend) | {"key": content_key(work, pack), "kind": work.kind}


def made(
    arguments: argparse.Namespace,
    path: Path,
    size: str,
    metadata: dict[str, Any],
    times: dict[str, float],
    seconds: float,
) -> None:
    """Write the sidecar and say what was made; raises OutputError."""
    from studio.jobs.results import write_sidecar

    content = write_sidecar(path, metadata, seconds, new=not arguments.overwrite)
    if arguments.json:
        stages = {name: round(spent, 3) for name, spent in times.items()}
        print_json(content | {"file": str(path), "stages": stages})
        return
    print(f"{shown(path)}: {size}, made in {seconds:.1f} s")
    if arguments.profile:
        _print_times(times)


def _print_times(times: dict[str, float]) -> None:
    for stage, seconds in times.items():
        print(f"  {stage:16} {seconds:8.3f} s")
