"""An open port, made safe to share between threads that read, write, and close it: what the two kinds have in common.

* `cnxman._line.posix`: pyserial's own POSIX port, and `socket://`, by their descriptor.
* `cnxman._line.url`: every other port (`spy://`, `loop://`, `rfc2217://`, Windows), by its own methods.

Which one it is is chosen once per port, in `cnxman._listener`.
"""

import contextlib
import errno
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import serial

from cnxman import _fork

_logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")

CHUNK = 64 * 1024
"""The most bytes handed on at once. (Reads of 128 KB and more make malloc map and unmap memory each time.)"""


class Line(Protocol):
    """What everybody but the reader needs of an open port."""

    port: serial.Serial

    @property
    def is_open(self) -> bool:
        """Whether the port is open, and nobody has said that it is to be closed. Answers at once."""

    def write(self, data: bytes, timeout: float | None) -> int:
        """Write all of `data`, from any thread, unmixed with other threads' data."""

    def use(self, what: Callable[[serial.Serial], _Result]) -> _Result:
        """Do something short with the port while it is certainly open."""

    def wait_for_stop(self, timeout: float) -> None:
        """Wait `timeout` seconds, or until the line is stopped."""

    def stop(self) -> None:
        """Make reads and writes return soon. From any thread, any number of times."""

    def close(self) -> None:
        """Close the port. No other thread may be reading then."""


class WriteTurn:
    """Lets one message through at a time, and knows when the line last took anything."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._progress = 0.0

    def progress(self) -> None:
        """The line took something."""
        self._progress = time.monotonic()

    @contextlib.contextmanager
    def taken(self, timeout: float | None) -> Iterator[None]:
        """Take the turn; raises TimeoutError when whoever has it makes no progress for `timeout` seconds."""
        came = time.monotonic()
        while not self._turn.acquire(timeout=-1 if timeout is None else self.left(timeout, came)):
            if not self.left(timeout or 0.0, came):
                raise stalled(timeout)
        try:
            yield
        finally:
            self._turn.release()

    def left(self, timeout: float, since: float) -> float:
        """How many of `timeout` seconds are left, counted from `since` or from the last progress if that is later."""
        return max(0.0, max(since, self._progress) + timeout - time.monotonic())


def stalled(timeout: float | None) -> TimeoutError:
    """What a write fails with when the line takes nothing."""
    return TimeoutError(errno.ETIMEDOUT, f"the line took nothing for {timeout} s (does flow control hold it?)")


def closed() -> OSError:
    """What a call fails with when the line is, or is being, closed."""
    return OSError(errno.ENOTCONN, "the line was closed meanwhile")


def open_port(port: serial.Serial) -> None:
    """Open a port; after a fork it is the parent's."""
    _fork.in_child(port, leave_port)
    with _in_one_piece(port):
        port.open()


def close_port(port: serial.Serial) -> None:
    """Close a port, which may be lost. What closing raises then is of interest to nobody but a log."""
    network = getattr(port, "_socket", None)
    try:
        with _in_one_piece(port):
            port.close()
    except Exception as error:
        _logger.debug("closing %s raised", port.port, exc_info=error)
    if isinstance(network, socket.socket):
        network.close()  # pyserial forgets to if the far end has reset the connection


def _in_one_piece(port: serial.Serial) -> contextlib.AbstractContextManager[None]:
    """No fork within, where that takes milliseconds; a network port may take seconds."""
    return _fork.held_off() if isinstance(port, serial.Serial) else contextlib.nullcontext()


def leave_port(port: serial.Serial) -> None:
    """In a forked child: close the copies of the descriptors, without a word to the device or to the far end."""
    for name in ("fd", "pipe_abort_read_r", "pipe_abort_read_w", "pipe_abort_write_r", "pipe_abort_write_w"):
        number = getattr(port, name, None)
        if number is not None:
            setattr(port, name, None)
            with contextlib.suppress(OSError):  # somebody was just closing it
                os.close(number)
    network = getattr(port, "_socket", None)
    if isinstance(network, socket.socket):
        network.close()  # or the port's own close, at the child's end, would shut down the parent's connection
    port.is_open = False
