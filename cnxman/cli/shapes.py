"""How what the device sends is shown, where not byte for byte: with a time before each line, or in hexadecimal.

Each shape is fed what came and returns what to show of it, at once; `finish` ends a line or row that was begun.
"""

from collections.abc import Callable
from typing import Protocol

from cnxman.cli.events import clock

ROW = 16  # bytes

_PRINTABLE = bytes(byte if 0x20 <= byte < 0x7F else ord(".") for byte in range(256))


def date_and_time() -> bytes:
    """What stands before a line: date and time by the clock on the wall, to the millisecond."""
    return clock("%Y-%m-%d %H:%M:%S").encode() + b"  "


def no_time() -> bytes:
    """What stands before a row without --timestamps."""
    return b""


class Shape(Protocol):
    """A way to show data."""

    def feed(self, data: bytes) -> bytes:
        """What to show when `data` has come."""

    def finish(self) -> bytes:
        """What to show when nothing more comes: the end of a line that was begun, or nothing."""


class AsItIs:
    """Byte for byte."""

    def feed(self, data: bytes) -> bytes:
        """The data."""
        return data

    def finish(self) -> bytes:
        """Nothing: not a byte more than came."""
        return b""


class Timed:
    """Each line begins with the time at which its first byte came."""

    def __init__(self, now: Callable[[], bytes] = date_and_time) -> None:
        self._now = now
        self._in_line = False

    def feed(self, data: bytes) -> bytes:
        """The data, with the time before each line that begins in it."""
        stamp = self._now()
        first = b"" if self._in_line else stamp
        self._in_line = not data.endswith(b"\n")
        # A line end at the very end begins no line yet: the next one's time is when its first byte comes.
        return first + data[:-1].replace(b"\n", b"\n" + stamp) + data[-1:]

    def finish(self) -> bytes:
        """The end of the line, so that what comes after an outage has a time of its own."""
        end = b"\n" if self._in_line else b""
        self._in_line = False
        return end


class Hexadecimal:
    """Rows of 16 bytes: the offset in all that came, the bytes, and the same as text once the row is over."""

    def __init__(self, now: Callable[[], bytes] = no_time) -> None:
        self._now = now
        self._offset = 0
        self._row = b""

    def feed(self, data: bytes) -> bytes:
        """The data in rows; the last one may be in the middle, and is gone on with next time."""
        shown: list[bytes] = []
        stamp = self._now()
        while data:
            part, data = data[: ROW - len(self._row)], data[ROW - len(self._row) :]
            if not self._row:
                shown.append(stamp + b"%08x " % self._offset)
            shown.append(b" " + part.hex(" ").encode())
            self._row += part
            self._offset += len(part)
            if len(self._row) == ROW:
                shown.append(self.finish())
        return b"".join(shown)

    def finish(self) -> bytes:
        """The rest of the row: its text."""
        if not self._row:
            return b""
        missing = b"   " * (ROW - len(self._row))
        row, self._row = self._row, b""
        return missing + b"  " + row.translate(_PRINTABLE) + b"\n"


def shape(*, hexadecimal: bool, timestamps: bool) -> Shape:
    """The shape that was asked for."""
    if hexadecimal:
        return Hexadecimal(date_and_time if timestamps else no_time)
    return Timed() if timestamps else AsItIs()
