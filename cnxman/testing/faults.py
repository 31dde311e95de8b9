"""The faults that a simulated device can have."""

import math
import time

from cnxman.testing.line import SimulatedLine
from cnxman.testing.streams import Direction, Event, Stream


class Faults:
    """Faults on demand.

    Bytes are counted from the call on, from 0, in the direction `of`: those that the device has "sent",
    before any of them was dropped, or those that it has "received". A fault that has yet to come stays set when
    the device is pulled out and put back. All times are in seconds.
    """

    def __init__(self, line: SimulatedLine) -> None:
        self._line = line

    def stall(self, seconds: float | None = None, *, at: int | None = None, of: Direction = "sent") -> None:
        """Stop the device: it neither reads nor sends.

        Args:
            seconds: for how long; None: until `resume()`.
            at: how many more bytes go through before; None: from now on.
            of: whether these are bytes that the device has "sent" or has "received".

        """
        if seconds is None:
            seconds = math.inf
        if at is not None:
            self._mark("stall", at, of, seconds)
            return
        check_at_least_0("seconds", seconds)
        with self._line.changed:
            self._line.check_not_closed()
            self._line.stall(time.monotonic() + seconds)

    def resume(self) -> None:
        """Let the device go on after a stall."""
        with self._line.changed:
            self._line.check_not_closed()
            self._line.stall(time.monotonic())

    def delay(self, seconds: float, *, at: int = 0, of: Direction = "sent") -> None:
        """Delay byte number `at`, and all that follow, for `seconds` from when it is due."""
        self._mark("delay", at, of, seconds)

    def cut(self, *, at: int = 0, of: Direction = "sent") -> None:
        """Pull the device out after exactly `at` bytes.

        Bytes that the device sent count when the host has read them, or has closed the port.
        """
        self._mark("cut", at, of, 0.0)

    def drop(self, count: int = 1, *, at: int = 0, of: Direction = "sent") -> None:
        """Lose `count` bytes on the way, byte number `at` the first."""
        with self._line.changed:
            self._stream(at, of, count).drop(at, count)

    def corrupt(self, count: int = 1, *, at: int = 0, of: Direction = "sent") -> None:
        """Invert one bit, chosen by the seed, in each of `count` bytes, byte number `at` the first."""
        with self._line.changed:
            self._stream(at, of, count).corrupt(at, count)

    def noise(self, *, drop: float = 0.0, corrupt: float = 0.0, of: Direction = "sent") -> None:
        """Lose a share of the bytes, and invert one bit in a share of the others, chosen by the seed.

        Each share is from 0 to 1; a new call replaces the one before.
        """
        for share in (drop, corrupt):
            if not 0 <= share <= 1:
                raise ValueError(f"a share must be from 0 to 1, not {share!r}")
        with self._line.changed:
            self._stream(0, of).noise(drop, corrupt)

    def _mark(self, event: Event, at: int, of: Direction, seconds: float) -> None:
        check_at_least_0("seconds", seconds)
        with self._line.changed:
            self._stream(at, of).mark(event, at, seconds)
            self._line.wake()

    def _stream(self, at: int, of: Direction, count: int = 1) -> Stream:
        self._line.check_not_closed()
        check_at_least_0("at", at)
        if count < 1:
            raise ValueError(f"count must be at least 1, not {count!r}")
        if of not in ("sent", "received"):
            raise ValueError(f"of must be 'sent' or 'received', not {of!r}")
        return self._line.outgoing if of == "sent" else self._line.incoming


def check_at_least_0(name: str, value: float) -> None:
    """Raise a ValueError for a value below 0."""
    if value < 0:
        raise ValueError(f"{name} must be at least 0, not {value!r}")
