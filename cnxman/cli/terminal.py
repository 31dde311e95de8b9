"""The terminal that the command runs in: keys as they are typed, data as it comes, and all as before at the end."""

import contextlib
import os
from types import TracebackType
from typing import Self

from cnxman.cli import windows_console
from cnxman.cli.stdio import STDIN, STDOUT, read_some

try:
    import termios
except ImportError:  # Windows
    HAVE_TERMIOS = False
else:
    HAVE_TERMIOS = True


def is_ours(descriptor: int) -> bool:
    """Whether this is a terminal that we may use: a job in the background would be stopped for it."""
    if not os.isatty(descriptor):
        return False
    if windows_console.console is not None:
        return windows_console.console.is_console(descriptor)
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except (AttributeError, OSError):  # it controls no jobs
        return True


class RawTerminal:
    """While it is entered, keys come as they are typed, and data goes to the screen as it is.

    Args:
        keys: whether standard input is a terminal of ours, to be changed.
        as_it_is: show data as it is if standard output is one; otherwise a line feed starts a new line at the left.
    """

    def __init__(self, *, keys: bool, as_it_is: bool) -> None:
        self._keys = keys
        self._as_it_is = as_it_is
        self._before: list[tuple[int, termios._AttrReturn]] = []

    def __enter__(self) -> Self:
        """Change the terminal."""
        if HAVE_TERMIOS:
            if self._keys:
                self._change(STDIN)
            if self._as_it_is and is_ours(STDOUT):
                self._change(STDOUT)
        elif windows_console.console is not None:
            for descriptor in (STDIN, STDOUT):
                windows_console.console.make_binary(descriptor)
            if self._as_it_is:
                windows_console.console.show_raw(STDOUT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let it be as it was."""
        for descriptor, before in reversed(self._before):
            _set(descriptor, before)
        if windows_console.console is not None:
            windows_console.console.restore()

    def _change(self, descriptor: int) -> None:
        before = termios.tcgetattr(descriptor)
        self._before.append((descriptor, before))
        inputs, outputs, controls, local, *speeds, characters = before
        if descriptor == STDIN:
            inputs &= ~(termios.BRKINT | termios.ICRNL | termios.IGNCR | termios.INLCR | termios.ISTRIP | termios.IXON)
            # Ctrl-C too comes as a key: so it works where the terminal controls no jobs.
            local &= ~(termios.ECHO | termios.ICANON | termios.ISIG | termios.IEXTEN)
            characters = list(characters)
            characters[termios.VMIN], characters[termios.VTIME] = 1, 0
        else:
            outputs &= ~termios.OPOST
        _set(descriptor, [inputs, outputs, controls, local, *speeds, characters])


def _set(descriptor: int, attributes: "termios._AttrReturn") -> None:
    with contextlib.suppress(termios.error):  # the terminal is gone
        termios.tcsetattr(descriptor, termios.TCSANOW, attributes)


def read_keys() -> bytes:
    """Wait for keys, and return them; b"" when the terminal is gone."""
    console = windows_console.console
    return read_some(STDIN) if console is None else console.read_keys()
