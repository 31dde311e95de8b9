"""The thread that listens to one opening of one port."""

import threading
import warnings

import serial as pyserial

from cnxman import _fork, signals
from cnxman._line import errors as _faults
from cnxman._line.port import leave_port, open_port
from cnxman._line.posix import DescriptorLine, is_plain, let_go
from cnxman._line.receive_buffer import Backlog
from cnxman._line.url import CallLine
from cnxman._threads import LibraryThread
from cnxman.basics import ConnectionException

BUFFER_SIZE = 16 * 2**20
"""How many bytes wait for a busy receiver, at most, unless told otherwise."""


class SerialListener(LibraryThread):
    """This is a thread object that listens for incoming data from a serial connection.

    Every way out of `run` closes the port; every way out that nobody asked for sends READ_ERROR, once. A listener that
    is never started costs no descriptor and leaves the port as it was.

    Args:
        serial: a port of pyserial's; it is opened if it isn't open.
        buffer_size: how many bytes may wait for a receiver that is busy, at most.
        idle_timeout: take the line for lost when nothing came for this many seconds; None waits for ever.
    """

    class Signals(signals.Signal):
        """What listeners send, on their own thread."""

        DATA_RECEIVED = "data-received"
        """`data`: bytes, never empty."""
        READ_ERROR = "read-error"
        """The port was lost: `error`, a `ConnectionException`."""

    def __init__(
        self,
        serial: pyserial.Serial,
        *,
        buffer_size: int = BUFFER_SIZE,
        idle_timeout: float | None = None,
    ) -> None:
        super().__init__(f"cnxman listener on {serial.port}")
        self._serial = serial
        self._buffer_size = buffer_size
        self._idle_timeout = idle_timeout
        self._lock = threading.Lock()  # guards the next two against terminate()
        self.line: DescriptorLine | CallLine | None = None
        """The open port; None before there is one."""
        self._terminated = False
        self._source: Backlog | CallLine | None = None
        self.delivery = signals.Delivery()
        self._data = signals.Channel(self.delivery, self, SerialListener.Signals.DATA_RECEIVED)
        self.error: ConnectionException | None = None
        """Why the port was lost, or could not be opened."""
        self.ready = threading.Event()
        """Set when the listener listens, or has failed to."""
        self.ending = threading.Event()
        """Set when `terminate()` was called, or the port is lost."""
        self.finished = threading.Event()
        """Set when nothing more will be told."""
        _fork.in_child(self, SerialListener.leave_to_parent)

    @property
    def serial(self) -> pyserial.Serial:
        """This is the serial object we're monitoring."""
        return self._serial

    def isAlive(self) -> bool:  # noqa: N802 (threading's name for it until Python 3.9)
        """Whether the thread is alive. Deprecated: use `is_alive()`."""
        warnings.warn("isAlive() is deprecated, use is_alive()", DeprecationWarning, stacklevel=2)
        return self.is_alive()

    @property
    def is_listening(self) -> bool:
        """Whether the port is open and listened to. Answers at once."""
        line = self.line
        return line is not None and line.is_open and not self.ending.is_set()

    def terminate(self) -> None:
        """Stop listening. From any thread, at any time; returns at once, and from then on nothing is reported."""
        with self._lock:
            self._terminated = True
            line = self.line
        self.ending.set()
        if line is not None:
            line.stop()

    def run(self) -> None:
        """Start listening for data on the serial connection."""
        error: ConnectionException | None = None
        try:
            if not self._terminated:
                self._begin()
                self._listen()
        except Exception as raised:
            error = _faults.lost(str(self._serial.port), raised)
        finally:
            self._end(None if self._terminated else error)

    def wait_for_end(self, timeout: float) -> bool:
        """Wait until the thread has ended, for `timeout` seconds at most. Not on the thread itself.

        Returns:
            Whether it has ended. One that could not be started never began.
        """
        if self.ident is None:
            let_go(self._serial)
            return True
        self.join(timeout)
        return not self.is_alive()

    def is_caught_up(self) -> bool:
        """Whether receivers were told all that has come by now. Raises what the port does if it is lost."""
        return self._source is None or self._source.is_caught_up()

    def close_now(self) -> None:
        """Close the port, after `terminate()`, from within a receiver on this very thread."""
        if self._source is not None:
            self._source.end()

    def abandon(self) -> signals.Receiver | None:
        """Close the port in spite of a receiver that does not return, after `terminate()`.

        Returns:
            That receiver.
        """
        receiver = self.delivery.receiver
        self.delivery.called_off = True
        if self._source is not None and self._source.is_delivering():
            self._source.end()
        self._finish()
        return receiver

    def leave_to_parent(self) -> None:
        """In a forked child: nothing more is told here, not even if this is the thread that forked."""
        self._lock = threading.Lock()
        self.delivery.called_off = True
        self.ready, self.ending, self.finished = threading.Event(), threading.Event(), threading.Event()
        for event in (self.ready, self.ending, self.finished):  # the locks of the old ones may be held for ever
            event.set()

    # -- on the thread itself -----------------------------------------------------------------------------

    def _begin(self) -> None:
        port = self._serial
        line: DescriptorLine | CallLine
        try:
            _fork.in_child(port, leave_port)
            if not port.is_open:
                open_port(port)
            if is_plain(port):
                line = DescriptorLine(port, self._idle_timeout)
                self._source = Backlog(line, self._buffer_size)
            else:
                line = self._source = CallLine(port, self._idle_timeout)
        except Exception as error:
            raise _faults.not_opened(str(port.port), error) from error
        with self._lock:
            self.line = line
        self.ready.set()

    def _listen(self) -> None:
        source = self._source
        assert source is not None
        source.delivering()
        self._on_open()
        source.delivered()
        while not self._terminated and (data := source.read()):
            self._on_data(data)
            source.delivered()

    def _end(self, error: ConnectionException | None) -> None:
        self.error = error
        self.ending.set()
        if self._source is not None:
            self._source.end()
        else:
            let_go(self._serial)
        self.ready.set()
        if not self.delivery.called_off:
            self._on_end(error)
        self._finish()

    def _finish(self) -> None:
        """Nothing more will be told."""
        self.finished.set()

    # -- what a listener of the library's own tells besides -------------------------------------------------

    def _on_open(self) -> None:
        """The port is open."""

    def _on_data(self, data: bytes) -> None:
        """There is data."""
        self._data.send(data=data)

    def _on_end(self, error: ConnectionException | None) -> None:
        """The port is closed: at a loss `error` says why, and after `terminate()` it is None."""
        if error is not None and not self._terminated:
            signals.Channel(self.delivery, self, SerialListener.Signals.READ_ERROR).send(error=error)
