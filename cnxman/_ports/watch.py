"""Which ports arrive and depart, told by a thread that looks.

There is no event for it that every system and every user has. So the thread looks: at /dev, or in Windows' registry,
which costs next to nothing, and only when that has changed, or every two seconds, at the list of ports.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Hashable
from enum import StrEnum
from types import TracebackType
from typing import Self

from serial.tools.list_ports_common import ListPortInfo

from cnxman._ports import windows
from cnxman._threads import library_thread

_LOOK_EVERY = 0.2
"""Seconds between two looks at /dev."""

_LIST_EVERY = 2.0
"""Seconds between two listings though nothing seems to have changed, or where that can't be told."""

_SETTLED = 0.1
"""Seconds after which a second listing has to say the same: an adapter has no numbers yet just after it came, and none
any more just before it goes."""

_logger = logging.getLogger(__name__)


class PortEvent(StrEnum):
    """What became of a port."""

    ARRIVED = "arrived"
    DEPARTED = "departed"


Callback = Callable[[PortEvent, ListPortInfo], object]
Listing = dict[Hashable, ListPortInfo]


class PortWatch:
    """Watches which ports there are, from its making until `stop`. Made by `cnxman.ports.watch`; a context manager.

    Args:
        available: lists the ports there are now.
        callback: called for each change, on a thread of this watch's own. What it raises is logged.
    """

    def __init__(self, available: Callable[[], list[ListPortInfo]], callback: Callback) -> None:
        self._available = available
        self._callback = callback
        self._stopped = threading.Event()
        self._stamp = _stamp()
        self._known = self._settled() or {}
        self._at_start = tuple(self._known.values())
        self._thread = library_thread("port watch", self._run)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    @property
    def at_start(self) -> tuple[ListPortInfo, ...]:
        """The ports when the watch began; the callback is called for what changed since then."""
        return self._at_start

    def stop(self) -> None:
        """Watch no more. From any thread, and more than once.

        When this returns, the callback isn't called any more; if it is running, it is waited for. (Called from the
        callback itself, this returns at once.)
        """
        self._stopped.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while self._wait_for_change():
            now = self._settled()
            if now is None:
                return
            known, self._known = self._known, now
            self._tell(PortEvent.DEPARTED, known, now)
            self._tell(PortEvent.ARRIVED, now, known)

    def _tell(self, event: PortEvent, these: Listing, but: Listing) -> None:
        for key, info in these.items():
            if key in but or self._stopped.is_set():
                continue
            try:
                self._callback(event, info)
            except Exception:
                _logger.exception("%r raised; it was called because %s has %s", self._callback, info.device, event)

    def _wait_for_change(self) -> bool:
        """Wait until something in /dev has changed, or for a while; returns False once it was stopped."""
        until = time.monotonic() + _LIST_EVERY
        while not self._stopped.wait(_LOOK_EVERY):
            stamp = _stamp()
            if stamp != self._stamp or time.monotonic() >= until:
                self._stamp = stamp
                return True
        return False

    def _settled(self) -> Listing | None:
        """The ports there are, once two listings in a row say the same; None if it was stopped before."""
        now = self._list()
        while not self._stopped.wait(_SETTLED):
            before, now = now, self._list()
            if before.keys() == now.keys():
                return now
        return None

    def _list(self) -> Listing:
        return {_identity(info): info for info in self._available()}


def _identity(info: ListPortInfo) -> Hashable:
    """What tells a port from another: its name and numbers, and its node, which is a new one after each return."""
    try:
        node = os.stat(info.device).st_ino
    except (OSError, ValueError):
        node = None
    return (info.device, node, info.description, info.vid, info.pid, info.serial_number, info.location)


def _stamp() -> Hashable:
    if windows.is_windows():
        return windows.last_change()
    try:
        return os.stat("/dev").st_mtime_ns
    except OSError:
        return None
