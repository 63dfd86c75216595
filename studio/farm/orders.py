"""What goes from the host to a machine and what comes back, as plain values.

An order says what to make in the words of `engine.config.Request`; packs and pictures go by their
hashes, never by paths. A receipt says what was made: the file's size and SHA-256, seconds, notices.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studio.jobs.spec import Job, Work, digest

BLOCK = 2**20  # bytes sent at once


def order_of(job: Job, token: str, pack_hash: str, seconds: float) -> dict[str, Any]:
    """The order for a row; seconds: after which its lease ends unless it is heard of.

    Raises RequestError where its picture cannot be read.
    """
    values = job.work.to_dict()
    picture = None
    if isinstance(job.work.image, Path):
        picture = {"name": job.work.image.name, "sha256": digest(str(job.work.image))}
    del values["image"]
    return {
        "token": token,
        "key": job.key,
        "work": values | {"pack": pack_hash},
        "picture": picture,
        "seconds": seconds,
    }


def work_of(order: Mapping[str, Any], pack: Path, picture: Path | None) -> Work:
    """What an order asks for, on the machine; raises RequestError."""
    made_by = {"pack": str(pack), "image": None if picture is None else str(picture)}
    return Work.from_dict(order["work"] | made_by)


def append(path: Path, offset: int, data: bytes) -> int:
    """Add to what came of a file, if it goes on there; how much of it is there. Raises OSError."""
    with path.open("ab") as stream:
        if stream.tell() == offset:
            stream.write(data)
        return stream.tell()


def sha256(path: Path) -> str:
    """Of a file, in hex; raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
