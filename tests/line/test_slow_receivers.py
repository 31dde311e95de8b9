"""Receivers that take long: reading goes on meanwhile, and nothing is lost, swapped or told twice."""

import contextlib
import gc
import logging
import os
import random
import resource
import select
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import serial
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cnxman._line import receive_buffer as _backlog
from cnxman._line.posix import PosixLine
from cnxman._line.receive_buffer import LITTLE, POLL_INTERVAL, SLOW_POLL_INTERVAL, ReceiveBuffer
from cnxman.basics import Connection
from cnxman.serial import SerialConnection
from tests.kit.lines import BOUND, Hearer, Pty, library_threads, no_leak, pattern, wait_until, warnings_of
from tests.kit.managers import Caller
from tests.kit.probe import port_of, source_of

Signals = SerialConnection.Signals


@pytest.fixture
def pty() -> Iterator[Pty]:
    with Pty() as pty:
        yield pty


stalls: list["Stall"] = []


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Whatever became of a test, its receivers are let go, its lines closed, and then no thread is left."""
    yield
    while stalls:
        stall = stalls.pop()
        stall.go_on.set()
        stall.connection.teardown()
    wait_until(lambda: library_threads() == [], f"no thread is left: {library_threads()}")


class Stall:
    """A receiver that is busy from the first data until it is let go."""

    def __init__(self, connection: SerialConnection) -> None:
        self.connection = connection
        stalls.append(self)
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.data = bytearray()
        self.alarms: list[object] = []
        connection.subscribe(self.on_data)

    def on_data(self, data: bytes) -> None:
        self.begun.set()
        assert self.go_on.wait(60)
        self.data += data


def stalled(pty: Pty, **settings: Any) -> tuple[SerialConnection, Stall, Hearer]:
    """A connection whose receiver is busy, and what came before has been taken over by the overflow reader."""
    connection = SerialConnection(pty.path, **settings)
    stall = Stall(connection)
    hearer = Hearer(connection)
    assert connection.try_connect()
    pty.send(b"!")
    assert stall.begun.wait(BOUND)
    wait_until(lambda: any("overflow reader" in name for name in library_threads()), "it takes over")
    return connection, stall, hearer


def waiting(connection: SerialConnection) -> int:
    """How many bytes wait for the receiver."""
    return len(source_of(connection)._data)


# -- nothing is lost --------------------------------------------------------------------------------------


def test_3_mb_are_read_while_a_receiver_is_busy_and_arrive_whole(pty: Pty) -> None:
    connection, stall, hearer = stalled(pty)
    data = pattern(3_000_000)
    with torn_down(connection):
        pty.send(data)  # the line holds some thousand bytes; it takes more only if they are read
        stall.go_on.set()
        hearer.wait_for_data(b"!" + data)
        assert stall.data == b"!" + data


@contextlib.contextmanager
def torn_down(connection: SerialConnection) -> Iterator[None]:
    """In the end, the line is closed."""
    try:
        yield
    finally:
        connection.teardown()


def memory() -> int:
    """What this process takes, in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def test_8_mb_to_a_stalled_receiver_take_no_more_than_the_buffer(pty: Pty, caplog: pytest.LogCaptureFixture) -> None:
    connection, stall, hearer = stalled(pty, buffer_size=256 * 1024)
    data = pattern(8_000_000)
    hearer.leave()  # which would keep all of it
    gc.collect()
    with torn_down(connection):
        before = memory()
        sender = Caller(lambda: pty_sends_slowly(pty, data))
        wait_until(lambda: waiting(connection) >= 256 * 1024, "the buffer is full")
        quiet = waiting(connection)
        time.sleep(0.1)  # long enough to read megabytes, if it did
        assert waiting(connection) == quiet <= 256 * 1024
        assert memory() - before < 6_000_000
        assert not sender.done.is_set(), "the sender is held off"
        stall.go_on.set()
        sender.join()
        wait_until(lambda: len(stall.data) == len(data) + 1, "all has come")
        assert stall.data == b"!" + data
        pauses = [warning for warning in warnings_of(caplog) if "reading pauses" in warning]
        assert len(pauses) == 1, "logged once"
        assert pty.path in pauses[0]


def pty_sends_slowly(pty: Pty, data: bytes) -> None:
    rest, until = memoryview(data), time.monotonic() + 60
    while rest:
        assert time.monotonic() < until
        rest = rest[pty.offer(rest[:65536]) :]
        if rest:
            select.select([], [pty.master], [], 0.05)


def test_a_full_buffer_is_logged_once_a_line_however_often_it_fills(pty: Pty, caplog: pytest.LogCaptureFixture) -> None:
    connection, stall, hearer = stalled(pty, buffer_size=1000)
    with torn_down(connection):
        data = pattern(30_000)
        sender = Caller(lambda: pty_sends_slowly(pty, data))
        wait_until(lambda: waiting(connection) == 1000, "the buffer is full")
        stall.go_on.set()
        connection.subscribe(lambda data: time.sleep(0.02))
        sender.join()
        hearer.wait_for_data(b"!" + data)
    assert len(warnings_of(caplog)) == 1


def test_without_a_buffer_reading_waits_for_the_receiver(pty: Pty) -> None:
    before = library_threads()
    connection = SerialConnection(pty.path, buffer_size=0)
    stall, hearer = Stall(connection), Hearer(connection)
    with torn_down(connection):
        assert connection.try_connect()
        pty.send(b"!")
        assert stall.begun.wait(BOUND)
        data = pattern(3000)
        pty.send(data)
        wait_until(lambda: port_of(connection).in_waiting == len(data), "the kernel holds it")
        time.sleep(3 * SLOW_POLL_INTERVAL)  # nobody looks
        assert port_of(connection).in_waiting == len(data)
        assert not [name for name in set(library_threads()) - set(before) if "watchdog" in name or "overflow" in name]
        stall.go_on.set()
        hearer.wait_for_data(b"!" + data)


def test_a_buffer_of_one_byte_works_too(pty: Pty) -> None:
    connection, stall, hearer = stalled(pty, buffer_size=1)
    with torn_down(connection):
        pty.send(b"abcdef")
        wait_until(lambda: waiting(connection) == 1, "one byte is taken")
        stall.go_on.set()
        hearer.wait_for_data(b"!abcdef")


def test_order_is_kept_however_often_the_overflow_reader_takes_over(pty: Pty) -> None:
    """Random bursts against a receiver that is busy for random times about as long as two looks."""
    seed = 20
    chance = random.Random(seed)
    delays = [chance.choice([0, 0, 0.002, POLL_INTERVAL, 2 * POLL_INTERVAL, 0.02]) for _ in range(300)]
    connection = SerialConnection(pty.path, buffer_size=5000)
    heard = bytearray()
    turns = iter(delays)

    def receive(data: bytes) -> None:
        heard.extend(data)
        if delay := next(turns, 0):
            time.sleep(delay)

    connection.subscribe(receive)
    data = pattern(400_000, seed)
    with torn_down(connection):
        assert connection.try_connect()
        at = 0
        while at < len(data):
            size = chance.choice([1, 10, 300, 4000])
            pty.send(data[at : at + size])
            at += size
            if chance.random() < 0.3:
                time.sleep(chance.choice([0.0005, POLL_INTERVAL, 0.01]))
        wait_until(lambda: len(heard) >= len(data), f"all has come (seed {seed})")
        assert heard == data, f"seed {seed}"


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(
    script=st.lists(
        st.one_of(
            st.tuples(st.just("send"), st.integers(1, 6000)),
            st.tuples(st.just("hold"), st.just(0)),
            st.tuples(st.just("let go"), st.just(0)),
            st.tuples(st.just("stall"), st.just(0)),
        ),
        max_size=25,
    ),
    end=st.sampled_from(["wait", "pull", "stop"]),
    buffer_size=st.sampled_from([1, 3000, 2**20]),
)
def test_any_script_of_sends_holds_and_releases_keeps_the_order(
    script: list[tuple[str, int]], end: str, buffer_size: int
) -> None:
    """What is heard is what was sent, or, after a stop, the beginning of it."""
    sent = b""
    gate = threading.Event()
    gate.set()
    heard = bytearray()
    order: list[str] = []
    with Pty() as pty, no_leak():
        connection = SerialConnection(pty.path, buffer_size=buffer_size)

        def receive(data: bytes) -> None:
            assert gate.wait(BOUND)
            heard.extend(data)
            order.append("data")

        connection.subscribe(receive)
        connection.subscribe(lambda: order.append("closed"), Signals.CLOSED)
        connection.subscribe(lambda: order.append("alarm"), Connection.Signals.RAISE_ALARM)
        assert connection.try_connect()
        for step, size in script:
            if step == "send":
                data = pattern(size, len(sent))
                sent += data[: pty.offer(data)]
            elif step == "hold":
                gate.clear()
            elif step == "let go":
                gate.set()
            else:
                time.sleep(3 * POLL_INTERVAL)
        if end == "pull":
            gate.set()
            wait_until(lambda: heard == sent, "all was heard")
            pty.pull()
            wait_until(lambda: order[-1:] == ["alarm"], "the alarm came")
            assert order[-2:] == ["closed", "alarm"]
        elif end == "wait":
            gate.set()
            wait_until(lambda: len(heard) >= len(sent), "all was heard")
        else:
            stop = Caller(connection.disconnect)
            wait_until(lambda: not connection.is_connected, "it hangs up")
            gate.set()
            stop.join()
        connection.teardown()
        count = len(heard)
    assert heard == sent[:count]
    assert end == "stop" or heard == sent


# -- the end comes while a receiver is busy ---------------------------------------------------------------


def test_what_was_read_before_a_loss_is_delivered_before_its_alarm_and_the_port_is_closed_at_once(pty: Pty) -> None:
    connection, stall, hearer = stalled(pty)
    port = port_of(connection)
    data = pattern(500_000)
    pty.send(data)
    wait_until(lambda: waiting(connection) == len(data), "it was read")
    pty.pull()
    wait_until(lambda: not port.is_open, "the port is closed while the receiver is busy")
    assert not stall.go_on.is_set()
    assert not connection.is_connected
    assert hearer.alarms == []
    stall.go_on.set()
    hearer.wait_for_event("alarm")
    assert hearer.names == ["opened", "data", "closed", "alarm"]
    assert hearer.data == b"!" + data
    assert max(hearer.chunks) <= 64 * 1024
    wait_until(lambda: library_threads() == [], "nothing is left")


def test_a_write_while_a_receiver_is_busy_after_a_loss_fails_at_once(pty: Pty) -> None:
    connection, stall, hearer = stalled(pty)
    pty.pull()
    wait_until(lambda: not connection.is_connected, "the loss is noticed")
    began = time.monotonic()
    with pytest.raises(Exception, match="is not connected"):
        connection.write(b"x")
    assert time.monotonic() - began < 10
    stall.go_on.set()
    hearer.wait_for_event("alarm")


def test_a_loss_with_a_full_buffer_gives_the_alarm_after_the_data(pty: Pty) -> None:
    connection, stall, hearer = stalled(pty, buffer_size=4096)
    port = port_of(connection)
    sent = b""
    while waiting(connection) < 4096:
        data = pattern(1000, len(sent))
        sent += data[: pty.offer(data)]
    pty.pull()
    wait_until(lambda: not port.is_open, "the port is closed though its buffer is full")
    stall.go_on.set()
    hearer.wait_for_event("alarm")
    assert hearer.names == ["opened", "data", "closed", "alarm"]
    assert len(hearer.data) >= 1 + 4096
    assert (b"!" + sent).startswith(hearer.data)


def test_a_stop_while_buffering_waits_for_the_receiver_and_delivers_nothing_more(pty: Pty) -> None:
    connection, stall, hearer = stalled(pty)
    port = port_of(connection)
    pty.send(b"more")
    wait_until(lambda: waiting(connection) == 4, "it was read")
    stop = Caller(connection.disconnect)
    wait_until(lambda: not connection.is_connected, "it hangs up")
    assert not stop.done.wait(0.05)
    stall.go_on.set()
    stop.join()
    assert not port.is_open
    assert library_threads() == []
    assert hearer.events == [("opened", None), ("data", b"!"), ("closed", None)]


@pytest.mark.parametrize("buffer_size", [1000, 2**20])
def test_nobody_spins_while_a_stop_waits_for_a_receiver(pty: Pty, buffer_size: int) -> None:
    connection, stall, _ = stalled(pty, buffer_size=buffer_size)
    pty.send(b"x" * 1000)
    wait_until(lambda: waiting(connection) == 1000, "it was read")
    with torn_down(connection):
        stop = Caller(connection.disconnect)
        wait_until(lambda: not connection.is_connected, "it hangs up")
        used = time.process_time()
        time.sleep(0.3)  # during which nothing is to be done
        assert time.process_time() - used < 0.1
        stall.go_on.set()
        stop.join()


def test_a_stop_waits_for_the_overflow_reader(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    original, left = ReceiveBuffer._read_overflow, threading.Event()

    def run(buffer: ReceiveBuffer) -> None:
        original(buffer)
        time.sleep(0.1)  # it is slow to leave
        left.set()

    monkeypatch.setattr(ReceiveBuffer, "_read_overflow", run)
    connection, stall, _ = stalled(pty)
    stall.go_on.set()
    connection.disconnect()
    assert left.is_set()
    assert library_threads() == []


def test_a_receiver_that_disconnects_while_buffering_is_not_waited_for(
    pty: Pty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnxman.serial.LONGEST_DELIVERY", BOUND)
    connection = SerialConnection(pty.path)
    hearer = Hearer(connection)
    took: list[float] = []

    def hang_up(data: bytes) -> None:
        wait_until(lambda: any("overflow reader" in name for name in library_threads()), "it takes over")
        began = time.monotonic()
        connection.disconnect()
        took.append(time.monotonic() - began)

    connection.subscribe(hang_up)
    with no_leak():
        assert connection.try_connect()
        pty.send(b"x")
        hearer.wait_for_event("closed")
        assert took[0] < BOUND / 2


def test_a_receiver_that_reconnects_while_buffering_receives_both_lines_in_order(pty: Pty) -> None:
    connection = SerialConnection(pty.path)

    def redial(data: bytes) -> None:
        if data == b"again":
            wait_until(lambda: any("overflow reader" in name for name in library_threads()), "it takes over")
            pty.send(b"never heard")
            wait_until(lambda: waiting(connection) == 11, "it was read")
            connection.disconnect()
            assert connection.try_connect()
            pty.send(b"new")
            time.sleep(5 * POLL_INTERVAL)  # the new line waits: it, too, is buffered

    hearer = Hearer(connection)
    connection.subscribe(redial)
    with no_leak():
        assert connection.try_connect()
        pty.send(b"again")
        hearer.wait_for_data(b"againnew")
        connection.teardown()
    assert hearer.names == ["opened", "data", "closed", "opened", "data", "closed"]


def test_a_line_that_falls_silent_while_its_receiver_is_busy_raises_the_alarm_after_the_data(pty: Pty) -> None:
    connection, stall, hearer = stalled(pty, idle_timeout=1)
    port = port_of(connection)
    pty.send(b"last")
    wait_until(lambda: not port.is_open, "it was taken for lost")
    stall.go_on.set()
    hearer.wait_for_event("alarm")
    assert hearer.data == b"!last"
    assert "nothing came from it" in str(hearer.alarms[0])


def test_the_silence_counts_from_when_the_listener_reads_again(pty: Pty) -> None:
    """The overflow reader still waits, finds the line silent first, and has no say in it any more."""
    _, stall, hearer = stalled(pty, idle_timeout=3)
    time.sleep(0.5)  # a part of the overflow reader's wait
    went_on = time.monotonic()
    stall.go_on.set()
    hearer.wait_for_event("alarm")
    assert time.monotonic() - went_on > 2.9
    assert hearer.names == ["opened", "data", "closed", "alarm"]


@pytest.mark.parametrize("how", ["pull", "silence"])
def test_after_buffering_a_loss_is_sent_once(pty: Pty, how: str) -> None:
    """The overflow reader waits for the same line still, and may be the first to see its end."""
    for _ in range(3):
        _, stall, hearer = stalled(pty, idle_timeout=1)
        stall.go_on.set()
        pty.send(b"?")
        hearer.wait_for_data(b"!?")
        if how == "pull":
            pty.pull()
            pty.plug()
        hearer.wait_for_event("alarm")
        wait_until(lambda: library_threads() == [], "nothing is left")
        assert hearer.names == ["opened", "data", "closed", "alarm"]


def test_a_slow_receiver_of_opened_costs_no_data_either(pty: Pty) -> None:
    connection = SerialConnection(pty.path)
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert go_on.wait(BOUND)

    connection.subscribe(slow, Signals.OPENED)
    hearer = Hearer(connection)
    with torn_down(connection):
        assert connection.try_connect()
        assert begun.wait(BOUND)
        data = pattern(100_000)
        pty.send(data)  # far more than the kernel's buffers take
        wait_until(lambda: waiting(connection) == len(data), "it is read")
        go_on.set()
        hearer.wait_for_data(data)
    assert hearer.names == ["opened", "data", "closed"]


# -- the threads that do it -------------------------------------------------------------------------------


def test_quick_receivers_start_no_overflow_reader(pty: Pty) -> None:
    connection = SerialConnection(pty.path)
    hearer = Hearer(connection)
    with torn_down(connection):
        assert connection.try_connect()
        for number in range(100):
            pty.send(b"x")
            hearer.wait_for_data(b"x" * (number + 1))
        assert [name for name in library_threads() if "overflow reader" in name] == []


def test_many_lines_share_one_watchdog_which_ends_with_the_last(pty: Pty) -> None:
    ptys = [Pty() for _ in range(5)]
    connections = [SerialConnection(each.path) for each in ptys]
    hearers = [Hearer(connection) for connection in connections]
    with no_leak():
        for connection, each, hearer in zip(connections, ptys, hearers, strict=True):
            assert connection.try_connect()
            each.send(b"x")
            hearer.wait_for_data(b"x")
        assert library_threads().count("cnxman stall watchdog") == 1
        for connection in connections[:-1]:
            connection.teardown()
        assert library_threads().count("cnxman stall watchdog") == 1
        connections[-1].teardown()
        assert library_threads() == []
        assert connections[0].try_connect()  # and one more, when there is a line again
        ptys[0].send(b"y")
        hearers[0].wait_for_data(b"xy")
        assert library_threads().count("cnxman stall watchdog") == 1
        connections[0].teardown()
    for each in ptys:
        each.close()


def test_two_stalled_lines_are_buffered_independently(pty: Pty) -> None:
    with Pty() as second:
        lines = [stalled(each) for each in (pty, second)]
        data = [pattern(50_000, 1), pattern(60_000, 2)]
        for each, sent in zip((pty, second), data, strict=True):
            each.send(sent)
        for (connection, stall, hearer), sent in zip(lines, data, strict=True):
            stall.go_on.set()
            hearer.wait_for_data(b"!" + sent)
            connection.teardown()
    assert library_threads() == []


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Callable[[], None]]:
    """Let the system refuse threads of a kind, until what is returned is called."""
    original = threading.Thread.start

    def refuse(kind: str) -> Callable[[], None]:
        allowed = threading.Event()

        def start(thread: threading.Thread) -> None:
            if kind in thread.name and not allowed.is_set():
                raise RuntimeError("can't start new thread")
            original(thread)

        monkeypatch.setattr(threading.Thread, "start", start)
        return allowed.set

    return refuse


@pytest.mark.parametrize("kind", ["overflow reader", "stall watchdog"])
def test_without_a_thread_to_read_on_the_line_waits_for_its_receiver_and_loses_nothing(
    pty: Pty, refused: Callable[[str], Callable[[], None]], kind: str
) -> None:
    allow = refused(kind)
    connection = SerialConnection(pty.path)
    stall = Stall(connection)
    hearer = Hearer(connection)
    data = pattern(100_000)
    with torn_down(connection):
        assert connection.try_connect()
        pty.send(b"!")
        assert stall.begun.wait(BOUND)
        sender = Caller(lambda: pty.send(data))
        assert not sender.done.wait(0.1), "the kernel holds the sender off"
        stall.go_on.set()
        sender.join()
        hearer.wait_for_data(b"!" + data)
        allow()
        stall.begun.clear()
        stall.go_on.clear()
        pty.send(b"?")
        assert stall.begun.wait(BOUND)
        pty.send(data)  # which only goes out if somebody reads
        stall.go_on.set()
        hearer.wait_for_data(b"!" + data + b"?" + data)
        connection.teardown()


def test_memory_that_runs_out_in_a_receiver_is_logged_and_the_line_goes_on(
    pty: Pty, caplog: pytest.LogCaptureFixture
) -> None:
    connection, stall, hearer = stalled(pty)

    def out_of_memory(data: bytes) -> None:
        raise MemoryError

    connection.subscribe(out_of_memory)
    with torn_down(connection):
        data = pattern(200_000)
        pty.send(data)
        stall.go_on.set()
        hearer.wait_for_data(b"!" + data)
        assert connection.is_connected
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert errors
    assert all("out_of_memory" in record.getMessage() for record in errors)


@pytest.mark.parametrize("buffering", [False, True])
def test_memory_that_runs_out_while_reading_is_a_loss_with_its_alarm(
    pty: Pty, monkeypatch: pytest.MonkeyPatch, buffering: bool
) -> None:
    original = os.read
    number = 0

    def read(fd: int, size: int) -> bytes:
        if fd == number:
            raise MemoryError
        return original(fd, size)

    with no_leak():
        if buffering:
            connection, stall, hearer = stalled(pty)
        else:
            connection = SerialConnection(pty.path)
            hearer = Hearer(connection)
            assert connection.try_connect()
        port: serial.Serial = port_of(connection)
        number = port.fileno()
        monkeypatch.setattr(os, "read", read)
        pty.send(b"x")
        wait_until(lambda: not port.is_open, "the port is closed")
        monkeypatch.undo()
        if buffering:
            stall.go_on.set()
        hearer.wait_for_event("alarm")
        assert isinstance(hearer.alarms[0].inner, MemoryError)
        connection.teardown()


def switches(name: str) -> int:
    thread = next(thread for thread in threading.enumerate() if thread.name.startswith(f"cnxman {name}"))
    with open(f"/proc/self/task/{thread.native_id}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("voluntary"))


def test_overflow_reader_and_watchdog_sleep_without_waking_on_an_idle_line(pty: Pty) -> None:
    connection, stall, hearer = stalled(pty)
    with torn_down(connection):
        pty.send(b"some")
        stall.go_on.set()
        hearer.wait_for_data(b"!some")
        for number in range(1, 4):  # the first of them may still be the overflow reader's
            pty.send(b"more")
            hearer.wait_for_data(b"!some" + b"more" * number)
        names = ("overflow reader", "stall watchdog", "listener")

        def now() -> list[int]:
            return [switches(name) for name in names]

        def still() -> bool:
            before = now()
            time.sleep(0.05)
            return now() == before

        wait_until(still, "they have gone to sleep")
        before = now()
        time.sleep(0.4)  # during which nothing may happen
        assert now() == before


def test_the_watchdog_is_made_once_more_after_a_line_ended_in_a_look(pty: Pty) -> None:
    """Lines that begin and end quickly, with deliveries that last just long enough to be looked at."""
    connection = SerialConnection(pty.path)
    connection.subscribe(lambda data: time.sleep(POLL_INTERVAL * 1.5))
    hearer = Hearer(connection)
    with no_leak():
        for number in range(30):
            assert connection.try_connect()
            pty.send(b"x")
            hearer.wait_for_event("data", number + 1)
            connection.disconnect()
    assert hearer.alarms == []
    assert _backlog._watchdog is None


def test_the_next_look_is_soon_after_one_at_a_line_that_has_said_much(
    pty: Pty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_backlog, "_watch", lambda _: None)  # the looks are the test's own
    with serial.Serial(pty.path, timeout=0) as port:
        source = ReceiveBuffer(PosixLine(port, None), 1000)

        def is_soon_after(size: int) -> bool:
            pty.send(bytes(size))
            while size:
                size -= len(source.read())
                source.end_delivery()
            return source.look()

        assert not is_soon_after(LITTLE - 1)
        assert is_soon_after(LITTLE)
        assert not source.look()  # nothing has come since
        source.end()


def test_a_store_that_was_full_takes_more_once_it_is_half_empty(pty: Pty) -> None:
    with serial.Serial(pty.path, timeout=0) as port:
        source = ReceiveBuffer(PosixLine(port, None), 1000)
        room = []
        for used in (999, 1000, 501, 500, 999, 1000):
            source._data[:] = bytes(used)
            room.append(source._room())
        assert room == [1, 0, 0, 500, 1, 0]
        source.end()
