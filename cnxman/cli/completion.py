"""The command `cnxman completion`: what a shell has to read to complete this command's arguments, by argcomplete."""

import argparse
import os
from importlib import import_module
from importlib.util import find_spec

from cnxman import ports
from cnxman.cli.stdio import STDERR, STDOUT, write_all

SHELLS = ("bash", "zsh", "fish")

_NEEDS = "completion needs argcomplete: pip install argcomplete, into the environment that cnxman is in\n"


EXAMPLES = """\
examples:
  cnxman completion fish | source              in ~/.config/fish/config.fish
  eval "$(cnxman completion bash)"             in ~/.bashrc
  eval "$(cnxman completion zsh)"              in ~/.zshrc, after compinit

It needs argcomplete: pip install argcomplete

"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Let the parser take the arguments of `cnxman completion`."""
    parser.add_argument("shell", choices=SHELLS, help="which shell reads it")


def run(shell: str) -> int:
    """Print it.

    Args:
        shell: for which.

    Returns:
        The exit status: 0, or 1 where argcomplete isn't installed.
    """
    if find_spec("argcomplete") is None:
        write_all(STDERR, _NEEDS.encode())
        return 1
    argcomplete = import_module("argcomplete")
    write_all(STDOUT, argcomplete.shellcode(["cnxman"], shell=shell).encode() + b"\n")
    return 0


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that asks how the line goes on, and end; returns at once when none does."""
    if "_ARGCOMPLETE" in os.environ and find_spec("argcomplete") is not None:
        import_module("argcomplete").autocomplete(parser)


def offer_ports(argument: argparse.Action) -> None:
    """Complete an argument that is a port."""
    argument.completer = _ports_and_files  # type: ignore[attr-defined]  # where argcomplete looks for it


def _ports_and_files(prefix: str, **_: object) -> list[str]:
    """What may stand for a port: the ports there are, by device and by usb:// name, and files.

    Args:
        prefix: what is typed of it.
    """
    found = ports.available()
    names = [info.device for info in found] + [name for info in found if (name := ports.usb_name(info)) is not None]
    files: list[str] = import_module("argcomplete.completers").FilesCompleter()(prefix)
    return [name for name in names if name.startswith(prefix)] + [name for name in files if name not in names]
