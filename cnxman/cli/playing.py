"""The arguments of the command `cnxman simulate`."""

import argparse

EXAMPLES = """\
examples:
  cnxman simulate                              a device that answers *IDN?, counts, and talks; Ctrl-C ends it
  cnxman simulate --link /tmp/ttyUSB0          under a name of one's own: cnxman monitor /tmp/ttyUSB0
  cnxman simulate --answer 'VOLT?=5.02' --every 0

Enter pulls it out, and puts it back. A request ends with CR, LF or both.

"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Let the parser take them."""
    parser.add_argument("--link", metavar="PATH", help="a name for its port, removed at the end")
    parser.add_argument(
        "--answer",
        type=_answer,
        action="append",
        default=[],
        metavar="REQUEST=ANSWER",
        help="answer this too, as a line; may be given several times",
    )
    parser.add_argument(
        "--every", type=_seconds, default=1.0, metavar="SECONDS", help="say a temperature so often, 0 for never (1)"
    )
    parser.add_argument("--quiet", action="store_true", help="say its port alone")


def _answer(text: str) -> tuple[str, str]:
    request, equals, answer = text.partition("=")
    if not (request and equals):
        raise argparse.ArgumentTypeError(f"must be REQUEST=ANSWER, not {text!r}")
    return request, answer


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"must be seconds, at least 0, not {text}")
    return value
