"""``python -m benchmarks.relay LINE KIND PLACE CLIENTS``: the least that gives one line to many, in Python.

A loop of one read and a write to each client, which waits for the slowest of them. No events, no outages, no answers.
It says a word when clients can come. PLACE is a port for ``tcp``, a socket's path for ``unix``, and for ``pty`` a
folder, in which the pseudo-terminals are named 0, 1, 2 ...
"""

import contextlib
import os
import select
import socket
import sys
import tty
from pathlib import Path


def main(line: str, kind: str, place: str, count: str) -> None:
    source = os.open(line, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(source)
    clients = ptys(Path(place), int(count)) if kind == "pty" else sockets(kind, place, int(count))
    poll = select.poll()
    poll.register(source, select.POLLIN)
    while True:
        poll.poll()
        data = os.read(source, 65536)
        for client in clients:
            rest = data
            while rest:
                with contextlib.suppress(BlockingIOError):
                    rest = rest[os.write(client, rest) :]
                if rest:
                    select.select([], [client], [])


def ptys(folder: Path, count: int) -> list[int]:
    masters = []
    for number in range(count):
        master, slave = os.openpty()
        tty.setraw(slave)
        os.symlink(os.ttyname(slave), folder / str(number))
        os.set_blocking(master, False)
        masters.append(master)
    print("ready", flush=True)
    return masters


def sockets(kind: str, place: str, count: int) -> list[int]:
    server = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
    server.bind(place if kind == "unix" else ("127.0.0.1", int(place)))
    server.listen(count)
    print("ready", flush=True)
    clients = [server.accept()[0] for _ in range(count)]
    for client in clients:
        client.setblocking(False)
    return [client.detach() for client in clients]


if __name__ == "__main__":
    main(*sys.argv[1:])
