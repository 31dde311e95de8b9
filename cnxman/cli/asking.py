"""What `cnxman query` understands: its arguments, and the escapes in them."""

import argparse
import re

EXAMPLES = """\
examples:
  cnxman query /dev/ttyUSB0 '*IDN?'                       prints the line that it answers
  cnxman query /dev/ttyUSB0 'AT\\r' --until 'OK\\r\\n'       prints all up to this
  cnxman query usb://0403:6001 '\\x02R1\\x03' --until '\\x03'
  voltage=$(cnxman query /dev/ttyUSB0 'MEAS:VOLT?') || echo "no answer"

"""

NOTES = """\
TEXT, and what --until takes, may hold \\r \\n \\t \\a \\b \\e \\f \\v \\\\, \\x1b in hexadecimal, \\033 in octal.
A device that isn't there yet is waited for, as long as --timeout says.

Exit status: 0 with an answer; 1 without, and a line on standard error that says why; 2 for wrong usage.
"""

LINE_ENDS = {"lf": b"\n", "crlf": b"\r\n", "cr": b"\r", "none": b""}

_PLAIN = {"a": 7, "b": 8, "e": 27, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, "'": 39, '"': 34}
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{1,2})|([0-3]?[0-7]{1,2})|(.)|$)", re.DOTALL)


def parse_text(text: str) -> bytes:
    r"""Read a text with escapes, as `printf` knows them.

    Raises:
        argparse.ArgumentTypeError: for an escape that means nothing, or no text at all.
    """
    data, at = b"", 0
    for found in _ESCAPE.finditer(text):
        data += _encoded(text[at : found.start()]) + bytes([_meant(found)])
        at = found.end()
    data += _encoded(text[at:])
    if not data:
        raise argparse.ArgumentTypeError("must be one character at least")
    return data


def _encoded(text: str) -> bytes:
    """As the shell gave it: what is no UTF-8 there comes as surrogates."""
    return text.encode("utf-8", "surrogateescape")


def _meant(escape: "re.Match[str]") -> int:
    hexadecimal, octal, plain = escape.groups()
    if hexadecimal or octal:
        return int(hexadecimal, 16) if hexadecimal else int(octal, 8)
    if plain not in _PLAIN:
        raise argparse.ArgumentTypeError(f"{escape[0]!r} is no escape; a backslash by itself is written \\\\")
    return _PLAIN[plain]


def parse_seconds(text: str) -> float:
    """Read a number of seconds."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value


def question(text: bytes, eol: str) -> bytes:
    """What to send: the text, and a line end, unless the text ends with a control character by itself."""
    return text if text[-1] < 0x20 else text + LINE_ENDS[eol]


def answers_end(until: bytes | None, eol: str) -> bytes:
    """Where the answer ends."""
    if until is not None:
        return until
    return b"\r" if eol == "cr" else b"\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all but the port and its settings."""
    parser.add_argument("text", type=parse_text, metavar="TEXT", help="what to send")
    parser.add_argument(
        "--until", type=parse_text, metavar="TEXT", help="where the answer ends (after a line: LF, or CR with --eol cr)"
    )
    parser.add_argument(
        "--timeout", type=parse_seconds, default=2.0, metavar="SECONDS", help="how long to wait, in all (2)"
    )
    parser.add_argument(
        "--eol",
        choices=LINE_ENDS,
        default="lf",
        help="sent after a TEXT that doesn't end with a control character (lf)",
    )
    parser.add_argument("--echo", action="store_true", help="the device repeats what it is sent: leave that out")
