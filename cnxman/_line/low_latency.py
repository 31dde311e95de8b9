"""Small packets at once: what USB adapters gather for some ms is handed on sooner, where the driver can do that.

FTDI's chips wait up to 16 ms for more before they send what they have. The flag ASYNC_LOW_LATENCY makes the driver set
that to 1 ms; where the driver doesn't know the flag, its timer in sysfs may be set, by whoever may write there. Both
are forgotten when the adapter is pulled out, so this is done at each opening.
"""

import array
import errno
import logging
import os

import serial

try:
    import fcntl
    import termios
except ImportError:  # not a POSIX system
    _HAVE_FLAG = False
else:
    _HAVE_FLAG = hasattr(termios, "TIOCGSERIAL")

_ASYNC_LOW_LATENCY = 1 << 13
_FLAGS = 4  # which of the integers of struct serial_struct

_TIMER = "/sys/class/tty/{}/device/latency_timer"
_SHORTEST = 1  # ms

_logger = logging.getLogger(__name__)


def set_low_latency(port: serial.Serial) -> None:
    """Have an open port's driver hand on what comes without gathering. A driver that can't is no error: it is logged.

    Args:
        port: an open port.
    """
    try:
        _set_flag(port)
        flag = ""
    except OSError as error:  # io.UnsupportedOperation, of a port without a descriptor, is one too
        flag = f"no flag ({error})"
    try:
        if _set_timer(port):
            flag = ""
        timer = "no timer"
    except (OSError, ValueError) as error:
        timer = flag = f"its timer can't be set ({error})"
    if flag:
        _logger.debug("%s has no low latency: %s", port.port, ", ".join(dict.fromkeys((flag, timer))))


def _set_flag(port: serial.Serial) -> None:
    """Set the driver's flag; raises OSError where there is none."""
    if not _HAVE_FLAG:
        raise OSError(errno.ENOTSUP, "this system has none")
    settings = array.array("i", [0] * 32)  # room enough for a struct serial_struct
    fcntl.ioctl(port.fileno(), termios.TIOCGSERIAL, settings)
    settings[_FLAGS] |= _ASYNC_LOW_LATENCY
    fcntl.ioctl(port.fileno(), termios.TIOCSSERIAL, settings)


def _set_timer(port: serial.Serial) -> bool:
    """Set the timer in sysfs, unless it is set already; returns False where there is none.

    Raises:
        OSError: we may not.
    """
    try:
        path = _TIMER.format(os.path.basename(os.ttyname(port.fileno())))
        with open(path) as file:
            if int(file.read()) <= _SHORTEST:
                return True
    except OSError:
        return False
    with open(path, "w") as file:
        file.write(str(_SHORTEST))
    return True
