"""How often the device is read: at once while it says little, less often in a flood.

Reading costs by the piece, about as much for 60 bytes as for 4,000. So in a flood the thread that reads rests after
each read, and the kernel gathers meanwhile: never so much that a terminal is full, which holds the sender off, or loses
bytes of an adapter without flow control.
"""

import os
import time

FLOOD = 200_000
"""Bytes a second from which on it is a flood. A line of 921,600 baud has 92,160."""

WINDOW = 0.005
"""Seconds over which they are counted, at least: so one long message is no flood."""

GATHERED = 3500
"""Bytes that may gather: a terminal holds 4095."""

LONGEST_REST = 0.008
"""Seconds."""


class Pace:
    """Lets the thread that reads rest in a flood. For that thread alone, but for `is_flood`."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._bytes = 0
        self._rest = 0.0
        self.is_flood = False
        """Whether the device says much."""

    def rest(self, size: int) -> None:
        """After so many bytes were read: if it is a flood, wait for more to gather."""
        now = time.monotonic()
        self._bytes += size
        passed = now - self._since
        if passed >= WINDOW:
            self.is_flood = self._bytes >= FLOOD * passed
            self._rest = min(LONGEST_REST, GATHERED * passed / self._bytes)
            self._since, self._bytes = now, 0
        if self.is_flood and os.name == "posix":  # elsewhere the shortest sleep is too long
            time.sleep(self._rest)
