"""Supervises a queue that the farm works on, as `studio.jobs.supervisor` does with its worker."""

from __future__ import annotations

import time
from contextlib import ExitStack

from engine.errors import Message
from studio.farm.register import RegisterError, open_register
from studio.jobs.table import JobTable

PATIENCE = 60.0  # seconds a host may be gone, as while it is started again


class FarmSupervisor:
    """An app that leaves the work to the farm; close it or use it as a context manager.

    Raises RegisterError where the farm is off.
    """

    def __init__(self, table: JobTable) -> None:
        self.table = table
        self._stack = ExitStack()
        self._register = self._stack.enter_context(open_register())
        self._seen = 0.0
        try:
            self.look()
            self._stack.enter_context(table.attended())
        except BaseException:
            self._stack.close()
            raise

    def look(self) -> None:
        """Raise RegisterError where no host has been there for a while."""
        farm = self._register.farm()
        now = time.monotonic()
        if farm is not None and farm.is_on:
            self._seen = now
        elif now - self._seen > (PATIENCE if self._seen else 0):
            raise RegisterError("The farm is off; start it with nds farm start.")

    def interrupt(self, reason: Message) -> bool:
        """Pause, and let what runs wait again; the machines are ours to stop."""
        self.table.interrupt(reason)
        return True

    def close(self) -> None:
        """Leave the queue to others."""
        self._stack.close()

    def __enter__(self) -> FarmSupervisor:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
