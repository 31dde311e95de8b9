"""The lines, and the process at their far end, whose CPU isn't the reader's; this module is its program."""

import ctypes
import json
import os
import random
import resource
import struct
import subprocess
import sys
import time
import tty
from collections.abc import Callable
from typing import Any


class Writer:
    """A pseudo-terminal and the process that writes to it in one of MODES; it is spoken to in lines.

    Pinned, that process and this thread, with those it starts, are put on one CPU. A byte on the descriptor
    ``ack`` asks for the next packet. The mode "farm" has more lines, whose paths are its ``greeting``.
    """

    def __init__(self, mode: str, *, pinned: bool = False, **params: Any) -> None:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        fd, self.path = open_line()
        asked, self.ack = os.pipe()
        program = [sys.executable, "-m", "benchmarks.lines", mode, str(fd), str(asked), json.dumps(params)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(program, stdin=pipe, stdout=pipe, pass_fds=(fd, asked), text=True)
        assert self.process.stdout is not None
        self.hear = self.process.stdout.readline
        self.greeting = self.hear()
        if pinned:
            cpu = {min(os.sched_getaffinity(0))}
            os.sched_setaffinity(0, cpu)
            os.sched_setaffinity(self.process.pid, cpu)

    def tell(self, text: str) -> None:
        print(text, file=self.process.stdin, flush=True)


def open_line() -> tuple[int, str]:
    """Return a new pseudo-terminal: the descriptor of its far end, and the path that a reader opens."""
    far, near = os.openpty()
    tty.setraw(near)  # and stays open: else the line would hang up between two readers
    return far, os.ttyname(near)


def pattern(size: int) -> bytes:
    """Return the bytes that a stream consists of; the reader makes them again, to verify what came."""
    return random.Random(20240229).randbytes(size)


def stream(fd: int, _ack: int, total: int, chunk: int = 4096, rate: float = 0, drop: bool = False) -> int:
    """Write at ``rate`` bytes a second, or as fast as it goes; return how many the line took.

    With ``drop``, like a chip without flow control: what the line doesn't take at once is dropped.
    """
    data, taken = memoryview(pattern(total)), 0
    os.set_blocking(fd, not drop)
    start = time.perf_counter()
    for offered in range(0, total, chunk):
        left = min(chunk, total - offered)
        while left:
            try:
                count = os.write(fd, data[taken : taken + left])
            except BlockingIOError:
                count = 0
            taken += count
            left = 0 if drop else left - count
        if rate:
            time.sleep(max(0, start + (offered + chunk) / rate - time.perf_counter()))
    return taken


def stamps(fd: int, _ack: int, count: int, period: float) -> int:
    """Write the time and a number, 16 bytes, each ``period`` seconds."""
    start = time.perf_counter()
    for index in range(count):
        os.write(fd, struct.pack("<QQ", time.perf_counter_ns(), index))
        time.sleep(max(0, start + (index + 1) * period - time.perf_counter()))
    return count * 16


def packets(fd: int, ack: int, count: int, chunk: int) -> int:
    """Write a packet, and the next as soon as the receiver has had it."""
    data = pattern(chunk)
    return sum(os.write(fd, data) * len(os.read(ack, 1)) for _ in range(count))


def farm(_fd: int, _ack: int, count: int) -> int:
    """Hold many lines; write a byte to line N whenever told N."""
    lines = [open_line() for _ in range(count)]
    print(*(path for _, path in lines), flush=True)
    return sum(os.write(lines[int(order)][0], b"x") for order in sys.stdin)


def many(_fd: int, _ack: int, count: int, seconds: float, chunk: int, period: float) -> int:
    """Hold many lines; once told, write to each of them once in a period."""
    lines = [open_line() for _ in range(count)]
    print(*(path for _, path in lines), flush=True)
    sys.stdin.readline()
    start, data = time.perf_counter(), b"x" * chunk
    for turn in range(round(seconds / period)):
        for far, _ in lines:
            os.write(far, data)
        time.sleep(max(0, start + (turn + 1) * period - time.perf_counter()))
    return count * round(seconds / period) * chunk


MODES: dict[str, Callable[..., int]] = {"stream": stream, "stamps": stamps, "packets": packets, "farm": farm}
MODES["many"] = many

if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: end with the reader's process, whatever we wait for
    mode, *descriptors, params = sys.argv[1:]
    if mode not in ("farm", "many"):
        print("ready", flush=True)
        sys.stdin.readline()
    print(MODES[mode](*map(int, descriptors), **json.loads(params)), flush=True)
    sys.stdin.readline()  # the line stays up until the reader has finished
