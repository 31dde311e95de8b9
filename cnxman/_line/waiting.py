"""Waiting for descriptors: by `poll`, and by `select` where `poll` is missing or lies.

`poll` takes any descriptor number, and reports a hang-up. Some builds of Python for macOS have none. And there it
answers POLLNVAL at once for a device that the kernel can't watch, a pseudo-terminal for one.
"""

import os
import select
from typing import Protocol

POLLIN: int = getattr(select, "POLLIN", 0x1)
POLLPRI: int = getattr(select, "POLLPRI", 0x2)
POLLOUT: int = getattr(select, "POLLOUT", 0x4)
POLLERR: int = getattr(select, "POLLERR", 0x8)
POLLHUP: int = getattr(select, "POLLHUP", 0x10)
POLLNVAL: int = getattr(select, "POLLNVAL", 0x20)


class Poller(Protocol):
    """What a wait needs of `select.poll`'s objects. One serves one thread."""

    def register(self, fd: int, eventmask: int, /) -> None:
        """Wait for these events of a descriptor too."""

    def unregister(self, fd: int, /) -> None:
        """Wait for a descriptor no more."""

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        """Wait, for so many milliseconds at most; which descriptors have which events."""


class SelectPoller:
    """A poll object made of `select`. It tells no hang-up: reading does. Descriptors above 1023 are a ValueError."""

    def __init__(self) -> None:
        self._events: dict[int, int] = {}

    def register(self, fd: int, eventmask: int, /) -> None:
        """See `Poller.register`."""
        self._events[fd] = eventmask

    def unregister(self, fd: int, /) -> None:
        """See `Poller.unregister`."""
        del self._events[fd]

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        """See `Poller.poll`."""
        reads = [fd for fd, mask in self._events.items() if mask & POLLIN]
        writes = [fd for fd, mask in self._events.items() if mask & POLLOUT]
        try:
            readable, writable, _ = select.select(reads, writes, [], None if timeout is None else timeout / 1000)
        except OSError:  # one of them was closed
            return [(fd, POLLNVAL) for fd in self._events if not _is_open(fd)]
        found = dict.fromkeys(readable, POLLIN)
        for fd in writable:
            found[fd] = found.get(fd, 0) | POLLOUT
        return list(found.items())


def new_poller(fd: int) -> Poller:
    """What can wait for this descriptor; it isn't registered yet."""
    if not hasattr(select, "poll"):
        return SelectPoller()
    poller = select.poll()
    poller.register(fd, POLLIN)
    if any(events & POLLNVAL for _, events in poller.poll(0)) and _is_open(fd):
        return SelectPoller()
    poller.unregister(fd)
    return poller


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
