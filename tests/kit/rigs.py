"""What the rigs `tests.usb` and `tests.windows` share, on the host: how a guest is talked to, and what is printed."""

import contextlib
import json
import select
import socket
import sys
import time
from typing import Any

Message = dict[str, Any]


class RigError(Exception):
    """The rig itself failed, not what it tests."""


class Messages:
    """JSON, one message a line, over a socket.

    Args:
        sock: The socket.
        who: Is at its other end.
    """

    def __init__(self, sock: socket.socket, who: str) -> None:
        self._sock = sock
        self._who = who
        self._pending = b""

    def put(self, message: Message) -> None:
        """Sends a message."""
        with contextlib.suppress(ConnectionError):  # get() tells it
            self._sock.sendall(json.dumps(message).encode() + b"\n")

    def get(self, give_up: float) -> Message:
        """The next message; RigError when none is there by `give_up`, in seconds of the monotonic clock."""
        while b"\n" not in self._pending:
            if not select.select([self._sock], [], [], max(0.0, give_up - time.monotonic()))[0]:
                raise RigError("no message in time")
            try:
                data = self._sock.recv(65536)
            except ConnectionError:
                data = b""
            if not data:
                raise RigError(f"{self._who} has ended")
            self._pending += data
        line, self._pending = self._pending.split(b"\n", 1)
        message: Message = json.loads(line)
        return message

    def close(self) -> None:
        """Closes the socket."""
        self._sock.close()


def say(text: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Checks:
    """What was checked. `failures` counts what did not hold."""

    def __init__(self) -> None:
        self.failures = 0

    def check(self, name: str, ok: bool, facts: Message) -> None:
        """Prints a check, and what speaks against it."""
        self.failures += not ok
        say(f"  {'ok  ' if ok else 'FAIL'}  {name}")
        for key, fact in facts.items():
            say("\n".join(f"          {line}" for line in f"{key}: {fact}".splitlines()))
