"""A connection of one's own: a device behind TCP that answers a heartbeat.

It is lost when the far end hangs up, and also when it stays silent: a network that is cut says nothing.
"""

import contextlib
import socket
import threading

from cnxman import Connection, ConnectionException
from cnxman.signals import Signal, send


class TcpConnection(Connection):
    """A device at a TCP address.

    Args:
        host: where.
        port: where.
        heartbeat: what to send when nothing came; the device answers it with anything.
        interval: after how many seconds without data to send it.
        missed: after how many in vain the device is lost.
    """

    class Signals(Signal):
        """What it sends besides the alarm, on its own thread."""

        DATA_RECEIVED = "data-received"
        """`data`: bytes, never empty."""

    def __init__(
        self, host: str, port: int, *, heartbeat: bytes = b"PING\n", interval: float = 1.0, missed: int = 3
    ) -> None:
        self._address = (host, port)
        self._heartbeat = heartbeat
        self._interval = interval
        self._missed = missed
        self._lock = threading.Lock()  # never held while anything is called that waits
        self._line: socket.socket | None = None

    def __repr__(self) -> str:
        return "<TcpConnection {}:{}>".format(*self._address)

    def try_connect(self) -> bool:
        """Call the device, and listen."""
        self.disconnect()  # after an alarm, what is broken is still ours
        try:
            line = socket.create_connection(self._address, timeout=5)
        except OSError as error:
            self.last_error = ConnectionException(f"cannot reach {self}: {error}", error)
            return False
        self.last_error = None
        line.settimeout(self._interval)
        with self._lock:
            self._line = line
        threading.Thread(target=self._listen, args=(line,), name=f"listener of {self}", daemon=True).start()
        return True

    def disconnect(self) -> None:
        """Close. The listener wakes, sees that its line is not ours any more, and reports nothing."""
        with self._lock:
            line, self._line = self._line, None
        if line is not None:
            with contextlib.suppress(OSError):  # the far end was first
                line.shutdown(socket.SHUT_RDWR)

    def teardown(self) -> None:
        """Nothing is held but the line."""
        self.disconnect()

    def write(self, data: bytes) -> None:
        """Send a message, whole."""
        line = self._line
        if line is None:
            raise ConnectionException(f"{self} is not connected", ConnectionError("not connected"))
        try:
            line.sendall(data)
        except OSError as error:
            raise ConnectionException(f"not sent to {self}: {error}", error) from error

    # -- on the listener's thread -------------------------------------------------------------------------

    def _listen(self, line: socket.socket) -> None:
        with line:
            try:
                while data := self._next(line):
                    if self._line is line:
                        send(self, TcpConnection.Signals.DATA_RECEIVED, data=data)
                lost: OSError = ConnectionResetError("the far end hung up")
            except OSError as error:
                lost = error
            with self._lock:
                if self._line is not line:
                    return  # somebody hung up: no alarm
                self._line = None
        self.last_error = ConnectionException(f"{self} was lost: {lost}", lost)
        self.raise_alarm(self.last_error)

    def _next(self, line: socket.socket) -> bytes:
        """What comes next; b"" when the far end hung up. In a silence, the heartbeat."""
        for _ in range(self._missed):
            try:
                return line.recv(65536)
            except TimeoutError:
                line.sendall(self._heartbeat)
        raise TimeoutError(f"{self._missed} heartbeats without an answer")
