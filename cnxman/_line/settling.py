"""A network port that is accepted, told why there is no device, and hung up: as ser2net does. It is not connected."""

import errno
import select
import socket

import serial

from cnxman._line.errors import PeerClosedError

_MOST_WORDS = 200
"""How many bytes of what the other end said are repeated."""


def wait_until_settled(port: serial.Serial, seconds: float) -> None:
    """Wait until a network port has been open for so long. Other ports are settled at once; on Windows all are.

    Args:
        port: an open port. Nothing is read from it, but at a failure.
        seconds: how long it has to stay open.

    Raises:
        PeerClosedError: the other end closed the connection meanwhile; with what it said.
    """
    network = getattr(port, "_socket", None)
    if not isinstance(network, socket.socket) or not hasattr(select, "poll"):
        return
    poller = select.poll()
    poller.register(network, getattr(select, "POLLRDHUP", 0))  # without it, the hang-up itself is told
    if not poller.poll(seconds * 1000):
        return
    words = _last_words(network)
    said = f", saying {words!r}" if words else ""
    raise PeerClosedError(errno.ECONNRESET, f"the other end closed the connection within {seconds} s{said}")


def _last_words(network: socket.socket) -> str:
    try:
        return network.recv(_MOST_WORDS, socket.MSG_DONTWAIT).decode(errors="replace").strip()
    except OSError:
        return ""
