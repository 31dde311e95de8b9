"""Standard input, output and error as bare descriptors: what is written is out when the call returns.

Python's own `sys.stdout` collects, translates line ends, and complains at the end of a process whose pipe was closed.
"""

import errno
import os
import select
import stat

from cnxman.cli import windows_console

STDIN, STDOUT, STDERR = 0, 1, 2

_MOST = 64 * 1024
"""The most bytes taken by one read."""


def open_the_missing() -> None:
    """Let standard input, output and error lead to nowhere where the caller closed them.

    Otherwise the serial port would get the first free number, and messages meant for people would go to the device.
    """
    for number in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, so this one


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`, for as long as that takes.

    Raises:
        BrokenPipeError: the pipe's other end was closed.
        OSError: it can't be written, for example because the disk is full.
    """
    while True:
        try:
            written = os.write(descriptor, data)
        except BlockingIOError:  # another process made the pipe we share non-blocking
            select.select([], [descriptor], [])
        except OSError as error:
            if error.errno == errno.EINVAL and is_pipe(descriptor):  # Windows' word for it
                raise BrokenPipeError(errno.EPIPE, "nobody reads the pipe any more") from error
            raise
        else:
            if written == len(data):
                return
            data = data[written:]


def read_some(descriptor: int) -> bytes:
    """Wait for something to read, and return it; b"" at the end of input."""
    while True:
        try:
            return os.read(descriptor, _MOST)
        except BlockingIOError:
            select.select([descriptor], [], [])
        except OSError:  # a terminal that was closed answers EIO: its end of input
            return b""


def is_pipe(descriptor: int) -> bool:
    """Whether somebody else is at its other end, who may go away."""
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def is_abandoned(descriptor: int) -> bool:
    """Whether this is a pipe that nobody reads any more, as far as the system tells without a write."""
    if not is_pipe(descriptor):
        return False
    if windows_console.console is not None:
        return windows_console.console.is_abandoned(descriptor)
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLHUP)  # asked for, since macOS tells nothing else
    return bool(poll.poll(0))
