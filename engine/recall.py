"""What graphs have made of the same inputs before: a prompt's embeddings, a look's first frame."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from engine.session import Array

Content = str | int | float | Array


class Recall:
    """Results by the content they were made of, the longest unused forgotten first.

    room: bytes of all results; with 0 nothing is kept.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self._kept: dict[bytes, tuple[Array, ...]] = {}

    def get(self, key: bytes) -> tuple[Array, ...] | None:
        """The arrays kept under `key_of` their content, which are not to be changed."""
        value = self._kept.pop(key, None)
        if value is not None:
            self._kept[key] = value
        return value

    def keep(self, key: bytes, arrays: tuple[Array, ...]) -> None:
        """Keep arrays under their key, as far as there is room."""
        self._kept[key] = arrays
        while self._kept and self.size > self.room:
            del self._kept[next(iter(self._kept))]

    def made(self, key: bytes, make: Callable[[], tuple[Array, ...]]) -> tuple[Array, ...]:
        """Those kept, else what `make` gives."""
        value = self.get(key)
        if value is None:
            value = make()
            self.keep(key, value)
        return value

    @property
    def size(self) -> int:
        """Bytes of all that is kept."""
        return sum(array.nbytes for arrays in self._kept.values() for array in arrays)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()


def key_of(*content: Content) -> bytes:
    """A digest that is the same where every part of the content is."""
    digest = hashlib.sha256()
    for part in content:
        text = f"{part.dtype}{part.shape}" if isinstance(part, np.ndarray) else repr(part)
        digest.update(f"{len(text)}:{text}".encode())
        if isinstance(part, np.ndarray):
            digest.update(np.ascontiguousarray(part).data)
    return digest.digest()
