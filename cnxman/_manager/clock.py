"""The clock that recovery goes by, in one place so that tests can put another one there.

`cnxman.testing.ManualClock` takes the place of `current` while it is installed; a manager keeps the
clock that was current when it was made.
"""

import threading
import time


class Clock:
    """The system's monotonic clock: setting the time of day does not touch it."""

    def now(self) -> float:
        """The time in seconds, from an arbitrary zero."""
        return time.monotonic()

    def follow(self, worker: threading.Thread) -> None:
        """Note a manager's worker that is about to start. A clock moved by hand waits for it."""

    def wait(self, condition: threading.Condition, timeout: float | None) -> None:
        """Wait on `condition`, whose lock is held, until it is notified or `timeout` seconds are over.

        What is longer than a lock can wait, some 300 years, ends early.
        """
        condition.wait(None if timeout is None else min(timeout, threading.TIMEOUT_MAX))


current = Clock()
