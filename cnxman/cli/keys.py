"""What is typed in a terminal: bytes for the device, and commands, which follow a prefix key.

Nothing here reads or writes: keys are fed in, and what they mean comes out.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

PREFIX = b"\x14"  # Ctrl-T, as in tio
INTERRUPT = b"\x03"  # Ctrl-C


class Command(Enum):
    """What a key after the prefix asks for."""

    HELP = "show this help"
    QUIT = "quit"
    STATISTICS = "show statistics"
    CLOSE = "give the port away for a while, and take it back"
    BREAK = "send a break"
    DTR = "toggle DTR"
    RTS = "toggle RTS"
    ECHO = "local echo on or off"
    HEX = "hexadecimal on or off"
    TIMESTAMPS = "timestamps: the next form, or none"
    ONLCR = "begin each line at the left, on or off"
    LOG = "pause the log, and go on with it"
    CLEAR = "clear the screen"


@dataclass(frozen=True)
class Unknown:
    """A key after the prefix that asks for nothing."""

    key: bytes

    def __str__(self) -> str:
        name = f"Ctrl-{chr(self.key[0] + 64)}" if self.key < b" " else self.key.decode("ascii", "backslashreplace")
        return f"Ctrl-T {name} does nothing; Ctrl-T ? shows the keys"


_COMMANDS = {
    b"?": Command.HELP,
    b"q": Command.QUIT,
    b"s": Command.STATISTICS,
    b"p": Command.CLOSE,
    b"b": Command.BREAK,
    b"d": Command.DTR,
    b"r": Command.RTS,
    b"e": Command.ECHO,
    b"h": Command.HEX,
    b"t": Command.TIMESTAMPS,
    b"n": Command.ONLCR,
    b"f": Command.LOG,
    b"l": Command.CLEAR,
}
_LITERAL = {b"c": INTERRUPT, PREFIX: PREFIX, INTERRUPT: INTERRUPT}

HINT = "Ctrl-C quits, Ctrl-T ? shows more keys"

HELP = (
    *(f"Ctrl-T {key.decode()}       {command.value}" for key, command in _COMMANDS.items()),
    "Ctrl-T c       send Ctrl-C to the device",
    "Ctrl-T Ctrl-T  send Ctrl-T to the device",
    "Ctrl-C         quit",
)


class Keys:
    """Tells commands from what is meant for the device."""

    def __init__(self) -> None:
        self._after_prefix = False

    def feed(self, typed: bytes) -> Iterator[bytes | Command | Unknown]:
        """Take keys, however many; give what they mean, in their order."""
        for part in re.split(b"([\x03\x14])", typed):
            rest = part
            if self._after_prefix and part:
                self._after_prefix = False
                key, rest = part[:1], part[1:]
                yield _LITERAL.get(key) or _COMMANDS.get(key.lower()) or Unknown(key)
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


def echo_of(sent: bytes) -> bytes:
    """What a terminal shows of what was typed: a new line for an end of line, ^X for Ctrl-X, no matter of what form."""
    return re.sub(rb"\r\n|[\x00-\x1f\x7f]", _shown, sent)


def _shown(match: re.Match[bytes]) -> bytes:
    found = match[0]
    if found in (b"\r\n", b"\r", b"\n"):
        return b"\r\n"
    if found in (b"\x08", b"\x7f"):
        return b"\x08 \x08"  # back, over it, back
    return found if found == b"\t" else b"^" + bytes([found[0] + 64])
