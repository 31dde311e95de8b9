"""A port of Windows': it is read without a time-out, and `cancel_read` ends the read.

So an idle line wakes nobody up. (A time-out would be a clock that ticks on each line; and Wine takes its passing for an
error.) A write has no time-out of pyserial's either, since that loses the count of what went out: `cancel_write` ends
it, and tells. What a blocked read does not notice is found by a look each second: see `cnxman._line.line_watch`.
"""

import errno
import os
import sys

import serial

from cnxman._line.calls import CallLine
from cnxman._line.errors import HangUpError
from cnxman._line.windows_errors import is_no_loss, windows_error

EMPTY_READS = 100
"""So many times in a row a read may end without data, an error or a reason."""

STATUS_PENDING = 0x103
"""What Windows writes into a call's OVERLAPPED for as long as the call is under way."""


def is_windows_port(port: serial.Serial) -> bool:
    """Whether this is one of Windows' own ports, or a `spy://` of one."""
    return sys.platform == "win32" and isinstance(port, serial.Serial)


def windows_line(port: serial.Serial, idle_timeout: float | None) -> CallLine:
    """Take one of Windows' ports into service.

    Args:
        port: an open port.
        idle_timeout: raise `SilenceError` when nothing came for so many seconds; None waits for ever.
    """
    return CallLine(port, idle_timeout, WindowsCalls())


class WindowsCalls:
    """See `cnxman._line.calls.Calls`."""

    can_cancel = True

    def __init__(self) -> None:
        self._empty_reads = 0

    def configure(self, port: serial.Serial) -> None:
        """See `Calls.configure`."""
        for name in ("timeout", "write_timeout"):
            if getattr(port, name) is not None:
                setattr(port, name, None)

    def read(self, port: serial.Serial) -> bytes:
        """See `Calls.read`. Windows may report a pull as if the read had been cancelled."""
        data = self._read(port)
        if data:
            self._empty_reads = 0
            return data
        self.check(port)
        self._empty_reads += 1
        if self._empty_reads >= EMPTY_READS:
            raise HangUpError(errno.EIO, "reads end without data")
        return b""

    def _read(self, port: serial.Serial) -> bytes:
        try:
            return bytes(port.read(1))
        except serial.SerialException as error:
            if is_no_loss(error):
                return b""
            raise

    def read_rest(self, port: serial.Serial, most: int) -> bytes:
        """See `Calls.read_rest`."""
        count = min(self.in_waiting(port), most)
        return bytes(port.read(count)) if count > 0 else b""

    def write(self, port: serial.Serial, piece: bytes, timeout: float | None) -> int:  # noqa: ARG002 (it is cancelled)
        """See `Calls.write`. pyserial says "time-out" of any failure here, and keeps the count to itself."""
        try:
            return int(port.write(piece) or 0)
        except serial.SerialTimeoutException:
            self.check(port)
            overlapped = getattr(port, "_overlapped_write", None)
            return min(len(piece), int(getattr(overlapped, "InternalHigh", 0) or 0))

    def cancel_read(self, port: serial.Serial) -> bool:
        """See `Calls.cancel_read`."""
        port.cancel_read()
        return True

    def cancel_write(self, port: serial.Serial) -> bool:
        """See `Calls.cancel_write`."""
        port.cancel_write()
        return True

    def check(self, port: serial.Serial) -> None:
        """See `Calls.check`."""
        self.in_waiting(port)

    def in_waiting(self, port: serial.Serial) -> int:
        """See `Calls.in_waiting`. Some virtual ports can't tell, though they work."""
        try:
            return int(port.in_waiting)
        except serial.SerialException as error:
            if is_no_loss(error):
                return 0
            raise

    def taken(self, port: serial.Serial) -> int:
        """See `Calls.taken`. Before it has begun, a read may seem to have taken what the last one did."""
        overlapped = getattr(port, "_overlapped_read", None)
        return int(overlapped.InternalHigh) if overlapped is not None and overlapped.Internal != STATUS_PENDING else 0

    def explain(self, error: Exception) -> Exception:
        """See `Calls.explain`. Between two calls, a port that was closed is found so by pyserial itself."""
        if isinstance(error, serial.PortNotOpenError):
            return OSError(errno.EBADF, os.strerror(errno.EBADF))
        return windows_error(error, opening=False) or error
