"""Reading goes on while a receiver is busy.

Normally the listener reads a chunk, calls the receivers, and reads the next: no thread hands anything to another. While
a receiver takes long, the kernel's buffer fills within milliseconds and a device without flow control loses data. So
a second thread, the *overflow reader*, takes over reading then, into a buffer of up to `limit` bytes. When the
buffer is full it pauses, and flow control stops the sender; the library never drops a byte.

Nobody tells the overflow reader that a delivery has begun, for that would cost more than the delivery. Instead one
thread for the whole process, the *stall watchdog*, looks at the lines that have delivered lately, every 4 ms, and
starts buffering where the same delivery was under way at the last look already. On lines that say little it looks less
often; on idle lines it sleeps and nothing wakes it.

The states of a line:

    DIRECT     the listener reads the line itself
    BUFFERING  the overflow reader reads into the buffer; the listener takes from the buffer
    ENDED      nobody reads any more: a stop, or a loss (`_error`), which the listener gets after the buffer's rest

    DIRECT    -> BUFFERING  by the watchdog: one delivery has lasted from one look to the next
    BUFFERING -> DIRECT     by the listener: the buffer is empty
    any       -> ENDED      by whoever finds the end

Each change is made with the line's lock held, and so is each read; so no two threads ever read in turns that could
mix up the order.

Measured against handing each chunk over to another thread, on a pseudo-terminal with reader and writer on one CPU:
this costs a 64-byte packet nothing that can be measured, handing over costs 0.7 times the whole of poll, read and send.
"""

import logging
import threading

from cnxman import _fork
from cnxman._line.port import CHUNK, ReadableLine, Reader
from cnxman._threads import library_thread

_logger = logging.getLogger(__name__)

POLL_INTERVAL = 0.004
"""Seconds between two looks: a tty's buffer holds 4095 bytes, which at 1 MB/s are 4 ms, and the driver's some more."""

SLOW_POLL_INTERVAL = 0.012
"""Seconds to the next look when no line was delivering, or had said much."""

LITTLE = 256
"""Bytes between two looks: with fewer, a line has said little. 115,200 baud are 138 bytes in 12 ms."""

IDLE_LOOKS = 8
"""After so many looks without a new delivery the watchdog ignores a line, until it delivers again."""

FULL_INTERVAL = 0.02
"""Seconds between two looks whether a full buffer has room again."""


class ReceiveBuffer:
    """A line's input, and the part of it that waits for a busy receiver.

    Args:
        line: the line; this object is from now on the only one that reads it.
        limit: the buffer's size in bytes; 0 for none: then reading always waits for the receiver.
    """

    def __init__(self, line: ReadableLine, limit: int) -> None:
        self._line = line
        self._lock = line.lock
        self._change = threading.Condition(self._lock)
        self._limit = limit
        self._reader = line.reader()
        self._data = bytearray()
        self._buffering = False
        self._error: Exception | None = None
        self._ended = False
        self._count = 0  # odd while a delivery is under way
        self._received = 0  # bytes since the watchdog's last look
        self._seen = self._idle_looks = 0  # what the watchdog saw last, and how often
        self._is_watched = not limit  # without a buffer there is nothing to look for: it counts as watched
        self._is_full = False
        self._has_warned = False
        self._overflow_reader: threading.Thread | None = None

    # -- the listener's -----------------------------------------------------------------------------------

    def read(self) -> bytes:
        """The next bytes to deliver; b"" once the line was stopped. A delivery begins with the return.

        Raises:
            Exception: what the line's loss raised, after everything that was read before it.
        """
        while True:
            if self._buffering and ((buffered := self._take_buffered()) or self._ended):
                return buffered
            events = self._reader.wait()
            if not events:
                return b""
            with self._lock:
                data = b"" if self._line.stopped else self._line.read_available(events)
                if data:
                    self._count += 1
                    self._received += len(data)
                    was_watched, self._is_watched = self._is_watched, True
            if data:
                if not was_watched:
                    _watch(self)
                return data

    def _take_buffered(self) -> bytes:
        """Some of the buffer; b"" once it is empty and the listener reads the line itself again."""
        with self._lock:
            if self._data and not self._ended:
                data = bytes(self._data[:CHUNK])
                del self._data[:CHUNK]
                self._count += 1
                return data
            if self._error is not None:
                raise self._error
            self._buffering = False
            return b""

    def begin_delivery(self) -> None:
        """The line's first delivery begins, that of OPENED, which has no data from here."""
        with self._lock:
            self._count += 1
            was_watched, self._is_watched = self._is_watched, True
        if not was_watched:
            _watch(self)

    def end_delivery(self) -> None:
        """The delivery that began with the last `read` is over."""
        with self._lock:
            self._count += 1

    @property
    def is_delivering(self) -> bool:
        """Whether the listener is busy with receivers, and so does not touch the line."""
        return self._count % 2 == 1

    def is_drained(self) -> bool:
        """Whether all that has come by now was delivered. From any thread; raises what a lost port does."""
        with self._lock:
            if self.is_delivering or self._data:
                return False
            return not (self._line.is_open and self._line.in_waiting())

    def end(self) -> None:
        """Stop, wait for the overflow reader to end, and close. By the listener or, while it is busy, for it."""
        self._line.stop()
        with self._lock:
            self._ended = True
            self._change.notify_all()
            overflow_reader = self._overflow_reader
        _forget(self)
        if overflow_reader is not None:
            overflow_reader.join()
        self._line.close()

    # -- the watchdog's -----------------------------------------------------------------------------------

    def look(self) -> bool:
        """One look: start buffering if the delivery that was under way at the last look still is.

        Returns:
            Whether the next look should be soon.
        """
        with self._lock:
            received, self._received = self._received, 0
            if self._count != self._seen:
                self._seen, self._idle_looks = self._count, 0
            elif self._ended or self._buffering:
                self._is_watched = False  # deliveries from the buffer need not be watched
            elif self.is_delivering:
                self._start_buffering()
            else:
                self._idle_looks += 1
                self._is_watched = self._idle_looks < IDLE_LOOKS
            return self.is_delivering or received >= LITTLE

    @property
    def is_watched(self) -> bool:
        """Whether the watchdog has to go on looking."""
        return self._is_watched

    def _start_buffering(self) -> None:
        if self._overflow_reader is None:
            reader = library_thread(f"overflow reader on {self._line.port.port}", self._read_overflow)
            try:
                reader.start()
            except RuntimeError:  # the system gives no more threads: then reading waits for the receiver
                return
            self._overflow_reader = reader
        self._buffering = True
        self._change.notify_all()

    # -- the overflow reader's ----------------------------------------------------------------------------

    def _read_overflow(self) -> None:
        """Read whenever the line is buffering; sleep otherwise."""
        reader = self._line.reader()
        while self._wait_for_buffering():
            try:
                while self._read_once(reader):
                    pass
            except Exception as error:
                if self._note_loss(error):
                    self._line.close()  # at once, though the listener is busy: the device may be coming back
                    return

    def _wait_for_buffering(self) -> bool:
        with self._lock:
            self._change.wait_for(lambda: self._ended or (self._buffering and not self._line.stopped))
            return not self._ended

    def _read_once(self, reader: Reader) -> bool:
        """Read once into the buffer; False when the listener reads again, or the line was stopped."""
        room = self._room()
        events = reader.wait() if room else reader.wait_for_loss(FULL_INTERVAL)
        with self._lock:
            if not self._buffering or self._line.stopped:
                return False
            if events:
                # Without room it is after a hang-up: the little that is left.
                self._data += self._line.read_available(events, room or CHUNK)
        return True

    def _room(self) -> int:
        """How many bytes the buffer takes; 0 from when it is full until it is half empty."""
        with self._lock:
            used = len(self._data)
            self._is_full = used >= self._limit or (self._is_full and used > self._limit // 2)
            warn, self._has_warned = self._is_full and not self._has_warned, self._has_warned or self._is_full
        if warn:
            _logger.warning(
                "%s: a receiver is so slow that %d bytes wait for it: reading pauses", self._line.port.port, used
            )
        return 0 if self._is_full else min(CHUNK, self._limit - used)

    def _note_loss(self, error: Exception) -> bool:
        with self._lock:
            if not self._buffering or self._line.stopped:
                return False  # the listener reads by itself, and finds the end by itself
            self._error = error
            return True


class _StallWatchdog:
    """Looks, for all lines of the process, whether a delivery lasts long. Lives while any line has delivered."""

    def __init__(self) -> None:
        self.known: set[ReceiveBuffer] = set()
        self.watched: set[ReceiveBuffer] = set()
        self.change = threading.Condition(_watchdog_lock)
        self._over = threading.Lock()
        self._over.acquire()
        self.thread = library_thread("stall watchdog", self._run)

    def _run(self) -> None:
        """Look every `POLL_INTERVAL` seconds, or more seldom; sleep while there is nothing to look at."""
        pause = POLL_INTERVAL
        while not self._over.acquire(timeout=pause):
            with self.change:
                self.change.wait_for(lambda: self.watched or not self.known)
                looked_at = tuple(self.watched)
            soon = [each.look() for each in looked_at]
            pause = POLL_INTERVAL if any(soon) else SLOW_POLL_INTERVAL
            with self.change:
                self.watched -= {each for each in looked_at if not each.is_watched}

    def request_stop(self) -> None:
        """End soon. The lock is held."""
        self._over.release()
        self.change.notify_all()


_watchdog_lock = threading.Lock()
_watchdog: _StallWatchdog | None = None


def _reset(_: object) -> None:
    """In a forked child there is no watchdog; one will be started with the child's own first line."""
    global _watchdog, _watchdog_lock
    _watchdog, _watchdog_lock = None, threading.Lock()


_fork.after_in_child(_StallWatchdog, _reset)


def _watch(buffer: ReceiveBuffer) -> None:
    """Have the watchdog look at a line that delivers (again)."""
    global _watchdog  # noqa: PLW0603 (one for the process)
    with _watchdog_lock:
        if _watchdog is None:
            watchdog = _StallWatchdog()
            watchdog.known.add(buffer)
            try:
                watchdog.thread.start()
            except RuntimeError:  # the system gives no more threads: then reading waits for receivers
                buffer._is_watched = False  # so that the next delivery asks again
                return
            _watchdog = watchdog
        _watchdog.known.add(buffer)
        if not _watchdog.watched:
            _watchdog.change.notify_all()
        _watchdog.watched.add(buffer)


def _forget(buffer: ReceiveBuffer) -> None:
    """The line has ended; with the last one the watchdog ends, too."""
    global _watchdog  # noqa: PLW0603 (one for the process)
    with _watchdog_lock:
        ending = _watchdog
        if ending is None or buffer not in ending.known:
            return
        ending.known.discard(buffer)
        ending.watched.discard(buffer)
        if ending.known:
            return
        _watchdog = None
        ending.request_stop()
    ending.thread.join()
