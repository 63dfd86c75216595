"""Graphs that stay loaded from one clip to the next, as far as a budget of memory allows."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engine.errors import BackendError, Message
from engine.pack import Pack
from engine.recall import Recall
from engine.session import (
    Backend,
    Optimised,
    OrtSession,
    notices_to,
    notify,
    open_graphs,
    placed,
)

WIDENED = 2  # on the CPU weights of 16 bits become 32 when they are loaded

RECALLED = 2**26  # bytes of embeddings and first frames: those of some six full-size prompts


@dataclass(frozen=True)
class Key:
    """Which graphs: those of `placements`, and the threads they were loaded for."""

    pack: str
    component: str
    role: str
    backend: Backend
    threads: int | None


class GraphCache:
    """Loaded graphs that nobody uses, the longest unused freed first, and what they have made.

    budget: bytes of weights that it and those in use may have together; with 0 nothing is kept, and
    what is in use is never taken away; folder: where graphs for the CPU are kept ready on disk, for
    later processes too.
    """

    def __init__(self, budget: int, folder: Path | None = None) -> None:
        self.budget = budget
        self.optimised = Optimised(folder) if folder else None
        self.recall = Recall(min(budget, RECALLED))
        self.sound: set[tuple[str, Backend]] = set()  # packs whose canary sang there
        self._idle: dict[Key, dict[str, OrtSession]] = {}
        self._sizes: dict[Key, int] = {}  # of those idle and in use
        self._notices: dict[Key, list[Message]] = {}  # of their load, said at each use

    def take(
        self, pack: Pack, component: str, role: str, backend: Backend, threads: int | None
    ) -> tuple[Key, dict[str, OrtSession]]:
        """A component's graphs whose names start with `role`, at full speed.

        Raises as `open_graphs` does.
        """
        key = Key(pack.pack_hash, component, role, backend, threads)
        kept = self._idle.pop(key, None)
        if kept is not None:
            for notice in self._notices[key]:
                notify(notice)
            for session in kept.values():
                session.busy(True)
            return key, kept
        where = (pack, component, role, backend)
        size = _size(*where)
        self._make_room(size)
        notices: list[Message] = []
        try:
            with notices_to(notices.append):
                opened = self._opened(*where, threads)
        finally:
            for notice in notices:
                notify(notice)
        self._sizes[key], self._notices[key] = size, notices
        return key, opened

    def _opened(
        self, pack: Pack, component: str, role: str, backend: Backend, threads: int | None
    ) -> dict[str, OrtSession]:
        where = (pack, component, role, backend, threads)
        try:
            return open_graphs(*where, once=bool(self._idle), optimised=self.optimised)
        except BackendError:  # an NPU may have less room than the machine's memory lets one think
            if not self._idle:
                raise
            self.clear()
            return open_graphs(*where, optimised=self.optimised)

    def give_back(self, key: Key, sessions: dict[str, OrtSession]) -> None:
        """What `take` gave is no longer used."""
        self._idle[key] = sessions
        self._make_room(0)
        if key in self._idle:
            with suppress(BackendError):  # of a device that is gone
                for session in sessions.values():
                    session.busy(False)

    def prewarm(
        self, pack: Pack, component: str, role: str, backend: Backend, threads: int | None
    ) -> bool:
        """Load graphs before they are wanted; False where others would have to go for them.

        Raises as `open_graphs` does.
        """
        key = Key(pack.pack_hash, component, role, backend, threads)
        if key not in self._sizes:
            size = _size(pack, component, role, backend)
            if sum(self._sizes.values()) + size > self.budget:
                return False
            self.give_back(*self.take(pack, component, role, backend, threads))
        return True

    def clear(self) -> None:
        """Free all that is not in use, and forget what was made."""
        self.recall.clear()
        for key in list(self._idle):
            self._free(key)

    def _make_room(self, size: int) -> None:
        while self._idle and sum(self._sizes.values()) + size > self.budget:
            self._free(next(iter(self._idle)))

    def _free(self, key: Key) -> None:
        for session in self._idle.pop(key).values():
            session.close()
        del self._sizes[key], self._notices[key]


def _size(pack: Pack, component: str, role: str, backend: Backend) -> int:
    """Bytes of weights that graphs have once they are loaded."""
    place, graphs = placed(pack, component, role, backend)
    files = {file.name: file.size for graph in graphs.values() for file in graph.files}
    return sum(files.values()) * (WIDENED if place == "cpu" else 1)
