"""Graphs as ONNX Runtime leaves them after optimising, kept on disk: they load twice as fast.

An entry belongs to one graph, version of ONNX Runtime and processor, whose layout its weights have.
It begins with the SHA-256 of the rest, so that what a crash left half written is never loaded.
Where nothing can be kept, graphs load as they would without.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import onnxruntime as ort

from engine.pack import Graph
from engine.session.chips import processor_name
from engine.session.runtime import ORT_ERRORS

LARGEST = 2**26  # bytes of a graph: larger ones would take more disk than they save time
ROOM = 2**29  # bytes of all entries
UNUSED = 60 * 86_400.0  # seconds after which an entry goes
FAILURES: tuple[type[Exception], ...] = (*ORT_ERRORS, OSError)
DIGEST = hashlib.sha256().digest_size
CPUINFO = Path("/proc/cpuinfo")


class Optimised:
    """The entries in `folder`, which may be absent, full, read-only or shared by processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def session(
        self, graph: Graph, path: Path, options: Callable[[], ort.SessionOptions]
    ) -> ort.InferenceSession:
        """A graph on the CPU, from its entry or from `path`; raises ONNX Runtime's errors."""
        if graph.data or graph.file.size > LARGEST:
            return _cpu_session(str(path), options())
        entry = self.folder / f"{_key(graph)}.onnx"
        content = _read(entry)
        if content is not None:
            ready = options()
            ready.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            with suppress(*ORT_ERRORS):
                return _cpu_session(content, ready)
        part = self.folder / f".{uuid.uuid4().hex}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            writing = options()
            writing.optimized_model_filepath = str(part)
            session = _cpu_session(str(path), writing)
            self._keep(part, entry)
            return session
        except FAILURES:
            return _cpu_session(str(path), options())
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)

    def _keep(self, part: Path, entry: Path) -> None:
        """Make an entry of what ONNX Runtime has written to `part`, and room for it."""
        content = part.read_bytes()
        with suppress(OSError):  # a full disk: the session is there all the same
            with part.open("wb") as stream:
                stream.write(hashlib.sha256(content).digest())
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(entry)
            self._prune()

    def _prune(self) -> None:
        """Remove the longest unused entries, and what killed processes left."""
        room, now = ROOM, time.time()
        entries = sorted(self._entries(), reverse=True)
        for used, size, path in entries:
            room -= size
            if room < 0 or now - used > UNUSED or (path.suffix == ".part" and now - used > 3600):
                with suppress(OSError):
                    path.unlink()

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        for path in self.folder.iterdir():
            with suppress(OSError):
                if path.suffix in (".onnx", ".part"):
                    status = path.stat()
                    yield status.st_mtime, status.st_size, path


def _read(entry: Path) -> bytes | None:
    """A whole entry without its digest, marked as used now; None where there is none."""
    try:
        with entry.open("rb") as stream:
            digest, content = stream.read(DIGEST), stream.read()
    except OSError:
        return None
    if hashlib.sha256(content).digest() != digest:
        return None
    with suppress(OSError):
        os.utime(entry)
    return content


def _cpu_session(model: str | bytes, options: ort.SessionOptions) -> ort.InferenceSession:
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _key(graph: Graph) -> str:
    parts = [graph.file.sha256, sorted(graph.dimensions.items()), ort.__version__, *_processor()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


@cache
def _processor() -> tuple[str, ...]:
    """What tells processors apart for which ONNX Runtime may lay out weights differently."""
    features = [processor_name()]
    if sys.platform == "win32":
        import ctypes  # noqa: PLC0415

        has = ctypes.windll.kernel32.IsProcessorFeaturePresent
        features.append("".join(str(int(bool(has(number)))) for number in range(128)))
    with suppress(OSError):
        wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
        features += [line for line in lines if line.split("\t")[0].rstrip(" :") in wanted]
    return tuple(features)
