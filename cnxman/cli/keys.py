"""What is typed in a terminal: bytes for the device, and commands, which stand behind a prefix key.

Nothing here reads or writes: keys are fed in, and what they mean comes out.
"""

import re
from collections.abc import Iterator
from enum import Enum

PREFIX = b"\x14"  # Ctrl-T, as in tio
INTERRUPT = b"\x03"  # Ctrl-C


class Command(Enum):
    """What a key behind the prefix asks for."""

    QUIT = "quit"
    BREAK = "send a break"
    DTR = "toggle DTR"
    RTS = "toggle RTS"
    STATISTICS = "show statistics"
    HELP = "show this help"


_COMMANDS = {
    b"q": Command.QUIT,
    b"b": Command.BREAK,
    b"d": Command.DTR,
    b"r": Command.RTS,
    b"s": Command.STATISTICS,
    b"?": Command.HELP,
}
_LITERAL = {b"c": INTERRUPT, b"t": PREFIX, PREFIX: PREFIX, INTERRUPT: INTERRUPT}

HINT = "Ctrl-C quits, Ctrl-T ? shows more keys"

HELP = (
    *(f"Ctrl-T {key.decode()}  {command.value}" for key, command in _COMMANDS.items()),
    "Ctrl-T c  send Ctrl-C to the device",
    "Ctrl-T t  send Ctrl-T to the device",
    "Ctrl-C    quit",
)


class Keys:
    """Tells commands from what is meant for the device."""

    def __init__(self) -> None:
        self._after_prefix = False

    def feed(self, typed: bytes) -> Iterator[bytes | Command]:
        """Take keys, however many; give what they mean, in their order.

        An unknown command asks for help.
        """
        for part in re.split(b"([\x03\x14])", typed):
            rest = part
            if self._after_prefix and part:
                self._after_prefix = False
                key, rest = part[:1], part[1:]
                yield _LITERAL.get(key) or _COMMANDS.get(key.lower(), Command.HELP)
            if rest == INTERRUPT:
                yield Command.QUIT
            elif rest == PREFIX:
                self._after_prefix = True
            elif rest:
                yield rest


class LineEnds:
    """Gives every end of line the form that the device wants.

    Args:
        wanted: that form; None leaves everything as it is.
    """

    def __init__(self, wanted: bytes | None) -> None:
        self._wanted = wanted
        self._after_return = False

    def feed(self, data: bytes) -> bytes:
        """The same text with other ends of line; CR LF counts as one, also where it comes in two pieces."""
        if self._wanted is None or not data:
            return data
        if self._after_return and data.startswith(b"\n"):
            data = data[1:]
        self._after_return = data.endswith(b"\r")
        wanted = self._wanted
        return re.sub(rb"\r\n|\r|\n", lambda _: wanted, data)
