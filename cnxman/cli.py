"""The command `cnxman`: what it understands, and who does it.

Each of its commands is a module beside this one, made of nothing but the library's public API.
"""

import argparse
from collections.abc import Sequence

from cnxman import __version__, _demo
from cnxman._descriptors import open_the_missing

_EXAMPLES = """\
examples:
  cnxman demo                                see a line that is lost and comes back, without any hardware
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose help begins with examples."""

    def __init__(self, *, examples: str = "", **named: object) -> None:
        super().__init__(**named, formatter_class=argparse.RawDescriptionHelpFormatter)  # type: ignore[arg-type]
        self.examples = examples

    def format_help(self) -> str:
        """The examples, then what argparse makes."""
        return f"{self.examples}\n{super().format_help()}" if self.examples else super().format_help()


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = _Parser(
        prog="cnxman",
        description="Keeps a serial line to a device up, through every outage.",
        examples=_EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"cnxman {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("demo", help="a simulated device is pulled out and comes back")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: what stands after the command's name; None takes it from `sys.argv`.

    Returns:
        The exit status. (Wrong usage leaves with status 2, by SystemExit.)
    """
    open_the_missing()
    make_parser().parse_args(arguments)
    try:
        return _demo.run()
    except KeyboardInterrupt:
        return 0
