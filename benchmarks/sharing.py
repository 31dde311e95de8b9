# mypy: disable-error-code="no-untyped-call"
"""``python -m benchmarks.sharing``: the processor time of `cnxman share` with ten clients, beside socat with one.

Between them stands the least that gives a line to ten, a bare loop of one read and ten writes: see `benchmarks.relay`.
A device says 1 MB/s in pieces of a given size. The goal: no more than twice what socat takes, for clients of each kind
and pieces of each size. Exit status 1 when a byte is missing, 0 whatever its figures are.
"""

import argparse
import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.lines import Writer
from tests.kit.command import Command
from tests.kit.tcp_ports import free_port

GOAL = 2.0
CLIENTS = 10
RATE = 1_000_000
PIECES = (64, 1000, 2000, 4095)
KINDS = ("tcp", "unix", "pty")

Server = Callable[[str, str, Path], "contextlib.AbstractContextManager[tuple[int, list[int]]]"]


def processor_time(pid: int) -> float:
    """Seconds that the threads of a process have used."""
    files = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


@contextlib.contextmanager
def share(line: str, kind: str, folder: Path) -> Iterator[tuple[int, list[int]]]:
    """`cnxman share` before a line, and its clients: its process, and the clients' descriptors."""
    address = {"tcp": "tcp:127.0.0.1:0", "unix": f"unix:{folder}/socket"}
    places = [f"--listen={address[kind]}"] if kind in address else [f"--pty={folder}/{n}" for n in range(CLIENTS)]
    with contextlib.ExitStack() as stack:
        command = stack.enter_context(Command("share", line, *places))
        command.wait_event("connected")
        port = next((text.split()[0].rpartition(":")[2] for what, text in command.events() if what == "listening"), "")
        clients = enter_clients(stack, kind, port, folder)
        command.err.wait(lambda data: data.count(b"  came  ") == CLIENTS)
        yield command.process.pid, clients


@contextlib.contextmanager
def socat(line: str, kind: str, folder: Path) -> Iterator[tuple[int, list[int]]]:
    """The same, of socat, which has one client."""
    port = free_port()
    server = {
        "tcp": f"TCP-LISTEN:{port},bind=127.0.0.1",
        "unix": f"UNIX-LISTEN:{folder}/socket",
        "pty": f"PTY,link={folder}/0,raw,echo=0,wait-slave",
    }[kind]
    process = subprocess.Popen(["socat", "-u", f"OPEN:{line},raw,echo=0", server])
    try:
        with client(kind, f"{folder}/0" if kind == "pty" else str(port), folder) as descriptor:
            time.sleep(0.5)  # until it has opened the line
            yield process.pid, [descriptor]
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def relay(line: str, kind: str, folder: Path) -> Iterator[tuple[int, list[int]]]:
    """A bare loop, with as many clients as `share`."""
    port = free_port()
    place = {"tcp": str(port), "unix": f"{folder}/socket", "pty": str(folder)}[kind]
    program = [sys.executable, "-m", "benchmarks.relay", line, kind, place, str(CLIENTS)]
    process = subprocess.Popen(program, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        with contextlib.ExitStack() as stack:
            yield process.pid, enter_clients(stack, kind, str(port), folder)
    finally:
        process.kill()
        process.communicate()


def enter_clients(stack: contextlib.ExitStack, kind: str, port: str, folder: Path) -> list[int]:
    """All clients of a server: their descriptors."""
    names = [f"{folder}/{number}" if kind == "pty" else port for number in range(CLIENTS)]
    return [stack.enter_context(client(kind, name, folder)) for name in names]


@contextlib.contextmanager
def client(kind: str, name: str, folder: Path) -> Iterator[int]:
    """One client, as soon as the server lets it in."""
    until = time.monotonic() + 10
    while True:
        try:
            if kind == "pty":
                descriptor = os.open(name, os.O_RDONLY | os.O_NOCTTY)
                tty.setraw(descriptor)
            elif kind == "tcp":
                descriptor = socket.create_connection(("127.0.0.1", int(name))).detach()
            else:
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.connect(f"{folder}/socket")
                    descriptor = sock.detach()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            break
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read(descriptor: int, size: int) -> None:
    """Read so many bytes."""
    while size > 0:
        size -= len(os.read(descriptor, 65536)) or size


def cost(server: Server, kind: str, piece: int, size: int) -> float:
    """Processor time that a server uses while the device says so much, and each client reads it."""
    with TemporaryDirectory() as folder:
        line = Writer("stream", total=size, chunk=piece, rate=RATE)
        try:
            with server(line.path, kind, Path(folder)) as (pid, clients):
                readers = [threading.Thread(target=read, args=[descriptor, size]) for descriptor in clients]
                for reader in readers:
                    reader.start()
                before = processor_time(pid)
                line.tell("go")
                for reader in readers:
                    reader.join(60)
                if any(reader.is_alive() for reader in readers):
                    raise RuntimeError("bytes are missing")
                return processor_time(pid) - before
        finally:
            line.process.kill()
            line.process.wait()


def main() -> None:
    """Measure, in turns, and print what it took."""
    # Where a shell started this in the background, it is ignored; so it would be by the command, which it ends.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="for how long the device talks, each time")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--pieces", default=",".join(map(str, PIECES)))
    parser.add_argument("--quick", action="store_true", help="one short round with pieces of one size")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.seconds, args.pieces = 1, 0.5, "1000"
    size = int(args.seconds * RATE)
    print(f"ms of processor time for {size / 1e6:g} MB, medians of {args.rounds}; then the rounds' ratios to socat's")
    for kind in args.kinds.split(","):
        for piece in map(int, args.pieces.split(",")):
            rounds = [[cost(server, kind, piece, size) for server in (socat, relay, share)] for _ in range(args.rounds)]
            theirs, least, ours = (statistics.median(each[n] for each in rounds) * 1000 for n in range(3))
            ratios = sorted(each[2] / each[0] for each in rounds)
            ratio = statistics.median(ratios)
            print(
                f"{kind:4} {piece:5} bytes each: share to {CLIENTS} {ours:5.0f}, bare loop to {CLIENTS} {least:4.0f},"
                f" socat to one {theirs:4.0f}; share {ratio:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) of it"
                f"{'' if ratio <= GOAL else ', missed'}; bare loop {least / theirs:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
