"""What a machine fetches from the host before it can make a row: packs and pictures.

File by file, checked by hash. An interrupted transfer continues, and a file gets its name only when
it is complete.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from engine.pack import MANIFEST, open_pack
from studio.farm.certificates import FarmError
from studio.farm.orders import sha256
from studio.system.files import partial
from studio.system.packs import STAGED, target_of

Ask = Callable[..., Awaitable[dict[str, Any]]]
REPORT_EVERY = 10.0  # seconds between words on a long fetch


async def fetch_pack(ask: Ask, pack: str, home: Path, say: Callable[[str], None]) -> Path:
    """The pack of that hash, installed in `home`; raises FarmError, PackError or OSError."""
    staged = home / f"{pack}{STAGED}"
    staged.mkdir(parents=True, exist_ok=True)
    manifest = _got(await ask("manifest", pack=pack), "manifest")
    if hashlib.sha256(manifest).hexdigest() != pack:
        raise FarmError("The host sent another pack than {pack}; try again.", pack=pack[:12])
    for name, size, digest in _files(json.loads(manifest)):
        await _fetch_file(ask, pack, staged, (name, size, digest), say)
    part = partial(staged / MANIFEST)
    part.write_bytes(manifest)
    part.replace(staged / MANIFEST)
    with open_pack(staged) as opened:
        target = target_of(opened, home)
    if not target.exists():
        staged.replace(target)
    return target


async def _fetch_file(
    ask: Ask, pack: str, staged: Path, file: tuple[str, int, str], say: Callable[[str], None]
) -> None:
    """One file of a pack, unless it is there whole."""
    name, size, digest = file
    path = staged / name
    if not path.resolve().is_relative_to(staged.resolve()):
        raise FarmError(
            "The host's pack has the file {name}, which would be outside its folder; "
            "ask for another pack.",
            name=name,
        )
    if path.is_file() and await asyncio.to_thread(sha256, path) == digest:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.fetched")
    reported = time.monotonic()
    with part.open("ab") as stream:
        if stream.tell() > size:
            stream.truncate(0)
        while (have := stream.tell()) < size:
            data = _got(await ask("file", pack=pack, name=name, offset=have), "data")
            if not data:
                raise FarmError(
                    "The host's file {name} is shorter than announced; try again.", name=name
                )
            await asyncio.to_thread(stream.write, data)
            if time.monotonic() - reported > REPORT_EVERY:
                reported = time.monotonic()
                say(f"{name}: {have / 1e6:.0f} of {size / 1e6:.0f} MB")
    if await asyncio.to_thread(sha256, part) != digest:
        part.unlink()
        raise FarmError("{name} arrived damaged; try again.", name=name)
    part.replace(path)


async def fetch_picture(ask: Ask, token: str, picture: Mapping[str, str], folder: Path) -> Path:
    """The picture that a row begins with, under its own name; raises FarmError or OSError."""
    path = folder / "pictures" / picture["sha256"][:16] / Path(picture["name"]).name
    if path.is_file() and sha256(path) == picture["sha256"]:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = partial(path)
    try:
        with part.open("wb") as stream:
            while data := _got(await ask("picture", token=token, offset=stream.tell()), "data"):
                stream.write(data)
        if sha256(part) != picture["sha256"]:
            raise FarmError(
                "The picture {name} was changed after the row was queued.", name=picture["name"]
            )
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _got(answer: Mapping[str, Any], what: str) -> bytes:
    if problem := answer.get("error"):
        raise FarmError("{problem}", problem=problem)
    return bytes(answer[what])


def _files(manifest: Any) -> list[tuple[str, int, str]]:
    """Name, size and SHA-256 of every file that a manifest names, wherever in it."""
    if isinstance(manifest, list):
        return [file for part in manifest for file in _files(part)]
    if not isinstance(manifest, dict):
        return []
    own = []
    if {"file", "size", "sha256"} <= manifest.keys():
        own = [(str(manifest["file"]), int(manifest["size"]), str(manifest["sha256"]))]
    return own + [file for part in manifest.values() for file in _files(part)]
