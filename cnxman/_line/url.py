"""A port that is read and written by its own methods: `spy://`, `loop://`, `rfc2217://`, and all ports of Windows."""

import errno
import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import serial

from cnxman import _fork
from cnxman._line import errors as _faults
from cnxman._line.port import CHUNK, WriteTurn, close_port, closed

_Result = TypeVar("_Result")

SLICE = 0.1
"""How long, in seconds, one read waits: a stop takes that long, too."""


class CallLine:
    """A port that is read and written by its own methods.

    Args:
        port: an open port.
        idle_timeout: raise `Silent` when nothing came for so many seconds; None waits for ever.
    """

    def __init__(self, port: serial.Serial, idle_timeout: float | None) -> None:
        self.port = port
        self._idle = idle_timeout
        self._stopped = threading.Event()
        self._turn = WriteTurn()
        self._telling = False
        self._lost: Exception | None = None
        self._limit_reads()
        _fork.in_child(self, CallLine.leave_to_parent)

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
                self._telling = True
                return data
            if self._idle is not None and time.monotonic() - came >= self._idle:
                raise _faults.Silent(errno.ETIMEDOUT, f"nothing came from it for {self._idle} s")
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
        if self.port.timeout is None or not 0 < self.port.timeout <= SLICE:
            self.port.timeout = SLICE

    def write(self, data: bytes, timeout: float | None) -> int:
        """Write all of `data`; see `Line.write`.

        Raises:
            ConnectionException: that says how much went out, as far as the port tells.
        """
        sent = 0
        try:
            with self._turn.taken(timeout):
                while sent < len(data):
                    sent += self._write_some(data[sent:])
        except Exception as error:
            raise _faults.not_written(str(self.port.port), sent, len(data), error) from error
        return sent

    def _write_some(self, data: bytes) -> int:
        if self._stopped.is_set():
            raise closed()
        written = self.port.write(data)
        self._turn.progress()
        return len(data) if written is None else int(written)

    def use(self, what: Callable[[serial.Serial], _Result]) -> _Result:
        """Do something short with the port."""
        if self._stopped.is_set():
            raise closed()
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

    def leave_to_parent(self) -> None:
        """In a forked child: it is closed; the port itself is left by `cnxman._line.port.leave_port`."""
        self._stopped = threading.Event()  # the lock of the other one may be held for ever
        self._stopped.set()

    def close(self) -> None:
        """Close the port."""
        self._stopped.set()
        close_port(self.port)

    # A CallLine's reader needs no backlog beside it: these are what a `Backlog` has for it.

    def delivering(self) -> None:
        """A delivery begins that has no data from here."""
        self._telling = True

    def delivered(self) -> None:
        """The delivery is over."""
        self._telling = False

    def is_caught_up(self) -> bool:
        """See `Backlog.is_caught_up`. It may overlook what the reader takes this very moment."""
        return not (self._telling or (self.is_open and self.port.in_waiting))

    def is_delivering(self) -> bool:
        """Its port may be closed at any time."""
        return True

    end = close


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
