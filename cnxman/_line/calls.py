"""A port that is read and written by its own methods: what URL ports and Windows' ports have in common.

Such a port can't be waited for without reading it. So a wait reads a first byte, which it keeps for the read that
follows; that one adds what else has come, without waiting. For a `ReceiveBuffer` it is then a line like any other.

Each call that may block is counted, and a port is closed only when none is under way: closing one under a call crashes
the interpreter on Windows.
"""

import contextlib
import errno
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import serial

from cnxman import _fork
from cnxman._line.errors import SilenceError
from cnxman._line.line_watch import LOOK_INTERVAL, look_within, unwatch, watch
from cnxman._line.port import CHUNK, IncompleteWriteError, WriteLock, close_port, closed_error, stalled_error

_logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")

LARGEST_PIECE = 4096
"""The most bytes given to one write."""

CANCEL_INTERVAL = 0.002
"""Seconds after which a call that was cancelled is cancelled again: it may have begun only just after."""

CANCEL_TIME = 0.5
"""Seconds for which calls under way are waited for when the line is stopped, or closed."""

LEAST_TIMEOUT = 0.05
"""The shortest time-out of a write, in seconds: with 0, pyserial's own writes spin, or leave a write under way."""

RETRY_INTERVAL = 0.01
"""Seconds to wait after a write that took nothing though its time was not over."""


class Calls(Protocol):
    """How the calls of one kind of port are made."""

    can_cancel: bool
    """Whether a read waits until it is cancelled, and the port must not be closed under a call. (Else a read returns
    soon, and closing ends a call, or does no harm.)"""

    def configure(self, port: serial.Serial) -> None:
        """Set the time-outs that the calls need. To be called again when settings were changed."""

    def read(self, port: serial.Serial) -> bytes:
        """Wait for the next byte, or more; b"" if there was none for a while, or the wait was cancelled."""

    def read_rest(self, port: serial.Serial, most: int) -> bytes:
        """What else has come, up to so many bytes, without waiting."""

    def write(self, port: serial.Serial, piece: bytes, timeout: float | None) -> int:
        """Write, and return how many bytes the port took.

        Raises:
            TimeoutError: it took nothing for too long.
        """

    def cancel_read(self, port: serial.Serial) -> bool:
        """End the read that is under way in another thread, if there is any; False if it can't be done."""

    def cancel_write(self, port: serial.Serial) -> bool:
        """End the write that is under way in another thread, if there is any; False if it can't be done."""

    def check(self, port: serial.Serial) -> None:
        """Raise what the port does if its device is gone."""

    def in_waiting(self, port: serial.Serial) -> int:
        """How many bytes wait to be read."""

    def taken(self, port: serial.Serial) -> int:
        """How many bytes the read under way has taken already, which it has yet to return, as far as can be told."""

    def explain(self, error: Exception) -> Exception:
        """The error, in a form that says its number."""


class CallLine:
    """A port that is read and written by its own methods.

    Args:
        port: an open port.
        idle_timeout: raise `SilenceError` when nothing came for so many seconds; None waits for ever.
        calls: how its methods are called.
    """

    def __init__(self, port: serial.Serial, idle_timeout: float | None, calls: Calls) -> None:
        self.port = port
        self.lock = threading.Lock()
        self.closed = False
        self.stopped = False
        self._change = threading.Condition(self.lock)
        self._idle = idle_timeout
        self._calls = calls
        self._under_way = 0  # calls that may block
        self._closes_late = False  # the last of them closes the port
        self._read_lock = threading.Lock()  # held by the thread that waits for something to read
        self._ahead = b""  # what a wait has read
        self._reading_since: float | None = None
        self._is_reading = False
        self._write_until: float | None = None
        self._write_under_way = False
        self._lost: Exception | None = None
        self._write_lock = WriteLock()
        calls.configure(port)
        if calls.can_cancel:
            watch(self)
        _fork.after_in_child(self, CallLine.abandon)

    @property
    def is_open(self) -> bool:
        """See `Line.is_open`."""
        return not (self.closed or self.stopped)

    @contextlib.contextmanager
    def _call(self) -> Iterator[None]:
        """A call that may block: the port is not closed meanwhile."""
        with self.lock:
            if self.closed or self.stopped:
                raise closed_error()
            self._under_way += 1
        try:
            yield
        finally:
            with self.lock:
                self._under_way -= 1
                closes = self._closes_late and not self._under_way
                self._change.notify_all()
            if closes:
                close_port(self.port)

    # -- reading; see `cnxman._line.port.ReadableLine` ----------------------------------------------------

    def reader(self) -> "CallLine":
        """See `ReadableLine.reader`. One serves all threads: whoever waits holds a lock meanwhile."""
        return self

    def wait(self) -> int:
        """See `Reader.wait`."""
        with self._read_lock:
            self._reading_since = time.monotonic()
            if self._idle is not None and self._idle < LOOK_INTERVAL and self._calls.can_cancel:
                look_within(self._idle)
            try:
                return self._read_ahead()
            finally:
                self._reading_since = None

    def _read_ahead(self) -> int:
        while self.is_open:
            if self._ahead:
                return 1
            if self._lost is not None:
                raise self._lost
            try:
                with self._call():
                    self._is_reading = True
                    try:
                        self._ahead = self._calls.read(self.port)
                    finally:  # only now, when a look finds it ahead
                        self._is_reading = False
            except Exception as error:
                if self.stopped:
                    return 0
                explained = self._explained(error)
                if explained is error:
                    raise
                raise explained from error
            if not self._ahead and self._silence_remaining() == 0:
                raise SilenceError(errno.ETIMEDOUT, f"nothing came from it for {self._idle} s")
        return 0

    def read_available(self, _events: int, most: int = CHUNK) -> bytes:
        """See `ReadableLine.read_available`. The lock is held."""
        data = self._ahead
        if not data:
            return b""  # the other thread that reads was quicker
        try:
            data += self._calls.read_rest(self.port, most - len(data))
        except Exception as error:  # the next wait raises it
            self._lost = self._explained(error)
        self._ahead = b""
        return data

    def wait_for_loss(self, timeout: float) -> int:
        """See `Reader.wait_for_loss`."""
        self.wait_for_stop(timeout)
        self._check()
        if self._lost is not None:
            raise self._lost
        return 0

    def in_waiting(self) -> int:
        """See `ReadableLine.in_waiting`. Of a line that is lost, it says first what was read before."""
        try:  # asked in the direction in which bytes go: so none is overlooked
            return self._calls.in_waiting(self.port) or self._in_hand()
        except Exception:
            if in_hand := self._in_hand():
                return in_hand
            raise

    def _in_hand(self) -> int:
        """How many bytes were read from the port, and not handed on yet."""
        return (self._calls.taken(self.port) if self._is_reading else 0) or len(self._ahead)

    # -- writing ------------------------------------------------------------------------------------------

    def write(self, data: bytes, timeout: float | None) -> int:
        """Write all of `data`, in pieces; see `Line.write`.

        Raises:
            IncompleteWriteError: it says how much went out, as far as the port tells.
        """
        if timeout is not None:
            timeout = max(timeout, LEAST_TIMEOUT)
        sent, size = 0, self._piece_size(timeout)
        try:
            with self._write_lock.held(timeout):
                began = time.monotonic()
                while sent < len(data):
                    written = self._write_piece(data[sent : sent + size], timeout, began)
                    sent += written
                    if not written:
                        self.wait_for_stop(RETRY_INTERVAL)
        except Exception as raised:
            error = self._explained(raised)
            raise IncompleteWriteError(sent, error) from error
        return sent

    def _write_piece(self, piece: bytes, timeout: float | None, began: float) -> int:
        with self._call():
            if timeout is not None:
                left = self._write_lock.remaining(timeout, began)
                if not left:
                    raise stalled_error(timeout)
                self._write_until = time.monotonic() + left
                if left < LOOK_INTERVAL and self._calls.can_cancel:
                    look_within(left)
            self._write_under_way = True
            try:
                written = self._calls.write(self.port, piece, timeout)
            finally:
                self._write_until, self._write_under_way = None, False
        if written:
            self._write_lock.progress()
        return written

    def _piece_size(self, timeout: float | None) -> int:
        """How many bytes the line takes, at its baud rate, in a quarter of the time-out: else progress goes unseen."""
        if timeout is None:
            return LARGEST_PIECE
        return max(16, min(LARGEST_PIECE, int(self.port.baudrate / 10 * timeout / 4)))

    # -- looks, by `cnxman._line.line_watch` --------------------------------------------------------------

    def look(self) -> float:
        """See `WatchedLine.look`."""
        if not self.is_open:
            if self._under_way:  # it began so late that the stop has given up
                self._cancel(self._calls.cancel_read)
                self._cancel(self._calls.cancel_write)
            return LOOK_INTERVAL
        if self._reading_since is not None and self._lost is None:
            self._check()
        silence, write = self._silence_remaining(), self._write_remaining()
        if self._lost is not None or not silence:
            self._cancel(self._calls.cancel_read)
            return CANCEL_INTERVAL
        if not write:
            self._cancel(self._calls.cancel_write)
            return CANCEL_INTERVAL
        return min(LOOK_INTERVAL, silence, write)

    def _check(self) -> None:
        """Note a loss that a call under way has not noticed."""
        try:
            with self._call():
                self._calls.check(self.port)
        except Exception as error:
            if self.is_open:
                self._lost = self._explained(error)

    def _explained(self, error: Exception) -> Exception:
        explained = self._calls.explain(error)
        if explained is not error:
            explained.__cause__ = error
        return explained

    def _silence_remaining(self) -> float:
        """After how many seconds more without data the line is taken for lost."""
        since = self._reading_since
        if self._idle is None or since is None:
            return math.inf
        return max(0.0, since + self._idle - time.monotonic())

    def _write_remaining(self) -> float:
        """For how many seconds more the line may take nothing of what is written."""
        until = self._write_until
        return math.inf if until is None else max(0.0, until - time.monotonic())

    def _cancel(self, cancel: Callable[[serial.Serial], bool]) -> bool:
        try:
            return cancel(self.port)
        except Exception as error:  # closed by somebody else
            _logger.debug("cancelling what %s does raised", self.port.port, exc_info=error)
            return False

    # -- the port itself, and its end ---------------------------------------------------------------------

    def use(self, what: Callable[[serial.Serial], _Result]) -> _Result:
        """Do something short with the port; see `Line.use`."""
        with self._call():
            try:
                return what(self.port)
            except Exception as error:
                explained = self._explained(error)
                if explained is error:
                    raise
                raise explained from error
            finally:
                self._calls.configure(self.port)

    def wait_for_stop(self, timeout: float) -> None:
        """See `Line.wait_for_stop`."""
        with self.lock:
            self._change.wait_for(lambda: self.stopped, timeout)

    def abandon(self) -> None:
        """In a forked child: it is closed. The port itself is closed by `cnxman._line.port.abandon_port`."""
        self.stopped = self.closed = True
        self._under_way = 0
        if self.lock.locked():  # by a thread that is not here, while the listener's may be
            self.lock.release()

    def stop(self) -> None:
        """Make reads and writes return soon."""
        with self.lock:
            self._stop()

    def _stop(self) -> None:
        self.stopped = True
        self._change.notify_all()
        give_up = time.monotonic() + CANCEL_TIME
        while (self._write_under_way or self._calls.can_cancel) and self._under_way and time.monotonic() < give_up:
            self._cancel(self._calls.cancel_read)
            if not self._cancel(self._calls.cancel_write):
                return
            self._change.wait(CANCEL_INTERVAL)

    def close(self) -> None:
        """Close the port, when no call is under way any more. Twice does nothing."""
        with self.lock:
            if self.closed:
                return
            self._stop()
            self.closed = True
            if self._calls.can_cancel:
                self._change.wait_for(lambda: not self._under_way, CANCEL_TIME)
                self._closes_late = self._under_way > 0
        unwatch(self)
        if self._closes_late:
            _logger.warning("%s: its driver does not return; the port is closed when it does", self.port.port)
        else:
            close_port(self.port)
