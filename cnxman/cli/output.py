"""What the device sends, on its way to standard output and the log."""

import os
import time
from collections.abc import Callable

from cnxman.cli.shapes import Shape
from cnxman.cli.stdio import STDERR, STDOUT, write_all

_FEW = 1024
"""After less than so many bytes at once we rest, so that the next come together: each wakening costs more than they do.
A device that sends without a pause in small packets is shown for half the processor's time."""

_REST = 0.001
"""For how long, in seconds. A tty's buffer holds 4095 bytes: enough for 4 MB/s."""


class Output:
    """Writes what comes at once, on the listener's thread: a slow reader of standard output holds the line off.

    Args:
        shape: how to show it.
        log: the descriptor of a file that gets the same, or None.
        on_closed: called once, with why, when standard output takes nothing more.
        on_log_lost: called once, with why, when the log takes nothing more.
    """

    def __init__(
        self,
        shape: Shape,
        log: int | None,
        on_closed: Callable[[OSError], None],
        on_log_lost: Callable[[OSError], None],
    ) -> None:
        self._shape = shape
        self._log = log
        self._on_closed = on_closed
        self._on_log_lost = on_log_lost
        self._closed = False
        self._shares_screen = os.isatty(STDOUT) and os.isatty(STDERR)
        self._in_line = False

    def receive(self, data: bytes) -> None:
        """Show what has come; a receiver of DATA_RECEIVED."""
        self._write(self._shape.feed(data))
        if len(data) < _FEW:
            time.sleep(_REST)

    def finish(self) -> None:
        """End a line or row that was begun; a receiver of CLOSED."""
        self._write(self._shape.finish())

    def before_event(self) -> str:
        """What to write to standard error before a line of its own: a new line, if the cursor is in mid-line."""
        in_line, self._in_line = self._in_line, False
        return "\r\n" if in_line else ""

    def _write(self, shown: bytes) -> None:
        if not shown or self._closed:
            return
        self._in_line = self._shares_screen and shown[-1] != ord("\n")
        try:
            write_all(STDOUT, shown)
        except OSError as error:
            self._closed = True
            self._on_closed(error)
            return
        if self._log is not None:
            self._write_log(self._log, shown)

    def _write_log(self, log: int, shown: bytes) -> None:
        try:
            write_all(log, shown)
        except OSError as error:
            self._log = None
            self._on_log_lost(error)
