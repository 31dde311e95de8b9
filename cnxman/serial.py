"""Let's manage serial port connections!

`SerialConnection` is what most people want. `SerialListener` is the thread beneath it: it reads one opening of one
port, and can be used by itself. Which thread runs what:

* `try_connect`, `disconnect`, `teardown`, `write` and the like run on the caller's thread.
* Receivers of DATA_RECEIVED, OPENED, CLOSED and of the alarm run on the listener's thread.

The way of a chunk of data: `SerialListener.run` takes it from the line's source (`cnxman._line.kinds` says which),
sends it as the listener's own signal, and hands it to the connection's `Opening`, which sends it as the connection's.
"""

import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol, TypeVar, Unpack, overload

import serial as pyserial

from cnxman import _fork, ports, signals
from cnxman._line import errors
from cnxman._line.driver_counts import DriverCounts, driver_counts
from cnxman._line.kinds import make_line
from cnxman._line.low_latency import set_low_latency
from cnxman._line.port import IncompleteWriteError, Line, Source, abandon_port, open_port
from cnxman._line.posix import close_unused, set_exclusive
from cnxman._line.settings import Settings, apply_settings, check_choice, check_seconds, check_settings, make_port
from cnxman._line.settling import wait_until_settled
from cnxman._threads import NAME, mark
from cnxman._validation import check_size, check_timeout
from cnxman.basics import Connection, ConnectionException, ManagerStatistics, find_errno
from cnxman.framing import Framer, check_framer
from cnxman.logging import RepeatFilter, loggable_class
from cnxman.reading import ContinuousFrames, SerialReader, Tap

if TYPE_CHECKING:  # what stands in for pyserial may lack it
    from serial.rs485 import RS485Settings

__all__ = ["DriverCounts", "SerialConnection", "SerialListener", "SerialStatistics"]

_Frame = TypeVar("_Frame")
_Result = TypeVar("_Result")

BUFFER_SIZE = 16 * 2**20
"""How many bytes wait for a busy receiver, at most, unless a connection has another `buffer_size`."""

LONGEST_DELIVERY = 5.0
"""How long, in seconds, closing waits for a receiver that is running."""


class Sink(Protocol):
    """What a listener hands its port's events to besides its own signals, on its own thread: an `Opening`."""

    @property
    def may_send(self) -> bool:
        """Whether `on_opened` would return without waiting for the opening before."""

    def on_opened(self) -> None:
        """The port is open."""

    def on_data(self, data: bytes) -> None:
        """There is data."""

    def on_closed(self, error: ConnectionException | None) -> None:
        """The port is closed: at a loss `error` says why, and after `terminate()` it is None."""

    def on_finished(self) -> None:
        """Nothing more is delivered."""


class Listener(Protocol):
    """What reads the port of an `Opening`, and hands what happens to it. Where it reads is its own business.

    `_ThreadListener` reads on a thread of its own; `SerialConnection.listener_factory` may make another kind.
    """

    @property
    def dispatch(self) -> signals.Dispatch:
        """The calling of receivers."""

    @property
    def line(self) -> Line | None:
        """The open port; None before there is one."""

    @property
    def error(self) -> ConnectionException | None:
        """Why the port was lost, or could not be listened to."""

    @property
    def is_listening(self) -> bool:
        """Whether the port is open and listened to. Answers at once."""

    @property
    def is_calling_here(self) -> bool:
        """Whether the current thread is within a call of the sink's."""

    @property
    def delivers_here(self) -> bool:
        """Whether the current thread is the one that calls the sink."""

    def start(self) -> None:
        """Begin to listen; returns once it does, or has failed to.

        Raises:
            RuntimeError: the system gives no thread, or whatever else it listens by.
        """

    def proceed(self) -> None:
        """Ask the sink's `may_send` again. From any thread."""

    def terminate(self) -> None:
        """Have it end. From any thread; returns at once, and then nothing more is delivered."""

    def close_now(self) -> None:
        """Close the port, after `terminate()`, from within a call of the sink's."""

    def wait_for_end(self, timeout: float) -> bool:
        """Wait for the end, for `timeout` seconds at most; whether it has come. Not within a call of the sink's."""

    def abandon(self) -> None:
        """Close the port in spite of a receiver that does not return, after `terminate()`."""

    def is_drained(self) -> bool:
        """Whether all that has come by now was delivered. From any thread; raises what the port does if it is lost."""


ListenerFactory = Callable[[pyserial.Serial, Sink, float | None], Listener | None]
"""Makes a listener for an open port, its sink, and the connection's `idle_timeout`; None for a thread's."""


class SerialListener(threading.Thread):
    """This is a thread object that listens for incoming data from a serial connection.

    Every way out of `run` closes the port; every way out that nobody asked for sends READ_ERROR, once. A listener that
    is never started costs no descriptor and leaves the port as it was.

    Args:
        serial: a port of pyserial's; it is opened if it isn't open.
        buffer_size: how many bytes may wait for a receiver that is busy, at most.
        idle_timeout: the line counts as lost when nothing came for this many seconds; None waits for ever.
    """

    class Signals(Enum):
        """What listeners send, on their own thread."""

        DATA_RECEIVED = "data-received"
        """`data`: bytes, never empty."""
        READ_ERROR = "read-error"
        """The port was lost: `error`, a `ConnectionException`."""

        __hash__ = object.__hash__  # Enum's own is written in Python, and would run three times for each chunk

    def __init__(
        self,
        serial: pyserial.Serial,
        *,
        buffer_size: int = BUFFER_SIZE,
        idle_timeout: float | None = None,
    ) -> None:
        super().__init__(name=f"{NAME} listener on {serial.port}", daemon=True)
        self._serial = serial
        self._buffer_size = buffer_size
        self._idle_timeout = idle_timeout
        self._lock = threading.Lock()  # guards the next two against terminate()
        self._line: Line | None = None  # None before the port is open
        self._terminated = False
        self._source: Source | None = None
        self._dispatch = signals.Dispatch()
        self._sink: Sink | None = None
        self._data = signals.Emitter(self, SerialListener.Signals.DATA_RECEIVED, self._dispatch)
        self._error: ConnectionException | None = None  # why the port was lost, or could not be opened
        self._ready = threading.Event()
        self._finished = threading.Event()
        _fork.after_in_child(self._dispatch, signals.Dispatch.cancel)

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
        line = self._line
        return line is not None and line.is_open and not self._dispatch.is_ending

    @property
    def error(self) -> ConnectionException | None:
        """Why the port was lost, or could not be opened; None otherwise."""
        return self._error

    @property
    def ready(self) -> threading.Event:
        """Set when the listener listens, or has failed to."""
        return self._ready

    @property
    def finished(self) -> threading.Event:
        """Set when the port is closed and nothing more will be sent."""
        return self._finished

    def terminate(self) -> None:
        """Terminate the listener. From any thread, at any time; returns at once, and then nothing more is reported."""
        with self._lock:
            self._terminated = True
            line = self._line
        self._dispatch.is_ending = True
        if line is not None:
            line.stop()

    def run(self) -> None:
        """Start listening for data on the serial connection."""
        if threading.current_thread() is self:  # and not a thread of the user's that calls this
            mark()
            signals.here.dispatch = self._dispatch
        error: ConnectionException | None = None
        try:
            if not self._terminated:
                self._read(self._begin())
        except Exception as raised:
            error = port_error(errors.loss_message, str(self._serial.port), raised)
        finally:
            self._end(None if self._terminated else error)
            self._finished.set()

    # -- on the thread itself -----------------------------------------------------------------------------

    def _begin(self) -> Source:
        port = self._serial
        try:
            _fork.after_in_child(port, abandon_port)
            if not port.is_open:
                open_port(port)
            line, source = make_line(port, self._idle_timeout, self._buffer_size)
        except Exception as error:
            raise port_error(errors.open_message, str(port.port), error) from error
        with self._lock:
            self._line, self._source = line, source
        self._ready.set()
        return source

    def _read(self, source: Source) -> None:
        sink = self._sink
        if sink is not None:
            source.begin_delivery()
            sink.on_opened()
            source.end_delivery()
        while not self._terminated and (data := source.read()):
            self._data.send(data=data)
            if sink is not None:
                sink.on_data(data)
            source.end_delivery()

    def _end(self, error: ConnectionException | None) -> None:
        self._error = error
        self._dispatch.is_ending = True
        if self._source is not None:
            self._source.end()
        else:
            close_unused(self._serial)
        self._ready.set()
        if error is not None and not self._terminated:
            signals.Emitter(self, SerialListener.Signals.READ_ERROR, self._dispatch).send(error=error)
        if self._sink is not None:
            if not self._dispatch.cancelled:
                self._sink.on_closed(error)
            self._sink.on_finished()


class _ThreadListener:
    """A `Listener` that reads on a thread of its own, which is a `SerialListener`.

    Args:
        port: the port, which is open.
        sink: told what happens.
        connection: whose settings hold.
    """

    def __init__(self, port: pyserial.Serial, sink: Sink, connection: "SerialConnection") -> None:
        self._thread = SerialListener(port, buffer_size=connection.buffer_size, idle_timeout=connection.idle_timeout)
        self._thread._sink = sink
        self.dispatch = self._thread._dispatch

    @property
    def line(self) -> Line | None:
        return self._thread._line

    @property
    def source(self) -> Source | None:
        """Where the thread takes the data from; None before the port is listened to."""
        return self._thread._source

    @property
    def error(self) -> ConnectionException | None:
        return self._thread._error

    @property
    def is_listening(self) -> bool:
        return self._thread.is_listening

    @property
    def is_calling_here(self) -> bool:
        return self.delivers_here

    @property
    def delivers_here(self) -> bool:
        return self._thread is threading.current_thread()

    def start(self) -> None:
        self._thread.start()
        self._thread._ready.wait()

    def proceed(self) -> None:
        """`Sink.on_opened` waits, so there is nothing to do."""

    def terminate(self) -> None:
        self._thread.terminate()

    def close_now(self) -> None:
        if self.source is not None:
            self.source.end()

    def wait_for_end(self, timeout: float) -> bool:
        if self._thread.ident is None:  # one that could not be started never began
            close_unused(self._thread.serial)
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def abandon(self) -> None:
        if self.source is not None and self.source.is_delivering:
            self.source.end()

    def is_drained(self) -> bool:
        return self.source is None or self.source.is_drained()


@dataclass
class SerialStatistics(ManagerStatistics):
    """A snapshot of what happened on a `SerialConnection` since it was made. Times are `time.time()`'s, in seconds.

    `up_since` is when the line that is open was opened; None if there is none.
    """

    bytes_in: int = 0
    bytes_out: int = 0
    chunks: int = 0
    """How often receivers were given data."""
    driver: DriverCounts | None = None
    """The driver's counters for the line that is open, where it has any."""


@loggable_class()
class SerialConnection(Connection):
    """A connection to a serial port, with a thread that listens.

    Settings are pyserial's, under its names, and are checked here and now. Times are in seconds, sizes in bytes.

    Args:
        port: a device name or URL, whatever `serial.serial_for_url` takes; also `usb://VID:PID[/SERIAL]`.
        baudrate: bits per second.
        bytesize: data bits, 5 to 8.
        parity: "N", "E", "O", "M" or "S".
        stopbits: 1, 1.5 or 2.
        timeout: bounds one read of pyserial's. Bytes are delivered as they come whatever it is; its end is no event.
        xonxoff: software flow control.
        rtscts: hardware flow control by RTS and CTS.
        dsrdtr: hardware flow control by DSR and DTR; None for the same as `rtscts`.
        inter_byte_timeout: as pyserial's.
        write_timeout: `write` fails when the line takes nothing for this long; None waits for ever.
        exclusive: keep other programs from opening the port (flock and TIOCEXCL).
        dtr: the level of DTR, set before the port opens; None leaves it to the driver. Linux raises DTR and
            RTS itself while it opens a port, before any program can say otherwise, so a board that is reset by
            DTR sees a short pulse all the same, unless `stty -F PORT -hupcl` had kept the line up since before.
        rts: the level of RTS, likewise.
        rs485_mode: pyserial's RS485Settings.
        low_latency: at each opening, set the driver to hand on what comes without gathering for some ms (FTDI: 16);
            on Linux. Where the driver can't, that is logged at debug, and is no error.
        buffer_size: how many bytes may wait for a receiver that is busy. Then reading pauses, and flow
            control, if there is any, stops the sender. 0: only as many as the system's own buffer holds; for receivers
            that return at once, as no thread watches them then.
        idle_timeout: raise the alarm when nothing came for this long; None never does.
        settle: how many seconds a network port has to stay open before it counts as connected; None for none. A server
            such as ser2net accepts, says that its device is missing, and closes: then the attempt fails.
        schemes: which URL schemes to allow in `port`, "" for plain device names; None allows all.

    Raises:
        ValueError: for a setting that makes no sense, or a port that can never be opened.
        TypeError: for a value of the wrong type.
    """

    logger: logging.Logger

    class Signals(Enum):
        """What serial connections send, in order, on the listener's thread; besides `Connection.Signals`."""

        DATA_RECEIVED = "data-received"
        """`data`: bytes, never empty."""
        OPENED = "opened"
        """The port was opened: what comes next has nothing to do with what came before."""
        CLOSED = "closed"
        """The port was closed: `error`, a `ConnectionException`, or None after a `disconnect()` or `teardown()`."""
        FRAME_RECEIVED = "frame-received"
        """A framer has found a frame: `frame`, bytes or what the framer gives; `framer`, the framer."""

        __hash__ = object.__hash__  # Enum's own is written in Python, and would run three times for each chunk

    def __init__(
        self,
        port: str,
        baudrate: int = 9600,
        bytesize: int = 8,
        parity: str = "N",
        stopbits: float = 1,
        timeout: float | None = None,
        *,
        xonxoff: bool = False,
        rtscts: bool = False,
        dsrdtr: bool | None = False,
        inter_byte_timeout: float | None = None,
        write_timeout: float | None = 10.0,
        exclusive: bool | None = True,
        dtr: bool | None = None,
        rts: bool | None = None,
        rs485_mode: "RS485Settings | None" = None,
        low_latency: bool = False,
        buffer_size: int = BUFFER_SIZE,
        idle_timeout: float | None = None,
        settle: float | None = None,
        schemes: Collection[str] | None = None,
    ) -> None:
        ports.check(port, schemes)
        self._port = port
        self._settings = Settings(
            baudrate=baudrate,
            bytesize=bytesize,
            parity=parity,
            stopbits=stopbits,
            timeout=timeout,
            xonxoff=xonxoff,
            rtscts=rtscts,
            dsrdtr=dsrdtr,
            inter_byte_timeout=inter_byte_timeout,
            write_timeout=write_timeout,
        )
        check_settings(self._settings)
        check_size("buffer_size", buffer_size, least=0)
        check_seconds("idle_timeout", idle_timeout)
        check_seconds("settle", settle)
        check_choice("exclusive", exclusive)
        check_choice("dtr", dtr)
        check_choice("rts", rts)
        check_choice("low_latency", low_latency)
        self.buffer_size = buffer_size
        self.idle_timeout = idle_timeout
        self._settle = settle
        self._exclusive = exclusive
        self._modem_lines = {"dtr": dtr, "rts": rts}
        self._rs485_mode = rs485_mode
        self._low_latency = low_latency
        self.listener_factory: ListenerFactory | None = None
        """What reads each further opening of the port, instead of a thread. Set by `cnxman.aio`."""
        self.taps: tuple[Tap, ...] = ()
        """See `add_tap`."""
        self._query_lock = threading.Lock()  # held from a question to its answer
        self._counters_lock = threading.Lock()
        self._counters = SerialStatistics()
        self._lock = threading.Lock()  # guards what is below; never held while anything is called
        self._opening: Opening | None = None
        self._generation = 0  # of the try_connect, disconnect or teardown that was called last
        self._is_wanted = False  # since the last disconnect or teardown
        self._process = os.getpid()  # the one that has opened the port
        self._presence = ports.Presence(port)
        self._failure_log = RepeatFilter()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._port}>"

    # -- what a manager calls -----------------------------------------------------------------------------

    def try_connect(self) -> bool:
        """Attempt to connect to the serial port: open it and start to listen.

        Returns at once, with the listener running; it never waits for the line. What waited in the port from before is
        discarded. A line from before is closed first.

        Returns:
            True if and only if the port is open. Otherwise the reason is logged, and is in `last_error`.
        """
        if self._is_inherited:
            return self._fail(self._inherited_error())
        generation, old = self._supersede(is_wanted=True)
        predecessor = self._close(old)
        try:
            port = self._open_port()
        except Exception as error:
            return self._fail(port_error(errors.open_message, self._port, error))
        opening = Opening(self, port, generation, predecessor)
        try:
            failure = self._establish(opening)
        except BaseException:
            self._close(opening)
            raise
        if failure is None:
            return True
        self._close(opening)
        return self._fail(failure)

    def prepare(self) -> bool:
        """Override this method to make the device ready: to send it its initialisation, and check its answer.

        Called in each `try_connect`, on the caller's thread, with the port open and data being delivered.

        Returns:
            Whether the device is ready. If not, or if this raises, the attempt has failed and the port is closed.
        """
        return True

    def disconnect(self) -> None:
        """Disconnect from the serial port.

        When this returns, the thread and all descriptors are gone and nothing more is delivered. It waits up to 5
        seconds for a receiver that is running. (In a receiver on the listener's own thread it closes the port and
        returns; the thread ends once the receiver has returned.)
        """
        if not self._is_inherited:
            _, opening = self._supersede(is_wanted=False)
            self._close(opening)
            self.report_disconnect()

    def teardown(self) -> None:
        """Release the serial port entirely."""
        self.disconnect()

    def is_lost(self) -> bool:
        """Whether the last attempt failed or the line was lost. Answers at once."""
        return self._loss() is not None

    def presence(self) -> Hashable | None:
        """Whether the port is there, and which one: what lets a manager try at once when an adapter is back."""
        return self._presence()

    # -- reading and writing ------------------------------------------------------------------------------

    @property
    def port(self) -> str:
        """The port, as it was given."""
        return self._port

    @property
    def is_connected(self) -> bool:
        """Whether the port is open. Answers at once."""
        opening = self._opening
        return opening is not None and opening.is_open and not self._is_inherited

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
        line, message, written = self._line(), bytes(data), 0
        try:
            written = line.write(message, self._settings["write_timeout"])
        except IncompleteWriteError as failed:
            written = failed.written
            raise self.write_error(failed, len(message)) from failed.cause
        finally:
            self.count_written(written)
        return written

    def write_error(self, failed: IncompleteWriteError, size: int) -> ConnectionException:
        """What is raised for a message of `size` bytes that did not go out."""
        failure = port_error(errors.write_message, self._port, failed.cause, failed.written, size)
        failure.written = failed.written
        return failure

    def count_written(self, written: int) -> None:
        """Count bytes that went out. From any thread."""
        with self._counters_lock:
            self._counters.bytes_out += written

    def reader(self, *, buffer_size: int | None = None) -> SerialReader:
        """Read what comes from now on, by calls that wait: `with connection.reader() as reader: ...`.

        The reader takes nothing away from receivers or other readers.

        Args:
            buffer_size: how many bytes wait to be read, at most; None for as many as this connection's own.

        Returns:
            The reader. Close it when it isn't read any more: one that is full delays all receivers.
        """
        return SerialReader(self, buffer_size=buffer_size)

    def frames(self, framer: Framer[_Frame], timeout: float | None = None) -> ContinuousFrames[_Frame]:
        """The frames that come from now on, in spite of outages: `for line in connection.frames(Lines()): ...`.

        A manager's `frames` also ends when the manager is disconnected.

        Args:
            framer: one of `cnxman.framing`; it serves this iterator alone. Half a frame from before an outage is never
                joined to one from after.
            timeout: how long to wait for each frame, in seconds; None for as long as it takes.

        Returns:
            The iterator. Close it, or drop it, when you take no more: one that is full delays all receivers.

        Raises:
            TypeError, ValueError: for what is no framer or no time-out.
        """
        return ContinuousFrames(self, framer, timeout)

    @overload
    def query(self, question: bytes, until: bytes | int = ..., *, timeout: float | None = ...) -> bytes: ...
    @overload
    def query(self, question: bytes, until: Framer[_Frame], *, timeout: float | None = ...) -> _Frame: ...
    def query(
        self, question: bytes, until: bytes | int | Framer[_Frame] = b"\n", *, timeout: float | None = 1.0
    ) -> bytes | _Frame:
        r"""Ask the device, and wait for its answer: `connection.query(b"*IDN?\n")`.

        What came before the question isn't taken for its answer. Questions from several threads are asked one after
        another, so each gets its own answer (but one that comes too late may be taken for that of the next question).
        Receivers and readers get the answer as well. It may be used in `prepare`, but not in a receiver.

        Args:
            question: written as it is.
            until: where the answer ends: after these bytes; after so many bytes, if it is a number; or with
                the first frame of a framer, such as `cnxman.framing.Lines()`.
            timeout: how long to wait for the answer once the question is written, in seconds; None for ever.

        Returns:
            The answer: with the bytes that end it, or as the framer gives it.

        Raises:
            TimeoutError: the answer didn't come, or not to its end; the message says what did. (Or nothing was asked,
                because data from before still waited for slow receivers.)
            ConnectionException: if there is no connection, or it is lost or closed meanwhile; see also `write`.
            BufferError: it has no end within `buffer_size` bytes.
            ValueError: for an `until` of no bytes, or of more than `buffer_size`.
            RuntimeError: called from a receiver on this connection's own listener thread, where no data could come.
        """
        check_timeout(timeout)
        self.check_may_wait()
        with self._query_lock, self.reader() as reader:
            return reader.ask(question, until, timeout)

    def add_framer(
        self, framer: Framer[_Frame], receiver: Callable[[_Frame], object] | None = None
    ) -> Callable[[], None]:
        r"""Have received data cut into frames: each one is sent as `Signals.FRAME_RECEIVED`.

        The framer is reset at each opening, so half a frame from before an outage is never joined to one from after.

            connection.add_framer(Lines(encoding="ascii"), print)

        Args:
            framer: one of `cnxman.framing`, or anything with its `feed` and `reset`; it serves this connection alone.
            receiver: called with each frame of this framer, on the listener's thread; None for none.

        Returns:
            A function that ends it.

        Raises:
            TypeError: if it is no framer, or the receiver cannot be called.
        """
        check_framer(framer)
        if receiver is not None and not callable(receiver):
            raise TypeError(f"a receiver must be callable, not {receiver!r}")

        def reset() -> None:
            framer.reset()

        def feed(data: bytes) -> None:
            dispatch = signals.current_dispatch() or signals.Dispatch()
            frames = signals.Emitter(self, SerialConnection.Signals.FRAME_RECEIVED, dispatch)
            for frame in framer.feed(data):
                if receiver is not None and not dispatch.cancelled:
                    self._call_with_frame(receiver, frame, dispatch)
                if not dispatch.cancelled:
                    frames.send(frame=frame, framer=framer)

        undo = (
            self.subscribe(reset, SerialConnection.Signals.OPENED),
            self.subscribe(feed, SerialConnection.Signals.DATA_RECEIVED),
        )

        def end() -> None:
            for each in undo:
                each()

        return end

    def _call_with_frame(self, receiver: Callable[[_Frame], object], frame: _Frame, dispatch: signals.Dispatch) -> None:
        dispatch.receiver = receiver
        try:
            receiver(frame)
        except Exception:
            self.logger.exception("%s, a receiver of frames, raised", signals.name_of(receiver))

    def subscribe(self, receiver: signals.Receiver, signal: Hashable = Signals.DATA_RECEIVED) -> Callable[[], None]:
        """Have `receiver` called for one of this connection's signals; see `Connection.subscribe`."""
        return super().subscribe(receiver, signal)

    def add_tap(self, tap: Tap) -> Callable[[], None]:
        """Have a tap called on the listener's thread, before receivers are: what a receiver costs is too much for some.

        Returns:
            A function that ends it.
        """
        with self._lock:
            self.taps = (*self.taps, tap)
        return lambda: self._remove_tap(tap)

    def _remove_tap(self, tap: Tap) -> None:
        with self._lock:
            self.taps = tuple(other for other in self.taps if other is not tap)

    def is_drained(self) -> bool:
        """Whether all data that has come by now was delivered to receivers. Answers at once, from any thread.

        Raises:
            ConnectionException: the line is lost.
        """
        opening = self._opening
        try:
            return opening is None or not opening.is_open or opening.listener.is_drained()
        except Exception as error:
            raise port_error(errors.loss_message, self._port, error) from error

    @property
    def current_opening(self) -> "Opening | None":
        """The opening of the port that is under way, or None. In a receiver: the one that it is called for."""
        newest = self._opening
        return self._opening_here() or newest

    def _opening_here(self) -> "Opening | None":
        """The opening whose receivers the current thread calls."""
        opening = self._opening
        while opening is not None:
            if opening.is_delivering_here:
                return opening
            opening = opening.predecessor
        return None

    def check_may_wait(self) -> None:
        """Refuse to wait for this connection's data where they could not come.

        Raises:
            RuntimeError: on the thread that delivers them, so in a receiver.
            ConnectionException: in a forked child of the process that has opened the port.
        """
        if self._is_inherited:
            raise self._inherited_error()
        opening = self._opening
        if self._opening_here() is not None or (opening is not None and opening.listener.delivers_here):
            raise RuntimeError(
                f"a receiver on the listener thread of {self._port} can't wait for its data, which come on that"
                " very thread: read, or ask, on another one"
            )

    @property
    def statistics(self) -> SerialStatistics:
        """What happened since this connection was made: a snapshot. Answers at once."""
        snapshot = self._counters.snapshot()
        if self._is_inherited:
            snapshot.count_end()
        with contextlib.suppress(ConnectionException, OSError):  # no line, no driver's counters
            snapshot.driver = self._line().use(driver_counts)
        return snapshot

    # -- settings, modem lines, break: kept for every further opening; they wait for nothing but the driver ----

    def configure(self, **changes: Unpack[Settings]) -> None:
        """Change settings, on the open line if there is one, and for every further opening.

        Args:
            **changes: settings under pyserial's names, such as `baudrate=115200`.

        Raises:
            ValueError: for a setting that makes no sense.
            TypeError: for a name that is no setting.
            ConnectionException: if the line was lost; the settings are kept for the next one.
        """
        check_settings(changes)
        self._settings.update(changes)
        if self.is_connected:
            self.use(lambda port: apply_settings(port, changes))

    @property
    def settings(self) -> Settings:
        """The settings, as `configure` takes them: a copy. Answers at once."""
        return self._settings.copy()

    def use(self, what: Callable[[pyserial.Serial], _Result]) -> _Result:
        """Do something with pyserial's own port, for what this class has no method for.

            connection.use(lambda port: port.set_low_latency_mode(True))

        The port is certainly open meanwhile, and is read, written and closed by nobody: so keep it short, neither
        read nor write, and do not keep the port. What is done so is not done again at the next opening.

        Args:
            what: called at once, on this thread, with the port.

        Returns:
            What it returns.

        Raises:
            ConnectionException: if there is no connection, or for whatever `what` raises.
        """
        line = self._line()
        try:
            return line.use(what)
        except Exception as error:
            raise port_error(errors.control_message, self._port, error) from error

    @property
    def dtr(self) -> bool | None:
        """DTR: what it was set to, or None if it is left to the driver. Set it at any time; it is kept."""
        return self._modem_lines["dtr"]

    @dtr.setter
    def dtr(self, level: bool | None) -> None:
        self._set_line("dtr", level)

    @property
    def rts(self) -> bool | None:
        """RTS: what it was set to, or None if it is left to the driver. Set it at any time; it is kept."""
        return self._modem_lines["rts"]

    @rts.setter
    def rts(self, level: bool | None) -> None:
        self._set_line("rts", level)

    @property
    def cts(self) -> bool:
        """Clear To Send. Raises `ConnectionException` where there is no such line, as the other three do."""
        return self.use(lambda port: bool(port.cts))

    @property
    def dsr(self) -> bool:
        """Data Set Ready."""
        return self.use(lambda port: bool(port.dsr))

    @property
    def ri(self) -> bool:
        """Ring Indicator."""
        return self.use(lambda port: bool(port.ri))

    @property
    def cd(self) -> bool:
        """Carrier Detect."""
        return self.use(lambda port: bool(port.cd))

    def send_break(self, duration: float = 0.25) -> None:
        """Hold the line in the break condition.

        Args:
            duration: for how long, in seconds; cut short if the line ends.

        Raises:
            ConnectionException: if there is no connection, it is lost meanwhile, or the port cannot do it.
            TypeError, ValueError: for a duration that is no number, or below 0.
        """
        if duration is None:
            raise TypeError("duration must be a number of seconds, not None")
        check_timeout(duration, "duration")
        self.use(lambda port: setattr(port, "break_condition", True))
        try:
            self._line().wait_for_stop(duration)
        finally:
            self.use(lambda port: setattr(port, "break_condition", False))

    # -- how ----------------------------------------------------------------------------------------------

    @property
    def _is_inherited(self) -> bool:
        """Whether this is a forked child of the process that has opened the port."""
        return self._process != os.getpid() and (self._is_wanted or self._opening is not None)

    def _inherited_error(self) -> ConnectionException:
        message = f"{self!r} belongs to the process that this one was forked from; make your own here"
        return ConnectionException(message, ConnectionError(message))

    def _supersede(self, *, is_wanted: bool) -> "tuple[int, Opening | None]":
        """From now on, whatever an earlier call is still doing is superseded. Returns this call's generation."""
        with self._lock:
            self._generation += 1
            self._is_wanted = is_wanted
            self._process = os.getpid()
            self._counters.count_end()
            return self._generation, self._opening

    def _open_port(self) -> pyserial.Serial:
        port = make_port(self._port, self._settings, self._exclusive, self._modem_lines, self._rs485_mode)
        try:
            open_port(port)
            if self._exclusive:
                set_exclusive(port)
            if self._settle is not None:
                wait_until_settled(port, self._settle)
            if self._low_latency:
                set_low_latency(port)
        except BaseException:
            close_unused(port)  # else the exception's traceback would keep open what pyserial has opened
            raise
        return port

    def _establish(self, opening: "Opening") -> ConnectionException | None:
        """Listen, and prepare the device: None, or why not."""
        with self._lock:
            if opening.generation != self._generation:
                return _superseded_error(self._port)
            self._opening = opening
        listener = opening.listener
        try:
            listener.start()
        except RuntimeError as no_thread:
            return port_error(errors.open_message, self._port, no_thread)
        error = self._prepare() if listener.is_listening else None
        with self._lock:
            if opening.generation != self._generation:
                return error or _superseded_error(self._port)
            error = listener.error or error
            if error is None:
                opening.is_established = True
                self.last_error = None
                self._counters.count_connect()
                self._failure_log.forget()
            return error

    def _prepare(self) -> ConnectionException | None:
        try:
            answer = self.prepare()
            if answer:
                return None
        except Exception as error:
            if isinstance(error, ConnectionException):
                return error
            return ConnectionException(f"{self._port} could not be prepared: {error}", error)
        refusal = f"{self._port}: prepare() returned {answer!r}, which is not True"
        return ConnectionException(refusal, ConnectionError(refusal))

    def _fail(self, error: ConnectionException) -> bool:
        self.last_error = error
        with self._lock:
            self._counters.count_failure(error)
        self._log(self._failure_log.level(error.message), "%s", error)
        return False

    def _close(self, opening: "Opening | None") -> "Opening | None":
        """Close an opening. Returns the one, it or a predecessor, that can't have ended yet: this is its own thread."""
        if opening is None:
            return None
        opening.terminate()
        if opening.listener.is_calling_here:
            opening.listener.close_now()
            return opening
        unfinished = self._close(opening.predecessor)
        if not opening.listener.wait_for_end(LONGEST_DELIVERY):
            receiver = opening.abandon()
            name = signals.name_of(receiver) if receiver else "a receiver"
            self._log(logging.WARNING, "%s: closed without waiting any longer for %s", self._port, name)
        with self._lock:
            if self._opening is opening:
                self._opening = unfinished
        return unfinished

    def _on_closed(self, opening: "Opening", error: ConnectionException | None) -> None:
        """The port is closed. On the listener's thread."""
        with self._lock:
            lost = error if opening.generation == self._generation else None
            if lost is not None:
                self.last_error = lost
                if opening.is_established:
                    self._counters.count_loss(lost)
        if lost is not None and opening.is_established:
            self._log(self._failure_log.level(lost.message), "%s", lost)
        opening.has_closed = True
        if opening.has_sent_opened:
            for tap in self.taps:
                tap.on_closed(lost)
            signals.Emitter(self, SerialConnection.Signals.CLOSED, opening.dispatch).send(error=lost)
        if lost is not None and opening.is_established and opening.generation == self._generation:
            self.raise_alarm(lost)
        with self._lock:
            if self._opening is opening:
                self._opening = opening.predecessor

    def _line(self) -> Line:
        """The open line; raises `ConnectionException` if there is none."""
        opening = self._opening
        if self._is_inherited:
            raise self._inherited_error()
        line = opening.listener.line if opening is not None and opening.is_open else None
        if line is None:
            loss = self._loss()
            cause = loss or ConnectionError("not connected")
            why = f": {loss}" if loss is not None else ""
            raise ConnectionException(f"{self._port} is not connected{why}", cause) from cause
        return line

    def _loss(self) -> ConnectionException | None:
        """`last_error`, or what it will be: a listener knows of a loss, and closes the port, before it reports that."""
        opening = self._opening
        if self.last_error is None and opening is not None and opening.is_established:
            return opening.listener.error if opening.generation == self._generation else None
        return self.last_error

    def _set_line(self, name: str, level: bool | None) -> None:
        check_choice(name, level)
        self._modem_lines[name] = level
        if level is not None and self.is_connected:
            self.use(lambda port: setattr(port, name, level))

    def _log(self, level: int, message: str, *args: object) -> None:
        self.logger.log(level, message, *args, extra={"port": self._port})


class Opening:
    """One opening of a connection's port: its listener, and the connection's signals, in order.

    The opening that data belong to is `SerialConnection.current_opening`; compare two by `is`.

    A receiver may close the connection and open it again, on the thread of the very opening that it closes. The new
    opening then sends nothing until its predecessor has sent its CLOSED.

    Args:
        connection: whose port it is.
        port: the port, which is open.
        generation: the connection's generation that it belongs to.
        predecessor: an opening that has yet to send its CLOSED, if there is one.
    """

    def __init__(
        self, connection: SerialConnection, port: pyserial.Serial, generation: int, predecessor: "Opening | None"
    ) -> None:
        self.connection = connection
        self.generation = generation
        self.port = port
        """The port object of pyserial."""
        factory = connection.listener_factory
        own = factory(port, self, connection.idle_timeout) if factory is not None else None
        self.listener: Listener = own or _ThreadListener(port, self, connection)
        self.dispatch = self.listener.dispatch
        self.predecessor = predecessor
        self.has_sent_opened = False
        self.has_closed = False
        """Whether CLOSED is being sent, or was: who subscribes from now on misses it."""
        self.is_established = False
        """Whether `try_connect` has returned True: from then on a loss raises the alarm."""
        self._data = signals.Emitter(connection, SerialConnection.Signals.DATA_RECEIVED, self.dispatch)
        self._is_finished = False
        self._may_send = None if predecessor is None else threading.Event()  # None: from the beginning
        self._successor: Opening | None = None
        if predecessor is not None and self._may_send is not None:
            predecessor._successor = self
            if predecessor._is_finished:
                self._may_send.set()

    @property
    def is_open(self) -> bool:
        """Whether the port is open and listened to. Answers at once."""
        return self.listener.is_listening

    @property
    def is_delivering_here(self) -> bool:
        """Whether the current thread calls receivers for this opening."""
        return signals.current_dispatch() is self.dispatch

    # -- its end ------------------------------------------------------------------------------------------

    def terminate(self) -> None:
        """Have it end. From any thread; returns at once."""
        self.listener.terminate()
        self._let_send()

    def abandon(self) -> signals.Receiver | None:
        """Close the port in spite of a receiver that does not return, after `terminate()`.

        Returns:
            That receiver.
        """
        receiver = self.dispatch.receiver
        self.dispatch.cancel()
        self.listener.abandon()
        self.on_finished()
        return receiver

    def _let_send(self) -> None:
        if self._may_send is not None:
            self._may_send.set()
        self.listener.proceed()

    # -- the listener's sink, on its thread ---------------------------------------------------------------

    @property
    def may_send(self) -> bool:
        """See `Sink`."""
        return self._may_send is None or self._may_send.is_set()

    def on_opened(self) -> None:
        """See `Sink`."""
        if self._may_send is not None:
            self._may_send.wait()
        if self.predecessor is not None and not self.predecessor._is_finished:
            return  # closed again before its predecessor was
        self.predecessor = None
        self.has_sent_opened = True
        for tap in self.connection.taps:
            tap.on_opened()
        signals.Emitter(self.connection, SerialConnection.Signals.OPENED, self.dispatch).send()

    def on_data(self, data: bytes) -> None:
        """See `Sink`."""
        counters = self.connection._counters
        counters.bytes_in += len(data)
        counters.chunks += 1
        for tap in self.connection.taps:
            tap.on_data(data)
        self._data.send(data=data)

    def on_closed(self, error: ConnectionException | None) -> None:
        """See `Sink`."""
        self.connection._on_closed(self, error)

    def on_finished(self) -> None:
        """See `Sink`."""
        self._is_finished = True
        if self._successor is not None:
            self._successor._let_send()


signals.declare(SerialListener.Signals.DATA_RECEIVED, "data")
signals.declare(SerialListener.Signals.READ_ERROR, "error")
signals.declare(SerialConnection.Signals.DATA_RECEIVED, "data")
signals.declare(SerialConnection.Signals.OPENED)
signals.declare(SerialConnection.Signals.CLOSED, "error")
signals.declare(SerialConnection.Signals.FRAME_RECEIVED, "frame", "framer")


def port_error(message: Callable[..., str], port: str, error: Exception, *details: int) -> ConnectionException:
    """What is raised, or sent, for an error of a port: with one of the messages of `cnxman._line.errors`."""
    if isinstance(error, ConnectionException):
        return error
    return ConnectionException(message(port, error, find_errno(error), *details), error)


def _superseded_error(port: str) -> ConnectionException:
    message = f"{port} was disconnected while it was being opened"
    return ConnectionException(message, ConnectionAbortedError(message))
