"""A soak: many lines that are pulled out and put back under load, for as long as one likes.

    python -m benchmarks.soak --lines 100 --seconds 600
    python -m benchmarks.soak --lines 10 --pulls 10000

Each line is a simulated device, a `SerialConnection` and a `ConnectionManager` of its own. What the device sends after
each opening begins anew, so every byte is accounted for: what arrives must be the beginning of what was sent, and all
of it where the device was drained before the pull. At the end memory, descriptors, threads and PyDispatcher's
tables must be what they were before, or once all had settled in. Exit status 0 if all of it held.
"""

import argparse
import gc
import os
import random
import resource
import sys
import threading
import time

from pydispatch import dispatcher

from cnxman import Connection, ConnectionManager, RetryPolicy, SerialConnection
from cnxman.testing import SimulatedDevice

PATTERN = bytes(random.Random(1).randbytes(1 << 20))
MOST_GROWTH = 8.0
"""Megabytes of memory the whole process may grow by, after it has settled in; the allocator's own breathing."""


class SoakedLine(threading.Thread):
    """One device and what keeps it up; the thread plays the person who pulls the cable."""

    def __init__(self, number: int, until: "Until") -> None:
        super().__init__(name=f"soak {number}", daemon=True)
        self.until = until
        self.chance = random.Random(number)
        self.device = SimulatedDevice()
        self.connection = SerialConnection(self.device.port, 115200)
        self.manager = ConnectionManager(self.connection, retry=RetryPolicy(initial=0.02, maximum=0.2))
        self.arrived = bytearray()
        self.changed = threading.Condition()
        self.bytes_sent = self.bytes_lost = self.alarms = self.openings = self.seen = 0
        self.problem: str | None = None
        self.connection.subscribe(self.on_opened, SerialConnection.Signals.OPENED)
        self.connection.subscribe(self.on_data)
        self.connection.subscribe(self.on_alarm, Connection.Signals.RAISE_ALARM)

    def on_opened(self) -> None:
        with self.changed:
            self.arrived.clear()
            self.openings += 1
            self.changed.notify_all()

    def on_data(self, data: bytes) -> None:
        with self.changed:
            self.arrived += data
            self.changed.notify_all()

    def on_alarm(self) -> None:
        self.alarms += 1

    def run(self) -> None:
        try:
            self.manager.connect()
            while self.until.another():
                self.one_pull()
        except Exception as error:
            self.problem = f"{self.name}: {type(error).__name__}: {error}"

    def one_pull(self) -> None:
        """Data both ways, a pull, either drained or in the middle of it, and the wait for the line's return."""
        with self.changed:
            if not self.changed.wait_for(lambda: self.openings > self.seen, 30):
                raise AssertionError("not opened again after 30 s")
        if not self.manager.wait_until_connected(30):  # a pull before that is a failed attempt: no alarm
            raise AssertionError("not connected after 30 s")
        self.seen = self.openings
        self.device.wait_opened(30)
        sent, alarms = PATTERN[: self.chance.randrange(1, 20_000)], self.alarms
        drained = self.chance.random() < 0.5
        self.device.clear()
        self.connection.write(sent[:500])
        self.device.receive(len(sent[:500]), timeout=30)
        self.device.send(sent, timeout=30)
        if drained:
            with self.changed:
                if not self.changed.wait_for(lambda: len(self.arrived) >= len(sent), 30):
                    raise AssertionError(f"{len(self.arrived)} of {len(sent)} bytes arrived")
        self.device.unplug()
        self.wait_for_alarm(alarms)
        with self.changed:
            arrived = bytes(self.arrived)
        if arrived != sent[: len(arrived)] or (drained and arrived != sent):
            raise AssertionError(f"{len(arrived)} bytes arrived, which are not the {len(sent)} sent")
        self.bytes_sent += len(sent)
        self.bytes_lost += len(sent) - len(arrived)
        if self.chance.random() < 0.5:
            time.sleep(self.chance.random() * 0.1)
        self.device.plug()

    def wait_for_alarm(self, before: int) -> None:
        """Exactly one alarm for the pull, after everything that was read was told."""
        limit = time.monotonic() + 30
        while self.alarms == before:
            if time.monotonic() > limit:
                raise AssertionError("no alarm after 30 s")
            time.sleep(0.002)
        if self.alarms != before + 1:
            raise AssertionError(f"{self.alarms - before} alarms for one pull")


class Until:
    """Counts pulls, and says when it is enough."""

    def __init__(self, seconds: float, pulls: int | None) -> None:
        self.end = time.monotonic() + seconds if pulls is None else float("inf")
        self.most = pulls
        self.pulls = 0
        self.lock = threading.Lock()

    def another(self) -> bool:
        with self.lock:
            if time.monotonic() > self.end or self.pulls == self.most:
                return False
            self.pulls += 1
            return True


def household() -> dict[str, float]:
    """What must not grow."""
    gc.collect()
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * resource.getpagesize() / 2**20
    tables = sum(len(signals) for signals in dispatcher.connections.values()) + len(dispatcher.senders)
    return {
        "memory (MB)": round(resident, 1),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "receivers in tables": tables + len(dispatcher.sendersBack),
    }


def soak(lines: list[SoakedLine], until: Until) -> list[str]:
    """Run it, with a line of progress every so often; what went wrong."""
    start, settled, told = time.monotonic(), household(), 0.0
    settle_in = 50 * len(lines) if until.most is None else until.most // 10
    warm = False
    while any(line.is_alive() for line in lines):
        lines[0].join(0.5)
        if not warm and until.pulls >= min(settle_in, until.most or settle_in):
            settled, warm = household(), True
        if time.monotonic() - told > 10:
            told = time.monotonic()
            print(f"{told - start:6.0f} s  {until.pulls:7} pulls  {household()}", flush=True)
    for line in lines:
        line.manager.teardown()
    problems = [line.problem for line in lines if line.problem]
    after = household()
    print(f"settled in: {settled}\nat the end, all torn down: {after}")
    if after["memory (MB)"] - settled["memory (MB)"] > MOST_GROWTH:
        problems.append("memory has grown")
    return problems


def main() -> int:
    """Run a soak; 0 if all held."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description="Pull lines out under load.")
    parser.add_argument("--lines", type=int, default=20, help="how many lines at once (default: 20)")
    parser.add_argument("--seconds", type=float, default=60, help="for how long (default: 60)")
    parser.add_argument("--pulls", type=int, help="so many pulls in all, however long that takes")
    options = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    before = household()
    until = Until(options.seconds, options.pulls)
    lines = [SoakedLine(number, until) for number in range(options.lines)]
    for line in lines:
        line.start()
    problems = soak(lines, until)
    for line in lines:
        line.device.close()
    sent, lost, pulls = (
        sum(line.bytes_sent for line in lines),
        sum(line.bytes_lost for line in lines),
        until.pulls,
    )
    print(f"{pulls} pulls on {len(lines)} lines; {sent} bytes sent, each accounted for unless a problem is named;")
    print(f"{lost} of them were still in the kernel at a pull in mid-flight, and lost as with a real device")
    lines.clear()
    del line
    after = household()
    for what in ("descriptors", "threads", "receivers in tables"):
        if after[what] > before[what]:
            problems.append(f"{what}: {before[what]} before, {after[what]} after")
    print("\n".join(problems) or "all held")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
