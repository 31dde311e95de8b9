"""A clock that moves when a test says so, for tests of recovery that wait for no real delay."""

import math
import threading
import time
import weakref
from types import TracebackType
from typing import Self

from cnxman._manager import clock as clocks
from cnxman._threads import on_library_thread

PATIENCE = 10.0
"""How long, in real seconds, `advance` waits for a manager to finish what it is doing."""


class ManualClock(clocks.Clock):
    """A clock that stands still until `advance` moves it, for tests of what a program does in an outage.

    A manager uses the clock that is installed when it is made, so make it within the `with` block, and tear it
    down there, too. This test of an outage of an hour takes milliseconds:

        with ManualClock() as clock, ConnectionManager(connection, retry=RetryPolicy.fixed(5)) as manager:
            assert manager.state == "recovering"  # the first attempt failed
            clock.advance(3600)  # 720 attempts
            connection.repair()
            clock.advance(5)
            assert manager.is_connected

    Only managers use it: for the waits between attempts, and for how long a line has been up. Reads, writes and the
    time-outs of your own calls take real time.

    `now()` begins at 0 seconds.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._workers: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self._naps: dict[threading.Thread, _Nap] = {}
        self._changed = threading.Condition()  # guards the naps
        self._replaced: list[clocks.Clock] = []

    def __enter__(self) -> Self:
        """Install the clock: managers that are made from now on use it."""
        self._replaced.append(clocks.current)
        clocks.current = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put back the clock from before."""
        clocks.current = self._replaced.pop()

    def now(self) -> float:
        """The time in seconds; it begins at 0."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock; return when the managers have done everything that was due, in order of time.

        Raise alarms, or call managers, before it; `advance(0)` returns when they have reacted. With a policy
        whose waits are 0 seconds it returns once there is no attempt left.

        Args:
            seconds: how far, 0 or more.

        Raises:
            ValueError: if `seconds` is negative or not finite.
            RuntimeError: if it is called on one of the library's threads, as in most receivers: it would wait for its
                own thread.
            TimeoutError: if a manager, or a receiver it calls, is busy for 10 real seconds.
        """
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"seconds must be 0 or more, not {seconds!r}")
        if on_library_thread():
            raise RuntimeError("the clock cannot be advanced from a receiver on one of the library's threads")
        end = self._now + seconds
        self._settle()
        while (due := self._next_due()) <= end:
            self._now = max(self._now, due)
            self._settle()
        self._now = end

    def follow(self, worker: threading.Thread) -> None:
        """Note a manager's worker, for `advance` to wait for. Called before it starts."""
        with self._changed:
            self._workers.add(worker)

    def wait(self, condition: threading.Condition, timeout: float | None) -> None:
        """Wait on `condition`, whose lock is held, until it is notified or the clock has moved `timeout` seconds."""
        me = threading.current_thread()
        with self._changed:
            self._naps[me] = _Nap(condition, math.inf if timeout is None else self._now + timeout)
            self._changed.notify_all()
        try:
            condition.wait()
        finally:
            with self._changed:
                del self._naps[me]

    def _next_due(self) -> float:
        with self._changed:
            return min((nap.due for nap in self._naps.values()), default=math.inf)

    def _settle(self) -> None:
        """Wake every manager, and wait until each has found nothing more to do.

        What one does may give another something to do, and that may go on through all of them.
        """
        give_up = time.monotonic() + PATIENCE
        for _ in self._living():
            for worker in self._living():
                for _ in range(2):  # the first time it may only find out that it has something to wait for
                    self._wait_for_nap(worker, give_up)
                    self._wake(worker)
                self._wait_for_nap(worker, give_up)

    def _living(self) -> list[threading.Thread]:
        with self._changed:
            return [worker for worker in self._workers if worker.is_alive()]

    def _wake(self, worker: threading.Thread) -> None:
        with self._changed:
            nap = self._naps.get(worker)
        if nap is not None:
            with nap.condition:
                nap.woken = True
                nap.condition.notify_all()

    def _wait_for_nap(self, worker: threading.Thread, give_up: float) -> None:
        """Wait until a worker naps that has not been woken, or has ended."""
        with self._changed:
            while worker.is_alive() and ((nap := self._naps.get(worker)) is None or nap.woken):
                if time.monotonic() >= give_up:
                    raise TimeoutError(f"{worker.name} is busy: does one of its receivers not return?")
                self._changed.wait(0.01)  # nobody notifies when a thread has ended


class _Nap:
    """One wait of one worker: on what, and until when at the latest."""

    def __init__(self, condition: threading.Condition, due: float) -> None:
        self.condition = condition
        self.due = due
        self.woken = False
