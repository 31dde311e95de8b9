"""How data is shown where it is not shown byte for byte: with a time before each line, or in hexadecimal.

A shape is fed what came and returns what to show of it, at once; `finish` ends a line or row that was begun.
"""

import time
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple, Protocol

from cnxman.cli.events import clock

ROW = 16  # bytes

_ROW_PAUSE = 0.1
"""Seconds of silence that end a row of hexadecimal: what comes later has a row, and a time, of its own."""

_LINE_PAUSE = 0.5
"""Seconds of silence that end a line where several ports share the screen: a prompt has no line end."""

_LONGEST_LINE = 4096
"""So many bytes without a line end are shown as a line where several ports share the screen."""

_PRINTABLE = bytes(byte if 0x20 <= byte < 0x7F else ord(".") for byte in range(256))


# -- times ------------------------------------------------------------------------------------------------


class Stamp(NamedTuple):
    """What stands before a line or row."""

    now: Callable[[], bytes]
    """Called when a line begins."""

    again: bytes | None = None
    """Before further lines that begin in the same chunk; None: the same as before the first."""


def _date_and_time() -> bytes:
    return clock("%Y-%m-%d %H:%M:%S").encode() + b"  "


def _time_of_day() -> bytes:
    return clock("%H:%M:%S").encode() + b"  "


def _iso() -> bytes:
    return datetime.now().astimezone().isoformat(timespec="milliseconds").encode() + b"  "


def _epoch() -> bytes:
    return b"%.3f  " % time.time()


class _Delta:
    """The seconds since the line before began."""

    def __init__(self) -> None:
        self._last: float | None = None

    def __call__(self) -> bytes:
        now = time.monotonic()
        since = 0.0 if self._last is None else now - self._last
        self._last = now
        return self.text(since)

    @staticmethod
    def text(since: float) -> bytes:
        return b"%+10.3f  " % since


NO_STAMP = Stamp(lambda: b"")

DEFAULT_STAMP = "date"
"""What `--timestamps` means by itself."""

STAMPS: dict[str, Callable[[], Stamp]] = {
    "date": lambda: Stamp(_date_and_time),
    "time": lambda: Stamp(_time_of_day),
    "delta": lambda: Stamp(_Delta(), _Delta.text(0)),
    "iso": lambda: Stamp(_iso),
    "epoch": lambda: Stamp(_epoch),
}
"""The forms of a time, by the names that `--timestamps` takes: each makes one for a shape of its own."""


# -- shapes -----------------------------------------------------------------------------------------------


class Shape(Protocol):
    """A way to show data."""

    @property
    def pause(self) -> float | None:
        """After so many seconds of silence `finish` is to be called; None: never for that reason."""

    @property
    def begun(self) -> bool:
        """Whether `finish` has something to show."""

    def feed(self, data: bytes) -> bytes:
        """What to show when `data` has come."""

    def finish(self) -> bytes:
        """What to show when nothing more comes: the end of a line that was begun, or nothing."""


class AsItIs:
    """Byte for byte."""

    pause: float | None = None
    begun = False

    def feed(self, data: bytes) -> bytes:
        """The data."""
        return data

    def finish(self) -> bytes:
        """Nothing: not a byte more than came."""
        return b""


class Timed:
    """Each line begins with the time at which its first byte came."""

    pause: float | None = None

    def __init__(self, stamp: Stamp) -> None:
        self._stamp = stamp
        self.begun = False

    def feed(self, data: bytes) -> bytes:
        """The data, with the time before each line that begins in it."""
        # A line end at the very end begins no line yet: the next one's time is when its first byte comes.
        body, last = data[:-1], data[-1:]
        head = b""
        if self.begun:
            head, line_end, body = body.partition(b"\n")
            if not line_end:
                self.begun = last != b"\n"
                return data
            head += line_end
        self.begun = last != b"\n"
        stamp = self._stamp.now()
        again = stamp if self._stamp.again is None else self._stamp.again
        return head + stamp + body.replace(b"\n", b"\n" + again) + last

    def finish(self) -> bytes:
        """The end of the line, so that what comes after an outage has a time of its own."""
        end = b"\n" if self.begun else b""
        self.begun = False
        return end


class Hexadecimal:
    """Rows of 16 bytes: the offset in all that came, the bytes, and the same as text once the row is over."""

    pause: float | None = _ROW_PAUSE

    def __init__(self, stamp: Stamp = NO_STAMP) -> None:
        self._stamp = stamp
        self._offset = 0
        self._row = b""

    @property
    def begun(self) -> bool:
        """Whether there is a row without its text."""
        return bool(self._row)

    def feed(self, data: bytes) -> bytes:
        """The data in rows; the last one may be in the middle, and is gone on with next time."""
        shown: list[bytes] = []
        stamp: bytes | None = None
        while data:
            part, data = data[: ROW - len(self._row)], data[ROW - len(self._row) :]
            if not self._row:
                stamp = self._stamp.now() if stamp is None else self._again(stamp)
                shown.append(stamp + b"%08x " % self._offset)
            shown.append(b" " + part.hex(" ").encode())
            self._row += part
            self._offset += len(part)
            if len(self._row) == ROW:
                shown.append(self.finish())
        return b"".join(shown)

    def _again(self, stamp: bytes) -> bytes:
        return stamp if self._stamp.again is None else self._stamp.again

    def finish(self) -> bytes:
        """The rest of the row: its text."""
        if not self._row:
            return b""
        missing = b"   " * (ROW - len(self._row))
        row, self._row = self._row, b""
        return missing + b"  " + row.translate(_PRINTABLE) + b"\n"


class WholeLines:
    """Another shape's lines, each only when it is over, so that those of several ports don't get into each other."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._rest = b""
        self.pause: float | None = shape.pause or _LINE_PAUSE

    @property
    def begun(self) -> bool:
        """Whether a line waits for its end."""
        return bool(self._rest)

    def feed(self, data: bytes) -> bytes:
        """The lines that are over now."""
        whole, line_end, self._rest = (self._rest + self._shape.feed(data)).rpartition(b"\n")
        shown = whole + line_end
        return shown + self.finish() if len(self._rest) > _LONGEST_LINE else shown

    def finish(self) -> bytes:
        """The line that was begun, with an end."""
        rest, self._rest = self._rest + self._shape.finish(), b""
        return rest if not rest or rest.endswith(b"\n") else rest + b"\n"


def shape(*, hexadecimal: bool, timestamps: str | None, whole_lines: bool = False) -> Shape:
    """The shape that was asked for.

    Args:
        hexadecimal: in rows of 16 bytes.
        timestamps: the form of the time before each line or row, one of `STAMPS`; None for none.
        whole_lines: show a line only when it is over.
    """
    stamp = NO_STAMP if timestamps is None else STAMPS[timestamps]()
    made: Shape = Hexadecimal(stamp) if hexadecimal else AsItIs() if timestamps is None else Timed(stamp)
    return WholeLines(made) if whole_lines else made
