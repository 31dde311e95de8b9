"""A serial port's settings: checked before anything is opened, and applied to an open port."""

import sys
from typing import TYPE_CHECKING, Any, TypedDict

import serial

from cnxman import ports
from cnxman._line.port import PYSERIAL, READ_SLICE

if TYPE_CHECKING:  # what stands in for pyserial may lack it
    from serial.rs485 import RS485Settings

_TIMEOUTS = {"timeout", "write_timeout"}

LONGEST = 2_000_000
"""The longest time-out, in seconds: 23 days. What waits for a line takes milliseconds, in 32 bits."""


class Settings(TypedDict, total=False):
    """pyserial's settings, under pyserial's names. Times are in seconds."""

    baudrate: int
    bytesize: int
    parity: str
    stopbits: float
    timeout: float | None
    xonxoff: bool
    rtscts: bool
    dsrdtr: bool | None
    inter_byte_timeout: float | None
    write_timeout: float | None


_FLAGS = ("xonxoff", "rtscts", "dsrdtr")

MOST_BAUD = 2**31 - 1
"""The highest baud rate that the kernel's call can be given."""


def check_settings(settings: Settings) -> None:
    """Have pyserial check settings, without opening anything.

    Raises:
        ValueError: for a value that pyserial refuses.
        TypeError: for a name that is none of `Settings`.
        ImportError: if what is installed is no pyserial.
    """
    if not hasattr(serial, "SerialBase"):
        raise ImportError(f"a SerialConnection needs pyserial, and the module serial is another one: {serial.__file__}")
    for name in settings:
        if name not in Settings.__annotations__:
            raise TypeError(f"{name!r} is no setting; there are {', '.join(Settings.__annotations__)}")
    for name, value in settings.items():
        probe = PYSERIAL(None)
        try:
            _check_kind(name, value)
            setattr(probe, name, value)
            if not 0 < probe.baudrate <= MOST_BAUD:
                raise ValueError(f"a baud rate is at least 1 and at most {MOST_BAUD}")
            if name.endswith("timeout") and isinstance(value, (int, float)) and not value <= LONGEST:
                raise ValueError(f"at most {LONGEST} seconds")
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"{name} must be {_allowed(name)}, not {value!r}") from error


def _check_kind(name: str, value: object) -> None:
    """Refuse what pyserial would misunderstand: it cuts 115200.5 short, and "no" is true."""
    if name == "baudrate" and (isinstance(value, bool) or (isinstance(value, float) and not value.is_integer())):
        raise ValueError("not a whole number of bits per second")
    if name in _FLAGS and value not in (True, False) and (name, value) != ("dsrdtr", None):
        raise ValueError("neither True nor False")


def _allowed(name: str) -> str:
    if name == "baudrate":
        return "a whole number above 0"
    if name in _FLAGS:
        return "True or False" + (", or None for the same as rtscts" if name == "dsrdtr" else "")
    choices = {
        "parity": PYSERIAL.PARITIES,
        "bytesize": PYSERIAL.BYTESIZES,
        "stopbits": PYSERIAL.STOPBITS,
    }.get(name)
    if choices:
        return "one of " + ", ".join(repr(choice) for choice in choices)
    return f"a number of seconds from 0 to {LONGEST}, or None"


def adapt_to_scheme(url: str, settings: Settings) -> Settings:
    """These settings, as a port of pyserial's with this URL can take them.

    `rfc2217://` refuses a `write_timeout`; and with each change, of `timeout` too, it negotiates all settings again, so
    that it is given from the start the one that it is read with.
    """
    suits = settings.copy()
    if sys.platform == "win32" and ports.scheme_of(url) in ("", "usb", "hwgrep"):
        for name in _TIMEOUTS & suits.keys():
            suits[name] = None  # it is read, and written, without any: see `cnxman._line.windows`
    if ports.scheme_of(url) == "rfc2217":
        if "write_timeout" in suits:
            suits["write_timeout"] = None
        if "timeout" in suits:
            suits["timeout"] = READ_SLICE
    return suits


def apply_settings(port: serial.Serial, settings: Settings) -> None:
    """Change an open port's settings."""
    for name, value in adapt_to_scheme(str(port.port), settings).items():
        if getattr(port, name) != value:
            setattr(port, name, value)


def make_port(
    url: str,
    settings: Settings,
    exclusive: bool | None,
    lines: dict[str, bool | None],
    rs485: "RS485Settings | None",
) -> serial.Serial:
    """A port of pyserial's with these settings, not yet open.

    Args:
        url: whatever `serial.serial_for_url` takes.
        settings: checked before.
        exclusive: pyserial's `exclusive`.
        lines: `dtr` and `rts`, each None to leave it to the driver.
        rs485: pyserial's `rs485_mode`.
    """
    given: dict[str, Any] = dict(adapt_to_scheme(url, settings))
    if "://" in url:
        port = serial.serial_for_url(url, do_not_open=True, exclusive=exclusive or None, **given)
    else:
        port = PYSERIAL(None, exclusive=exclusive or None, **given)
        port.port = url
    for name, value in lines.items():
        if value is not None:
            setattr(port, name, value)
    if rs485 is not None:
        port.rs485_mode = rs485
    return port


def check_choice(name: str, value: object) -> None:
    """Refuse what is no choice: a modem line's level, for instance, which None leaves to the driver."""
    if value not in (None, True, False):
        raise TypeError(f"{name} must be True, False or None, not {value!r}")


def check_seconds(name: str, value: float | None) -> None:
    """Refuse what is no time-out: None, or seconds above 0 and up to `LONGEST`."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds or None, not {value!r}")
    if not 0 < value <= LONGEST:
        raise ValueError(f"{name} must be above 0 and at most {LONGEST} seconds, or None, not {value!r}")
