"""The pseudo-terminal of a simulated device, the path that leads to it, and a wait for it."""

import contextlib
import errno
import itertools
import os
import select
import shutil
import struct
import sys
import tempfile

from cnxman import _fork

try:
    import fcntl
    import termios
    import tty
except ImportError:  # Windows
    HAVE_PTYS = False
else:
    HAVE_PTYS = hasattr(select, "poll") and hasattr(termios, "TIOCPKT")

CHUNK = 4096  # bytes: more than this a pty rarely takes or gives at once

_QUIET = 5  # milliseconds without anything to read, after which a host has read all

# What a read from the master of a pty in packet mode begins with: see tty_ioctl(4).
_PACKET_DATA = 0
_PACKET_FLUSHREAD = 1
_PACKET_IOCTL = 64

_EXTPROC = 0o200000 if sys.platform == "linux" else 0
"""Linux's flag that makes packet mode tell of changed settings, too. The termios module doesn't know it. In raw mode it
does nothing else."""


class PseudoTerminal:
    """One plugging-in of the device: a pty in raw mode, of which only the master stays open here.

    While the slave was open here too, nobody would see a host close it: so it is opened for moments only. The
    pty is in packet mode, which tells when a host discards its old input, and when it changes a setting.

    A pty has neither parity nor 7 bits. glibc's tcsetattr takes that for a failure (EINVAL) if nothing else has
    changed by the time it returns, so at the second opening with the same settings. Hence a flag without a meaning in
    raw mode is set again whenever a host, which wants a raw line, has cleared it; each time another one than before.
    """

    def __init__(self) -> None:
        self._flags = itertools.cycle((termios.ECHOK, termios.ECHOE))
        self.master, slave = os.openpty()
        try:
            self.path = os.ttyname(slave)
            tty.setraw(slave, termios.TCSANOW)
            self._have_settings_told(slave)
            fcntl.ioctl(self.master, termios.TIOCPKT, struct.pack("i", 1))
            os.set_blocking(self.master, False)
        except BaseException:
            os.close(self.master)
            raise
        finally:
            os.close(slave)  # the first hang-up: before it, the master can't tell that nobody has the port open
        _fork.after_in_child(self, PseudoTerminal.abandon)

    def state(self) -> int:
        """Return what `poll` says about the master: POLLHUP for as long as nobody has the port open."""
        poll = select.poll()
        poll.register(self.master, select.POLLIN | select.POLLPRI)
        events = poll.poll(0)
        return events[0][1] if events else 0

    @staticmethod
    def _have_settings_told(slave: int) -> None:
        settings = termios.tcgetattr(slave)
        settings[3] |= _EXTPROC
        termios.tcsetattr(slave, termios.TCSANOW, settings)

    def _let_settings_change(self) -> None:
        """See to it that the host's next change of settings changes something."""
        settings = termios.tcgetattr(self.master)
        if not settings[3] & (termios.ECHOK | termios.ECHOE):  # else it was this that was told of
            settings[3] |= next(self._flags)
            termios.tcsetattr(self.master, termios.TCSANOW, settings)

    def read(self, limit: int) -> tuple[bytes, bool]:
        """Return what the host wrote, `limit` bytes at most, and whether it discarded its input."""
        try:
            packet = os.read(self.master, limit + 1)
        except OSError as error:
            # EAGAIN: there is nothing; EIO: there is nothing, and nobody has the port open.
            if error.errno not in (errno.EAGAIN, errno.EIO):
                raise
            return b"", False
        if not packet:  # BSD's word, and macOS's, for: nobody has the port open
            return b"", False
        if packet[0] == _PACKET_DATA:
            return packet[1:], False
        if packet[0] & _PACKET_IOCTL:
            self._let_settings_change()
        return b"", bool(packet[0] & _PACKET_FLUSHREAD)

    def write(self, data: bytes) -> int:
        """Put on the line what there is room for, and return how many bytes that was; never waits."""
        try:
            return os.write(self.master, data)
        except BlockingIOError:
            return 0

    def is_drained(self) -> bool:
        """Tell whether the host has read all that was put on the line.

        Only the slave's side knows. `poll` counts what the kernel is still carrying over; FIONREAD doesn't. Yet
        for a moment, while a host's read has made room and the kernel has more to carry over, nothing is there for
        `poll` either: so it has to stay so for a while.

        Raises:
            OSError: the host is another process, and keeps others out (TIOCEXCL).

        """
        slave = self._slave()
        try:
            poll = select.poll()
            poll.register(slave, select.POLLIN)
            return not poll.poll(_QUIET)
        finally:
            os.close(slave)

    def _slave(self) -> int:
        """A descriptor of the slave: a new one, or a copy of the host's, where that is in this process."""
        try:
            return os.open(self.path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError as error:
            copy = self._copy_of_ours() if error.errno == errno.EBUSY else None
            if copy is None:
                raise
            return copy

    def _copy_of_ours(self) -> int | None:
        tty_number = os.stat(self.path).st_rdev
        for number in os.listdir("/dev/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
                if os.fstat(int(number)).st_rdev == tty_number:
                    return os.dup(int(number))
        return None

    def close(self) -> None:
        """Hang up: whoever has the port open finds the line lost."""
        with _fork.no_fork():
            master, self.master = self.master, -1
            os.close(master)

    def abandon(self) -> None:
        """In a forked child: close the copy of the master, or the parent's could hang nothing up."""
        if self.master >= 0:
            os.close(self.master)
            self.master = -1


class PortLink:
    """The path of the port: a link, always at the same place, to the pty of the moment."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="cnxman-")
        self.path = os.path.join(self._folder, "tty")

    def show(self, target: str) -> None:
        """Let the path lead to `target`; nobody ever finds half a link."""
        new = self.path + ".new"
        os.symlink(target, new)
        os.replace(new, self.path)

    def hide(self) -> None:
        """Take the path away, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def remove(self) -> None:
        """Remove the folder that the link was in."""
        shutil.rmtree(self._folder)


class Waker:
    """A wait for a pty that another thread can end."""

    def __init__(self) -> None:
        self._out, self._in = os.pipe()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)

    def wake(self) -> None:
        """End the wait that is under way, or else the next one."""
        with contextlib.suppress(BlockingIOError):  # full: one waking is enough
            os.write(self._in, b"!")

    def wait(self, timeout: float | None, master: int | None, events: int) -> bool:
        """Wait until woken, at most `timeout` seconds, or for one of the master's events, or for its hang-up.

        Returns:
            Whether it was a hang-up: the host may have opened the port again since, so nothing else would
            tell.

        """
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        if master is not None:
            poll.register(master, events)
        happened = dict(poll.poll(None if timeout is None else timeout * 1000))
        with contextlib.suppress(BlockingIOError):
            os.read(self._out, CHUNK)
        return master is not None and bool(happened.get(master, 0) & select.POLLHUP)

    def close(self) -> None:
        """Give back the descriptors."""
        os.close(self._in)
        os.close(self._out)
