"""What came for somebody who takes it on a thread of their own: a blocking reader, or a task of asyncio's.

An inbox hears a connection's data as any receiver does, on the listener's thread, beside all others. What is in it
is bounded, and nothing is ever dropped: while the inbox is full, the receiver does not return. So reading goes on into
the line's own backlog, and when that is full as well, flow control holds the sender off.

A receiver that doesn't return would be in the way of three things, so it returns all the same

* when somebody hangs up, or dials again: they would wait for it;
* when whoever took from the inbox is gone;
* when the line is lost, for it to be noticed and opened anew: there is no sender to be held off any more. The rest of
  the backlog is taken beyond the bound then; but not that of a second outage on top of it.

Only the first and the last have nobody who could wake the receiver: while it waits it looks, `LOOK_EVERY` seconds.
"""

import logging
import threading
from collections import deque

from cnxman import _fork
from cnxman._line.port import CHUNK
from cnxman._listener import SerialListener
from cnxman.basics import ConnectionException
from cnxman.serial import SerialConnection

_logger = logging.getLogger(__name__)

LOOK_EVERY = 0.05
"""Seconds between two looks, while an inbox is full, whether the line is still there."""


class Inbox:
    """The bytes that came from a connection and have yet to be taken.

    Args:
        connection: what to hear.
        limit: how many bytes wait here, at most (and one delivery of up to 64 KB more).
        lasting: go on when the connection is closed and opened again; otherwise its closing is the end.
    """

    def __init__(self, connection: SerialConnection, limit: int, *, lasting: bool = False) -> None:
        self.connection = connection
        self.limit = limit
        self.change = threading.Condition()
        """Guards what is below; notified at all news."""
        self.data = bytearray()
        self.ended = False
        """Whether nothing more will come."""
        self.error: ConnectionException | None = None
        """What ended it, unless somebody asked for it."""
        self.abandoned = False
        """Set it, from any thread and without the lock, when nobody will take anything any more."""
        self._lasting = lasting
        self._taken = 0
        self._beginnings: deque[int] = deque()  # where an opening begins, counted in bytes since the inbox was made
        self._holding = False
        self._warned = False
        signals = SerialConnection.Signals
        self._undo = [  # never the data without its end
            connection.subscribe(self._on_closed, signals.CLOSED),
            connection.subscribe(self._on_opened, signals.OPENED),
            connection.subscribe(self._on_data, signals.DATA_RECEIVED),
        ]
        _fork.in_child(self, Inbox.leave_to_parent)

    # -- who takes; with the lock held --------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether `limit` bytes or more are here."""
        return len(self.data) >= self.limit

    def take(self, most: int) -> bytes:
        """Up to `most` bytes, all of one opening of the port."""
        if self._beginnings:
            most = min(most, self._beginnings[0] - self._taken)
        data = bytes(self.data[:most])
        del self.data[:most]
        self._taken += len(data)
        if self._holding:
            self.change.notify_all()
        return data

    def begins_anew(self) -> bool:
        """Whether what is taken next is the first of an opening of the port. True once for each."""
        if not self.data or not self._beginnings or self._beginnings[0] > self._taken:
            return False
        self._beginnings.popleft()
        return True

    # -- its end; without the lock ------------------------------------------------------------------------

    def finish(self, error: ConnectionException | None) -> None:
        """Nothing more will come. What is here can still be taken."""
        with self.change:
            if not self.ended:
                self.ended, self.error = True, error
                self.tell()
        self._leave()

    def close(self) -> None:
        """Nobody will take anything any more."""
        self.abandoned = True
        with self.change:
            self.data.clear()
        self.finish(None)

    def leave_to_parent(self) -> None:
        """In a forked child, after the connection: if that is the parent's, nothing more will come here."""
        self.change = threading.Condition()
        if self.connection._is_parents and not self.ended:
            self.ended, self.error = True, _fork.not_here(repr(self.connection))

    def _leave(self) -> None:
        for undo in self._undo:
            undo()

    # -- who brings; on the listener's thread -------------------------------------------------------------

    def tell(self) -> None:
        """There is news. The lock is held."""
        self.change.notify_all()

    def is_wanted(self) -> bool:
        """Whether somebody may still take something."""
        return not (self.abandoned or self.ended)

    def _on_opened(self) -> None:
        with self.change:
            beginning = self._taken + len(self.data)
            if self._lasting and (not self._beginnings or self._beginnings[-1] != beginning):
                self._beginnings.append(beginning)

    def _on_data(self, data: bytes) -> None:
        with self.change:
            wanted = self.is_wanted()
            if wanted:
                self.data += data
                self.tell()
                full = self._must_wait()
        if not wanted:
            self.close()
        elif full:
            self.hold()

    def _on_closed(self, error: ConnectionException | None) -> None:
        if not self._lasting:
            self.finish(error)

    def hold(self) -> None:
        """Wait until there is room."""
        if not self._warned:
            self._warned = True
            port, size = self.connection.port, len(self.data)
            _logger.warning("%s: %d bytes wait to be taken by a reader: deliveries wait for it", port, size)
        with self.change:
            self._holding = True
            while self._must_wait():
                self.change.wait(LOOK_EVERY)
            self._holding = False

    def _must_wait(self) -> bool:
        rest = 0 if self.connection.is_connected else self.connection.buffer_size + 2 * CHUNK
        return len(self.data) >= self.limit + rest and self.is_wanted() and not _is_hung_up()


def _is_hung_up() -> bool:
    """Whether somebody waits for this thread, a listener's, to end."""
    thread = threading.current_thread()
    return isinstance(thread, SerialListener) and thread.ending.is_set()
