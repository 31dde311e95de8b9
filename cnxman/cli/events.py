"""What happens, told to a person: one line an event, with its time and what it is."""

import os
import time
from collections.abc import Callable

from cnxman.basics import ConnectionException
from cnxman.cli import windows_console
from cnxman.cli.stdio import write_all

_WIDTH = 12  # of the word that says what it is: "disconnected" is the longest

_COLOURS = {
    "connected": "32",
    "recovering": "33",
    "disconnected": "2",
    "torndown": "2",
    "connecting": "36",
    "error": "31",
}


def wants_colour(descriptor: int) -> bool:
    """Whether to use colour there: on a terminal that can show it, unless NO_COLOR is set."""
    if not os.isatty(descriptor) or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return windows_console.console is None or windows_console.console.show_colours(descriptor)


class Events:
    """Tells events, each at once and in one piece. From any thread.

    Args:
        descriptor: where to.
        colour: whether the words are coloured; None: on a terminal, unless NO_COLOR is set.
        quiet: tell nothing at all.
        line_end: what ends a line; a terminal in raw mode needs a carriage return too.
        before: asked before each line: what to write first, such as a new line where the cursor is in mid-line.
        now: the time, in seconds since the epoch.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        colour: bool | None = None,
        quiet: bool = False,
        line_end: str = "\n",
        before: Callable[[], str] = str,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._descriptor = descriptor
        self._colour = wants_colour(descriptor) if colour is None else colour
        self._quiet = quiet
        self._line_end = line_end
        self._before = before
        self._now = now
        self._day = _day(now())
        self.closed = False
        """Whether nobody can read it any more."""

    def tell(self, what: str, text: str = "") -> None:
        """Tell one event, unless quiet.

        Args:
            what: in a word.
            text: the rest of the line.
        """
        if not self._quiet:
            self.answer(what, text)

    def answer(self, what: str, text: str = "") -> None:
        """Tell what was asked for, or an error: quiet or not.

        Args:
            what: in a word.
            text: the rest of the line.
        """
        if self.closed:
            return
        line = f"{self._time()}  {self._dressed(what, text)}".rstrip()
        try:
            write_all(self._descriptor, (self._before() + line + self._line_end).encode(errors="replace"))
        except OSError:
            self.closed = True

    def _time(self) -> str:
        """The time of day, after the date if that is another than in the line before."""
        now = self._now()
        day, self._day = self._day, _day(now)
        return clock("%H:%M:%S" if day == self._day else "%Y-%m-%d %H:%M:%S", now)

    def _dressed(self, what: str, text: str) -> str:
        colour = _COLOURS.get(what)
        if not self._colour or colour is None:
            return f"{what:{_WIDTH}}  {text}"
        return f"\x1b[{colour}m{what}\x1b[0m{'':{max(0, _WIDTH - len(what))}}  {text}"


def time_of_day() -> str:
    """The time now, without the date."""
    return clock("%H:%M:%S")


def clock(form: str, now: float | None = None) -> str:
    """A time by the clock on the wall, to the millisecond.

    Args:
        form: how to write it down to the second, as for `time.strftime`.
        now: in seconds since the epoch; None for now.
    """
    ms = int((time.time() if now is None else now) * 1000)
    return f"{time.strftime(form, time.localtime(ms // 1000))}.{ms % 1000:03}"


def _day(now: float) -> tuple[int, int]:
    local = time.localtime(now)
    return local.tm_year, local.tm_yday


def seconds(delay: float) -> str:
    """A delay for a person: "0.1 s", or "0.05 s" where that would lose what matters."""
    return f"{delay:.2f} s" if delay < 0.1 else f"{delay:.1f} s"


def size_in_words(count: int) -> str:
    """So many bytes, for a person."""
    return f"{count // 2**20} MiB" if count >= 2**20 and count % 2**20 == 0 else f"{count} bytes"


def reason(error: ConnectionException | None) -> str:
    """Why, or nothing."""
    return str(error) if error is not None else ""
