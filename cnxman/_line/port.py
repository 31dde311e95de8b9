"""An open port, safe to share between threads that read, write and close it: what all kinds of line have in common.

* `cnxman._line.posix`: pyserial's own POSIX port, and `socket://`, by their descriptor.
* `cnxman._line.windows`: Windows' own ports, by their own methods.
* `cnxman._line.url`: every other port (`spy://`, `loop://`, `rfc2217://`), by its own methods.

The last two share `cnxman._line.calls`.

Which one it is is chosen once for each opening, in `cnxman._line.kinds`.
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
from cnxman._line.windows_errors import windows_error

_logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")

PYSERIAL: type[serial.Serial] = serial.__dict__.get("Serial", object)
"""pyserial's class, as it was at first: a program may put `cnxman.compat.Serial` in the place of `serial.Serial`."""

CHUNK = 64 * 1024
"""The most bytes handed on at once. (Reads of 128 KB and more make malloc map and unmap memory each time.)"""

READ_SLICE = 0.1
"""How long, in seconds, one read by a port's own method waits: a stop takes that long, too."""


class Line(Protocol):
    """What everybody but the reader needs of an open port."""

    @property
    def port(self) -> serial.Serial:
        """Pyserial's port."""

    @property
    def is_open(self) -> bool:
        """Whether the port is open, and nobody has asked to close it. Answers at once."""

    def write(self, data: bytes, timeout: float | None) -> int:
        """Write all of `data`, from any thread, unmixed with other threads' data.

        Raises:
            IncompleteWriteError: it did not go out, or only in part.
        """

    def use(self, what: Callable[[serial.Serial], _Result]) -> _Result:
        """Do something short with the port while it is certainly open.

        Raises:
            OSError: if it is closed.
        """

    def wait_for_stop(self, timeout: float) -> None:
        """Wait `timeout` seconds, or until the line is stopped."""

    def stop(self) -> None:
        """Make reads and writes return soon. From any thread, any number of times."""

    def close(self) -> None:
        """Close the port. No other thread may be reading then."""


class Reader(Protocol):
    """How one thread waits for a line's input."""

    def wait(self) -> int:
        """Wait for something to read.

        Returns:
            What to tell `ReadableLine.read_available`; 0 once the line was stopped.

        Raises:
            Exception: the line is lost, or has been silent for too long.
        """

    def wait_for_loss(self, timeout: float) -> int:
        """Wait up to `timeout` seconds for a loss, without reading. Returns, and raises, as `wait` does; or 0."""


class ReadableLine(Line, Protocol):
    """A line's input, for a `ReceiveBuffer`: threads take turns in reading it."""

    lock: threading.Lock
    """Held during each read, and at each change of who reads."""
    stopped: bool

    def reader(self) -> Reader:
        """What one more thread waits with."""

    def read_available(self, events: int, most: int = CHUNK) -> bytes:
        """What there is to read, up to `most` bytes. The lock is held, and `events` are those of the wait.

        Returns:
            b"" if there was nothing after all.

        Raises:
            Exception: the line is lost.
        """

    def in_waiting(self) -> int:
        """How many bytes wait to be read. Raises what the port does if it is lost."""


class Source(Protocol):
    """Where the reading thread takes an open port's data from."""

    def read(self) -> bytes:
        """The next bytes to deliver; b"" once the line was stopped. A delivery begins with the return.

        Raises:
            Exception: what the line's loss raised, after everything that was read before it.
        """

    def begin_delivery(self) -> None:
        """A delivery begins that has no data from here: that of OPENED."""

    def end_delivery(self) -> None:
        """The delivery that began last is over."""

    @property
    def is_delivering(self) -> bool:
        """Whether the reading thread is busy with receivers, so that the port may be closed under it."""

    def is_drained(self) -> bool:
        """Whether all that has come by now was delivered. From any thread; raises what the port does if it is lost."""

    def end(self) -> None:
        """Stop the line and close it. On the reading thread or, while that is busy with receivers, for it."""


class IncompleteWriteError(Exception):
    """A message did not go out, or only in part; its `__cause__` says why.

    Args:
        written: how many bytes went out.
        cause: what stopped it.
    """

    def __init__(self, written: int, cause: Exception) -> None:
        super().__init__(f"{written} bytes were written: {cause}")
        self.written = written
        self.cause = cause


class WriteLock:
    """Lets one message through at a time, and knows when the line last took anything."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_progress = 0.0

    def try_acquire(self) -> bool:
        """Take the lock if nobody has it."""
        return self._lock.acquire(blocking=False)

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()

    def progress(self) -> None:
        """The line took something."""
        self._last_progress = time.monotonic()

    @contextlib.contextmanager
    def held(self, timeout: float | None) -> Iterator[None]:
        """Hold the lock; raises TimeoutError when its holder makes no progress for `timeout` seconds."""
        came = time.monotonic()
        while not self._lock.acquire(timeout=-1 if timeout is None else self.remaining(timeout, came)):
            if not self.remaining(timeout or 0.0, came):
                raise stalled_error(timeout)
        try:
            yield
        finally:
            self._lock.release()

    def remaining(self, timeout: float, since: float) -> float:
        """How many of `timeout` seconds are left, counted from `since` or from the last progress if that is later."""
        return max(0.0, max(since, self._last_progress) + timeout - time.monotonic())


def stalled_error(timeout: float | None) -> TimeoutError:
    """What a write fails with when the line takes nothing."""
    return TimeoutError(errno.ETIMEDOUT, f"the line took nothing for {timeout} s (does flow control stop it?)")


def closed_error() -> OSError:
    """What a call fails with when the line is, or is being, closed."""
    return OSError(errno.ENOTCONN, "the line was closed meanwhile")


def open_port(port: serial.Serial) -> None:
    """Open a port of pyserial's.

    Raises:
        Exception: what pyserial raises; on Windows with an errno and a hint.
    """
    _fork.after_in_child(port, abandon_port)
    try:
        with _fork_guard(port):
            port.open()
    except Exception as error:
        explained = windows_error(error, opening=True)
        if explained is None:
            raise
        raise explained from error


def close_port(port: serial.Serial) -> None:
    """Close a port, which may be lost. What closing raises then is of interest to nobody but a log."""
    network = getattr(port, "_socket", None)
    try:
        with _fork_guard(port):
            port.close()
    except Exception as error:
        _logger.debug("closing %s raised", port.port, exc_info=error)
        if isinstance(getattr(port, "_thread", None), threading.Thread):
            setattr(port, "_thread", None)  # noqa: B010 (rfc2217's; of an opening that failed half way: never started)
        # Else its destructor closes the descriptor's number once more, which may be another file's by then.
        if getattr(port, "fd", None) is not None:
            port.fd = None
            abandon_port(port)  # what is left of it: pyserial's pipes
        port.is_open = False
    if isinstance(network, socket.socket):
        network.close()  # pyserial forgets to if the far end has reset the connection


def _fork_guard(port: serial.Serial) -> contextlib.AbstractContextManager[None]:
    """Block forks while a port opens or closes; but not for a network port, which may take seconds."""
    return _fork.no_fork() if isinstance(port, serial.Serial) else contextlib.nullcontext()


def abandon_port(port: serial.Serial) -> None:
    """In a forked child: close the copies of the descriptors, without a word to the device or to the far end."""
    for name in ("fd", "pipe_abort_read_r", "pipe_abort_read_w", "pipe_abort_write_r", "pipe_abort_write_w"):
        number = getattr(port, name, None)
        if number is not None:
            setattr(port, name, None)
            with contextlib.suppress(OSError):  # another thread was just closing it
                os.close(number)
    network = getattr(port, "_socket", None)
    if isinstance(network, socket.socket):
        network.close()  # or the port's own close, at the child's end, would shut down the parent's connection
    port.is_open = False
