"""What happened on a serial line, in numbers; also those that the driver has."""

import struct
from dataclasses import dataclass

import serial

from cnxman._connection import ConnectionException
from cnxman._manager.statistics import Tally

try:
    import fcntl
    import termios
except ImportError:  # not a POSIX system
    _READ_COUNTERS: int | None = None
else:
    _READ_COUNTERS = getattr(termios, "TIOCGICOUNT", None)  # Linux has it

_COUNTERS = struct.Struct("11i36x")
"""Linux's `struct serial_icounter_struct`: changes of CTS, DSR, RI, CD; what `DriverCounts` has; some reserve."""


@dataclass(frozen=True)
class DriverCounts:
    """What a driver has counted since it took the port up: bytes, and errors in what came.

    On Linux, by the drivers that count (`TIOCGICOUNT`): ttyS and most USB adapters do, pseudo-terminals don't.
    """

    received: int
    sent: int
    framing: int
    """Bytes that did not end as they should: a wrong baud rate, most often."""
    overrun: int
    """Bytes lost in the chip, which was not read in time."""
    parity: int
    break_: int
    buffer_overrun: int
    """Bytes lost in the kernel, whose buffer was full."""


def driver_counts(port: serial.Serial) -> DriverCounts | None:
    """The counters of an open port's driver; None where there are none."""
    if _READ_COUNTERS is None:
        return None
    try:
        answer = fcntl.ioctl(port.fileno(), _READ_COUNTERS, bytes(_COUNTERS.size))
    except OSError:  # not this driver, or not this kind of port
        return None
    except (TypeError, ValueError):  # it was just being closed
        return None
    return DriverCounts(*_COUNTERS.unpack(answer)[4:])


@dataclass
class SerialStatistics(Tally):
    """A snapshot of what happened on a `SerialConnection` since it was made. Times are `time.time()`'s, in seconds."""

    bytes_in: int = 0
    bytes_out: int = 0
    chunks: int = 0
    """How often receivers were told data."""
    connects: int = 0
    losses: int = 0
    failed_attempts: int = 0
    last_error: ConnectionException | None = None
    last_error_at: float | None = None
    up_since: float | None = None
    """When the line that is open was opened; None if there is none."""
    driver: DriverCounts | None = None
    """The driver's counters for the line that is open, where it has any."""
