"""Ports of TCP for servers that can't choose one themselves."""

import itertools
import os
import socket

FIRST, EACH, WORKERS = 20_000, 500, 24
"""Each of pytest's workers has ports of its own, below those that systems give out by themselves (32,768 and up)."""

_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
_counter = itertools.count(os.getpid())  # another run may be under way


def free_port() -> int:
    """A port that nobody has, and that nobody is given before the server starts, as one by `bind` might be."""
    for number in itertools.islice(_counter, EACH):
        port = FIRST + _worker * EACH + number % EACH
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"all of {EACH} ports from {FIRST + _worker * EACH} on are taken")
