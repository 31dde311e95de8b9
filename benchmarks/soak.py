"""A soak: many lines that are pulled out and put back under load, for as long as one likes.

    python -m benchmarks.soak --lines 100 --seconds 600
    python -m benchmarks.soak --lines 10 --pulls 10000

Each line is a simulated device, a `SerialConnection` and a `ConnectionManager` of its own, and a thread that plays the
person who pulls the cable. For each pull it is checked that

* what arrives is the beginning of what was sent since the opening, and all of it where it had arrived before the pull
  (at a pull in mid-flight the kernel drops what it holds for the reader, up to 4095 bytes, and may still hand over the
  little that came after it: a C program that does nothing but read sees that in one of 150 hang-ups);
* what the host wrote is what the device gets, and a write that the pull cut short says truly how much went out;
* the line was opened once, and the pull gave one alarm;
* what `statistics` counts is what happened.

Every so often all the persons rest with their lines up. Then there must be exactly as many descriptors, threads and
entries in PyDispatcher's tables as at the first rest, and hardly more memory; and when all are torn down, as many as
before there were lines. Exit status 0 if all of it held; else each problem is named, and where every thread was.
"""

import argparse
import ctypes
import gc
import os
import random
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable

from pydispatch import dispatcher

from cnxman import (
    Connection,
    ConnectionException,
    ConnectionManager,
    ConnectionState,
    RetryPolicy,
    SerialConnection,
)
from cnxman.testing import SimulatedDevice

PATTERN = random.Random(1).randbytes(1 << 20)
PATIENCE = 60.0
"""Seconds after which something that should have happened by now never will."""

MOST_DROPPED = 4095
"""How many bytes the kernel holds for a reader, and drops at a hang-up."""

MOST_HELD = 65536
"""How many bytes it holds, at most, on their way to a device that doesn't take them: some 12 KB on a pty."""

TUNABLES = "glibc.malloc.tcache_count=0"

MOST = {"MB resident": (16.0, 0.0), "MB in use": (1.0, 100e-6), "blocks": (1000.0, 0.2)}
"""By how much memory may grow: so much, and so much for each pull. (Pages of malloc's get scattered, which is no leak:
what is in use tells, and Python's blocks of memory, of which a single object has one or more.)"""


class SoakedLine:
    """One device, what keeps it up, and what is done to it."""

    def __init__(self, number: int) -> None:
        self.name = f"line {number}"
        self.chance = random.Random(number)
        self.device = SimulatedDevice()
        self.connection = SerialConnection(self.device.port, 115200, buffer_size=1 << 20)
        self.manager = ConnectionManager(self.connection, retry=RetryPolicy(initial=0.02, maximum=0.2))
        self.changed = threading.Condition()
        self.arrived = bytearray()
        self.pulls = self.bytes_sent = self.bytes_arrived = self.bytes_written = 0
        self.alarms = self.openings = self.connects = self.gaps = 0
        self.connection.subscribe(self.on_opened, SerialConnection.Signals.OPENED)
        self.connection.subscribe(self.on_data)
        self.connection.subscribe(self.on_alarm, Connection.Signals.RAISE_ALARM)
        self.manager.subscribe(self.on_state)

    def on_opened(self) -> None:
        with self.changed:
            self.arrived.clear()
            self.openings += 1
            self.changed.notify_all()

    def on_data(self, data: bytes) -> None:
        with self.changed:
            self.arrived += data
            self.bytes_arrived += len(data)
            self.changed.notify_all()

    def on_alarm(self) -> None:
        with self.changed:
            self.alarms += 1
            self.changed.notify_all()

    def on_state(self, state: ConnectionState) -> None:
        with self.changed:
            self.connects += state is ConnectionState.CONNECTED
            self.changed.notify_all()

    def wait_for(self, wanted: Callable[[], bool], what: str) -> None:
        with self.changed:
            if not self.changed.wait_for(wanted, PATIENCE):
                raise AssertionError(f"{what}: not within {PATIENCE} s")

    def wait_up(self) -> None:
        """Wait until the line is up again, for the first time since the last pull, and take stock."""
        # A pull before it is connected is a failed attempt, and no alarm.
        self.wait_for(lambda: min(self.openings, self.connects) > self.pulls, "opened, and connected")
        self.device.wait_opened(PATIENCE)
        counts, managed = self.connection.statistics, self.manager.statistics
        ups = (self.openings, self.connects, counts.connects, managed.connects)
        downs = (self.alarms, counts.losses, managed.losses)
        if {*ups} != {self.pulls + 1} or {*downs} != {self.pulls}:
            raise AssertionError(f"{self.pulls} pulls, but openings and connects {ups}, alarms and losses {downs}")
        if (counts.bytes_in, counts.bytes_out) != (self.bytes_arrived, self.bytes_written):
            raise AssertionError(f"{self.bytes_arrived} bytes in, {self.bytes_written} out, but counted: {counts}")

    def rest(self) -> None:
        """Wait until the line is up again, with nothing kept from before."""
        self.wait_up()
        self.arrived = bytearray()
        self.device.clear()

    def one_pull(self) -> None:
        """Data both ways, a pull in the middle of it or after it, and the device put back."""
        self.wait_up()
        sent, written = self.piece(20_000), self.piece(2_000)
        self.device.clear()
        self.bytes_written += self.connection.write(written)
        if self.device.receive(len(written), timeout=PATIENCE) != written:
            raise AssertionError("what the device got is not what was written")
        self.device.send(sent, timeout=PATIENCE)
        drained = self.chance.random() < 0.5
        if drained:
            self.wait_for(lambda: len(self.arrived) >= len(sent), f"all {len(sent)} bytes")
        writing = self.write_into_the_pull() if self.chance.random() < 0.2 else None
        alarms = self.alarms
        self.device.unplug()
        self.wait_for(lambda: self.alarms > alarms, "the alarm")
        if writing is not None:
            writing.check()
        elif self.device.received != written:
            raise AssertionError("what the device got is more than what was written")
        with self.changed:
            arrived = bytes(self.arrived)
        at, gap = deviation(arrived, sent)
        in_part = sent[:at] + sent[at + gap :][: len(arrived) - at]
        if arrived != (sent if drained else in_part) or gap > MOST_DROPPED:
            raise AssertionError(
                f"{len(arrived)} bytes arrived of {len(sent)} (drained before the pull: {drained}): not what was sent"
                f" from {at} on, where they go on with what was sent {gap} bytes later"
            )
        self.gaps += gap > 0
        self.bytes_sent += len(sent)
        self.pulls += 1
        if self.chance.random() < 0.5:
            time.sleep(self.chance.random() * 0.1)
        self.device.plug()

    def piece(self, most: int) -> bytes:
        """Bytes in which a gap, a repetition or a swap shows."""
        start = self.chance.randrange(len(PATTERN) - most)
        return PATTERN[start : start + self.chance.randrange(1, most)]

    def write_into_the_pull(self) -> "WriteIntoThePull":
        """Begin a write of more than the line takes: the device reads some of it, and no more."""
        taken = self.chance.randrange(1, 50_000)
        self.device.clear()
        self.device.stall(at=taken, of="received")
        writing = WriteIntoThePull(self, taken)
        writing.start()
        self.device.receive(taken, timeout=PATIENCE)
        return writing


def deviation(arrived: bytes, sent: bytes) -> tuple[int, int]:
    """From where on what arrived isn't what was sent, and how many bytes are missing there."""
    at = next((i for i, (a, b) in enumerate(zip(arrived, sent, strict=False)) if a != b), len(arrived))
    return at, max(0, sent.find(arrived[at:], at) - at)


class WriteIntoThePull(threading.Thread):
    """A write that the pull cuts short, when the device has taken so many bytes."""

    def __init__(self, line: SoakedLine, taken: int) -> None:
        super().__init__(name=f"{line.name} writes", daemon=True)
        self.line = line
        self.taken = taken
        self.error: ConnectionException | None = None

    def run(self) -> None:
        try:
            self.line.connection.write(PATTERN)
        except ConnectionException as error:
            self.error = error

    def check(self) -> None:
        """It ended with the pull, and what it says went out is what the device took, and what the kernel held."""
        self.join(PATIENCE)
        if self.error is None or not self.taken <= self.error.written <= self.taken + MOST_HELD:
            raise AssertionError(f"the device took {self.taken} bytes of a write that was cut short: {self.error}")
        if self.line.device.received != PATTERN[: self.taken]:
            raise AssertionError("what the device got of a write that was cut short is not what was written")
        self.line.bytes_written += self.error.written
        self.line.device.resume()


class Round:
    """The pulls from one rest to the next, on all lines at once: so long, or so many.

    Args:
        seconds: for how long; None for as long as it takes.
        pulls: how many in all; None for as many as it comes to.
    """

    def __init__(self, seconds: float | None, pulls: int | None) -> None:
        self.end = None if seconds is None else time.monotonic() + seconds
        self.left = pulls
        self.lock = threading.Lock()
        self.problems: list[str] = []

    def another(self) -> bool:
        with self.lock:
            if self.problems or self.left == 0 or (self.end is not None and time.monotonic() > self.end):
                return False
            if self.left is not None:
                self.left -= 1
            return True

    def run(self, lines: list[SoakedLine]) -> list[str]:
        """The problems there were."""
        persons = [threading.Thread(target=self.pull, args=(line,), daemon=True) for line in lines]
        for person in persons:
            person.start()
        for person in persons:
            person.join()
        return self.problems

    def pull(self, line: SoakedLine) -> None:
        try:
            while self.another():
                line.one_pull()
            line.rest()
        except Exception as error:
            with self.lock:
                if not self.problems:
                    show_stacks()
                self.problems.append(f"{line.name}: {type(error).__name__}: {error}")


def show_stacks() -> None:
    """Where every thread is: what is stuck shows."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        print(f"-- {names.get(ident)}\n{''.join(traceback.format_stack(frame)[-4:])}", file=sys.stderr)


class Mallinfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    )


def in_use() -> int:
    """The bytes that malloc has given out, in all its arenas; 0 where it doesn't tell."""
    try:
        ask = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError):  # not glibc, or before 2.33
        return 0
    ask.restype = Mallinfo
    told = ask()
    return int(told.uordblks - told.fsmblks + told.hblkhd)


def household() -> dict[str, float]:
    """What must not grow. (A stand-in comes to a line whose receivers were once slow, and stays with it.)"""
    gc.collect()
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * resource.getpagesize() / 2**20
    tables = sum(len(signals) for signals in dispatcher.connections.values()) + len(dispatcher.senders)
    return {
        "MB resident": round(resident, 1),
        "MB in use": round(in_use() / 2**20, 2),
        "blocks": sys.getallocatedblocks(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": sum("stand-in" not in thread.name for thread in threading.enumerate()),
        "receivers in tables": tables + len(dispatcher.sendersBack),
    }


def compared(now: dict[str, float], then: dict[str, float], pulls: int, when: str) -> list[str]:
    """What has grown since then, over so many pulls."""
    allowed = {what: least + each * pulls for what, (least, each) in MOST.items()}
    return [
        f"{when}: {now[what]} {what}, but {then[what]} before"
        for what in then
        if (now[what] - then[what] > allowed[what] if what in allowed else now[what] != then[what])
    ]


def rounds(seconds: float, pulls: int | None) -> list[tuple[float | None, int | None]]:
    """The lengths of the rounds: ten seconds, or a tenth of the pulls, but four at least."""
    if pulls is None:
        count = max(4, round(seconds / 10))
        return [(seconds / count, None)] * count
    return [(None, pulls // 10 + (number < pulls % 10)) for number in range(10)]


def soak(lines: list[SoakedLine], lengths: list[tuple[float | None, int | None]]) -> list[str]:
    """Run it, with a line of progress for each rest; what went wrong."""
    started, first, first_pulls = time.monotonic(), None, 0
    for number, (seconds, pulls) in enumerate(lengths):
        problems = Round(seconds, pulls).run(lines)
        now, total = household(), sum(line.pulls for line in lines)
        print(f"{time.monotonic() - started:6.0f} s  {total:7} pulls  {now}", flush=True)
        if number == 0:
            first, first_pulls = now, total  # by now everything has settled in
        assert first is not None
        problems = problems or compared(now, first, total - first_pulls, f"after {total} pulls, all lines up")
        if problems:
            return problems
    return []


def without_caches() -> None:
    """Begin again with malloc's caches for threads off: filling up, they would look like a leak for an hour."""
    if os.environ.get("GLIBC_TUNABLES") != TUNABLES:
        os.environ["GLIBC_TUNABLES"] = TUNABLES
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.soak", *sys.argv[1:]])


def main() -> int:
    """Run a soak; 0 if all held."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description="Pull lines out under load.")
    parser.add_argument("--lines", type=int, default=20, help="how many lines at once (default: 20)")
    parser.add_argument("--seconds", type=float, default=60, help="for how long (default: 60)")
    parser.add_argument("--pulls", type=int, help="so many pulls in all, however long that takes")
    options = parser.parse_args()
    without_caches()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    before = household()
    lines = [SoakedLine(number) for number in range(options.lines)]
    for line in lines:
        line.manager.connect()
    problems = soak(lines, rounds(options.seconds, options.pulls))
    for line in lines:
        line.manager.teardown()
        line.device.close()
    pulls, sent = sum(line.pulls for line in lines), sum(line.bytes_sent for line in lines)
    arrived, written = sum(line.bytes_arrived for line in lines), sum(line.bytes_written for line in lines)
    gaps = sum(line.gaps for line in lines)
    lines.clear()
    del line
    after = household()
    print(f"{'':8}  all torn down     {after}")
    print(f"{pulls} pulls on {options.lines} lines; {written} bytes out; {sent} bytes in, of which {sent - arrived}")
    print(f"were in the kernel at a pull in mid-flight, and lost there ({gaps} times with later ones handed over);")
    print("each accounted for, unless a problem is named: ", end="")
    without = {what: before[what] for what in ("descriptors", "threads", "receivers in tables")}
    problems += compared(after, without, pulls, "all torn down")
    print("\n".join(problems) or "all held")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
