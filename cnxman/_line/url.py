"""A port that one of pyserial's URLs leads to, by its own methods: `spy://`, `loop://`, `rfc2217://` and the like."""

import contextlib
import errno
import queue
import select

import serial

from cnxman._line.calls import CallLine
from cnxman._line.errors import PeerClosedError
from cnxman._line.port import CHUNK, READ_SLICE, stalled_error


def url_line(port: serial.Serial, idle_timeout: float | None) -> CallLine:
    """Take a port into service that is read and written by its own methods.

    Args:
        port: an open port.
        idle_timeout: raise `SilenceError` when nothing came for so many seconds; None waits for ever.
    """
    return CallLine(port, idle_timeout, UrlCalls(port))


def is_socket(port: serial.Serial) -> bool:
    """Whether this is pyserial's `socket://`."""
    return type(port).__module__ == "serial.urlhandler.protocol_socket"


class UrlCalls:
    """See `cnxman._line.calls.Calls`. A read waits for a slice of time, since not every such port can cancel one."""

    can_cancel = False

    def __init__(self, port: serial.Serial) -> None:
        self._is_socket = is_socket(port)
        # Then pyserial's write, when it may not wait, tells exactly how much went out. (It spins if nothing can.)
        self._tells_room = self._is_socket or (isinstance(port, serial.Serial) and hasattr(port, "fileno"))
        received = getattr(port, "_read_buffer", None)
        self._received: queue.Queue[bytes | None] | None = received if isinstance(received, queue.Queue) else None
        self._lost: Exception | None = None

    def configure(self, port: serial.Serial) -> None:
        """See `Calls.configure`."""
        if port.timeout is None or not 0 < port.timeout <= READ_SLICE:
            port.timeout = READ_SLICE
        if self._tells_room:
            if port.write_timeout != 0:
                port.write_timeout = 0
        elif port.write_timeout == 0:
            port.write_timeout = READ_SLICE

    def read(self, port: serial.Serial) -> bytes:
        """See `Calls.read`. A loss raises only after all that was received before it."""
        data = b""
        if self._lost is None:
            try:
                data = bytes(port.read(1))
            except Exception as error:
                self._lost = error
        # rfc2217: its own read raises once its connection has ended, whatever it has received, or taken, by then.
        if self._received is not None and (data or self._lost is not None):
            data += _all_of(self._received)
        if self._lost is not None and not data:
            raise self._lost
        return data

    def read_rest(self, port: serial.Serial, most: int) -> bytes:
        """See `Calls.read_rest`."""
        if self._received is not None:
            return b""
        if self._is_socket:  # its in_waiting says 0 or 1
            port.timeout = 0
            try:
                return bytes(port.read(most))
            finally:
                port.timeout = READ_SLICE
        count = min(port.in_waiting, most)
        return bytes(port.read(count)) if count > 0 else b""

    def write(self, port: serial.Serial, piece: bytes, timeout: float | None) -> int:
        """See `Calls.write`."""
        if self._tells_room and not select.select([], [port.fileno()], [], READ_SLICE)[1]:
            return 0
        try:
            written = port.write(piece)
        except (serial.SerialTimeoutException, queue.Full) as error:  # the latter from loop://
            raise stalled_error(timeout) from error
        return len(piece) if written is None else int(written)

    def cancel_read(self, port: serial.Serial) -> bool:  # noqa: ARG002 (it returns soon anyway)
        """See `Calls.cancel_read`."""
        return False

    def cancel_write(self, port: serial.Serial) -> bool:
        """See `Calls.cancel_write`. A write to a port that tells when there is room returns soon anyway."""
        cancel = None if self._tells_room else getattr(port, "cancel_write", None)
        if cancel is None:
            return False
        cancel()
        return True

    def check(self, port: serial.Serial) -> None:
        """See `Calls.check`. On a closed port there is nothing to ask for."""
        with contextlib.suppress(AttributeError, TypeError):
            self.in_waiting(port)

    def in_waiting(self, port: serial.Serial) -> int:
        """See `Calls.in_waiting`."""
        return int(port.in_waiting)

    def taken(self, port: serial.Serial) -> int:  # noqa: ARG002 (none of them tells)
        """See `Calls.taken`."""
        return 0

    def explain(self, error: Exception) -> Exception:
        """See `Calls.explain`. `socket://` says no number when the other end has closed the connection."""
        if self._is_socket and isinstance(error, serial.SerialException) and not _has_number(error):
            return PeerClosedError(errno.ECONNRESET, "the far end closed the connection")
        return error


def _has_number(error: BaseException | None) -> bool:
    """Whether an errno stands anywhere in the chain."""
    while error is not None:
        if getattr(error, "errno", None) is not None:
            return True
        error = error.__cause__ or error.__context__
    return False


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
