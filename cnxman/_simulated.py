"""What a simulated device is made of: the pseudo-terminal, one direction of the line with its faults, the answering."""

import contextlib
import os
import random
import select
import shutil
import struct
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

try:
    import fcntl
    import termios
    import tty
except ImportError:  # Windows
    HAVE_PTYS = False
else:
    HAVE_PTYS = hasattr(select, "poll") and hasattr(termios, "TIOCPKT")

CHUNK = 4096  # bytes moved in one step
BITS_PER_BYTE = 10  # start bit, eight data bits, stop bit

# What a read from the master of a pty in packet mode begins with (tty_ioctl(4)).
_PACKET_DATA = 0
_PACKET_FLUSHREAD = 1


class PseudoTerminal:
    """One plugging-in of the device: a pty in raw mode, of which the device keeps the master and never the slave.

    While a descriptor of the slave is open here, a host's close would not be seen: it is opened for moments only. The
    pty is in packet mode, which tells when the host discards its old input.
    """

    def __init__(self) -> None:
        self.master, slave = os.openpty()
        try:
            self.path = os.ttyname(slave)
            tty.setraw(slave, termios.TCSANOW)
            fcntl.ioctl(self.master, termios.TIOCPKT, struct.pack("i", 1))
            os.set_blocking(self.master, False)
        except BaseException:
            os.close(self.master)
            raise
        finally:
            os.close(slave)  # also the hang-up that says from now on that nobody has the port open

    def state(self) -> int:
        """Return what `poll` says about the master now: POLLHUP stands for as long as nobody has the port open."""
        poll = select.poll()
        poll.register(self.master, select.POLLIN | select.POLLPRI)
        events = poll.poll(0)
        return events[0][1] if events else 0

    def read(self, limit: int) -> tuple[bytes, bool]:
        """Return what the host wrote, at most `limit` bytes, and whether it discarded its input; never waits."""
        try:
            packet = os.read(self.master, limit + 1)
        except BlockingIOError:
            return b"", False
        except OSError:  # EIO: nobody has the port open, and all that was written has been read
            return b"", False
        if packet[0] == _PACKET_DATA:
            return packet[1:], False
        return b"", bool(packet[0] & _PACKET_FLUSHREAD)

    def write(self, data: bytes) -> int:
        """Put on the line what there is room for, and return how many bytes that was; never waits."""
        try:
            return os.write(self.master, data)
        except BlockingIOError:
            return 0

    def is_drained(self) -> bool:
        """Tell whether the host has read all that was put on the line.

        Only the slave's side knows. `poll` there, unlike FIONREAD, counts also what the kernel is still carrying over.
        """
        slave = os.open(self.path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            poll = select.poll()
            poll.register(slave, select.POLLIN)
            return not poll.poll(0)
        finally:
            os.close(slave)

    def close(self) -> None:
        """Hang up: whoever has the port open finds the line lost."""
        os.close(self.master)


class Socket:
    """The place the device is plugged into: a link, always the same, to the pty of the moment."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="cnxman-")
        self.path = os.path.join(self._folder, "tty")

    def show(self, target: str) -> None:
        """Let the port's path lead to `target`, at once and whole: nobody finds half a link."""
        new = self.path + ".new"
        os.symlink(target, new)
        os.replace(new, self.path)

    def hide(self) -> None:
        """Take the port's path away."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def remove(self) -> None:
        """Remove the folder that the link was in."""
        shutil.rmtree(self._folder)


Direction = Literal["sent", "received"]


@dataclass(frozen=True)
class Mark:
    """Something that happens when the stream comes to byte number `at`."""

    at: int
    kind: Literal["stall", "delay", "cut"]
    seconds: float = 0.0


class Stream:
    """The bytes of one direction: counted, and hurt where a fault was ordered.

    The same seed, faults and bytes give the same outcome, however the bytes are cut into chunks.
    """

    def __init__(self, seed: int | str) -> None:
        self.position = 0
        self.held_until = 0.0
        self._random = random.Random(seed)  # noqa: S311 (to be repeated is what it is for)
        self._marks: list[Mark] = []
        self._dropped: list[range] = []
        self._corrupted: list[range] = []
        self._drop_share = 0.0
        self._corrupt_share = 0.0

    def mark(self, mark: Mark) -> None:
        """Order something for the time when the stream comes to a byte."""
        self._marks.append(mark)
        self._marks.sort(key=lambda mark: mark.at)

    def drop(self, at: int, count: int) -> None:
        """Order the loss of `count` bytes."""
        self._dropped.append(range(self.position + at, self.position + at + count))

    def corrupt(self, at: int, count: int) -> None:
        """Order that each of `count` bytes has one bit wrong."""
        self._corrupted.append(range(self.position + at, self.position + at + count))

    def noise(self, drop: float, corrupt: float) -> None:
        """Order that a share of the bytes is lost, and a share has one bit wrong."""
        self._drop_share, self._corrupt_share = drop, corrupt

    def due(self) -> Mark | None:
        """Return the mark that the stream has come to, if any; `done` takes it away."""
        return self._marks[0] if self._marks and self._marks[0].at <= self.position else None

    def done(self) -> None:
        """Forget the mark that was due."""
        del self._marks[0]

    def room(self, now: float) -> int:
        """Return how many bytes may go through before something else is due."""
        if now < self.held_until:
            return 0
        return min(CHUNK, self._marks[0].at - self.position) if self._marks else CHUNK

    def carry(self, data: bytes) -> bytes:
        """Return what becomes of `data` on its way."""
        here = range(self.position, self.position + len(data))
        self.position = here.stop
        for faults in (self._dropped, self._corrupted):
            faults[:] = [fault for fault in faults if fault.stop > here.start]
        if not (self._dropped or self._corrupted or self._drop_share or self._corrupt_share):
            return data
        return bytes(self._hurt(at, byte) for at, byte in zip(here, data, strict=True) if not self._loses(at))

    def _loses(self, at: int) -> bool:
        lost = self._drop_share > 0 and self._random.random() < self._drop_share
        return lost or any(at in fault for fault in self._dropped)

    def _hurt(self, at: int, byte: int) -> int:
        hurt = self._corrupt_share > 0 and self._random.random() < self._corrupt_share
        if hurt or any(at in fault for fault in self._corrupted):
            return byte ^ (1 << self._random.randrange(8))
        return byte


class Pace:
    """How many bytes may have left at a baud rate: each only when its ten bits would have been sent."""

    def __init__(self, baudrate: int | None) -> None:
        self.seconds_per_byte = BITS_PER_BYTE / baudrate if baudrate else 0.0
        self._sent_until = 0.0

    def restart(self, now: float) -> None:
        """Begin anew: the line was idle until now, and no time that passed is made good."""
        self._sent_until = max(self._sent_until, now)

    def allowance(self, now: float) -> int:
        """Return how many bytes may leave now."""
        return int((now - self._sent_until) / self.seconds_per_byte) if self.seconds_per_byte else CHUNK

    def spend(self, count: int) -> None:
        """Note that `count` bytes have left."""
        self._sent_until += count * self.seconds_per_byte


class Outgoing:
    """One message on its way to the host."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.taken = 0
        self.wire = b""  # what has been through the faults, and has not been put on the line yet
        self.lost = False

    @property
    def is_sent(self) -> bool:
        """Whether all of it is on the line."""
        return self.taken == len(self.data) and not self.wire

    @property
    def count(self) -> int:
        """How many bytes have gone out."""
        return self.taken - len(self.wire)


Answer = Callable[[bytes], bytes | None]


class Requests:
    """Finds the requests in what the host writes, however it comes in chunks."""

    def __init__(self, answers: Mapping[bytes, bytes] | Answer, terminator: bytes) -> None:
        self._answer: Answer
        if callable(answers):
            self._ends: tuple[bytes, ...] = (terminator,)
            self._answer = answers
            self._whole = True  # a request is all up to the terminator
        else:
            self._ends = tuple(answers)
            self._answer = dict(answers).get
            self._whole = False  # a request is one of the table's, wherever it stands
            _check_table(self._ends)
        self._longest = max(map(len, self._ends), default=1)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the requests that are complete with `data`."""
        self._buffer += data
        requests = []
        while (found := self._first()) is not None:
            requests.append(found)
        if not self._whole:
            del self._buffer[: -self._longest]
        return requests

    def answer(self, request: bytes) -> bytes | None:
        """Return the reply to `request`, or None where there is none."""
        return self._answer(request)

    def forget(self) -> None:
        """Forget the beginning of a request: its line was lost."""
        self._buffer.clear()

    def _first(self) -> bytes | None:
        found = [(at + len(end), -len(end), end) for end in self._ends if (at := self._buffer.find(end)) >= 0]
        if not found:
            return None
        stop, _, end = min(found)  # the one that is complete first; of two, the longer
        request = bytes(self._buffer[:stop]) if self._whole else end
        del self._buffer[:stop]
        return request


def _check_table(requests: tuple[bytes, ...]) -> None:
    for request in requests:
        if not request:
            raise ValueError("a request of no bytes can't be answered")
        for other in requests:
            if request in other[:-1]:
                raise ValueError(
                    f"{other!r} would never be answered: {request!r} within it is answered first"
                )


class Waker:
    """Ends a wait in `poll` from another thread."""

    def __init__(self) -> None:
        self._out, self._in = os.pipe()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)

    def wake(self) -> None:
        """End the wait that is under way, or else the next one."""
        with contextlib.suppress(BlockingIOError):  # full of wakings: one is enough
            os.write(self._in, b"!")

    def wait(self, timeout: float | None, master: int | None = None, events: int = 0) -> None:
        """Wait until woken, for `timeout` seconds at most, or until the master has one of the events, or hangs up."""
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        if master is not None:
            poll.register(master, events)
        poll.poll(None if timeout is None else max(0.0, timeout) * 1000 + 0.5)
        with contextlib.suppress(BlockingIOError):
            os.read(self._out, CHUNK)

    def close(self) -> None:
        """Give back the descriptors."""
        os.close(self._in)
        os.close(self._out)
