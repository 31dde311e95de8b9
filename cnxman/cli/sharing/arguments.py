"""What `cnxman share` understands."""

import argparse

from cnxman.cli.sharing.places import InOrder, parse_link, parse_listen, parse_mode

EXAMPLES = """\
examples:
  cnxman share usb://0403:6001 --pty /run/meter            a device name that never goes away
  cnxman share /dev/ttyUSB0 --pty /run/a --pty /run/b      two of them, for two programs
  cnxman share /dev/ttyUSB0 --listen tcp:4001              for programs of this machine; tcp:0.0.0.0:4001 for all
  cnxman share /dev/ttyUSB0 --pty /run/meter --read-only --listen unix:/run/meter.sock

"""

NOTES = """\
What the device says goes to every client, what clients say goes to the device, one client's lines never within
another's. When the device is lost, clients notice nothing: what they send is held back, up to 1 MiB, and sent when it
is back. --read-only, --mode and --group apply to the --pty and --listen after them. A client that doesn't
read is dropped when --buffer-size bytes wait for it; a --pty loses its oldest bytes instead. Each event is a line
on standard error.

Exit status: 0 when it was ended by Ctrl-C or SIGTERM; 1 when it failed; 2 for wrong usage.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all but the port and its settings."""
    parser.set_defaults(places=None)
    clients = parser.add_argument_group("clients")
    clients.add_argument(
        "--pty",
        action=InOrder,
        type=parse_link,
        metavar="LINK",
        help="a pseudo-terminal of this name, to open as a port",
    )
    clients.add_argument(
        "--listen", action=InOrder, type=parse_listen, metavar="ADDRESS", help="unix:PATH, tcp:PORT or tcp:HOST:PORT"
    )
    clients.add_argument("--read-only", action=InOrder, nargs=0, help="what clients send there is ignored")
    clients.add_argument(
        "--mode", action=InOrder, type=parse_mode, metavar="OCTAL", help="permissions of the ptys and sockets (600)"
    )
    clients.add_argument("--group", action=InOrder, metavar="GROUP", help="the group of the ptys and sockets")
    clients.add_argument("--follow", action="store_true", help="set the port as clients set their pseudo-terminals")
    clients.add_argument("--discard", action="store_true", help="drop what clients send during an outage")
    parser.add_argument("--quiet", action="store_true", help="don't report events")
