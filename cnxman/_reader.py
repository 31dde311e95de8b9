"""Reading and asking for scripts: calls that wait, each with a time-out, instead of receivers.

Every reader hears everything, as a receiver does: it takes nothing away from receivers or from other readers.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Self

from cnxman._checks import check_size, check_timeout
from cnxman._inbox import Inbox
from cnxman._line import errors as _faults
from cnxman._line.port import CHUNK
from cnxman.basics import ConnectionException
from cnxman.framing import Framer, check_framer
from cnxman.serial import SerialConnection, SerialListener

__all__ = ["Frames", "SerialReader", "query"]

LOOK_EVERY = 0.002
"""Seconds between two looks, before a question, whether what came before it was told. Mostly the first one will do."""

_SHOWN = 100  # bytes in a message

_Wanted = Callable[[], int]
"""Says how many of the bytes in the inbox to take; 0 for as long as what is wanted isn't all there."""

Until = bytes | int | Framer
"""Where an answer ends: after these bytes, after so many bytes, or with the first frame."""


class SerialReader:
    r"""What a connection receives from now on, to be read by calls that wait. Made by `SerialConnection.reader`.

        with connection.reader() as reader:
            connection.write(b"START\n")
            assert reader.read_until(b"\n", timeout=2) == b"OK\n"
            for line in reader.frames(Lines(), timeout=10):
                print(line)

    A reader serves one opening of the port: the one under way, or else the next one. When that is over, what had come
    can still be read; after it every call raises a `ConnectionException`. For the next opening make a new one.

    It is bounded: when `buffer_size` bytes wait to be read, it lets the listener wait, and with it all other receivers,
    the line's own backlog, and then, where there is flow control, the device. So don't keep a reader that you
    don't read: close it. (Hanging up waits for no reader, and one that is garbage is closed by itself.)

    Times are in seconds: a time-out of None waits for as long as it takes, 0 looks what is there. What a time-out
    cuts short stays in the reader. Read from one thread at a time, and never from a receiver on the connection's own
    listener thread: the data would have to come on that same thread, so that raises a RuntimeError at once.

    Args:
        connection: what to read from.
        buffer_size: how many bytes wait to be read, at most; None for as many as the connection's own.
    """

    def __init__(self, connection: SerialConnection, *, buffer_size: int | None = None) -> None:
        limit = connection.buffer_size if buffer_size is None else buffer_size
        check_size("buffer_size", limit)
        self._connection = connection
        self._closed = False
        self._inbox = Inbox(connection, limit)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the reader."""
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_inbox"):  # or its making has failed
            self._inbox.abandoned = True

    def close(self) -> None:
        """Hear no more, and forget what wasn't read. From any thread; twice does nothing."""
        self._closed = True
        self._inbox.close()

    def read(self, timeout: float | None = None, *, size: int | None = None) -> bytes:
        """Read what there is, one byte at least; or exactly so many bytes.

        Args:
            timeout: how long to wait, in seconds.
            size: how many bytes to read; None for what there is.

        Raises:
            TimeoutError: nothing came, or fewer than `size` bytes; it says what did.
            ConnectionException: the line was lost or closed.
            ValueError: the reader is closed, or can't hold `size` bytes.
            RuntimeError: called from a receiver on the connection's own listener thread.
        """
        return self._take(*self._enough(size), timeout)

    def read_until(self, terminator: bytes = b"\n", timeout: float | None = None) -> bytes:
        """Read up to these bytes, and with them.

        Args:
            terminator: what ends it.
            timeout: how long to wait, in seconds.

        Raises:
            TimeoutError: they didn't come; it says what did.
            BufferError: they didn't come within `buffer_size` bytes. `read` takes those.
            ConnectionException: the line was lost or closed.
            ValueError: for b"" as the terminator, or if the reader is closed.
            RuntimeError: called from a receiver on the connection's own listener thread.
        """
        return self._take(*self._up_to(terminator), timeout)

    def frames(self, framer: Framer, timeout: float | None = None) -> "Frames":
        """An iterator over frames, which waits for each of them; see `cnxman.framing`.

        Args:
            framer: what cuts the data into frames. It begins anew, and serves this iterator alone.
            timeout: how long to wait for each frame, in seconds.

        Returns:
            The iterator. It raises what `read` does; after a TimeoutError `next` may be called again. Frames and what
            else the framer has taken belong to the iterator: keep it if you leave the loop and want to go on.
        """
        return Frames(self, framer, timeout)

    # -- how ----------------------------------------------------------------------------------------------

    def _enough(self, size: int | None) -> tuple[_Wanted, str]:
        """What `read` wants, and how to call it."""
        inbox = self._inbox
        if size is None:
            return lambda: min(len(inbox.data), CHUNK), "any data"
        check_size("size", size)
        if size > inbox.limit:
            raise ValueError(f"size must be at most the reader's buffer_size, {inbox.limit} bytes, not {size}")
        return lambda: size if len(inbox.data) >= size else 0, f"{size} bytes"

    def _up_to(self, terminator: bytes) -> tuple[_Wanted, str]:
        """What `read_until` wants, and how to call it."""
        if not isinstance(terminator, bytes):
            raise TypeError(f"what ends it must be bytes, not {terminator!r}")
        if not terminator:
            raise ValueError("what ends it must be one byte or more, not b''")
        data, searched = self._inbox.data, 0

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
        _check_thread(self._connection)
        inbox = self._inbox
        with inbox.change:
            inbox.change.wait_for(lambda: wanted() or inbox.ended or inbox.is_full, timeout)
            if count := wanted():
                return inbox.take(count)
            if not inbox.ended and not inbox.is_full:
                raise TimeoutError(self._too_late(what, timeout))
        raise self._why(what)

    def _why(self, what: str) -> Exception:
        """Why what was wanted will never come."""
        inbox, port = self._inbox, self._connection.port
        if self._closed:
            return ValueError("the reader is closed")
        if not inbox.ended:
            return BufferError(f"{what} did not come within the {len(inbox.data)} bytes that the reader holds")
        if inbox.error is not None:
            return ConnectionException(inbox.error.message, inbox.error)
        return ConnectionException(f"{port} was disconnected", ConnectionAbortedError("somebody hung up"))

    def _too_late(self, what: str, timeout: float | None) -> str:
        came = _shown(self._inbox.data)
        down = "" if self._connection.is_connected else f", and {self._connection.port} is not connected"
        return f"{what} did not come within {timeout} s: {came}{down}"


class Frames(Iterator[bytes]):
    """The frames that a reader's data make; see `SerialReader.frames`.

    Args:
        reader: where the data come from.
        framer: what cuts them.
        timeout: how long to wait for each frame, in seconds.
    """

    def __init__(self, reader: SerialReader, framer: Framer, timeout: float | None) -> None:
        check_framer(framer)
        check_timeout(timeout)
        framer.reset()
        self._reader = reader
        self._framer = framer
        self._timeout = timeout
        self._ready: deque[bytes] = deque()
        self._last = bytearray()  # the end of what came, for a message

    def __next__(self) -> bytes:
        """Wait for the next frame."""
        until = None if self._timeout is None else time.monotonic() + self._timeout
        while not self._ready:
            try:
                data = self._reader.read(None if until is None else max(0.0, until - time.monotonic()))
            except TimeoutError as error:
                raise TimeoutError(self._too_late()) from error
            self._last = (self._last + data)[-_SHOWN:]
            self._ready.extend(self._framer.feed(data))
        return self._ready.popleft()

    def _too_late(self) -> str:
        return f"no whole frame came within {self._timeout} s: {_shown(self._last)}"


def query(connection: SerialConnection, question: bytes, until: Until, timeout: float | None) -> bytes:
    """Ask, and wait for the answer; see `SerialConnection.query`."""
    check_timeout(timeout)
    _check_thread(connection)
    with connection._asking, SerialReader(connection) as reader:
        answer = _answer(reader, until, timeout)
        _wait_for_the_past(connection, reader, timeout)
        connection.write(question)
        try:
            return answer()
        except TimeoutError as error:
            raise TimeoutError(f"no answer to {question!r}: {error}") from error


def _answer(reader: SerialReader, until: Until, timeout: float | None) -> Callable[[], bytes]:
    """What waits for the answer."""
    if isinstance(until, bytes):
        return partial(reader._take, *reader._up_to(until), timeout)
    if isinstance(until, int):
        return partial(reader._take, *reader._enough(until), timeout)
    return reader.frames(until, timeout).__next__


def _wait_for_the_past(connection: SerialConnection, reader: SerialReader, timeout: float | None) -> None:
    """Wait until all that came before now was told, and forget it: it can't be the answer."""
    until = math.inf if timeout is None else time.monotonic() + timeout
    change, past = reader._inbox.change, reader._inbox
    while not _is_caught_up(connection):
        if time.monotonic() >= until:
            raise TimeoutError(f"not asked: what came before still waits for slow receivers, after {timeout} s")
        with change:
            past.take(len(past.data))
            change.wait(LOOK_EVERY)
    with change:
        past.take(len(past.data))


def _is_caught_up(connection: SerialConnection) -> bool:
    listener = connection._listener
    if listener is None or not listener.is_listening:
        return True  # and asking will fail
    try:
        return listener.is_caught_up()
    except Exception as error:
        raise _faults.lost(connection.port, error) from error


def _check_thread(connection: SerialConnection) -> None:
    """Refuse to wait for data on the very thread that brings them."""
    thread = threading.current_thread()
    if isinstance(thread, SerialListener) and getattr(thread, "_connection", None) is connection:
        raise RuntimeError(
            f"a receiver on the listener thread of {connection.port} can't wait for its data, which come on that very"
            " thread: read, or ask, on another one"
        )


def _shown(data: bytes | bytearray) -> str:
    """What came, for a message."""
    if not data:
        return "nothing came"
    return f"{bytes(data)!r} came" if len(data) <= _SHOWN else f"{len(data)} bytes came, last {bytes(data[-_SHOWN:])!r}"
