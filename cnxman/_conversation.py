"""What is said on a line and heard from it: writing, asking, reading by calls that wait, frames."""

import contextlib
import threading
from abc import abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import TYPE_CHECKING

from cnxman import signals
from cnxman._connection import ConnectionException
from cnxman._controls import PortControls
from cnxman._line import statistics as _line_statistics

if TYPE_CHECKING:
    from cnxman._reader import SerialReader, Until
    from cnxman.framing import Framer
    from cnxman.serial import SerialConnection


class Conversation(PortControls):
    """The part of a `SerialConnection` that talks. All of it may be used from any thread."""

    _asking: threading.Lock
    """Held from a question to its answer."""
    _counting: threading.Lock
    _tally: _line_statistics.SerialStatistics

    class Signals(signals.Signal):
        """What serial connections send, in order, on the listener's thread; besides `Connection.Signals`."""

        DATA_RECEIVED = "data-received"
        """`data`: bytes, never empty."""
        OPENED = "opened"
        """The port was opened: what comes next has nothing to do with what came before."""
        CLOSED = "closed"
        """The port was closed: `error`, a `ConnectionException`, or None if somebody asked for it."""
        FRAME_RECEIVED = "frame-received"
        """A framer that was added has found a frame: `frame`, bytes; `framer`, which one it was."""

    @abstractmethod
    def _itself(self) -> "SerialConnection":
        """This connection, whole."""

    @abstractmethod
    def _delivery(self) -> signals.Delivery:
        """What is being told right now. On the listener's thread."""

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Send a message. From any thread: messages are never mixed.

        What was written when a line is lost is not sent again.

        Args:
            data: the whole message.

        Returns:
            How many bytes were written, which is all of them; they are the kernel's then.

        Raises:
            TypeError: if `data` isn't bytes.
            ConnectionException: if there is no connection, if it is lost or closed meanwhile, or if the line takes
                nothing for `write_timeout` seconds. It says how much went out.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data must be bytes, not {data!r}")
        written = 0
        try:
            written = self._line().write(bytes(data), self._settings["write_timeout"])
        except ConnectionException as error:
            written = error.written
            raise
        finally:
            with self._counting:
                self._tally.bytes_out += written
        return written

    @property
    def statistics(self) -> _line_statistics.SerialStatistics:
        """What happened since this connection was made: a snapshot. Answers at once."""
        with self._counting:
            snapshot = replace(self._tally)
        with contextlib.suppress(ConnectionException, OSError):  # no line, no driver's counters
            snapshot.driver = self._line().use(_line_statistics.driver_counts)
        return snapshot

    def reader(self, *, buffer_size: int | None = None) -> "SerialReader":
        """What comes from now on, to be read by calls that wait: `with connection.reader() as reader: ...`.

        It takes nothing away from receivers, nor from other readers.

        Args:
            buffer_size: how many bytes wait to be read, at most; None for as many as this connection's own.

        Returns:
            The reader. Close it when it isn't read any more: one that is full holds up all receivers.
        """
        from cnxman._reader import SerialReader  # noqa: PLC0415 (a higher room)

        return SerialReader(self._itself(), buffer_size=buffer_size)

    def query(self, question: bytes, until: "Until" = b"\n", *, timeout: float | None = 1.0) -> bytes:
        r"""Ask the device, and wait for its answer: `connection.query(b"*IDN?\n")`.

        What came before the question isn't taken for its answer. Questions from several threads are asked one after
        another, so each gets its own answer (but one that comes too late may be taken for that of the next question).
        Receivers and readers hear the answer as well. It may be used in `prepare`, but not in a receiver.

        Args:
            question: written as it is.
            until: where the answer ends: after these bytes; after so many bytes, if it is a number; or with
                the first frame of a framer, such as `cnxman.framing.Lines()`.
            timeout: how long to wait for the answer once the question is written, in seconds; None for ever.

        Returns:
            The answer: with the bytes that end it, or as the framer gives it.

        Raises:
            TimeoutError: the answer didn't come, or not to its end; it says what did. (Or, with nothing asked:
                what came before waited for slow receivers for as long.)
            ConnectionException: if there is no connection, or it is lost or closed meanwhile; see also `write`.
            BufferError: it has no end within `buffer_size` bytes.
            ValueError: for an `until` of no bytes, or of more than `buffer_size`.
            RuntimeError: called from a receiver on this connection's own listener thread, where no data could come.
        """
        from cnxman._reader import query  # noqa: PLC0415 (a higher room)

        return query(self._itself(), question, until, timeout)

    def add_framer(self, framer: "Framer") -> Callable[[], None]:
        r"""Have what is received cut into frames: each one is told as `Signals.FRAME_RECEIVED`.

        The framer begins anew at each opening, so half a frame from before an outage is never glued to one from after.

            connection.add_framer(Lines())
            connection.subscribe(lambda frame: print(frame), SerialConnection.Signals.FRAME_RECEIVED)

        Args:
            framer: one of `cnxman.framing`, or anything with its `feed` and `reset`; it serves this connection alone.

        Returns:
            A function that ends it.

        Raises:
            TypeError: if it is no framer.
        """
        methods = (getattr(framer, "feed", None), getattr(framer, "reset", None))
        if isinstance(framer, type) or not all(callable(method) for method in methods):
            raise TypeError(f"a framer has feed(data) and reset(); {framer!r} has not")

        def begin_anew() -> None:
            framer.reset()

        def feed(data: bytes) -> None:
            delivery = self._delivery()
            frames = signals.Channel(delivery, self, Conversation.Signals.FRAME_RECEIVED)
            for frame in framer.feed(data):
                if not delivery.called_off:
                    frames.send(frame=frame, framer=framer)

        undo = (
            self.subscribe(begin_anew, Conversation.Signals.OPENED),
            self.subscribe(feed, Conversation.Signals.DATA_RECEIVED),
        )

        def end() -> None:
            for each in undo:
                each()

        return end

    def subscribe(self, receiver: signals.Receiver, signal: Hashable = Signals.DATA_RECEIVED) -> Callable[[], None]:
        """Have `receiver` hear one of this connection's signals; see `Connection.subscribe`."""
        return super().subscribe(receiver, signal)
