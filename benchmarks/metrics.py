"""What is measured. Each function runs one reader, in a process of its own whose program this module is.

Whatever goes wrong (bytes lost, out of order, a reader that raises) is an exception: the measurement failed.
"""

import contextlib
import functools
import inspect
import json
import os
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.lines import Writer, open_line, pattern
from benchmarks.peers import PEERS, Peer, Receiver, Stop

Figures = dict[str, float]


def copying(buffer: bytearray, sizes: list[int], free: threading.Event) -> Receiver:
    """Return a receiver that copies what comes; its first call waits until it is ``free``."""
    view, add, at = memoryview(buffer), sizes.append, 0

    def receive(data: bytes) -> None:
        nonlocal at
        if not at:
            free.wait()
        end = at + len(data)
        view[at:end] = data
        add(end - at)
        at = end

    return receive


def noting(heard: threading.Event) -> Receiver:
    """Return a receiver that sets the event when data come."""
    return lambda data: heard.set() if data else None


def stopwatch() -> Callable[[], tuple[float, float]]:
    """Return what tells the seconds, and the CPU seconds of this process, since now."""
    wall, cpu = time.perf_counter(), time.process_time()
    return lambda: (time.perf_counter() - wall, time.process_time() - cpu)


def status(field: str, folder: str = "/proc/self") -> int:
    """Return a number out of the status of this process, sizes in KiB, or of one of its threads."""
    with open(f"{folder}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field + ":"))


def read(peer: Peer, receiver: Receiver, mode: str, pinned: bool = True, **writing: Any) -> tuple[Writer, Stop]:
    """Start a reader on a new line; its writer begins when it is told "go"."""
    line = Writer(mode, pinned=pinned, **writing)
    stop = peer.start(line.path, receiver)
    time.sleep(0.05)  # until its thread surely waits for data
    return line, stop


def stream(peer: Peer, total: int, stall: float = 0, pinned: bool = True, **writing: Any) -> Figures:
    """Send so many bytes, to a receiver that at first doesn't return for ``stall`` seconds."""
    if not writing:
        total //= peer.slowness
        if stall and peer.package == "cnxman" and "options" in inspect.signature(peer.start).parameters:
            peer = peer._replace(start=functools.partial(peer.start, buffer_size=256 * 1024))
    sent, buffer = pattern(total), bytearray(b"\1") * total  # memory that is there from now on
    sizes: list[int] = []
    free = threading.Event()
    receiver = copying(buffer, sizes, free)
    line, stop = read(peer, receiver, "stream", pinned, total=total, **writing)
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest memory use so far
    before, spent = status("VmHWM"), stopwatch()
    line.tell("go")
    time.sleep(stall)
    free.set()
    taken = int(line.hear())
    limit = time.perf_counter() + 10
    while sum(sizes) < taken and time.perf_counter() < limit:
        time.sleep(0.001)
    (wall, cpu), grown = spent(), status("VmHWM") - before
    stop()
    if sum(sizes) != taken or buffer[:taken] != sent[:taken]:
        raise RuntimeError(f"{sum(sizes)} bytes came of {taken}, or not those that were sent")
    return {
        "MB/s": taken / wall / 1e6,
        "CPU ms/MB": cpu / taken * 1e9,
        "CPU ms/s": cpu / wall * 1e3,
        "calls/s": len(sizes) / wall,
        "KB dropped": (total - taken) / 1e3,
        "MB grown": grown * 1024 / 1e6,
    }


def packets(peer: Peer, count: int, warm: int = 500, chunk: int = 64) -> Figures:
    """Send a packet, and the next when it was received."""
    count = warm + count // peer.slowness
    done, spent, wall, cpu, got = threading.Event(), stopwatch(), 0.0, 0.0, 0
    parts: list[bytes] = []

    def receiver(data: bytes) -> None:
        nonlocal spent, wall, cpu, got
        parts.append(data)
        got += len(data)
        if got % chunk:
            return
        if got == warm * chunk:
            spent = stopwatch()
        elif got == count * chunk:
            wall, cpu = spent()
            done.set()
        os.write(line.ack, b"a")

    line, stop = read(peer, receiver, "packets", count=count, chunk=chunk)
    line.tell("go")
    if not done.wait(60) or b"".join(parts) != pattern(chunk) * count:
        raise RuntimeError(f"{got} bytes came of {count * chunk}, or not those that were sent")
    stop()
    return {"us": wall / (count - warm) * 1e6, "CPU us": cpu / (count - warm) * 1e6}


def calls(peer: Peer, size: int, total: int) -> Figures:
    """Read by calls that wait, so many bytes at a time."""
    assert peer.port is not None
    line, got = Writer("stream", pinned=True, total=total), bytearray()
    port, spent = peer.port(line.path), stopwatch()
    line.tell("go")
    while len(got) < total:
        data = port.read(min(size, total - len(got)))
        if not data:
            raise RuntimeError(f"{len(got)} bytes came of {total}")
        got += data
    wall, cpu = spent()
    port.close()
    if got != pattern(total):
        raise RuntimeError("it was not those bytes that were sent")
    return {"us": wall / total * size * 1e6, "CPU us": cpu / total * size * 1e6}


def latency(peer: Peer, count: int, period: float = 0.002) -> Figures:
    """Send the time, and the number of the time: how late does it come?"""
    late: list[float] = []
    pending, done = bytearray(), threading.Event()

    def receiver(data: bytes) -> None:
        now = time.perf_counter_ns()
        pending.extend(data)
        while len(pending) >= 16:
            sent, index = struct.unpack_from("<QQ", pending)
            del pending[:16]
            if index == len(late):  # no more count once one is lost or out of order
                late.append((now - sent) / 1e3)
        if len(late) == count:
            done.set()

    line, stop = read(peer, receiver, "stamps", count=count, period=period)
    line.tell("go")
    if not done.wait(count * period + 20):
        raise RuntimeError(f"{len(late)} stamps came of {count} in order")
    stop()
    percentiles = statistics.quantiles(late[50:], n=100)
    return {"p50 us": percentiles[49], "p99 us": percentiles[98]}


def hold(peer: Peer, lines: int, seconds: float = 0, breaking: bool = False) -> Figures:
    """Open one line more and hear a byte on it, until there are enough; then nothing comes for a while."""
    farm = Writer("farm", count=lines)
    heard = threading.Event()  # one for all: a line's footprint is to be the reader's
    kept: list[Receiver] = []
    count, footprints = 0, []

    def wake_ups() -> int:
        others = [task for task in os.listdir("/proc/self/task") if int(task) != os.getpid()]
        kinds = ("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")
        return sum(status(kind, f"/proc/self/task/{task}") for task in others for kind in kinds)

    with contextlib.suppress(*([Exception] if breaking else [])):  # each breaks in its own way
        for path in farm.greeting.split():
            kept.append(noting(heard))  # some hold it weakly
            peer.start(path, kept[-1])
            heard.clear()
            farm.tell(str(count))
            if not heard.wait(1):
                raise RuntimeError(f"line {count} is silent")
            count += 1
            if count in (1, lines):
                footprints.append((status("VmRSS"), status("Threads"), len(os.listdir("/proc/self/fd"))))
    time.sleep(0.3)
    before, spent = wake_ups(), stopwatch()
    time.sleep(seconds)
    (wall, cpu), woken = spent(), wake_ups() - before
    figures: Figures = {"lines": count, "CPU ms/s": cpu / wall * 1e3, "wake-ups/s": woken / wall}
    for name, first, last in zip(("KiB", "threads", "descriptors"), footprints[0], footprints[-1], strict=True):
        figures[name] = (last - first) / (lines - 1)
    return figures


def many(peer: Peer, lines: int, seconds: float, chunk: int = 10, period: float = 0.1) -> Figures:
    """Open many lines; on each of them some bytes come ten times a second. All have to come."""
    farm = Writer("many", count=lines, seconds=seconds, chunk=chunk, period=period)
    got, complete = [0] * lines, threading.Event()
    expected = round(seconds / period) * chunk

    def counting(index: int) -> Receiver:
        def receive(data: bytes) -> None:
            got[index] += len(data)

        return receive

    receivers = [counting(index) for index in range(lines)]
    for path, receiver in zip(farm.greeting.split(), receivers, strict=True):
        peer.start(path, receiver)
    spent = stopwatch()
    farm.tell("go")
    farm.hear()
    limit = time.perf_counter() + 10
    while sum(got) < lines * expected and time.perf_counter() < limit:
        complete.wait(0.01)
    wall, cpu = spent()
    if got != [expected] * lines:
        raise RuntimeError(f"{sum(got)} bytes came of {lines * expected}")
    return {"CPU ms/s": cpu / wall * 1e3}


def stop(peer: Peer, times: int) -> Figures:
    """Stop a reader that waits."""
    took, threads, receiver = [], [], noting(threading.Event())
    for _ in range(times + 1):  # the first one loads modules, and starts what all share
        stop = peer.start(open_line()[1], receiver)
        time.sleep(0.05)
        spent = stopwatch()
        stop()
        took.append(spent()[0] * 1e3)
        time.sleep(0.05)
        threads.append(status("Threads"))
    return {"ms": max(took[1:]), "threads left": (threads[-1] - threads[0]) / times}


def reconnect(peer: Peer, seconds: float) -> Figures:
    """Take the line away, after a while put another in its place, and speak until it is heard."""
    heard = threading.Event()
    receiver = noting(heard)

    def put_back() -> int:
        far, near = open_line()
        os.symlink(near, path)
        return far

    def await_heard(far: int) -> float:
        heard.clear()
        spent = stopwatch()
        while not heard.wait(0.001):
            os.write(far, b"x")
        return spent()[0]

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "line")
        far = put_back()
        peer.start(path, receiver, managed=True)
        await_heard(far)
        os.unlink(path)
        os.close(far)
        time.sleep(seconds)
        return {"ms": await_heard(put_back()) * 1e3}


class Metric(NamedTuple):
    """A measurement: the figures of it that count, and how often it is repeated."""

    about: str
    run: Callable[..., Figures]
    figures: str
    rounds: int
    params: dict[str, Any]
    needs: str = "start"
    """The attribute that a reader must have."""

    def quick(self) -> "Metric":
        """Return it with a third of the rounds, each with a quarter to do."""
        fewer = {"total", "count", "seconds", "stall", "times"} & set(self.params)
        less = {name: type(self.params[name])(self.params[name] / 4) for name in fewer}
        return self._replace(rounds=max(1, self.rounds // 3), params=self.params | less)


SLOW, FAST = ({"total": 3 * rate, "rate": rate, "chunk": 64} for rate in (11520, 300_000))
DROPPING = {"total": 3_000_000, "rate": 1e6, "chunk": 1000, "drop": True, "stall": 3.5, "pinned": False}
BOUNDED = {"total": 8_000_000, "stall": 1.5, "pinned": False}
ONE, PAGE = {"size": 1, "total": 400_000}, {"size": 4096, "total": 32_000_000}
METRICS = {
    "flood": Metric("as fast as it goes, pinned", stream, "MB/s, CPU ms/MB", 7, {"total": 32_000_000}),
    "packets": Metric("64 bytes, then the next, pinned", packets, "us, CPU us", 7, {"count": 20000}),
    "11.5 KB/s": Metric("64 bytes at a time, pinned", stream, "CPU ms/s, calls/s", 3, SLOW),
    "300 KB/s": Metric("64 bytes at a time, pinned", stream, "CPU ms/s, calls/s, MB/s", 5, FAST),
    "read(1)": Metric("pyserial's call, bytes that are there", calls, "us, CPU us", 5, ONE, "port"),
    "read(4096)": Metric("likewise", calls, "us, CPU us", 5, PAGE, "port"),
    "latency": Metric("16 bytes each 2 ms, pinned", latency, "p50 us, p99 us", 5, {"count": 1500}),
    "idle": Metric("50 silent lines", hold, "CPU ms/s, wake-ups/s", 3, {"lines": 50, "seconds": 3.0}),
    "a line": Metric("of 100 beyond the first", hold, "KiB, threads, descriptors", 3, {"lines": 101}),
    "1000 lines": Metric("100 bytes a second on each", many, "CPU ms/s", 1, {"lines": 1000, "seconds": 3.0}),
    "most": Metric("one more until it fails", hold, "lines", 1, {"lines": 1500, "breaking": True}),
    "stop": Metric("the slowest of ten", stop, "ms, threads left", 3, {"times": 10}),
    "reconnect": Metric("from when the line is back after 2 s", reconnect, "ms", 3, {"seconds": 2.0}, "manages"),
    "stall": Metric("3 MB at 1 MB/s, receiver stalls, writer drops", stream, "KB dropped", 3, DROPPING),
    "bounded": Metric("8 MB, receiver stalls, buffer_size 256 KiB", stream, "MB grown", 3, BOUNDED),
}

if __name__ == "__main__":
    reader, metric, params = sys.argv[1:]
    answer, sys.stdout = sys.stdout, sys.stderr  # what a reader prints is no figure
    figures = METRICS[metric].run(PEERS[reader], **json.loads(params))
    print(json.dumps({key: figures[key] for key in METRICS[metric].figures.split(", ")}), file=answer)
