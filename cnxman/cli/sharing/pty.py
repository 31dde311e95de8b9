"""A pseudo-terminal that programs open like a serial port, under a name that stays: the link.

Nobody tells the owner of a pseudo-terminal that it was opened. So the hub looks now and then, as long as it isn't;
that it was closed is told at once, by a hang-up.
"""

import contextlib
import os
import select
import struct

from cnxman.cli.sharing.names import Lock, give_to, link_to, remove_link
from cnxman.cli.sharing.places import LineSettings, Place

try:
    import fcntl
    import termios
    import tty
except ImportError:  # Windows
    HAVE_PTYS = False
else:
    HAVE_PTYS = hasattr(select, "poll") and hasattr(termios, "TIOCPKT")

MOST = 4096
"""Bytes asked for at once; the kernel gives no more."""

_FLUSHED = 1  # TIOCPKT_FLUSHREAD: the client discarded what it hadn't read

_TCGETS2, _TERMIOS2 = 0x802C542A, struct.Struct("=4IB19B2I")  # Linux, on most processors
_BOTHER = 0o10000


class Pty:
    """One pseudo-terminal and its link. It is a client while somebody has it open.

    Args:
        place: where its link is to be, and for whom.

    Raises:
        OSError: it can't be made there; it says why, and nothing is left.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.name = place.path
        self.read_only = place.access.read_only
        self.position = 0
        self.interest = 0
        self.is_blocked = False
        self.is_open = False
        self.discarded = False
        """Whether the client has discarded its input since this was last set to False."""
        self.came_at = 0.0
        self.bytes_to = self.bytes_from = 0
        self._lock = Lock(place.path)
        try:
            self._make()
        except BaseException:
            self._lock.release()
            raise

    def _make(self) -> None:
        self._master, slave = os.openpty()
        try:
            self._poll = select.poll()
            self._poll.register(self._master, select.POLLIN)
            self.device = os.ttyname(slave)
            tty.setraw(slave, termios.TCSANOW)
            fcntl.ioctl(self._master, termios.TIOCPKT, struct.pack("i", 1))
            os.set_blocking(self._master, False)
            self._forget_speed()
            self._seen = self._settings()
            access = self.place.access
            give_to(self.device, 0o600 if access.mode is None else access.mode, access.group)
            self._text = link_to(self.device, self.place.path)
        except BaseException:
            os.close(self._master)
            raise
        finally:
            os.close(slave)  # before the first hang-up nothing tells whether somebody has it open

    def fileno(self) -> int:
        """The master's descriptor."""
        return self._master

    # -- what comes and goes ------------------------------------------------------------------------------

    def was_opened(self) -> bool:
        """Whether somebody has it open now, or has written and closed it again."""
        happened = self._state()
        return not happened & select.POLLHUP or bool(happened & select.POLLIN)

    def is_hung_up(self) -> bool:
        """Whether nobody has it open now."""
        return bool(self._state() & select.POLLHUP)

    def _state(self) -> int:
        return next((events for _, events in self._poll.poll(0)), 0)

    def read(self) -> bytes | None:
        """What the client wrote; None if there is nothing, b"" if it has closed the port."""
        while True:
            try:
                packet = os.read(self._master, MOST + 1)
            except BlockingIOError:
                return None
            except OSError:  # EIO: closed, and nothing is left
                packet = b""
            if len(packet) != 1:
                return packet[1:]  # what stands before data says that they are data
            self.discarded = self.discarded or bool(packet[0] & _FLUSHED)

    def write(self, data: memoryview) -> int:
        """Give the client what there is room for; returns how many bytes that was."""
        try:
            return os.write(self._master, data)
        except BlockingIOError:
            return 0

    def closed(self) -> None:
        """The client has closed it: what it left unread is nobody's.

        A client that kept others out (TIOCEXCL) leaves that behind, so that nobody could open it again: then there is
        a new pseudo-terminal under the same name.
        """
        try:
            slave = os.open(self.device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError:
            self._make_anew()
            return
        try:
            fcntl.ioctl(slave, termios.TIOCNXCL)
            termios.tcflush(slave, termios.TCIFLUSH)
        finally:
            os.close(slave)
        self._forget_flush()
        self._forget_speed()
        self._seen = self._settings()

    def _forget_flush(self) -> None:
        """Take the notice of our own flush out of the way: it would pass for a client's."""
        with contextlib.suppress(OSError):  # there is none
            os.read(self._master, 1)  # one byte never takes any data

    def _make_anew(self) -> None:
        remove_link(self.place.path, self._text)
        os.close(self._master)
        self._make()

    # -- settings -----------------------------------------------------------------------------------------

    def new_settings(self) -> LineSettings | None:
        """What the client has set, if that has changed since the last look."""
        now = self._settings()
        if now == self._seen:
            return None
        self._seen = now
        return now

    def _settings(self) -> LineSettings:
        """The client's side of the line: on the master these calls are about that."""
        flags = termios.tcgetattr(self._master)
        return LineSettings(
            baudrate=self._speed(flags[5]),
            stopbits=2 if flags[2] & termios.CSTOPB else 1,
            rtscts=bool(flags[2] & termios.CRTSCTS),
            xonxoff=bool(flags[0] & (termios.IXON | termios.IXOFF)),
        )

    def _speed(self, code: int) -> int:
        """The number behind a code of termios; one that has no code of its own is asked for in another way."""
        if code in _SPEEDS:
            return _SPEEDS[code]
        try:
            answer = fcntl.ioctl(self._master, _TCGETS2, bytes(_TERMIOS2.size))
        except OSError:  # another system, or another processor
            return code
        return int(_TERMIOS2.unpack(answer)[-1])

    def _forget_speed(self) -> None:
        """Set a speed that nobody uses.

        A client that asks for parity or 7 bits, which no pseudo-terminal has, is answered EINVAL by the C library
        unless something else has changed.
        """
        flags = termios.tcgetattr(self._master)
        flags[4] = flags[5] = termios.B50
        termios.tcsetattr(self._master, termios.TCSANOW, flags)

    def close(self) -> None:
        """Remove the link, if it is still ours, and hang up."""
        remove_link(self.place.path, self._text)
        os.close(self._master)
        self._lock.release()

    def __str__(self) -> str:
        return self.name


_SPEEDS: dict[int, int] = (
    {getattr(termios, name): int(name[1:]) for name in dir(termios) if name[0] == "B" and name[1:].isdecimal()}
    if HAVE_PTYS
    else {}
)
