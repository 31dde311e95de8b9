"""Let's manage serial port connections!

`SerialConnection` is what most people want. `SerialListener` is the thread beneath it: it reads one opening of one
port, and can be used by itself. Which thread runs what:

* `try_connect`, `disconnect`, `teardown`, `write` and the like run on the caller's thread.
* Receivers of DATA_RECEIVED, OPENED, CLOSED and of the alarm run on the listener's thread.
"""

import logging
import threading
from collections.abc import Collection, Hashable

import serial as pyserial
from serial.rs485 import RS485Settings

from cnxman import _fork, ports, signals
from cnxman._checks import check_size
from cnxman._connections_listener import ConnectionsListener
from cnxman._conversation import Conversation
from cnxman._line import errors as _faults
from cnxman._line import settings as _settings
from cnxman._line.port import Line, open_port
from cnxman._line.posix import keep_others_out, let_go
from cnxman._line.settings import Settings
from cnxman._line.statistics import DriverCounts, SerialStatistics
from cnxman._listener import BUFFER_SIZE, SerialListener
from cnxman.basics import ConnectionException
from cnxman.logging import FirstThenDebug, loggable_class

__all__ = ["DriverCounts", "SerialConnection", "SerialListener", "SerialStatistics"]

SerialListener.__module__ = __name__  # documented and shown under the name of the module that hands it on

LONGEST_DELIVERY = 5.0
"""How long, in seconds, hanging up waits for a receiver that is running."""


@loggable_class()
class SerialConnection(Conversation):
    """A connection to a serial port, with a thread that listens.

    Settings are pyserial's, under its names, and are checked here and now. Times are in seconds, sizes in bytes.

    Args:
        port: a device name or URL, whatever `serial.serial_for_url` takes; also `usb://VID:PID[/SERIAL]`.
        baudrate: bits per second.
        bytesize: data bits, 5 to 8.
        parity: "N", "E", "O", "M" or "S".
        stopbits: 1, 1.5 or 2.
        timeout: bounds one read of pyserial's; bytes are told as they come whatever it is, and its passing is no event.
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
        buffer_size: how many bytes may wait for a receiver that is busy. When they do, reading pauses, and flow
            control, if there is any, holds the sender off.
        idle_timeout: raise the alarm when nothing came for this long; None never does.
        schemes: which URL schemes to allow in `port`, "" for plain device names; None allows all.

    Raises:
        ValueError: for a setting that makes no sense, or a port that can never be opened.
        TypeError: for a value of the wrong type.
    """

    logger: logging.Logger

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
        rs485_mode: RS485Settings | None = None,
        buffer_size: int = BUFFER_SIZE,
        idle_timeout: float | None = None,
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
        _settings.check(self._settings)
        check_size("buffer_size", buffer_size)
        _settings.check_seconds("idle_timeout", idle_timeout)
        _settings.check_choice("exclusive", exclusive)
        _settings.check_choice("dtr", dtr)
        _settings.check_choice("rts", rts)
        self.buffer_size = buffer_size
        self.idle_timeout = idle_timeout
        self._exclusive = exclusive
        self._lines = {"dtr": dtr, "rts": rts}
        self._rs485_mode = rs485_mode
        self._asking = threading.Lock()
        self._counting = threading.Lock()
        self._tally = SerialStatistics()
        self._lock = threading.Lock()  # guards what is below; never held while anything is called
        self._listener: ConnectionsListener | None = None
        self._turn = 0  # which try_connect, disconnect or teardown was the last
        self._is_dialled = False  # since the last disconnect or teardown
        self._is_parents = False
        self._presence = ports.Presence(port)
        self._complaint = FirstThenDebug()
        _fork.in_child(self, SerialConnection.leave_to_parent)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._port}>"

    # -- what a manager calls -----------------------------------------------------------------------------

    def try_connect(self) -> bool:
        """Open the port and start to listen.

        Returns at once, with the listener running; it never waits for the line. What waited in the port from before is
        discarded. A line from before is closed first.

        Returns:
            True if and only if the port is open. Otherwise the reason is logged, and is in `last_error`.
        """
        if self._is_parents:
            return self._fail(_fork.not_here(repr(self)))
        turn, old = self._take_turn(dialled=True)
        predecessor = self._hang_up(old)
        try:
            port = self._open()
        except Exception as error:
            return self._fail(_faults.not_opened(self._port, error))
        listener = ConnectionsListener(self, port, turn, predecessor)
        try:
            failure = self._start(listener)
        except BaseException:
            self._hang_up(listener)
            raise
        if failure is None:
            return True
        self._hang_up(listener)
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

        When this returns, the thread and all descriptors are gone and nothing more is delivered. A receiver that is
        running is waited for, 5 seconds at most. (Called from a receiver on the listener's own thread it closes the
        port and returns; the thread ends once the receiver has returned.)
        """
        _, listener = self._take_turn(dialled=False)
        self._hang_up(listener)

    def teardown(self) -> None:
        """Release the serial port entirely."""
        self.disconnect()

    def presence(self) -> Hashable | None:
        """Whether the port is there, and which one: what lets a manager try at once when an adapter is back."""
        return self._presence()

    # -- what users call ----------------------------------------------------------------------------------

    @property
    def port(self) -> str:
        """The port, as it was given."""
        return self._port

    @property
    def is_connected(self) -> bool:
        """Whether the port is open. Answers at once."""
        listener = self._listener
        return listener is not None and listener.is_listening

    # -- how ----------------------------------------------------------------------------------------------

    def _take_turn(self, *, dialled: bool) -> tuple[int, "ConnectionsListener | None"]:
        """From now on, whatever an earlier call is still doing has been overtaken."""
        with self._lock:
            self._turn += 1
            self._is_dialled = dialled
            self._tally.count_end()
            return self._turn, self._listener

    def _open(self) -> pyserial.Serial:
        port = _settings.make_port(self._port, self._settings, self._exclusive, self._lines, self._rs485_mode)
        try:
            open_port(port)
            if self._exclusive:
                keep_others_out(port)
        except BaseException:
            let_go(port)  # else the exception's traceback would keep open what pyserial has opened
            raise
        return port

    def _start(self, listener: ConnectionsListener) -> ConnectionException | None:
        """Listen, and prepare the device: None, or why not."""
        with self._lock:
            if listener.turn != self._turn:
                return _overtaken(self._port)
            self._listener = listener
        try:
            listener.start()
        except RuntimeError as no_thread:
            return _faults.not_opened(self._port, no_thread)
        listener.ready.wait()
        error = self._prepare() if listener.is_listening else None
        with self._lock:
            if listener.turn != self._turn:
                return error or _overtaken(self._port)
            error = listener.error or error
            if error is None:
                listener.settled = True
                self.last_error = None
                self._tally.count_connect()
                self._complaint.forget()
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
            self._tally.count_failure(error)
        self._log(self._complaint.level(error.message), "%s", error)
        return False

    def _hang_up(self, listener: "ConnectionsListener | None") -> "ConnectionsListener | None":
        """End a listener. Returns the one, it or its predecessor, that can't have ended yet: this is its own thread."""
        if listener is None:
            return None
        listener.terminate()
        if listener is threading.current_thread():
            listener.close_now()
            return listener
        unfinished = self._hang_up(listener.predecessor)
        if not listener.wait_for_end(LONGEST_DELIVERY):
            receiver = listener.abandon()
            name = signals.name_of(receiver) if receiver else "a receiver"
            self._log(logging.WARNING, "%s: hung up without waiting any longer for %s", self._port, name)
        with self._lock:
            if self._listener is listener:
                self._listener = unfinished
        return unfinished

    def _line_ended(self, listener: ConnectionsListener, error: ConnectionException | None) -> None:
        """The port is closed. On the listener's thread."""
        with self._lock:
            told = error if listener.turn == self._turn else None
            if told is not None:
                self.last_error = told
                if listener.settled:
                    self._tally.count_loss(told)
        if told is not None and listener.settled:
            self._log(self._complaint.level(told.message), "%s", told)
        if listener.has_told:
            signals.Channel(listener.delivery, self, SerialConnection.Signals.CLOSED).send(error=told)
        if told is not None and listener.settled and listener.turn == self._turn:
            self.raise_alarm(told)
        with self._lock:
            if self._listener is listener:
                self._listener = listener.predecessor

    def _line(self) -> Line:
        listener = self._listener
        line = listener.line if listener is not None and listener.is_listening else None
        if self._is_parents:
            raise _fork.not_here(repr(self))
        if line is None:
            cause = self.last_error or ConnectionError("not connected")
            raise ConnectionException(f"{self._port} is not connected", cause) from cause
        return line

    def _itself(self) -> "SerialConnection":
        return self

    def _delivery(self) -> signals.Delivery:
        current = threading.current_thread()
        return current.delivery if isinstance(current, SerialListener) else signals.Delivery()

    def _count_in(self, size: int) -> None:
        self._tally.bytes_in += size
        self._tally.chunks += 1

    def leave_to_parent(self) -> None:
        """In a forked child: the line, if there is one or is to be one, is the parent's."""
        self._lock, self._asking, self._counting = threading.Lock(), threading.Lock(), threading.Lock()
        self._presence = ports.Presence(self._port)
        if self._is_dialled or self._listener is not None:
            self._is_parents, self._listener = True, None
            self._tally.count_end()

    def _log(self, level: int, message: str, *args: object) -> None:
        self.logger.log(level, message, *args, extra={"port": self._port})


def _overtaken(port: str) -> ConnectionException:
    message = f"{port} was disconnected while it was being opened"
    return ConnectionException(message, ConnectionAbortedError(message))
