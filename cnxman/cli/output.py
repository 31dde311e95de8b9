"""What the device sends, on its way to standard output and the log.

One `Screen` and one `Log` serve the whole command; each line to a device has an `Output` of its own.
"""

import os
import threading
import time
from collections.abc import Callable

from cnxman.cli.events import clock, wants_colour
from cnxman.cli.mapping import Mapping
from cnxman.cli.shapes import AsItIs, Shape
from cnxman.cli.stdio import STDERR, STDOUT, write_all

_FEW = 1024
"""After less than so many bytes at once we rest, so that the next come together: each wakening costs more than they do.
A device that sends without a pause in small packets is shown for half the processor's time."""

_REST = 0.001
"""For how long, in seconds. A tty's buffer holds 4095 bytes: enough for 4 MB/s."""

_CLEAR = b"\x1b[2J\x1b[H"


class Screen:
    """Standard output, and where its cursor is if that is a terminal. From any thread.

    Args:
        on_closed: called once, with why, when standard output takes nothing more.
        from_the_left: in a terminal, a line feed starts a new line at the left.
    """

    def __init__(self, on_closed: Callable[[OSError], None], *, from_the_left: bool = False) -> None:
        self.from_the_left = from_the_left
        self._on_closed = on_closed
        self._lock = threading.Lock()
        self._closed = False
        self._is_terminal = os.isatty(STDOUT)
        self._is_shared = self._is_terminal and os.isatty(STDERR)
        self._in_line = False  # the cursor of a terminal that events share
        self._below = False  # it is at the beginning of a line, but not at the left
        self._echoes = False  # what stands in the line is an echo
        self._at = b"\n"  # the last byte that standard output got

    def write(self, shown: bytes, *, own_line: bool = False) -> None:
        """Write, for as long as that takes.

        Args:
            shown: what.
            own_line: begin a new line if what is typed stands in this one.
        """
        with self._lock:
            if self._closed:
                return
            self._in_line = self._is_shared and shown[-1] != ord("\n")
            self._below = self._is_shared and not (self._in_line or self.from_the_left)
            before = b"\n" if own_line and self._echoes and self._is_terminal else b""
            self._echoes = False
            data = before + shown
            if self.from_the_left and self._is_terminal:
                data = data.replace(b"\n", b"\r\n")
            try:
                write_all(STDOUT, data)
            except OSError as error:
                self._closed = True
                closed = error
            else:
                self._at = shown[-1:]
                return
        self._on_closed(closed)

    def echo(self, shown: bytes) -> None:
        """Show what is typed, in the terminal, wherever standard output goes."""
        with self._lock:
            self._in_line = self._echoes = not shown.endswith(b"\n")
            try:
                write_all(STDOUT if self._is_terminal else STDERR, shown)
            except OSError as error:
                closed = error
            else:
                return
        self._on_closed(closed)

    def clear(self) -> None:
        """Clear it, if it is a terminal."""
        if self._is_terminal:
            self.echo(_CLEAR)
            self._in_line = False

    def end_line(self) -> None:
        """A new line, unless one begins here."""
        if self._at != b"\n":
            self.write(b"\n")

    def before_event(self) -> str:
        """What to write to standard error before a line of its own: what brings the cursor to the left of a new one."""
        before = "\r\n" if self._in_line else "\r" if self._below else ""
        self._in_line = self._below = self._echoes = False
        return before


class Log:
    """The file of `--log`: what standard output gets, and a line for each outage. From any thread.

    Args:
        descriptor: of the file; None for no log.
        marked: whether outages are marked.
        on_lost: called once, with why, when it takes nothing more.
    """

    def __init__(self, descriptor: int | None, on_lost: Callable[[OSError], None], *, marked: bool = True) -> None:
        self._descriptor = descriptor
        self._marked = marked
        self._on_lost = on_lost
        self._lock = threading.Lock()  # not the screen's: who marks must not wait for a slow reader of that
        self._in_line = False
        self._paused = False

    def write(self, shown: bytes) -> None:
        """Append data."""
        with self._lock:
            lost = None if self._paused else self._append(shown)
        self._tell(lost)

    def mark(self, text: str) -> None:
        """Append a line that says what happened, with date and time."""
        with self._lock:
            lost = self._append_mark(text) if self._marked and not self._paused else None
        self._tell(lost)

    def toggle(self) -> str:
        """Pause, or go on, which is marked in any case; returns which in words."""
        with self._lock:
            if self._descriptor is None:
                return "there is none: begin with --log FILE"
            self._paused = not self._paused
            lost = self._append_mark("the log is paused" if self._paused else "the log goes on")
            said = "paused" if self._paused else "goes on"
        self._tell(lost)
        return said

    def _append_mark(self, text: str) -> OSError | None:
        before = "\n" if self._in_line else ""
        return self._append(f"{before}--- {clock('%Y-%m-%d %H:%M:%S')}  {text}\n".encode(errors="replace"))

    def _append(self, data: bytes) -> OSError | None:
        """Write with the lock held; returns why it was the last time."""
        if self._descriptor is None:
            return None
        self._in_line = data[-1] != ord("\n")
        try:
            write_all(self._descriptor, data)
        except OSError as error:
            self._descriptor = None
            return error
        return None

    def _tell(self, lost: OSError | None) -> None:
        if lost is not None:
            self._on_lost(lost)


class Output:
    """Writes what comes at once, on the listener's thread: a slow reader of standard output holds the line off.

    Args:
        shape: how to show it.
        screen: where.
        log: where else.
        mapping: what becomes of single characters before that.
        name: what each line begins with, to tell it from those of other ports.
        colour: of that, in a terminal: an SGR number.
    """

    def __init__(
        self,
        shape: Shape,
        screen: Screen,
        log: Log,
        *,
        mapping: Mapping | None = None,
        name: str = "",
        colour: int | None = None,
    ) -> None:
        self._shape = shape
        self._screen = screen
        self._log = log
        self._mapping = mapping or Mapping(())
        self._mark = f"{name} | ".encode() if name else b""
        coloured = name and colour is not None and wants_colour(STDOUT)
        self._shown_mark = f"\x1b[{colour}m{name} |\x1b[0m ".encode() if coloured else self._mark
        self._change = threading.Condition()
        self._last = 0.0
        self._closes_pauses: threading.Thread | None = None
        self._watch_pauses()

    def receive(self, data: bytes) -> None:
        """Show what has come; a receiver of DATA_RECEIVED."""
        mapped = self._mapping.feed(data)
        if mapped:
            with self._change:
                begun = self._shape.begun
                self._write(self._shape.feed(mapped))
                if self._shape.pause is not None:
                    self._last = time.monotonic()
                    if not begun:
                        self._change.notify()
        if len(data) < _FEW:
            time.sleep(_REST)

    def finish(self) -> None:
        """End a line or row that was begun."""
        with self._change:
            self._write(self._shape.finish())

    def reshape(self, shape: Shape) -> None:
        """Show what comes from now on in another way, beginning with a line of its own."""
        with self._change:
            self._write(self._shape.finish())
            self._screen.end_line()
            self._shape = shape
        self._watch_pauses()

    def before_echo(self) -> None:
        """Give what is typed a line of its own, unless data is shown byte for byte."""
        with self._change:
            if not isinstance(self._shape, AsItIs):
                self._write(self._shape.finish())

    def _write(self, shown: bytes) -> None:
        if not shown:
            return
        self._log.write(_marked(shown, self._mark))
        self._screen.write(_marked(shown, self._shown_mark), own_line=not isinstance(self._shape, AsItIs))

    # -- pauses -------------------------------------------------------------------------------------------

    def _watch_pauses(self) -> None:
        """Begin to end rows at pauses, if the shape has any such."""
        if self._shape.pause is not None and self._closes_pauses is None:
            self._closes_pauses = threading.Thread(
                target=self._close_pauses, name="cnxman monitor: pauses", daemon=True
            )
            self._closes_pauses.start()

    def _close_pauses(self) -> None:
        """Wait for a row to begin, then for a pause in it, again and again."""
        with self._change:
            while True:
                self._change.wait_for(lambda: self._shape.pause is not None and self._shape.begun)
                pause = self._shape.pause or 0.0
                left = self._last + pause - time.monotonic()
                if left > 0:
                    self._change.wait(left)
                else:
                    self._write(self._shape.finish())


def _marked(shown: bytes, mark: bytes) -> bytes:
    """Whole lines, each with a mark before it."""
    return mark + shown[:-1].replace(b"\n", b"\n" + mark) + shown[-1:] if mark else shown
