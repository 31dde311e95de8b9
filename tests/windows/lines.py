"""What a managed line has to do on a COM port. The functions run in the guest."""

import asyncio
import errno
import os
import threading
import time
from collections.abc import Callable

from cnxman import ConnectionException, ConnectionManager, SerialConnection, ports
from cnxman.aio import AsyncManager
from cnxman.framing import Lines

from .data import numbered
from .guest import PORT, Line, ask, check, figure, handles, list_port, now, plug, plugged, pull, wait_for
from .registry import scenario

LATE = 0.3
"""A pull is noticed within so many seconds."""

BACK = 0.5
"""So is a return."""

STOP = 0.1
"""A stop takes so long at most."""


@scenario(alone=True)
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


@scenario(alone=True)
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


@scenario(limit=120)
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


@scenario(alone=True)
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


@scenario(alone=True)
def stops() -> None:
    """A stop within 0.1 s: of an idle line, from a receiver, under a write that waits, with a full buffer."""
    with plugged():
        for name, busy in (("an idle line", _idle), ("a write that waits", _writing), ("a full buffer", _full)):
            line = Line(buffer_size=1000)
            with line:
                afterwards = busy(line)
                began = now()
                line.manager.teardown()
                figure(f"a stop of {name}", now() - began, STOP)
                afterwards()
        ended: list[float] = []
        with Line() as line:

            def stop(data: bytes) -> None:
                began = now()
                line.connection.disconnect()
                ended.append(now() - began)

            line.on_data = stop
            ask("send", PORT, 8)
            wait_for(lambda: ended, "the receiver's end")
        figure("a stop from a receiver", ended[0], STOP)


def _idle(line: Line) -> Callable[[], object]:
    line.exchange()
    return lambda: None


def _writing(line: Line) -> Callable[[], object]:
    """A write that waits; what it says must be true."""
    ask("take", PORT)
    ask("hold", PORT, True)
    failed: list[ConnectionException] = []

    def write() -> None:
        try:
            line.connection.write(numbered(300_000))
        except ConnectionException as error:
            failed.append(error)

    threading.Thread(target=write).start()
    time.sleep(0.5)  # it fills what there is to fill

    def see() -> None:
        wait_for(lambda: failed, "the end of the write")
        ask("hold", PORT, False)
        written = failed[0].written
        came = ask("expect", PORT, written or 0, 5)
        check("the count of bytes is true", written == came, written=written, came=came)

    return see


def _full(line: Line) -> Callable[[], object]:
    stalled, go = threading.Event(), threading.Event()

    def stall(data: bytes) -> None:
        stalled.set()
        go.wait(10)

    line.on_data = stall
    ask("send", PORT, 100_000)
    stalled.wait(5)
    time.sleep(0.3)
    go.set()
    return lambda: None


@scenario(limit=120)
def closing_under_a_write() -> None:
    """100 disconnects while another thread writes: no crash, and each count is true."""
    with plugged():
        ask("hold", PORT, True)
        for _ in range(100):
            with Line() as line:
                ends: list[object] = []

                def write(line: Line = line, ends: list[object] = ends) -> None:
                    try:
                        ends.append(line.connection.write(bytes(300_000)))
                    except ConnectionException as error:
                        ends.append(error)

                writer = threading.Thread(target=write)
                writer.start()
                time.sleep(0.002)
                line.connection.disconnect()
                writer.join(5)
                if not (ends and isinstance(ends[0], ConnectionException)):
                    check("a write ends with the line", False, ends=ends)
                    return
        check("100 disconnects under a write")


@scenario()
def writes_of_four_threads() -> None:
    """Writes of four threads arrive whole and unmixed."""
    with plugged(), Line() as line:
        ask("take", PORT)
        messages = [bytes([65 + number]) * 5000 + b"\n" for number in range(4)]
        threads = [
            threading.Thread(target=lambda m=message: [line.connection.write(m) for _ in range(5)])
            for message in messages
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        ask("expect", PORT, 4 * 5 * 5001, 10)
        came = ask("take", PORT).encode().splitlines(keepends=True)
        check("20 messages are whole", sorted(came) == sorted(messages * 5), sizes=[len(line) for line in came])


@scenario(alone=True)
def write_timeouts() -> None:
    """A write fails after `write_timeout` seconds without progress, with a true count; 0 is soon, not a spin."""
    for timeout in (0.5, 0):
        with plugged(), Line(write_timeout=timeout) as line:
            ask("hold", PORT, True)
            began, used = now(), time.process_time()
            try:
                line.connection.write(numbered(200_000))
                check("a write to a line that takes nothing fails", False)
            except ConnectionException as error:
                written = error.written
            figure(f"a write that times out after {timeout} s", now() - began, timeout * 4 + 0.5)
            check("it does not spin", time.process_time() - used < 0.5)
            ask("hold", PORT, False)
            came = ask("expect", PORT, written or 0, 5)
            check("the count of bytes is true", written == came, written=written, came=came)


@scenario()
def names() -> None:
    """Every way to write COM5 leads to it; what is no port is a clear error."""
    with plugged():
        for name in ("COM5", "com5", r"\\.\COM5", "com5 "):
            with Line(name) as line:
                line.exchange()
            check(f"{name!r} is the port")
        for name, words in (
            ("COM0", "there is no such port"),
            ("COM999", "there is no such port"),
            (r"\\.\COM77", "there is no such port"),
            ("NUL", "no serial port"),
        ):
            connection = SerialConnection(name)
            opened = connection.try_connect()
            told = str(connection.last_error)
            connection.teardown()
            check(f"{name!r} is refused in words", not opened and words in told, told=told)


@scenario()
def words() -> None:
    """A pull and what fails after it are told in words, with a number."""
    with plugged():
        with Line() as line:
            pull()
            line.when("recovering", 0)
            lost = line.connection.last_error
            wait_for(lambda: "no such port" in str(line.why()), "the words of an attempt")
        check("the loss", lost is not None and "unplugged" in str(lost) and lost.errno == errno.ENXIO, lost=lost)


@scenario(alone=True)
def presence() -> None:
    """What a look at the registry costs, with 20 ports listed."""
    for number in range(20):
        list_port(f"COM{number + 20}", True)
    with plugged():
        look = ports.Presence(PORT)
        time.sleep(1.1)  # until the list is known not to change any more under the same time stamp
        first = look()
        began = now()
        for _ in range(100):
            look()
        figure("a look for the port", (now() - began) * 10, 5, "ms")
        check("the port is seen", bool(first) and look() == first)
    check("its absence is seen", look() is False)
    for number in range(20):
        list_port(f"COM{number + 20}", False)


@scenario()
def asyncio_face() -> None:
    """asyncio on its Proactor loop: data both ways, an outage, the end."""

    async def main() -> None:
        manager = ConnectionManager(SerialConnection(PORT, 115200))
        async with AsyncManager(manager) as line:
            frames = line.frames(Lines())
            ask("send", PORT, 16)
            check("frames come", [await anext(frames), await anext(frames)] == [b"0000000", b"0000001"])
            check("all is written", await line.write(b"x" * 100) == 100)
            await asyncio.to_thread(pull)
            await asyncio.to_thread(wait_for, lambda: not manager.is_connected, "the loss")
            await asyncio.to_thread(plug)
            check("the line is back", await asyncio.to_thread(manager.wait_until_connected, 5))
            await asyncio.to_thread(ask, "send", PORT, 8)
            check("they come after an outage", await anext(frames) == b"0000000")

    with plugged():
        asyncio.run(asyncio.wait_for(main(), 20))
