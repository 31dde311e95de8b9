"""What a managed line has to do on a COM port. The functions run in the guest."""

import os
import threading
import time

from .data import numbered
from .guest import PORT, Line, ask, check, figure, handles, now, plug, plugged, pull
from .registry import scenario

LATE = 0.3
"""A pull is noticed within so many seconds."""

BACK = 0.5
"""So is a return."""


@scenario()
def idle() -> None:
    """An idle line for 10 s: no alarm, no measurable work."""
    with plugged(), Line() as line:
        line.exchange()
        before, began = os.times(), now()
        time.sleep(10)
        after = os.times()
        used = (after.user + after.system - before.user - before.system) / (now() - began)
        figure("processor's time of an idle line", used * 100, 1, "%")
        check("no alarm in 10 s without data", line.alarms == 0 and line.connection.is_connected, told=line.told)
        line.exchange()


@scenario()
def outages() -> None:
    """Outages of 0.2, 1, 3 and 10 s: the loss and the return are noticed at once, one alarm each."""
    with plugged(), Line() as line:
        for number, seconds in enumerate((0.2, 1, 3, 10), 1):
            pulled = pull()
            lost = line.when("recovering", pulled)
            figure("a pull is noticed after", lost - pulled, LATE)
            time.sleep(seconds)
            back = plug()
            figure("the return is noticed after", line.when("connected", lost) - back, BACK)
            line.exchange()
            check(f"one alarm for an outage of {seconds} s", line.alarms == number, alarms=line.alarms)


@scenario(limit=60)
def pulls() -> None:
    """200 pulls: all are noticed, and nothing is left behind."""
    with plugged(), Line() as line:
        for _ in range(5):
            pull_and_put_back(line)
        had, threads = handles(), threading.active_count()
        for _ in range(200):
            pull_and_put_back(line)
        check("200 pulls leave no handle", handles() <= had + 5, before=had, after=handles())
        check("200 pulls leave no thread", threading.active_count() <= threads + 1, now=threading.enumerate())
        check("one alarm for each pull", line.alarms == 205, alarms=line.alarms)
        line.exchange()


def pull_and_put_back(line: Line) -> None:
    """A pull, noticed; the port put back, the return noticed."""
    lost = line.when("recovering", pull(), 10)
    plug()
    line.when("connected", lost, 10)


@scenario()
def stalled_receiver() -> None:
    """300 KB for a receiver that stalls for 2 s: all are taken meanwhile, and arrive whole."""
    size = 300_000
    stalled, go = threading.Event(), threading.Event()

    def stall(data: bytes) -> None:
        if not stalled.is_set():
            stalled.set()
            go.wait(10)

    with plugged(), Line() as line:
        line.on_data = stall
        ask("send", PORT, size)
        stalled.wait(5)
        end = now() + 2
        while ask("sent", PORT) < size and now() < end:
            time.sleep(0.01)
        sent = ask("sent", PORT)
        check("300 KB were taken while a receiver stalled for 2 s", sent == size, sent=sent)
        figure("300 KB, while a receiver stalls, were taken within", now() - end + 2, 2)
        time.sleep(max(0.0, end - now()))
        go.set()
        line.wait_received(size)
        check("and arrived whole", bytes(line.received) == numbered(size), came=len(line.received))
