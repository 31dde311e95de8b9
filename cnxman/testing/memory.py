"""A simulated device's port where there are no pseudo-terminals: in memory, and opened by a URL of our own.

`simulated://N` leads to it, for pyserial's `serial_for_url` and so for `SerialConnection`, within this process only.
`MemoryPort` stands in for `cnxman.testing.pty.PseudoTerminal`, `MemoryLink` for the path, `MemoryWaker` for the wait.
"""

import errno
import itertools
import threading
import time
from collections.abc import Callable

from cnxman._line.waiting import POLLHUP, POLLIN, POLLPRI

SCHEME = "simulated"

_CAPACITY = 4096
"""How many bytes wait for the host, as in a tty's buffer."""

_MOST_OF_HOST = 16384
"""How many bytes of the host's wait for the device."""

_numbers = itertools.count(1)
_ports: dict[str, "MemoryPort"] = {}
"""What is plugged in, by URL."""


class MemoryPort:
    """One plugging-in of the device.

    Args:
        url: what leads to it.
        wake: has the device's thread look here.
    """

    master = None
    """There is no descriptor to wait for."""

    def __init__(self, url: str, wake: Callable[[], None]) -> None:
        self.path = url
        self._wake = wake
        self._change = threading.Condition()
        self._to_host = bytearray()
        self._from_host = bytearray()
        self._is_open = False
        self._is_pulled = False
        self._discarded = False

    # -- the device's side; see `PseudoTerminal` ----------------------------------------------------------

    def state(self) -> int:
        """What `poll` would say: POLLHUP for as long as nobody has the port open."""
        with self._change:
            state = 0 if self._is_open else POLLHUP
            if self._from_host or self._discarded:
                state |= POLLIN
            return state | POLLPRI if self._discarded else state

    def read(self, limit: int) -> tuple[bytes, bool]:
        """What the host wrote, `limit` bytes at most, and whether it discarded its input."""
        with self._change:
            discarded, self._discarded = self._discarded, False
            data = b"" if discarded else bytes(self._from_host[:limit])
            del self._from_host[: len(data)]
            self._change.notify_all()
            if self._from_host:
                self._wake()  # nothing else has the device's thread come back for the rest
            return data, discarded

    def write(self, data: bytes) -> int:
        """Put on the line what there is room for, and return how many bytes that was; never waits."""
        with self._change:
            taken = data[: _CAPACITY - len(self._to_host)]
            self._to_host += taken
            self._change.notify_all()
            return len(taken)

    def is_drained(self) -> bool:
        """Whether the host has read all that was put on the line."""
        with self._change:
            return not self._to_host

    def close(self) -> None:
        """Hang up: whoever has the port open finds the line lost."""
        with self._change:
            self._is_pulled = True
            self._change.notify_all()

    # -- the host's side ----------------------------------------------------------------------------------

    def host_open(self) -> None:
        """The host opens the port; it discards what waited.

        Raises:
            OSError: another has it open.
        """
        with self._change:
            if self._is_open:
                raise OSError(errno.EBUSY, "the simulated port is open already")
            self._is_open = True
        self.host_discard()

    def host_close(self) -> None:
        """The host closes the port."""
        with self._change:
            self._is_open = False
            self._change.notify_all()
        self._wake()

    def host_discard(self) -> None:
        """The host discards its old input."""
        with self._change:
            self._to_host.clear()
            self._discarded = True
        self._wake()

    def host_waiting(self) -> int:
        """How many bytes wait for the host."""
        with self._change:
            self._check()
            return len(self._to_host)

    def host_read(self, most: int, timeout: float | None, is_cancelled: Callable[[], bool]) -> bytes:
        """Read up to so many bytes: all of them, unless the time, in seconds, is over before."""
        until = None if timeout is None else time.monotonic() + timeout
        data = bytearray()
        while True:
            with self._change:
                piece = self._to_host[: most - len(data)]
                del self._to_host[: len(piece)]
                data += piece
                if not data:
                    self._check()
                left = None if until is None else until - time.monotonic()
                is_over = len(data) == most or is_cancelled() or self._is_pulled or (left is not None and left <= 0)
                if not is_over and not piece:
                    self._change.wait(left)
            if piece:
                self._wake()
            if is_over:
                return bytes(data)

    def host_write(self, data: bytes, timeout: float | None, is_cancelled: Callable[[], bool]) -> int:
        """Write; returns how many bytes went out within the time, in seconds."""
        until = None if timeout is None else time.monotonic() + timeout
        sent = 0
        while True:
            with self._change:
                self._check()
                piece = data[sent : sent + _MOST_OF_HOST - len(self._from_host)]
                self._from_host += piece
                sent += len(piece)
                left = None if until is None else until - time.monotonic()
                is_over = sent == len(data) or is_cancelled() or (left is not None and left <= 0)
                if not is_over and not piece:
                    self._change.wait(left)
            self._wake()
            if is_over:
                return sent

    def host_wake(self) -> None:
        """End the waits of reads and writes that are cancelled."""
        with self._change:
            self._change.notify_all()

    def _check(self) -> None:
        if self._is_pulled:
            raise OSError(errno.EIO, "the simulated device was pulled out")


def find(url: str) -> MemoryPort:
    """What is plugged in at a URL.

    Raises:
        OSError: nothing is.
    """
    port = _ports.get(url)
    if port is None:
        raise OSError(errno.ENOENT, f"no simulated device is plugged in at {url}, in this process")
    return port


class MemoryLink:
    """The port's URL: always the same, and there while the device is plugged in."""

    def __init__(self) -> None:
        self.path = f"{SCHEME}://{next(_numbers)}"

    def show(self, port: MemoryPort) -> None:
        """Let the URL lead to this."""
        _ports[self.path] = port

    def hide(self) -> None:
        """Let it lead nowhere."""
        _ports.pop(self.path, None)

    def remove(self) -> None:
        """The device is gone for good."""
        self.hide()


class MemoryWaker:
    """A wait that another thread can end; see `cnxman.testing.pty.Waker`."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def wake(self) -> None:
        """End the wait that is under way, or else the next one."""
        self._event.set()

    def wait(self, timeout: float | None, _master: int | None, _events: int) -> bool:
        """Wait until woken, at most `timeout` seconds. A hang-up is never seen by waiting."""
        self._event.wait(timeout)
        self._event.clear()
        return False

    def close(self) -> None:
        """Nothing is held."""
