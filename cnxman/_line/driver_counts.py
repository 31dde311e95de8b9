"""The counters of a serial port's driver."""

import struct
from dataclasses import dataclass

import serial

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
