"""What one does to a serial port besides reading and writing: settings, modem lines, break."""

from abc import abstractmethod
from collections.abc import Callable
from typing import TypeVar, Unpack

import serial as pyserial

from cnxman._checks import check_timeout
from cnxman._connection import Connection
from cnxman._line import errors as _faults
from cnxman._line import settings as _settings
from cnxman._line.port import Line
from cnxman._line.settings import Settings

_Result = TypeVar("_Result")


class PortControls(Connection):
    """The part of a `SerialConnection` that controls its port. What is set is kept for every further opening.

    All of it may be used from any thread. It waits for nothing but the driver; `send_break` takes its time.
    """

    _port: str
    _settings: Settings
    _lines: dict[str, bool | None]

    @property
    @abstractmethod
    def is_connected(self) -> bool:
        """Whether the port is open. Answers at once."""

    @abstractmethod
    def _line(self) -> Line:
        """The open line; raises `ConnectionException` if there is none."""

    def configure(self, **changes: Unpack[Settings]) -> None:
        """Change settings, on the open line if there is one, and for every further opening.

        Args:
            **changes: settings under pyserial's names, such as `baudrate=115200`.

        Raises:
            ValueError: for a setting that makes no sense.
            TypeError: for a name that is no setting.
            ConnectionException: if the line was lost; the settings are kept for the next one.
        """
        _settings.check(changes)
        self._settings.update(changes)
        if self.is_connected:
            self._use(lambda port: _settings.apply(port, changes))

    @property
    def dtr(self) -> bool | None:
        """DTR: what it was set to, or None if it is left to the driver. Set it at any time; it is kept."""
        return self._lines["dtr"]

    @dtr.setter
    def dtr(self, level: bool | None) -> None:
        self._set_line("dtr", level)

    @property
    def rts(self) -> bool | None:
        """RTS: what it was set to, or None if it is left to the driver. Set it at any time; it is kept."""
        return self._lines["rts"]

    @rts.setter
    def rts(self, level: bool | None) -> None:
        self._set_line("rts", level)

    @property
    def cts(self) -> bool:
        """Clear To Send. Raises `ConnectionException` where there is no such line, as the other three do."""
        return self._use(lambda port: bool(port.cts))

    @property
    def dsr(self) -> bool:
        """Data Set Ready."""
        return self._use(lambda port: bool(port.dsr))

    @property
    def ri(self) -> bool:
        """Ring Indicator."""
        return self._use(lambda port: bool(port.ri))

    @property
    def cd(self) -> bool:
        """Carrier Detect."""
        return self._use(lambda port: bool(port.cd))

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
        self._use(lambda port: setattr(port, "break_condition", True))
        try:
            self._line().wait_for_stop(duration)
        finally:
            self._use(lambda port: setattr(port, "break_condition", False))

    def _use(self, what: Callable[[pyserial.Serial], _Result]) -> _Result:
        line = self._line()
        try:
            return line.use(what)
        except Exception as error:
            raise _faults.not_done(self._port, error) from error

    def _set_line(self, name: str, level: bool | None) -> None:
        _settings.check_choice(name, level)
        self._lines[name] = level
        if level is not None and self.is_connected:
            self._use(lambda port: setattr(port, name, level))
