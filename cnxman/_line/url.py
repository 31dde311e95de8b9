"""A port that is read and written by its own methods: `spy://`, `loop://`, `rfc2217://`, and all ports of Windows."""

import errno
import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import serial

from cnxman import _fork
from cnxman._line.errors import SilenceError
from cnxman._line.port import CHUNK, READ_SLICE, IncompleteWriteError, WriteLock, close_port, closed_error

_Result = TypeVar("_Result")


class UrlLine:
    """A port that is read and written by its own methods.

    Args:
        port: an open port.
        idle_timeout: raise `SilenceError` when nothing came for so many seconds; None waits for ever.
    """

    def __init__(self, port: serial.Serial, idle_timeout: float | None) -> None:
        self.port = port
        self._idle = idle_timeout
        self._stopped = threading.Event()
        self._write_lock = WriteLock()
        self._delivering = False
        self._lost: Exception | None = None
        self._limit_reads()
        _fork.after_in_child(self, UrlLine.abandon)

    @property
    def is_open(self) -> bool:
        """See `Line.is_open`."""
        return not self._stopped.is_set()

    def read(self) -> bytes:
        """The next bytes, as soon as there are any; b"" once the line was stopped. Raises at a loss."""
        came = time.monotonic()
        while not self._stopped.is_set():
            data = self._read_now()
            if data:
                self._delivering = True
                return data
            if self._idle is not None and time.monotonic() - came >= self._idle:
                raise SilenceError(errno.ETIMEDOUT, f"nothing came from it for {self._idle} s")
        return b""

    def _read_now(self) -> bytes:
        """What there is, waited for for a slice. A loss raises only after all that was received before it."""
        # rfc2217: its own read raises once its connection has ended, whatever it has received, or taken, by then.
        received = getattr(self.port, "_read_buffer", None)
        if not isinstance(received, queue.Queue):
            received = None
        data = b""
        if self._lost is None:
            try:
                data = self.port.read(1)
                if data and received is None:
                    waiting = min(self.port.in_waiting, CHUNK)
                    data += self.port.read(waiting) if waiting else b""
            except Exception as error:
                self._lost = error
        if received is not None and (data or self._lost is not None):
            data += _all_of(received)
        if self._lost is not None and not data:
            raise self._lost
        return data

    def _limit_reads(self) -> None:
        if self.port.timeout is None or not 0 < self.port.timeout <= READ_SLICE:
            self.port.timeout = READ_SLICE

    def write(self, data: bytes, timeout: float | None) -> int:
        """Write all of `data`; see `Line.write`.

        Raises:
            IncompleteWriteError: it says how much went out, as far as the port tells.
        """
        sent = 0
        try:
            with self._write_lock.held(timeout):
                while sent < len(data):
                    sent += self._write_some(data[sent:])
        except Exception as error:
            raise IncompleteWriteError(sent, error) from error
        return sent

    def _write_some(self, data: bytes) -> int:
        if self._stopped.is_set():
            raise closed_error()
        written = self.port.write(data)
        self._write_lock.progress()
        return len(data) if written is None else int(written)

    def use(self, what: Callable[[serial.Serial], _Result]) -> _Result:
        """Do something short with the port."""
        if self._stopped.is_set():
            raise closed_error()
        try:
            return what(self.port)
        finally:
            self._limit_reads()

    def wait_for_stop(self, timeout: float) -> None:
        """See `Line.wait_for_stop`."""
        self._stopped.wait(timeout)

    def stop(self) -> None:
        """Make reads and writes return soon."""
        self._stopped.set()

    def abandon(self) -> None:
        """In a forked child: it is closed. The port itself is closed by `cnxman._line.port.abandon_port`."""
        self._stopped = threading.Event()  # the lock of the other one may be held for ever
        self._stopped.set()

    def close(self) -> None:
        """Close the port."""
        self._stopped.set()
        close_port(self.port)

    # -- a source for the reading thread; see `cnxman._line.port.Source` ----------------------------------

    def begin_delivery(self) -> None:
        """See `Source.begin_delivery`."""
        self._delivering = True

    def end_delivery(self) -> None:
        """See `Source.end_delivery`."""
        self._delivering = False

    @property
    def is_delivering(self) -> bool:
        """See `Source.is_delivering`. This port may be closed at any time."""
        return True

    def is_drained(self) -> bool:
        """See `Source.is_drained`. It may overlook what the reader takes this very moment."""
        return not (self._delivering or (self.is_open and self.port.in_waiting))

    def end(self) -> None:
        """See `Source.end`."""
        self.close()


def _all_of(received: "queue.Queue[bytes | None]") -> bytes:
    """All that stands in a queue of bytes now, up to a chunk. None marks its end."""
    data = bytearray()
    while len(data) < CHUNK:
        try:
            piece = received.get_nowait()
        except queue.Empty:
            break
        if piece is None:
            break
        data += piece
    return bytes(data)
