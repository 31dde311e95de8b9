"""A port that is read and written by its descriptor.

`poll` waits for the descriptor and, in the same call, for the wake-up that a stop sets. So nothing is polled for, any
descriptor number will do (pyserial's `select` fails above 1023), and a wait ends at once.

Who may touch a descriptor: it must not be used after it is closed, for the number may be somebody else's by then.
Each non-blocking call on it is made with `lock` held, and so is the decision to close it. Whoever waits in
`poll` without the lock is accounted for: writers are counted, and readers are told to end before `close` is
called (see `cnxman._line.receive_buffer`).
"""

import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import serial

from cnxman import _fork
from cnxman._line.errors import HangUpError, MultipleReadersError, PeerClosedError, SilenceError
from cnxman._line.port import CHUNK, PYSERIAL, IncompleteWriteError, WriteLock, close_port, closed_error, stalled_error
from cnxman._line.url import is_socket
from cnxman._line.waiting import POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, Poller, new_poller
from cnxman._line.wakeup import WakeUp

try:
    import fcntl
    import termios
except ImportError:  # not a POSIX system
    _POSIX = False
else:
    _POSIX = True

_logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")

MORE = 1024
"""A read that gives this much or more is likely to have left something: read on before telling anybody."""

DRAIN = 0.2
"""How long, in seconds, closing waits for what was written to go out. The kernel by itself would wait up to 30 s."""

EMPTY_READS = 100
"""So many times in a row the port may say that there is something to read, and then there is nothing."""


def has_descriptor(port: serial.Serial) -> bool:
    """Whether reading the descriptor is all that the port's own `read` does."""
    if not _POSIX:
        return False
    kind = type(port)
    # PosixPollSerial's read, besides, raises an UnboundLocalError when nothing has come by its time-out.
    reads = (PYSERIAL.read, serial.PosixPollSerial.read)
    own = getattr(kind, "read", None) in reads and getattr(kind, "write", None) is PYSERIAL.write
    return own or is_socket(port)


class _PosixReader:
    """How one thread waits for a line's input; see `cnxman._line.port.Reader`."""

    def __init__(self, line: "PosixLine") -> None:
        self._line = line
        self._poller = line.poller()
        self._poller_for_loss: Poller | None = None

    def wait(self) -> int:
        """See `Reader.wait`."""
        return self._line.wait(self._poller)

    def wait_for_loss(self, timeout: float) -> int:
        """See `Reader.wait_for_loss`."""
        if self._poller_for_loss is None:
            self._poller_for_loss = self._line.poller_for_loss()
        return self._line.poll_hang_up(self._poller_for_loss, timeout)


class PosixLine:
    """A port that is read and written by its descriptor.

    Args:
        port: an open port.
        idle_timeout: raise `SilenceError` when nothing came for so many seconds; None waits for ever.
    """

    def __init__(self, port: serial.Serial, idle_timeout: float | None) -> None:
        self.port = port
        self.lock = threading.Lock()
        self.closed = False
        self.stopped = False
        self._idle = idle_timeout
        self._fd: int = port.fileno()
        self._is_socket = is_socket(port)
        self._empty_reads = 0
        self._changed: threading.Condition | None = None
        self._writers = 0
        self._write_lock = WriteLock()
        self._wakeup = WakeUp()
        _fork.after_in_child(self, PosixLine.abandon)

    @property
    def is_open(self) -> bool:
        """See `Line.is_open`."""
        return not (self.closed or self.stopped)

    @property
    def _change(self) -> threading.Condition:
        """Notified of writers that leave, and of a stop. Made when it is needed, as most lines never do; lock held."""
        if self._changed is None:
            self._changed = threading.Condition(self.lock)
        return self._changed

    # -- reading ------------------------------------------------------------------------------------------

    def reader(self) -> "_PosixReader":
        """See `ReadableLine.reader`."""
        return _PosixReader(self)

    def poller(self) -> Poller:
        """A poll object for one more thread that waits for something to read."""
        poller = self._poller_for(POLLIN)
        # pyserial's own pipe: its end hangs up when somebody else closes the port under us, which poll would not tell.
        watch = getattr(self.port, "pipe_abort_read_r", None)
        if watch is not None:
            poller.register(watch, POLLIN)
        return poller

    def poller_for_loss(self) -> Poller:
        """A poll object that reports nothing but the wake-up and a hang-up, which macOS reports only when asked for."""
        return self._poller_for(POLLHUP)

    def _poller_for(self, events: int) -> Poller:
        poller = new_poller(self._fd)
        poller.register(self._fd, events)
        poller.register(self._wakeup.fileno(), POLLIN)
        return poller

    def wait(self, poller: Poller) -> int:
        """Wait for something to read.

        Returns:
            poll's events for the port; 0 once the line was stopped.

        Raises:
            SilenceError: when nothing came for `idle_timeout` seconds.
            OSError: if the port was closed by somebody else.
        """
        while self.is_open:
            if not self.port.is_open:
                raise _closed_elsewhere_error()
            found = poller.poll(None if self._idle is None else self._idle * 1000)
            if len(found) == 1 and found[0][0] == self._fd and not found[0][1] & POLLNVAL:
                return found[0][1]
            events = self._sort_events(poller, dict(found))
            if events:
                return events
        return 0

    def _sort_events(self, poller: Poller, found: dict[int, int]) -> int:
        """What `wait` found besides the port being ready: a stop, a time-out, pyserial's own pipe."""
        if not self.is_open:
            return 0
        if not found:
            raise silence_error(self._idle)
        if found.get(self._fd, 0) & POLLNVAL:  # closed, so the number may be another file's in a moment
            raise _closed_elsewhere_error()
        for number in found.keys() - {self._fd}:  # somebody has called the port's close, or its cancel_read
            if found[number] & (POLLHUP | POLLNVAL):
                raise _closed_elsewhere_error()
            poller.unregister(number)
        return found.get(self._fd, 0)

    def poll_hang_up(self, poller: Poller, timeout: float) -> int:
        """Wait up to `timeout` seconds for a hang-up, with a poller for losses; poll's events, or 0."""
        return next((events for number, events in poller.poll(timeout * 1000) if number == self._fd), 0)

    def in_waiting(self) -> int:
        """See `ReadableLine.in_waiting`."""
        return self.port.in_waiting

    def read_available(self, events: int, most: int = CHUNK) -> bytes:
        """What there is to read, up to `most` bytes. The lock is held, and `events` are those of `wait`.

        Returns:
            b"" if there was nothing after all.

        Raises:
            OSError: if the line is lost.
        """
        try:
            data = os.read(self._fd, most)
        except BlockingIOError:
            return b""
        if not data:
            return self._empty_read(events)
        self._empty_reads = 0
        if MORE <= len(data) < most:
            return self._read_on(data, most)
        return data

    def _read_on(self, data: bytes, most: int) -> bytes:
        parts, size = [data], len(data)
        while len(data) >= MORE and size < most:
            try:
                data = os.read(self._fd, most - size)
            except OSError:
                break  # nothing more now; if it is the end, the next wait tells
            parts.append(data)
            size += len(data)
        return b"".join(parts)

    def _empty_read(self, events: int) -> bytes:
        """An empty read: a hang-up, or somebody else was quicker. Only poll's events tell them apart."""
        if self._is_socket:
            raise PeerClosedError(errno.ECONNRESET, "the far end closed the connection")
        if events & (POLLHUP | POLLERR):
            raise HangUpError(errno.EIO, "the port hung up")
        self._empty_reads += 1
        if self._empty_reads >= EMPTY_READS:
            raise MultipleReadersError(errno.EIO, "ready to be read, but there is nothing")
        return b""

    # -- writing ------------------------------------------------------------------------------------------

    def write(self, data: bytes, timeout: float | None) -> int:
        """Write all of `data`; see `Line.write`.

        Raises:
            IncompleteWriteError: it says how much went out.
        """
        sent = 0
        try:
            with self._write_lock.held(timeout):
                began = time.monotonic()
                while sent < len(data):
                    sent += self.write_some(data, sent)
                    if sent < len(data):
                        self._wait_for_room(timeout, began)
        except OSError as error:
            raise IncompleteWriteError(sent, error) from error
        return sent

    def try_begin_write(self) -> bool:
        """Begin a message whose writing never waits, unless somebody else is writing. `end_write` ends it."""
        return self._write_lock.try_acquire()

    def end_write(self) -> None:
        """Let others write."""
        self._write_lock.release()

    def write_some(self, data: bytes, start: int) -> int:
        """Write what the line takes now of `data[start:]`, between `try_begin_write` and `end_write`.

        Raises:
            OSError: the line is lost, or closed.
        """
        with self.lock:
            if self.closed or self.stopped:
                raise closed_error()
            try:
                written = os.write(self._fd, memoryview(data)[start:])
            except BlockingIOError:
                return 0
        if written:
            self._write_lock.progress()
        return written

    def _wait_for_room(self, timeout: float | None, began: float) -> None:
        with self.lock:
            if self.closed or self.stopped:
                raise closed_error()
            self._writers += 1
        try:
            poller = self._poller_for(POLLOUT)
            left = None if timeout is None else self._write_lock.remaining(timeout, began)
            if not poller.poll(None if left is None else left * 1000):
                raise stalled_error(timeout)
        finally:
            with self.lock:
                self._writers -= 1
                self._change.notify_all()

    # -- the port itself, and its end ---------------------------------------------------------------------

    def use(self, what: Callable[[serial.Serial], _Result]) -> _Result:
        """Do something short with the port, which is certainly open meanwhile.

        Raises:
            OSError: if it is closed.
        """
        with self.lock:
            if self.closed or self.stopped:
                raise closed_error()
            return what(self.port)

    def wait_for_stop(self, timeout: float) -> None:
        """See `Line.wait_for_stop`."""
        with self.lock:
            self._change.wait_for(lambda: self.stopped, timeout)

    def abandon(self) -> None:
        """In a forked child: it is closed. The port itself is closed by `cnxman._line.port.abandon_port`."""
        was_closed, self.stopped, self.closed = self.closed, True, True
        if not was_closed:
            self._wakeup.close()
        if self.lock.locked():  # by a thread that is not here, while the listener's may be
            self.lock.release()

    def stop(self) -> None:
        """Make reads and writes return soon."""
        with self.lock:
            self._stop()

    def _stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            self._wakeup.set()
            self._change.notify_all()

    def close(self) -> None:
        """Close the port, after what keeps others out of it was released. Twice does nothing."""
        with self.lock:
            if self.closed:
                return
            self._stop()
            self.closed = True
            self._change.wait_for(lambda: not self._writers)
        try:
            if not self._is_socket and self.port.is_open:  # else the number may be somebody else's by now
                _drain(self._fd)
                if self.port.exclusive:
                    clear_exclusive(self.port)
            close_port(self.port)
        finally:
            self._wakeup.close()


def silence_error(idle_timeout: float | None) -> SilenceError:
    """What a line is lost with on which nothing comes."""
    return SilenceError(errno.ETIMEDOUT, f"nothing came from it for {idle_timeout} s")


def _closed_elsewhere_error() -> OSError:
    return OSError(errno.EBADF, "the port was closed by somebody else")


def set_exclusive(port: serial.Serial) -> None:
    """Set TIOCEXCL where there is such a thing: from then on nobody but root can open the port.

    (pyserial's `exclusive` is a flock, which keeps out only those who ask for one as well.)
    """
    if has_descriptor(port) and not is_socket(port):
        fcntl.ioctl(port.fileno(), termios.TIOCEXCL)


def clear_exclusive(port: serial.Serial) -> None:
    """Let others in again. Before closing: a forked child's copy of the descriptor would keep them out."""
    for undo in (
        lambda: fcntl.ioctl(port.fileno(), termios.TIOCNXCL),
        lambda: fcntl.flock(port.fileno(), fcntl.LOCK_UN),
    ):
        try:
            undo()
        except OSError as error:
            _logger.debug("releasing %s: %s", port.port, error)  # lost: then nothing is held either


def close_unused(port: serial.Serial) -> None:
    """Close a port of which no line has been made."""
    if port.is_open and has_descriptor(port) and not is_socket(port) and port.exclusive:
        clear_exclusive(port)
    close_port(port)


def _drain(fd: int) -> None:
    """Give what was written a moment to go out, then drop the rest, so that closing does not wait for it."""
    until = time.monotonic() + DRAIN
    try:
        while _out_waiting(fd) and time.monotonic() < until:
            time.sleep(0.005)
        termios.tcflush(fd, termios.TCOFLUSH)
    except (OSError, termios.error) as error:
        _logger.debug("nothing more goes out: %s", error)


def _out_waiting(fd: int) -> int:
    answer: bytes = fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0\0\0\0")
    return int.from_bytes(answer, "little")
