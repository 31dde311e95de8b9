"""`pytest -p tests.kit.lying_poll`: `select.poll` tells the library of terminals what macOS' may.

That is POLLNVAL at once, whatever they do; and nothing of a descriptor that no events are asked for.
"""

import os
import select
from types import SimpleNamespace

from cnxman._line import waiting
from tests.kit.poll_alone import pytest_collection_modifyitems

__all__ = ["pytest_collection_modifyitems"]


class LyingPoll:
    """A poll object as macOS has it, for a device that its kernel can't watch."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._terminals: set[int] = set()

    def register(self, fd: int, events: int, /) -> None:
        if os.isatty(fd):
            self._terminals.add(fd)
        elif events:
            self._poll.register(fd, events)

    def unregister(self, fd: int, /) -> None:
        if fd in self._terminals:
            self._terminals.discard(fd)
        else:
            self._poll.unregister(fd)

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        if self._terminals:
            return [(fd, select.POLLNVAL) for fd in self._terminals]
        return self._poll.poll(timeout)


waiting.select = SimpleNamespace(select=select.select, poll=LyingPoll)  # type: ignore[attr-defined]
