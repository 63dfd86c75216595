"""Restore a request from a clip, a first frame or a sidecar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import Request
from engine.errors import Message, NeodragonError, RequestError
from studio.jobs.spec import KINDS
from studio.media import sidecars
from studio.media.sidecars import Kind


class RestoreError(NeodragonError):
    """A file does not say what it was made by."""


@dataclass(frozen=True, eq=False)
class Origin:
    """What a clip or a first frame was made by.

    request: its image only the name of the user's picture that it began with; key: its content
    key (`studio.jobs.spec.content_key`), where it was a job; backend and pack as recorded;
    marks: the user's.
    """

    kind: Kind
    request: Request
    backend: str
    pack_name: str
    pack_version: str
    pack_hash: str
    key: str | None
    marks: Mapping[str, Any]

    def pack_note(self, name: str, version: str, pack_hash: str) -> Message | None:
        """A sentence to show where that pack is another than the one it was made with."""
        if pack_hash == self.pack_hash:
            return None
        return Message(
            "It was made with the pack {made_with}; the pack in use is {here}.",
            {
                "made_with": f"{self.pack_name} {self.pack_version} ({self.pack_hash[:12]})",
                "here": f"{name} {version} ({pack_hash[:12]})",
            },
        )


def restore(path: Path) -> Origin:
    """What to set every control to, from a clip, a first frame or a sidecar, wherever it lies.

    Raises OutputError, RestoreError or RequestError where it is not ours or says no such thing.
    """
    content = sidecars.read(path)
    pack = content.get("pack")
    pack = pack if isinstance(pack, dict) else {}
    marks = content.get("marks")
    kind = content.get("kind", "clip")
    if kind not in KINDS:
        raise _wrong(path, "kind", kind)
    try:
        request = Request.from_dict(content)
    except RequestError as error:
        raise RestoreError(
            "{name} was changed, or does not say what it was made by: {reason}",
            name=path.name,
            reason=error.message,
        ) from error
    return Origin(
        kind=kind,
        request=request,
        backend=_optional(path, content, "backend") or "cpu",
        pack_name=_optional(path, pack, "name") or "?",
        pack_version=_optional(path, pack, "version") or "?",
        pack_hash=_optional(path, pack, "hash") or "?",
        key=_optional(path, content, "key"),
        marks=marks if isinstance(marks, dict) else {},
    )


def _optional(path: Path, content: Mapping[str, Any], name: str) -> str | None:
    value = content.get(name)
    if value is None or isinstance(value, str):
        return value
    raise _wrong(path, name, value)


def _wrong(path: Path, field: str, got: object) -> RestoreError:
    return RestoreError(
        "{name} says {value!r} for {field}, which is not a {field}; choose another file.",
        name=path.name,
        field=field,
        value=str(got)[:40],
    )
