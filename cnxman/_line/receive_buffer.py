"""Reading goes on while a receiver is busy.

Normally the listener reads a chunk, tells the receivers, and reads the next: no thread hands anything to another. While
a receiver takes long, the kernel's buffer fills within milliseconds and a device without flow control loses data. So
a second thread, the *stand-in*, takes over reading then, into a store of up to `limit` bytes. When the
store is full it pauses, and flow control holds the sender off; the library never drops a byte.

Nobody tells the stand-in that a delivery has begun, for that would cost more than the delivery. Instead one thread for
the whole process, the *lookout*, looks at the lines that have delivered lately, every 4 ms, and sends in a
stand-in where the same delivery was under way at the last look already. On lines that say little it looks less
often; on idle lines it sleeps and nothing wakes it.

The states of a line:

    DIRECT     the listener reads the line itself
    RELIEVED   the stand-in reads into the store; the listener takes from the store
    ENDED      nobody reads any more: a stop, or a loss (`_error`), which the listener hears of after the store's rest

    DIRECT   -> RELIEVED   by the lookout: one delivery has lasted from one look to the next
    RELIEVED -> DIRECT     by the listener: the store is empty
    any      -> ENDED      by whoever finds the end

Each change is made with the line's lock held, and so is each read; so no two threads ever read in turns that could
mix up the order.

Measured against handing each chunk over to another thread, on a pseudo-terminal with reader and writer on one CPU:
this costs a 64-byte packet nothing that can be measured, handing over costs 0.7 times the whole of poll, read and send.
"""

import logging
import select
import threading

from cnxman import _fork
from cnxman._line.port import CHUNK
from cnxman._line.posix import DescriptorLine
from cnxman._threads import LibraryThread

_logger = logging.getLogger(__name__)

LOOK_EVERY = 0.004
"""Seconds between two looks: a tty's buffer holds 4095 bytes, which at 1 MB/s are 4 ms, and the driver's some more."""

LOOK_SELDOM = 0.012
"""Seconds from a look at which no line was delivering, or had said much, to the next."""

LITTLE = 256
"""Bytes from one look to the next: with fewer, a line has said little. 115,200 baud are 138 bytes in 12 ms."""

QUIET_LOOKS = 8
"""After so many looks without anything new the lookout looks at a line no more, until it delivers again."""

FULL_LOOKS = 0.02
"""Seconds between two looks whether a full store has room again."""


class Backlog:
    """A line's input, and what of it waits for a busy receiver.

    Args:
        line: the line; this object is from now on the only one that reads it.
        limit: the store's size in bytes.
    """

    def __init__(self, line: DescriptorLine, limit: int) -> None:
        self._line = line
        self._lock = line.lock
        self._change = threading.Condition(self._lock)
        self._limit = limit
        self._poller = line.poller()
        self._store = bytearray()
        self._relieved = False
        self._error: Exception | None = None
        self._ended = False
        self._count = 0  # odd while a delivery is under way
        self._came = 0  # bytes since the lookout's last look
        self._seen = self._quiet = 0  # what the lookout saw last, and how often
        self._watched = False
        self._full = False
        self._told_full = False
        self._stand_in: LibraryThread | None = None

    # -- the listener's -----------------------------------------------------------------------------------

    def read(self) -> bytes:
        """The next bytes to deliver; b"" once the line was stopped. A delivery begins with the return.

        Raises:
            Exception: what the line's loss raised, after everything that was read before it.
        """
        while True:
            if self._relieved and ((stored := self._take_stored()) or self._ended):
                return stored
            events = self._line.wait(self._poller)
            if not events:
                return b""
            with self._lock:
                data = b"" if self._line.stopped else self._line.take(events)
                if data:
                    self._count += 1
                    self._came += len(data)
                    watched, self._watched = self._watched, True
            if data:
                if not watched:
                    _watch(self)
                return data

    def _take_stored(self) -> bytes:
        """Some of the store; b"" once it is empty and the listener reads the line itself again."""
        with self._lock:
            if self._store and not self._ended:
                data = bytes(self._store[:CHUNK])
                del self._store[:CHUNK]
                self._count += 1
                return data
            if self._error is not None:
                raise self._error
            self._relieved = False
            return b""

    def delivering(self) -> None:
        """The line's first delivery begins, which has no data from here."""
        with self._lock:
            self._count += 1
            self._watched = True
        _watch(self)

    def delivered(self) -> None:
        """The delivery that began with the last `read` is over."""
        with self._lock:
            self._count += 1

    def is_delivering(self) -> bool:
        """Whether the listener is busy with receivers, and so does not touch the line."""
        return self._count % 2 == 1

    def is_caught_up(self) -> bool:
        """Whether all that has come by now was told. From any thread; raises what the port does if the line is lost."""
        with self._lock:
            if self.is_delivering() or self._store:
                return False
            return not (self._line.is_open and self._line.port.in_waiting)

    def end(self) -> None:
        """Stop, wait for the stand-in to leave the line, and close it. By the listener or, while it is busy, for it."""
        self._line.stop()
        with self._lock:
            self._ended = True
            self._change.notify_all()
            stand_in = self._stand_in
        _forget(self)
        if stand_in is not None:
            stand_in.join()
        self._line.close()

    # -- the lookout's ------------------------------------------------------------------------------------

    def look(self) -> bool:
        """One look, by the lookout: let the stand-in read if the same delivery was under way at the last one.

        Returns:
            Whether the next look should be soon.
        """
        with self._lock:
            came, self._came = self._came, 0
            if self._count != self._seen:
                self._seen, self._quiet = self._count, 0
            elif self._ended or self._relieved:
                self._watched = False  # what is told from the store need not be watched
            elif self.is_delivering():
                self._relieve()
            else:
                self._quiet += 1
                self._watched = self._quiet < QUIET_LOOKS
            return self.is_delivering() or came >= LITTLE

    @property
    def watched(self) -> bool:
        """Whether the lookout has to go on looking."""
        return self._watched

    def _relieve(self) -> None:
        if self._stand_in is None:
            stand_in = StandIn(f"cnxman stand-in for {self._line.port.port}", self)
            try:
                stand_in.start()
            except RuntimeError:  # the system gives no more threads: then reading waits for the receiver
                return
            self._stand_in = stand_in
        self._relieved = True
        self._change.notify_all()

    # -- the stand-in's -----------------------------------------------------------------------------------

    def stand_in(self) -> None:
        """Read whenever the listener is relieved; sleep otherwise. Runs on the stand-in's thread."""
        poller, hang_up_only = self._line.poller(), self._line.poller(0)
        while self._wait_for_relief():
            try:
                while self._read_on(poller, hang_up_only):
                    pass
            except Exception as error:
                if self._note_end(error):
                    self._line.close()  # at once, though the listener is busy: the device may be coming back
                    return

    def _wait_for_relief(self) -> bool:
        with self._lock:
            self._change.wait_for(lambda: self._ended or (self._relieved and not self._line.stopped))
            return not self._ended

    def _read_on(self, poller: "select.poll", hang_up_only: "select.poll") -> bool:
        """Read once into the store; False when the listener reads again, or the line was stopped."""
        room = self._room()
        events = self._line.wait(poller) if room else self._line.peek(hang_up_only, FULL_LOOKS)
        with self._lock:
            if not self._relieved or self._line.stopped:
                return False
            if events:
                self._store += self._line.take(events, room or CHUNK)  # after a hang-up: the little that is left
        return True

    def _room(self) -> int:
        """How many bytes the store takes; 0 from when it is full until it is half empty."""
        with self._lock:
            used = len(self._store)
            self._full = used >= self._limit or (self._full and used > self._limit // 2)
            tell, self._told_full = self._full and not self._told_full, self._told_full or self._full
        if tell:
            _logger.warning(
                "%s: a receiver is so slow that %d bytes wait for it: reading pauses",
                self._line.port.port,
                used,
            )
        return 0 if self._full else min(CHUNK, self._limit - used)

    def _note_end(self, error: Exception) -> bool:
        with self._lock:
            if not self._relieved or self._line.stopped:
                return False  # the listener reads by itself, and finds the end by itself
            self._error = error
            return True


class StandIn(LibraryThread):
    """Reads a line while its listener is busy."""

    def __init__(self, name: str, backlog: Backlog) -> None:
        super().__init__(name)
        self._backlog = backlog

    def run(self) -> None:
        """Stand in until the backlog ends."""
        self._backlog.stand_in()


class Lookout(LibraryThread):
    """Looks, for all lines of the process, whether a delivery lasts long. Lives while any line has delivered."""

    def __init__(self) -> None:
        super().__init__("cnxman lookout")
        self.known: set[Backlog] = set()
        self.watched: set[Backlog] = set()
        self.change = threading.Condition(_lookout_lock)
        self._over = threading.Lock()
        self._over.acquire()

    def run(self) -> None:
        """Look every `LOOK_EVERY` seconds, or more seldom; sleep while there is nothing to look at."""
        pause = LOOK_EVERY
        while not self._over.acquire(timeout=pause):
            with self.change:
                self.change.wait_for(lambda: self.watched or not self.known)
                looked_at = tuple(self.watched)
            soon = [backlog.look() for backlog in looked_at]
            pause = LOOK_EVERY if any(soon) else LOOK_SELDOM
            with self.change:
                self.watched -= {backlog for backlog in looked_at if not backlog.watched}

    def dismiss(self) -> None:
        """End soon. The lock is held."""
        self._over.release()
        self.change.notify_all()


_lookout_lock = threading.Lock()
_lookout: Lookout | None = None


def _begin_anew(_: object) -> None:
    """In a forked child there is no lookout; one will be started with the child's own first line."""
    global _lookout, _lookout_lock
    _lookout, _lookout_lock = None, threading.Lock()


_fork.in_child(Lookout, _begin_anew)


def _watch(backlog: Backlog) -> None:
    """Have the lookout look at a line that delivers (again)."""
    global _lookout  # noqa: PLW0603 (one for the process)
    with _lookout_lock:
        if _lookout is None:
            lookout = Lookout()
            lookout.known.add(backlog)
            try:
                lookout.start()
            except RuntimeError:  # the system gives no more threads: then reading waits for receivers
                backlog._watched = False  # so that the next delivery asks again
                return
            _lookout = lookout
        _lookout.known.add(backlog)
        if not _lookout.watched:
            _lookout.change.notify_all()
        _lookout.watched.add(backlog)


def _forget(backlog: Backlog) -> None:
    """The line has ended; with the last one the lookout ends, too."""
    global _lookout  # noqa: PLW0603 (one for the process)
    with _lookout_lock:
        ending = _lookout
        if ending is None or backlog not in ending.known:
            return
        ending.known.discard(backlog)
        ending.watched.discard(backlog)
        if ending.known:
            return
        _lookout = None
        ending.dismiss()
    ending.join()
