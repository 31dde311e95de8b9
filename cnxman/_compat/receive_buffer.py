"""What a kept-up line has received and nobody has read yet, kept apart by openings of the port.

The listener's thread adds, any other thread takes. A read never spans two openings: one that has begun to get bytes
ends with the opening that they came from.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from cnxman._compat import errors
from cnxman.basics import ConnectionException

_COST_OF_OPENING = 64
"""What an opening counts for, in bytes, beside its data: those of a device that flaps add up, too."""

Enough = Callable[[bytearray], int]
"""Says how many of these bytes to take; 0 for as long as what is wanted isn't all there."""


class Timing(NamedTuple):
    """How long a read waits, in seconds. None sets no limit."""

    timeout: float | None
    gap: float | None = None
    """With bytes there: until none has come for so long (`inter_byte_timeout`)."""
    restarts: bool = False
    """Whether each byte gives the next one the whole `timeout`."""

    def left(self, began: float, arrived: float, has_data: bool) -> float | None:
        """How many seconds are left; 0 or less when the time is over."""
        ends = []
        if self.timeout is not None:
            ends.append((max(began, arrived) if self.restarts else began) + self.timeout)
        if self.gap is not None and has_data:
            ends.append(arrived + self.gap)
        return min(min(ends) - time.monotonic(), threading.TIMEOUT_MAX) if ends else None


class ReceiveBuffer:
    """The bytes that came and have yet to be read.

    Args:
        catch_up: waits a moment for what has arrived but not been added yet.
        check_may_wait: raises if this thread must not wait; called with the lock held.
    """

    def __init__(self, catch_up: Callable[[], None], check_may_wait: Callable[[], None]) -> None:
        self.lock = threading.RLock()
        """Guards what is below, and whatever else waits for `change`. A signal handler may call what takes it again."""
        self.change = threading.Condition(self.lock)
        self.is_open = False
        """Whether somebody may still read: from `start` to `stop`."""
        self.session = 0
        """How often it was closed."""
        self.size = 0
        """How many bytes are here, with what openings cost."""
        self.is_awaited = False
        """Whether the listener waits for room here."""
        self.readers: list[int] = []
        """For each reader that waits for more than there is, how many bytes it has to see before it is worth waking."""
        self._openings = deque([bytearray()])
        self._ended: ConnectionException | None = None
        self._cancelled = False
        self._arrived = 0.0
        self._catch_up = catch_up
        self._check_may_wait = check_may_wait

    # -- who brings; with the lock held -------------------------------------------------------------------

    def add(self, data: bytes) -> None:
        """These bytes have come."""
        newest = self._openings[-1]
        newest += data
        self.size += len(data)
        self._arrived = time.monotonic()
        if self.readers and len(newest) >= min(self.readers):
            self.change.notify_all()

    def seal(self) -> None:
        """What comes next has nothing to do with what came before."""
        if self._openings[-1]:
            self._openings.append(bytearray())
            self.size += _COST_OF_OPENING
        self.change.notify_all()

    def end(self, error: ConnectionException | None) -> None:
        """Nothing more will come, and why; or None: it may come again."""
        self._ended = error
        self.change.notify_all()

    @property
    def ended(self) -> ConnectionException | None:
        """Why nothing more will come."""
        return self._ended

    def clear(self) -> None:
        """Forget everything."""
        self._openings = deque([bytearray()])
        self.size = 0
        self.change.notify_all()

    # -- who opens and closes -----------------------------------------------------------------------------

    def start(self) -> None:
        """Reads are allowed from now on."""
        with self.lock:
            self.is_open, self._cancelled, self._ended = True, False, None
            self.clear()

    def stop(self) -> None:
        """No more reads: those under way return what there is."""
        with self.lock:
            self.is_open = False
            self.session += 1
            self.change.notify_all()

    def abandon(self) -> None:
        """In a forked child: nobody will ever release a lock that was held."""
        self.lock = threading.RLock()
        self.change = threading.Condition(self.lock)
        self.is_open = False

    # -- who reads ----------------------------------------------------------------------------------------

    def read(self, size: int, timing: Timing) -> bytes:
        """Up to `size` bytes: fewer when the time is over, or the opening, or when somebody cancels.

        Raises:
            serial.SerialException: it is closed; or nothing is here and nothing more will come.
        """
        with self.lock:
            data = self._openings[0]
            if 0 < size <= len(data) and self.is_open:
                return self._consume(data, size)
            if not self.is_open:
                raise errors.not_open()
        if size <= 0:
            return b""
        least = size if timing.gap is None else 1  # a gap is counted from the last byte, so each one is news
        return self._take(lambda data: size if len(data) >= size else 0, least, timing)

    def read_until(self, expected: bytes, most: int | None, timing: Timing) -> bytes:
        """Up to `expected` and with it, or `most` bytes; fewer as in `read`."""

        def enough(data: bytearray) -> int:
            at = data.find(expected) if expected else -1
            end = at + len(expected) if at >= 0 else 0
            if most is not None and len(data) >= most and not 0 < end <= most:
                return most
            return end

        return self._take(enough, 1, timing)

    def waiting(self) -> int:
        """How many bytes a read gets without waiting."""
        count = self._count()
        if not count:
            self._catch_up()
            count = self._count()
        return count

    def cancel(self) -> None:
        """Have the read that is under way, or else the next one, return what there is."""
        with self.lock:
            self._cancelled = True
            self.change.notify_all()

    def _count(self) -> int:
        with self.lock:
            if not self.is_open:
                raise errors.not_open()
            return len(self._current())

    def _take(self, enough: Enough, least: int, timing: Timing) -> bytes:
        """Wait for bytes and take them. Fewer than `least` are certainly not enough."""
        if timing.timeout == 0:
            self._catch_up()
        began = time.monotonic()
        with self.lock:
            if not self.is_open:
                raise errors.not_open()
            session = self.session
            while self.session == session:
                data = self._current()
                count = enough(data)
                if count:
                    return self._consume(data, count)
                if self._is_over(data):
                    break
                left = timing.left(began, self._arrived, bool(data))
                if left is not None and left <= 0:
                    break
                self._check_may_wait()
                self._wait(least, left)
            if self.is_open and self.session != session:
                return b""  # closed, and opened again: what is here now is for others
            data = self._current()
            return self._consume(data, len(data))

    def _wait(self, least: int, timeout: float | None) -> None:
        """Wait for news. One who wants more than there may be takes that in pieces: so the listener must not wait."""
        self.readers.append(least)
        try:
            if self.is_awaited:
                self.change.notify_all()
            self.change.wait(timeout)
        finally:
            self.readers.remove(least)

    def _is_over(self, data: bytearray) -> bool:
        """Whether nothing can be added to these bytes, or nobody wants it."""
        if self._ended is not None and not data:
            raise errors.failed(self._ended) from self._ended
        is_sealed = bool(data) and len(self._openings) > 1
        return is_sealed or self._cancelled or self._ended is not None

    def _current(self) -> bytearray:
        """The bytes of the oldest opening that still has some, or of the last one."""
        while not self._openings[0] and len(self._openings) > 1:
            self._openings.popleft()
            self.size -= _COST_OF_OPENING
        return self._openings[0]

    def _consume(self, data: bytearray, count: int) -> bytes:
        self._cancelled = False
        taken = bytes(data[:count])
        del data[:count]
        self.size -= count
        if self.is_awaited:
            self.change.notify_all()
        return taken
