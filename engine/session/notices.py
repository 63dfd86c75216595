"""What the user should know of graphs that took another way than expected, said as it happens."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from engine.errors import Message

Listener = Callable[[Message], None]


def _on_stderr(notice: Message) -> None:
    print(notice, file=sys.stderr)


_listener: ContextVar[Listener] = ContextVar("listener", default=_on_stderr)


def notify(notice: Message) -> None:
    """Tell whoever listens; stderr where nobody does."""
    _listener.get()(notice)


@contextmanager
def notices_to(listener: Listener) -> Iterator[None]:
    """Have this thread's notices for a block."""
    before = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(before)
