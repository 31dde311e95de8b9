"""Stands in for `serial.Serial`: code that was written for pyserial, yours or a library's, survives an outage.

`Serial` is pyserial's object over a line that a `ConnectionManager` keeps up. `managed://PORT` is the same as a URL,
for programs that open by `serial.serial_for_url`, in every process that has imported `cnxman`.
"""

import errno
import io
import logging
import threading
import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import serial as pyserial
from serial.serialutil import to_bytes  # type: ignore[attr-defined]  # typeshed doesn't know it

from cnxman._compat import errors
from cnxman._compat.kept_line import KeptLine, unsent
from cnxman._compat.receive_buffer import Timing
from cnxman._compat.url import target
from cnxman._line.settings import Settings
from cnxman.basics import ConnectionManager, ConnectionState
from cnxman.retry import RetryPolicy
from cnxman.serial import SerialConnection

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Serial"]

_logger = logging.getLogger(__name__)

WRITE_TIMEOUT = 10.0
"""How long, in seconds, a write waits where pyserial would wait for ever: with a `write_timeout` of None."""


class Serial(pyserial.SerialBase):
    r"""pyserial's `serial.Serial`, over a line that is kept up: it never has to be opened again.

        port = Serial("/dev/ttyUSB0", 115200, timeout=1)
        instrument = minimalmodbus.Instrument(port, 1)

    From `open()` until `close()` a manager keeps the line up. An object that is dropped is closed. Everything
    means what it means in pyserial, under its names, the old ones too (`inWaiting`, `flushInput`, ...), but for this:

    * `open` makes the first attempt, and succeeds though the device is absent. `is_open` is True until `close`;
      `is_connected` says whether the line is up.
    * While the line is down, a read returns what there is, or b"", after its `timeout`. A read never spans two
      openings of the port: what came before an outage is never joined to what came after, and a read that has begun to
      get bytes ends with the outage. So does a `readline` or `read_until`; the next
      call begins with what came after it.
    * While the line is down, a write waits for it, for `write_timeout` seconds at most (10 if that is None), and
      then raises a `serial.SerialTimeoutException`. Nothing is queued for later, and nothing is sent twice.
      While the line is up, `write_timeout` counts from when the line last took something.
    * Every error is a `serial.SerialException`, and so an OSError, with `errno` and a reason in words; but a
      setting that makes no sense is a ValueError. A setting that the port refuses is taken back.
    * There is no descriptor: `fileno` raises `io.UnsupportedOperation`. (For asyncio there is `cnxman.aio`.)
    * If the retry policy gives up, or something else disconnects the manager, calls raise an exception that says so.

    All methods may be called from any thread, while others wait in it. A read or write that would have to wait
    on the line's own thread (in a receiver) raises instead.

    Times are in seconds, sizes in bytes.

    Args:
        port: a device name, or a URL of pyserial's, `usb://` included; it is opened at once. None opens nothing.
        baudrate: bits per second.
        bytesize: data bits, 5 to 8.
        parity: "N", "E", "O", "M" or "S".
        stopbits: 1, 1.5 or 2.
        timeout: how long a read waits; None waits for ever, 0 takes what is there.
        xonxoff: software flow control.
        rtscts: hardware flow control by RTS and CTS.
        write_timeout: how long a write waits; None for 10 seconds, 0 writes what is taken at once.
        dsrdtr: hardware flow control by DSR and DTR.
        inter_byte_timeout: a read ends when it has some bytes and then none came for so long.
        exclusive: keep other programs from opening the port.
        retry: how long to wait between attempts, and how many to make.
        must_exist: have `open` raise, as pyserial does, if the first attempt fails.
        **old_names: `writeTimeout` and `interCharTimeout`, pyserial's old names for two of these.

    Raises:
        ValueError: for a setting that makes no sense, or a port that can never be opened.
        serial.SerialException: if `must_exist` is set and the port cannot be opened.
    """

    def __init__(
        self,
        port: str | None = None,
        baudrate: int = 9600,
        bytesize: int = 8,
        parity: str = "N",
        stopbits: float = 1,
        timeout: float | None = None,
        xonxoff: bool = False,
        rtscts: bool = False,
        write_timeout: float | None = None,
        dsrdtr: bool = False,
        inter_byte_timeout: float | None = None,
        exclusive: bool | None = None,
        *,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 (frozen)
        must_exist: bool = False,
        **old_names: float | None,
    ) -> None:
        if not isinstance(retry, RetryPolicy):
            raise TypeError(f"retry must be a RetryPolicy, not {retry!r}")
        self._line: KeptLine | None = None
        self._is_given = False  # the manager, by `over`
        self._made_for: tuple[object, ...] = ()
        self._applied: Settings = {}  # what the connection was told last
        self._extras: dict[str, object] = {"exclusive": None, "rs485_mode": None}  # likewise
        self._url_must_exist = False
        self._changing = threading.RLock()  # guards `is_open`, and which line there is; a signal handler may close
        self.retry = retry
        """How long to wait between attempts, and how many to make. A change counts from when the port is changed."""
        self.must_exist = must_exist
        """Whether `open` raises if the first attempt fails."""
        super().__init__(
            port,
            baudrate,
            bytesize,
            parity,
            stopbits,
            timeout,
            xonxoff,
            rtscts,
            write_timeout,
            dsrdtr,
            inter_byte_timeout,
            exclusive,
            **old_names,
        )

    @classmethod
    def over(cls, manager: ConnectionManager) -> Self:
        """Make one of a manager that keeps up a `SerialConnection`. It is open: the manager connects, unless it has.

        So the connection can be one of your own, whose `prepare()` puts a device that lost its power back to work. What
        is received until that has returned is not read here, and nothing is written.

        `close()` disconnects the manager, `open()` connects it again. Dropping the object disconnects it only if it was
        connected by this object. The port cannot be changed; settings that are changed are the connection's.

        Args:
            manager: keeps up the line. It may have other users.

        Raises:
            TypeError: if it is no manager of a `SerialConnection`.
            serial.SerialException: if it is torn down.
        """
        if not isinstance(manager, ConnectionManager):
            raise TypeError(f"manager must be a ConnectionManager, not {manager!r}")
        connection = manager.connection
        if not isinstance(connection, SerialConnection):
            raise TypeError(f"the manager's connection must be a SerialConnection, not {connection!r}")
        self = cls()
        self.port = connection.port
        self.apply_settings(dict(connection.settings))
        self.dtr, self.rts = connection.dtr is not False, connection.rts is not False
        self._is_given, self._line, self._applied = True, KeptLine(manager, connection), self._line_settings()
        self.open()
        return self

    def __del__(self) -> None:
        line = self.__dict__.get("_line")  # None if it was never made
        if line is not None:
            line.drop()

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        """A copy has the same settings, and is not open: a port has one owner."""
        if self._is_given:
            raise TypeError(f"{self!r} is over a manager, which can't be copied")
        extras = {"exclusive": self.exclusive, "rs485_mode": self.rs485_mode, "dtr": self.dtr, "rts": self.rts}
        more = {"retry": self.retry, "must_exist": self.must_exist, "port": self.port}
        return _twin, (type(self), {**self.get_settings(), **extras, **more})

    # -- opening and closing ------------------------------------------------------------------------------

    def open(self) -> None:
        """Keep the line up from now on. Returns when the first attempt is over, whatever became of it.

        Raises:
            serial.SerialException: it is open already, or there is no port to open; or the attempt failed, and
                `must_exist` is set, or the port is none that could be opened ever.
            ValueError: for a setting or a URL that makes no sense.
        """
        line = self._begin()
        try:
            line.open()
            self._check_first_attempt(line)
        except BaseException:
            self.close()
            raise
        if not self.is_open:  # another thread has closed it meanwhile, perhaps before the manager was connected
            self._settle(line)
            raise errors.closed_meanwhile(str(self.port))

    def close(self) -> None:
        """Close the line. From any thread: a read that waits returns what there is, a write that waits raises."""
        with self._changing:
            line, was_open = self._line, self.is_open
            self.is_open = False
        if line is not None and was_open:
            line.stop()
            self._settle(line)

    @property
    def port(self) -> str | None:
        """The port, as it was given. Setting it on an open line closes that and opens the new one."""
        port: str | None = pyserial.SerialBase.port.__get__(self)
        return port

    @port.setter
    def port(self, port: str | None) -> None:
        if self._is_given:
            raise ValueError(f"port is that of the manager's connection, {self.port!r}, and can't be {port!r}")
        pyserial.SerialBase.port.__set__(self, port)  # type: ignore[attr-defined]

    @property
    def manager(self) -> ConnectionManager:
        """What keeps the line up: subscribe to its signals to see losses and returns.

        It stays the same for as long as `port` does (and, while it is closed, `exclusive` and `rs485_mode`).

        Raises:
            serial.SerialException: there is no port yet.
        """
        return self._make_line().manager

    @property
    def connection(self) -> SerialConnection:
        """The line itself: for its signals and statistics. Writing and settings are better done here than there.

        Raises:
            serial.SerialException: there is no port yet.
        """
        return self._make_line().connection

    @property
    def is_connected(self) -> bool:
        """Whether the line is open and up. Answers at once."""
        line = self._line
        return self.is_open and line is not None and line.manager.is_connected

    # -- reading ------------------------------------------------------------------------------------------

    def read(self, size: int = 1) -> bytes:
        """Read `size` bytes.

        Returns:
            Fewer, or b"", when `timeout` is over, `inter_byte_timeout` or `cancel_read` ends it, or the line is lost
            after some have come.

        Raises:
            serial.SerialException: it is not open; or nothing will ever come, as the manager has given up.
        """
        line = self._line
        if line is None:
            raise errors.not_open()
        return line.buffer.read(size, Timing(self.timeout, self.inter_byte_timeout))

    def read_until(self, expected: bytes = b"\n", size: int | None = None) -> bytes:
        r"""Read up to `expected`, and with it; or `size` bytes, or what came within `timeout`.

        Raises:
            serial.SerialException: as `read`.
        """
        return self._open_line().buffer.read_until(bytes(expected), size and max(size, 1), Timing(self.timeout))

    def readline(self, size: int | None = -1, /) -> bytes:
        r"""Read up to b"\n", and with it; or `size` bytes. Each byte gives the next one the whole `timeout`.

        Returns:
            A line; or what there is, when the time is over or the line is lost.

        Raises:
            serial.SerialException: as `read`.
        """
        if size == 0:
            return b""
        most = None if size is None or size < 0 else size
        return self._open_line().buffer.read_until(b"\n", most, Timing(self.timeout, restarts=True))

    @property
    def in_waiting(self) -> int:
        """How many bytes a read gets without waiting."""
        return self._open_line().buffer.waiting()

    def reset_input_buffer(self) -> None:
        """Discard all that has come by now."""
        self._open_line().forget_input()

    def cancel_read(self) -> None:
        """Have the read that waits in another thread, or else the next one, return what there is."""
        if self.is_open:
            self._open_line().buffer.cancel()

    # -- writing ------------------------------------------------------------------------------------------

    def write(self, data: "ReadableBuffer") -> int:
        """Write `data`, as one message: what several threads write is never mixed.

        Returns:
            How many bytes were written. Less than all only if `write_timeout` is 0, or after `cancel_write`.

        Raises:
            serial.SerialTimeoutException: the line was down, or took nothing, for `write_timeout` seconds. It says how
                much went out.
            serial.SerialException: it is not open; or the line was lost, or closed, meanwhile.
            TypeError: for text.
        """
        line = self._open_line()
        message: bytes = to_bytes(data)
        return line.write(message, self._patience()) if message else 0

    def flush(self) -> None:
        """Wait until everything has gone out.

        Raises:
            serial.SerialTimeoutException: nothing goes out for `write_timeout` seconds.
            serial.SerialException: it is not open, or the line is down: what was written may be lost.
        """
        self._open_line().drain(self._patience() or WRITE_TIMEOUT)

    @property
    def out_waiting(self) -> int:
        """How many bytes have yet to go out; 0 while the line is down."""
        return self._open_line().use_if_up(unsent, 0)

    def reset_output_buffer(self) -> None:
        """Discard what has yet to go out."""
        self._open_line().use_if_up(lambda port: port.reset_output_buffer(), None)

    def cancel_write(self) -> None:
        """Have the write that waits in another thread for the line to come up return 0.

        One that flow control holds up ends after `write_timeout` seconds, or when the line is closed.
        """
        if self.is_open:
            self._open_line().cancel_write()

    # -- modem lines, break, flow control -----------------------------------------------------------------

    @property
    def cts(self) -> bool:
        """Clear To Send. Raises a `serial.SerialException` while the line is down, as the other three do."""
        return self._open_line().use(lambda port: bool(port.cts))

    @property
    def dsr(self) -> bool:
        """Data Set Ready."""
        return self._open_line().use(lambda port: bool(port.dsr))

    @property
    def ri(self) -> bool:
        """Ring Indicator."""
        return self._open_line().use(lambda port: bool(port.ri))

    @property
    def cd(self) -> bool:
        """Carrier Detect."""
        return self._open_line().use(lambda port: bool(port.cd))

    def send_break(self, duration: float = 0.25) -> None:
        """Hold the line in the break condition for `duration` seconds."""
        line = self._open_line()
        line.call(partial(line.connection.send_break, duration))

    def set_input_flow_control(self, enable: bool = True) -> None:
        """Send XON (True) or XOFF (False) to the device. Not on Windows."""
        self._do("set_input_flow_control", enable)

    def set_output_flow_control(self, enable: bool = True) -> None:
        """Go on with what is to be sent (True), or hold it (False)."""
        self._do("set_output_flow_control", enable)

    def set_low_latency_mode(self, low_latency_settings: bool) -> None:
        """Have the driver hand over what comes at once, here and at each opening to come. On Linux."""
        line = self._open_line()
        line.keep("the low latency mode", partial(_do, "set_low_latency_mode", low_latency_settings))

    def set_buffer_size(self, rx_size: int = 4096, tx_size: int | None = None) -> None:
        """Tell the driver how large its buffers should be, here and at each opening to come. On Windows."""
        line = self._open_line()
        line.keep("the driver's buffer size", partial(_do, "set_buffer_size", rx_size, tx_size))

    def nonblocking(self) -> None:
        """Nothing, as in pyserial."""
        warnings.warn("nonblocking() has no effect, already nonblocking", DeprecationWarning, stacklevel=2)

    def fileno(self) -> int:
        """There is none, as the port under it comes and goes.

        Raises:
            io.UnsupportedOperation: always.
        """
        raise io.UnsupportedOperation(
            "this line has no descriptor for select, poll or asyncio, because the port under it comes and goes: read in"
            " a thread, subscribe to .connection, or use cnxman.aio"
        )

    # -- what SerialBase asks of its heirs: called by its setters while it is open ------------------------

    def _reconfigure_port(self) -> None:
        line = self._open_line()
        self._keep_extras(line)
        try:
            self._configure(line)
        except (pyserial.SerialException, ValueError):
            self._take_back(line)
            raise

    def _update_rts_state(self) -> None:
        line = self._open_line()
        line.change(partial(setattr, line.connection, "rts", bool(self.rts)))

    def _update_dtr_state(self) -> None:
        line = self._open_line()
        line.change(partial(setattr, line.connection, "dtr", bool(self.dtr)))

    def _update_break_state(self) -> None:
        level = self.break_condition
        self._open_line().use(lambda port: setattr(port, "break_condition", level))

    # -- how ----------------------------------------------------------------------------------------------

    def _open_line(self) -> KeptLine:
        line = self._line
        if line is None or not self.is_open:
            raise errors.not_open()
        return line

    def _begin(self) -> KeptLine:
        """From here on it is open; what was set while it was closed counts."""
        line = self._make_line()
        with self._changing:
            if self.is_open:
                raise pyserial.SerialException(errno.EISCONN, "Port is already open.")
            self._configure(line)
            for name, level in (("dtr", self.dtr), ("rts", self.rts)):
                if (getattr(line.connection, name) is not False) != bool(level):
                    line.change(partial(setattr, line.connection, name, bool(level)))
            self.is_open = True
        return line

    def _make_line(self) -> KeptLine:
        """The line of now: a new one if it is closed, and was made for something else."""
        port = self.port
        if port is None:
            raise pyserial.SerialException(errno.EINVAL, "Port must be configured before it can be used.")
        wanted = (port, self.exclusive, self.rs485_mode)
        with self._changing:
            line = self._line
            if line is not None and (self.is_open or self._is_given or wanted == self._made_for):
                return line
            device, self._url_must_exist = target(port)
            settings = self._line_settings()
            connection = SerialConnection(
                device,
                **settings,
                exclusive=self.exclusive,
                dtr=bool(self.dtr),
                rts=bool(self.rts),
                rs485_mode=self.rs485_mode,
            )
            new = KeptLine(ConnectionManager(connection, retry=self.retry), connection)
            self._line, self._made_for, self._applied = new, wanted, settings
            self._extras = {"exclusive": self.exclusive, "rs485_mode": self.rs485_mode}
        if line is not None:
            line.drop()
        return new

    def _check_first_attempt(self, line: KeptLine) -> None:
        error = line.manager.last_error
        if error is None or line.manager.is_connected:
            return
        refused = errors.refused_setting(line.port, error)
        if refused is not None:
            raise refused from error
        has_given_up = line.manager.state is ConnectionState.DISCONNECTED
        is_no_port = error.errno in (errno.ENOTTY, errno.EISDIR)
        if self.must_exist or self._url_must_exist or has_given_up or is_no_port:
            raise errors.failed(error) from error

    def _settle(self, line: KeptLine) -> None:
        """Have the manager do what `is_open` says, also if another thread changes that meanwhile."""
        wanted = None
        while wanted is not self.is_open:
            wanted = self.is_open
            if wanted:
                line.manager.connect()
            else:
                line.manager.disconnect()

    def _line_settings(self) -> Settings:
        """What the port is to be told. Time-outs of reads are our own business."""
        return {
            "baudrate": self.baudrate,
            "bytesize": self.bytesize,
            "parity": self.parity,
            "stopbits": self.stopbits,
            "xonxoff": bool(self.xonxoff),
            "rtscts": bool(self.rtscts),
            "dsrdtr": bool(self.dsrdtr),
            "write_timeout": self._patience(),
        }

    def _configure(self, line: KeptLine) -> None:
        """Tell the connection what has changed."""
        settings = self._line_settings()
        changes: dict[str, Any] = {name: value for name, value in settings.items() if self._applied.get(name) != value}
        if changes:  # else it was a time-out of ours
            line.change(partial(line.connection.configure, **changes))
            self._applied = settings

    def _take_back(self, line: KeptLine) -> None:
        """A setting was refused: the ones before it count, also at the next opening."""
        for name, value in self._applied.items():
            if name != "write_timeout":
                setattr(self, f"_{name}", value)  # what SerialBase's own setter sets, before it calls us
        try:
            line.change(partial(line.connection.configure, **self._applied))
        except pyserial.SerialException as error:
            _logger.warning("%s: %s", line.port, error)

    def _keep_extras(self, line: KeptLine) -> None:
        """What a connection is given once and for all, and was changed while it is open."""
        for name, before in self._extras.items():
            value = getattr(self, name)
            if value is before:
                continue
            try:
                line.keep(name, partial(_set, name, value))
            except (pyserial.SerialException, ValueError):
                setattr(self, f"_{name}", before)
                raise
            self._extras[name] = value

    def _patience(self) -> float:
        return WRITE_TIMEOUT if self.write_timeout is None else self.write_timeout

    def _do(self, name: str, *arguments: object) -> None:
        self._open_line().use(partial(_do, name, *arguments))


def _set(name: str, value: object, port: pyserial.Serial) -> None:
    setattr(port, name, value)


def _do(name: str, *arguments: Any) -> None:
    *values, port = arguments
    method = getattr(port, name, None)
    if method is None:
        raise OSError(errno.ENOSYS, f"there is no {name} for this kind of port, or on this system")
    method(*values)


def _twin(kind: type[Serial], settings: dict[str, Any]) -> Serial:
    """What a copy is made by."""
    twin = kind()
    for name, value in settings.items():
        setattr(twin, name, value)
    return twin
