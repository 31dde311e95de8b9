"""Reading and asking for scripts: calls that wait, each with a time-out, instead of receivers.

Every reader gets everything, as a receiver does: it takes nothing away from receivers or from other readers.

`ReceiveQueue` is beneath: what came for somebody who takes it on another thread, here or in `cnxman.aio`. It is called
with the connection's data, on the listener's thread, before all receivers. It is bounded, and nothing is ever
dropped: while the queue is full, the receiver does not return. So reading goes on into the line's own buffer, and
when that is full as well, flow control stops the sender.

There are three cases in which a full queue returns to the listener all the same, for it would delay something else:

* Somebody closes the connection, or opens it again: that would wait for the listener. `Dispatch.is_ending` says so.
* The reader is gone, because it was closed or is garbage.
* The line is lost: it must be noticed, and opened again; and there is no sender left to stop. The rest of the line's
  buffer is taken beyond the bound then; but not that of a second outage on top of it.

In the first and the last case nobody can wake the receiver, so while it waits it looks every `FULL_INTERVAL` seconds.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Protocol, Self, TypeVar

from cnxman import signals
from cnxman._threads import wait_for
from cnxman._validation import check_size, check_timeout
from cnxman.basics import ConnectionException
from cnxman.framing import Framer, check_framer

__all__ = ["ContinuousFrames", "Frames", "SerialReader", "Until"]

_logger = logging.getLogger(__name__)

MOST_AT_ONCE = 64 * 1024
"""The most bytes that one call takes, and that one delivery brings."""

FULL_INTERVAL = 0.05
"""Seconds between two looks, while a queue is full, whether the line is still there."""

DRAIN_INTERVAL = 0.002
"""Seconds between two looks, before a question, whether what came before it was delivered. Mostly the first will do."""

_SHOWN = 100  # bytes in a message

_Frame = TypeVar("_Frame")
_Wanted = Callable[[], int]
"""Says how many of the bytes in the queue to take; 0 for as long as what is wanted isn't all there."""

Until = bytes | int | Framer[bytes]
"""Where an answer ends: after these bytes, after so many bytes, or with the first frame."""


class Tap(Protocol):
    """What takes part in a connection's stream before its receivers do, at less cost. It must not raise."""

    def on_opened(self) -> None:
        """The port was opened."""

    def on_data(self, data: bytes) -> None:
        """There is data, never empty."""

    def on_closed(self, error: ConnectionException | None) -> None:
        """The port was closed: `error` is why, or None if somebody asked for it."""


class Readable(Protocol):
    """What is read from: the part of a `SerialConnection` that this module needs."""

    buffer_size: int

    @property
    def port(self) -> str:
        """The port's name, for messages."""

    @property
    def is_connected(self) -> bool:
        """Whether the port is open."""

    def add_tap(self, tap: Tap) -> Callable[[], None]:
        """Have a tap called; returns what ends that."""

    def write(self, data: bytes, /) -> int:
        """Send a message."""

    def is_drained(self) -> bool:
        """Whether all data that has come by now was delivered."""

    def check_may_wait(self) -> None:
        """Raise an exception where no data could come, as on the thread that delivers them."""


class ReceiveQueue:
    """The bytes that came from a connection and were not taken yet.

    Args:
        connection: where they come from.
        limit: how many bytes wait here, at most (and one delivery of up to 64 KB more).
        across_reconnects: go on when the connection is closed and opened again; otherwise its closing is the end.
    """

    def __init__(self, connection: Readable, limit: int, *, across_reconnects: bool = False) -> None:
        self.connection = connection
        self.limit = limit
        self.lock = threading.RLock()
        """Guards what is below."""
        self._change: threading.Condition | None = None
        self.data = bytearray()
        self.ended = False
        """Whether nothing more will come."""
        self.error: ConnectionException | None = None
        """What ended it, unless somebody asked for it."""
        self.is_abandoned = False
        """Set it, from any thread and without the lock, when nobody will take anything any more."""
        self._across_reconnects = across_reconnects
        self._taken = 0
        self._beginnings: list[int] = []  # where an opening begins, counted in bytes since the queue was made
        self._holding = False  # up a delivery
        self._ask_again: Callable[[], None] | None = None  # ends a pause, where deliveries aren't held up but pause
        self._warned = False
        self._undo = [connection.add_tap(self)]

    @property
    def change(self) -> threading.Condition:
        """Notified of every change. Made when it is needed: nobody waits for it where a loop reads."""
        with self.lock:
            if self._change is None:
                self._change = threading.Condition(self.lock)
            return self._change

    # -- for whoever takes; with the lock held --------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether `limit` bytes or more are here."""
        return len(self.data) >= self.limit

    def take(self, most: int) -> bytes:
        """Up to `most` bytes, all of one opening of the port."""
        if self._beginnings:
            most = min(most, self._beginnings[0] - self._taken)
        if most >= len(self.data):
            data = bytes(self.data)
            self.data.clear()
        else:
            data = bytes(self.data[:most])
            del self.data[:most]
        self._taken += len(data)
        if self._holding:
            self._tell_room()
        return data

    def is_first_of_opening(self) -> bool:
        """Whether what is taken next is the first of an opening of the port. True once for each."""
        if not self.data or not self._beginnings or self._beginnings[0] > self._taken:
            return False
        self._beginnings.pop(0)
        return True

    # -- its end; without the lock ------------------------------------------------------------------------

    def finish(self, error: ConnectionException | None) -> None:
        """Nothing more will come. What is here can still be taken."""
        with self.lock:
            if not self.ended:
                self.ended, self.error = True, error
                self.notify()
                self._tell_room()
        self._leave()

    def close(self) -> None:
        """Nobody will take anything any more."""
        self.is_abandoned = True
        with self.lock:
            self.data.clear()
        self.finish(None)

    def _leave(self) -> None:
        for undo in self._undo:
            undo()

    # -- on the listener's thread -------------------------------------------------------------

    def notify(self) -> None:
        """Wake whoever waits. The lock is held."""
        self.change.notify_all()

    def is_wanted(self) -> bool:
        """Whether somebody may still take something."""
        return not (self.is_abandoned or self.ended)

    def on_opened(self) -> None:
        """See `Tap`."""
        with self.lock:
            beginning = self._taken + len(self.data)
            if self._across_reconnects and (not self._beginnings or self._beginnings[-1] != beginning):
                self._beginnings.append(beginning)

    def on_data(self, data: bytes) -> None:
        """See `Tap`."""
        with self.lock:
            if not (self.is_abandoned or self.ended):
                self.data += data
                self.notify()
                if len(self.data) < self.limit:
                    return
        if not self.is_wanted():
            self.close()
        elif self._must_wait():
            self.wait_for_room()

    def on_closed(self, error: ConnectionException | None) -> None:
        """See `Tap`."""
        if not self._across_reconnects:
            self.finish(error)

    def wait_for_room(self) -> None:
        """Wait until there is room; or where the thread isn't the library's, have deliveries pause until there is."""
        if not self._warned:
            self._warned = True
            port, size = self.connection.port, len(self.data)
            _logger.warning("%s: %d bytes wait for a reader: deliveries wait for it", port, size)
        dispatch = signals.current_dispatch()
        with self.lock:
            self._holding = True
            if dispatch is not None and dispatch.pause is not None:
                self._ask_again = dispatch.pause(self._is_holding)
                return
            while self._must_wait():
                self.change.wait(FULL_INTERVAL)
            self._holding = False

    def _is_holding(self) -> bool:
        with self.lock:
            self._holding = self._must_wait()
            return self._holding

    def _tell_room(self) -> None:
        if self._change is not None:
            self._change.notify_all()
        if self._ask_again is not None and not self._must_wait():
            ask_again, self._ask_again = self._ask_again, None
            ask_again()

    def _must_wait(self) -> bool:
        rest = 0 if self.connection.is_connected else self.connection.buffer_size + 2 * MOST_AT_ONCE
        return len(self.data) >= self.limit + rest and self.is_wanted() and not _is_ending()


class SerialReader:
    r"""Reads what a connection receives from now on, by calls that wait. Made by `SerialConnection.reader`.

        with connection.reader() as reader:
            connection.write(b"START\n")
            assert reader.read_until(b"\n", timeout=2) == b"OK\n"
            for line in reader.frames(Lines(), timeout=10):
                print(line)

    A reader serves one opening of the port: the current one, or else the next one. When the port is closed, the bytes
    that had come can still be read; after them every call raises a `ConnectionException`. Make a new reader for the
    next opening.

    It is bounded: when `buffer_size` bytes wait to be read, deliveries pause, for all other receivers, too. Then the
    receive buffer fills, and then, where there is flow control, the device pauses. So close a reader that you don't
    read. (Closing the connection waits for no reader; a reader that is garbage closes itself.)

    Times are in seconds. A time-out of None waits for as long as it takes; 0 returns what is there. After a time-out
    the bytes stay in the reader. Read from one thread at a time, and never from a receiver on the connection's own
    listener thread: the data would have to come on that same thread, so that raises a RuntimeError at once.

    Args:
        connection: what to read from.
        buffer_size: how many bytes wait to be read, at most; None for as many as the connection's own.
    """

    def __init__(self, connection: Readable, *, buffer_size: int | None = None) -> None:
        limit = connection.buffer_size if buffer_size is None else buffer_size
        check_size("buffer_size", limit)
        self._connection = connection
        self._closed = False
        self._queue = ReceiveQueue(connection, limit)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the reader."""
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_queue"):  # or its making has failed
            self._queue.is_abandoned = True

    def close(self) -> None:
        """Receive no more, and discard what wasn't read. From any thread; twice does nothing."""
        self._closed = True
        self._queue.close()

    def read(self, timeout: float | None = None, *, size: int | None = None) -> bytes:
        """Read what there is, at least one byte; or exactly `size` bytes.

        Args:
            timeout: how long to wait, in seconds.
            size: how many bytes to read; None for what there is.

        Raises:
            TimeoutError: nothing came, or fewer than `size` bytes; the message says what did.
            ConnectionException: the line was lost or closed.
            ValueError: the reader is closed, or can't hold `size` bytes.
            RuntimeError: called from a receiver on the connection's own listener thread.
        """
        return self._take(*self._size_ready(size), timeout)

    def read_until(self, terminator: bytes = b"\n", timeout: float | None = None) -> bytes:
        """Read up to and including these bytes.

        Args:
            terminator: what ends it.
            timeout: how long to wait, in seconds.

        Raises:
            TimeoutError: they didn't come; the message says what did.
            BufferError: they didn't come within `buffer_size` bytes. `read` returns those.
            ConnectionException: the line was lost or closed.
            ValueError: for b"" as the terminator, or if the reader is closed.
            RuntimeError: called from a receiver on the connection's own listener thread.
        """
        return self._take(*self._terminator_ready(terminator), timeout)

    def frames(self, framer: Framer[_Frame], timeout: float | None = None) -> "Frames[_Frame]":
        """An iterator over frames, which waits for each of them; see `cnxman.framing`.

        Args:
            framer: cuts the data into frames. It is reset, and serves this iterator alone.
            timeout: how long to wait for each frame, in seconds.

        Returns:
            The iterator. It raises what `read` does; after a TimeoutError `next` may be called again. The iterator
            holds the bytes that the framer has taken: keep it if you leave the loop and want to go on.
        """
        return Frames(self, framer, timeout)

    def ask(self, question: bytes, until: bytes | int | Framer[_Frame], timeout: float | None) -> bytes | _Frame:
        """Send a question and wait for its answer; see `SerialConnection.query`."""
        answer = self._awaited_answer(until, timeout)
        self._drain(timeout)
        self._connection.write(question)
        try:
            return answer()
        except TimeoutError as error:
            raise TimeoutError(f"no answer to {question!r}: {error}") from error

    # -- how ----------------------------------------------------------------------------------------------

    def _awaited_answer(
        self, until: bytes | int | Framer[_Frame], timeout: float | None
    ) -> Callable[[], bytes | _Frame]:
        """What waits for the answer."""
        if isinstance(until, bytes):
            return partial(self._take, *self._terminator_ready(until), timeout)
        if isinstance(until, int):
            return partial(self._take, *self._size_ready(until), timeout)
        return self.frames(until, timeout).__next__

    def _drain(self, timeout: float | None) -> None:
        """Wait until all that came before now was delivered, and forget it: it can't be the answer."""
        end = math.inf if timeout is None else time.monotonic() + timeout
        queue = self._queue
        while not self._connection.is_drained():
            if time.monotonic() >= end:
                raise TimeoutError(f"not asked: what came before still waits for slow receivers, after {timeout} s")
            with queue.change:
                queue.take(len(queue.data))
                queue.change.wait(DRAIN_INTERVAL)
        with queue.change:
            queue.take(len(queue.data))

    def _size_ready(self, size: int | None) -> tuple[_Wanted, str]:
        """What `read` wants, and how to call it."""
        queue = self._queue
        if size is None:
            return lambda: min(len(queue.data), MOST_AT_ONCE), "any data"
        check_size("size", size)
        if size > queue.limit:
            raise ValueError(f"size must be at most the reader's buffer_size, {queue.limit} bytes, not {size}")
        return lambda: size if len(queue.data) >= size else 0, f"{size} bytes"

    def _terminator_ready(self, terminator: bytes) -> tuple[_Wanted, str]:
        """What `read_until` wants, and how to call it."""
        if not isinstance(terminator, bytes):
            raise TypeError(f"what ends it must be bytes, not {terminator!r}")
        if not terminator:
            raise ValueError("what ends it must be one byte or more, not b''")
        data, searched = self._queue.data, 0

        def end() -> int:
            nonlocal searched
            at = data.find(terminator, searched)
            if at >= 0:
                return at + len(terminator)
            searched = max(0, len(data) - len(terminator) + 1)
            return 0

        return end, repr(terminator)

    def _take(self, wanted: _Wanted, what: str, timeout: float | None) -> bytes:
        """Wait for bytes and take them."""
        check_timeout(timeout)
        self._connection.check_may_wait()
        queue = self._queue
        with queue.change:
            wait_for(queue.change, lambda: wanted() or queue.ended or queue.is_full, timeout)
            if count := wanted():
                return queue.take(count)
            if not queue.ended and not queue.is_full:
                raise TimeoutError(self._timeout_message(what, timeout))
        raise self._end_error(what)

    def _end_error(self, what: str) -> Exception:
        """Why what was wanted will never come."""
        queue, port = self._queue, self._connection.port
        if self._closed:
            return ValueError("the reader is closed")
        if not queue.ended:
            return BufferError(f"{what} did not come within the {len(queue.data)} bytes that the reader holds")
        if queue.error is not None:
            return ConnectionException(queue.error.message, queue.error)
        return ConnectionException(f"{port} was disconnected", ConnectionAbortedError("somebody closed it"))

    def _timeout_message(self, what: str, timeout: float | None) -> str:
        came = _preview(self._queue.data)
        down = "" if self._connection.is_connected else f", and {self._connection.port} is not connected"
        return f"{what} did not come within {timeout} s: {came}{down}"


class Frames(Iterator[_Frame]):
    """The frames that a reader's data make; see `SerialReader.frames`.

    Args:
        reader: where the data come from.
        framer: cuts them.
        timeout: how long to wait for each frame, in seconds.
    """

    def __init__(self, reader: SerialReader, framer: Framer[_Frame], timeout: float | None) -> None:
        check_framer(framer)
        check_timeout(timeout)
        framer.reset()
        self._reader = reader
        self._framer = framer
        self._timeout = timeout
        self._ready: deque[_Frame] = deque()
        self._last = bytearray()  # the end of what came, for a message

    def __next__(self) -> _Frame:
        """Wait for the next frame."""
        until = None if self._timeout is None else time.monotonic() + self._timeout
        while not self._ready:
            try:
                data = self._reader.read(None if until is None else max(0.0, until - time.monotonic()))
            except TimeoutError as error:
                raise TimeoutError(self._timeout_message()) from error
            self._last = (self._last + data)[-_SHOWN:]
            self._ready.extend(self._framer.feed(data))
        return self._ready.popleft()

    def _timeout_message(self) -> str:
        return f"no whole frame came within {self._timeout} s: {_preview(self._last)}"


class ContinuousFrames(Iterator[_Frame]):
    """The frames that a connection receives from now on, in spite of outages; see `SerialConnection.frames`.

    Take them from one thread at a time. It is bounded as a reader is: close it when you take no more frames.

    Args:
        connection: where the data come from.
        framer: what cuts them. It is reset at each opening of the port.
        timeout: how long to wait for each frame, in seconds.
    """

    def __init__(self, connection: Readable, framer: Framer[_Frame], timeout: float | None) -> None:
        check_framer(framer)
        check_timeout(timeout)
        framer.reset()
        self._connection = connection
        self._framer = framer
        self._timeout = timeout
        self._ready: deque[_Frame] = deque()
        self._queue = ReceiveQueue(connection, max(1, connection.buffer_size), across_reconnects=True)

    def __next__(self) -> _Frame:
        """Wait for the next frame.

        Raises:
            StopIteration: the iterator was closed, or the manager was disconnected or torn down.
            TimeoutError: no whole frame came in time; `next` may be called again.
            ConnectionException: the manager gave up.
            RuntimeError: called from a receiver on the connection's own listener thread.
        """
        self._connection.check_may_wait()
        end = math.inf if self._timeout is None else time.monotonic() + self._timeout
        while not self._ready:
            self._ready.extend(self._framer.feed(self._take(end)))
        return self._ready.popleft()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_queue"):  # or its making has failed
            self._queue.is_abandoned = True

    def close(self) -> None:
        """Receive no more; a thread that waits for a frame gets StopIteration. From any thread; twice does nothing."""
        self._queue.close()

    def finish(self, error: ConnectionException | None) -> None:
        """Nothing more will come: `next` returns the frames that have come, then raises `error`, or StopIteration."""
        self._queue.finish(error)

    def _take(self, end: float) -> bytes:
        """Wait for data until a moment, and take them; the framer is reset where an opening begins."""
        queue = self._queue
        with queue.change:
            left = None if end == math.inf else max(0.0, end - time.monotonic())
            if not queue.change.wait_for(lambda: queue.data or queue.ended, left):
                down = "" if self._connection.is_connected else f", and {self._connection.port} is not connected"
                raise TimeoutError(f"no whole frame came within {self._timeout} s{down}")
            if queue.is_first_of_opening():
                self._framer.reset()
            data = queue.take(MOST_AT_ONCE)
        if not data:
            if queue.error is not None:
                raise ConnectionException(queue.error.message, queue.error)
            raise StopIteration
        return data


def _is_ending() -> bool:
    """Whether somebody waits for this thread, which delivers, to end."""
    dispatch = signals.current_dispatch()
    return dispatch is not None and dispatch.is_ending


def _preview(data: bytes | bytearray) -> str:
    """What came, for a message."""
    if not data:
        return "nothing came"
    return f"{bytes(data)!r} came" if len(data) <= _SHOWN else f"{len(data)} bytes came, last {bytes(data[-_SHOWN:])!r}"
