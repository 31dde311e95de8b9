"""`simulated://N`: the port of a `cnxman.testing.SimulatedDevice` of this process, where it is no pseudo-terminal.

This module follows pyserial's convention for URL handlers: its name, and `serial_class_for_url`.
"""

from typing import TYPE_CHECKING

import serial

from cnxman.testing.memory import MemoryPort, find

if TYPE_CHECKING:
    from typing_extensions import Buffer  # the standard library's has come with Python 3.12


class Serial(serial.SerialBase):
    """The host's end. It has no modem lines, carries no break, and works at whatever baud rate and parity is set."""

    def __init__(self, *args: object, **settings: object) -> None:
        self._memory: MemoryPort | None = None
        self._read_cancelled = self._write_cancelled = False
        super().__init__(*args, **settings)  # type: ignore[arg-type]  # pyserial's own arguments

    def open(self) -> None:
        """Open the port.

        Raises:
            serial.SerialException: nothing is plugged in, or it is open already.
        """
        try:
            memory = find(str(self.port))
            memory.host_open()
        except OSError as error:
            raise serial.SerialException(error.errno, error.strerror) from error
        self._memory = memory
        self.is_open = True

    def close(self) -> None:
        """Close the port."""
        memory, self._memory = self._memory, None
        self.is_open = False
        if memory is not None:
            memory.host_close()

    @property
    def in_waiting(self) -> int:
        """How many bytes wait to be read."""
        return self._opened().host_waiting()

    def read(self, size: int = 1, /) -> bytes:
        """Read up to `size` bytes; see pyserial's."""
        self._read_cancelled = False
        return self._opened().host_read(size, self.timeout, lambda: self._read_cancelled or not self.is_open)

    def write(self, data: "Buffer", /) -> int:
        """Write `data`; see pyserial's.

        Raises:
            serial.SerialTimeoutException: the device did not take all of it in time.
        """
        self._write_cancelled = False
        message = bytes(data)
        sent = self._opened().host_write(message, self.write_timeout, lambda: self._write_cancelled or not self.is_open)
        if sent < len(message) and not self._write_cancelled and self.write_timeout != 0:
            raise serial.SerialTimeoutException("Write timeout")
        return sent

    def cancel_read(self) -> None:
        """End a read in another thread."""
        self._read_cancelled = True
        self._opened().host_wake()

    def cancel_write(self) -> None:
        """End a write in another thread."""
        self._write_cancelled = True
        self._opened().host_wake()

    def flush(self) -> None:
        """What was written is out."""

    def reset_input_buffer(self) -> None:
        """Discard what waits to be read."""
        self._opened().host_discard()

    def reset_output_buffer(self) -> None:
        """What was written is out."""

    def _opened(self) -> MemoryPort:
        if self._memory is None:
            raise serial.PortNotOpenError
        return self._memory

    def _reconfigure_port(self, force_update: bool = False) -> None:
        """Any settings will do."""

    def _update_break_state(self) -> None:
        """There is no break."""

    def _update_dtr_state(self) -> None:
        """There are no modem lines."""

    _update_rts_state = _update_dtr_state

    @property
    def cts(self) -> bool:
        """There are no modem lines."""
        return False

    dsr = ri = cd = cts


def serial_class_for_url(url: str) -> tuple[str, type[Serial]]:
    """What `serial.serial_for_url` asks a handler: the port to set, and the class to use."""
    return url, Serial
