"""Keeps a connection to a device up.

`SerialConnection` is a serial line with a thread that listens; `ConnectionManager` keeps it, or any `Connection` of
your own, up: it tries again for as long as it takes, and sends receivers what happens.
"""

from logging import getLogger as _getLogger

from cnxman.basics import Connection, ConnectionException, ConnectionManager, ConnectionState
from cnxman.framing import Lines
from cnxman.logging import LastResort as _LastResort
from cnxman.retry import RetryPolicy
from cnxman.serial import SerialConnection, SerialListener

__version__ = "2.0.0"

__all__ = [
    "Connection",
    "ConnectionException",
    "ConnectionManager",
    "ConnectionState",
    "Lines",
    "RetryPolicy",
    "SerialConnection",
    "SerialListener",
]

# Errors must not vanish where nobody has set up logging, and nothing else is printed.
_getLogger("cnxman").addHandler(_LastResort())
