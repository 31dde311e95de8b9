"""One thread for the process looks after the lines that wait inside a call of pyserial's, where nothing else can.

A read that is blocked on Windows may not notice that its device was pulled out; a write has to end when the line takes
nothing; a line may have to be taken for lost when it is silent. For each of these there is a time at which a look is
due. Without any of them there is one look each second, however many lines are open.
"""

import threading
import time
from typing import Protocol

from cnxman import _fork
from cnxman._threads import library_thread

LOOK_INTERVAL = 1.0
"""Seconds between two looks at lines that want none sooner."""


class WatchedLine(Protocol):
    """A line that wants to be looked at."""

    def look(self) -> float:
        """Look; returns in how many seconds the next look is due. It must not wait, nor raise."""


class _LineWatch:
    """The thread. Lives while any line is watched."""

    def __init__(self) -> None:
        self.lines: set[WatchedLine] = set()
        self.change = threading.Condition(_watch_lock)
        self.next_look = 0.0  # by the monotonic clock
        self.thread = library_thread("line watch", self._run)

    def _run(self) -> None:
        while True:
            with self.change:
                while self.lines and (left := self.next_look - time.monotonic()) > 0:
                    self.change.wait(left)
                if not self.lines:
                    return
                self.next_look = time.monotonic() + LOOK_INTERVAL
                lines = tuple(self.lines)
            due = min(line.look() for line in lines)
            with self.change:
                self.next_look = min(self.next_look, time.monotonic() + due)


_watch_lock = threading.Lock()
_watch: _LineWatch | None = None


def watch(line: WatchedLine) -> None:
    """Look at a line from now on.

    Raises:
        RuntimeError: the system gives no more threads.
    """
    global _watch  # noqa: PLW0603 (one for the process)
    with _watch_lock:
        if _watch is None:
            begun = _LineWatch()
            begun.lines.add(line)
            begun.next_look = time.monotonic() + LOOK_INTERVAL
            begun.thread.start()
            _watch = begun
        _watch.lines.add(line)


def look_within(seconds: float) -> None:
    """Look at the lines in so many seconds at the latest."""
    until = time.monotonic() + seconds
    with _watch_lock:
        if _watch is not None and until < _watch.next_look:
            _watch.next_look = until
            _watch.change.notify_all()


def unwatch(line: WatchedLine) -> None:
    """Look at a line no more, now or later; with the last one the thread ends."""
    global _watch  # noqa: PLW0603 (one for the process)
    with _watch_lock:
        ending = _watch
        if ending is None or line not in ending.lines:
            return
        ending.lines.discard(line)
        if ending.lines:
            return
        _watch = None
        ending.change.notify_all()
    ending.thread.join()


def _reset(_: object) -> None:
    """In a forked child there is no such thread; one will be started with the child's own first line."""
    global _watch, _watch_lock
    _watch, _watch_lock = None, threading.Lock()


_fork.after_in_child(_LineWatch, _reset)
