"""Statistics: what happened on a line and to a manager, in numbers that agree with what really happened."""

import errno
import runpy
import struct
import sys
import termios
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import serial

from cnxman._line import driver_counts as _line_statistics
from cnxman._line.driver_counts import DriverCounts, driver_counts
from cnxman.basics import ConnectionException, ConnectionManager
from cnxman.retry import RetryPolicy
from cnxman.serial import SerialConnection
from tests.kit.lines import BOUND, Hearer, Pty, pattern, wait_until
from tests.kit.managers import Caller
from tests.kit.probe import line_of

AT_ONCE = RetryPolicy(0.001, 1, 0.001, 0)


@pytest.fixture
def pty() -> Iterator[Pty]:
    with Pty() as pty:
        yield pty


def counted(connection: SerialConnection) -> tuple[int, int, int]:
    now = connection.statistics
    return now.connects, now.losses, now.failed_attempts


# -- a line -------------------------------------------------------------------------------------------------


def test_before_anything_has_happened_all_is_zero(pty: Pty) -> None:
    now = SerialConnection(pty.path).statistics
    assert (now.bytes_in, now.bytes_out, now.chunks, now.connects, now.losses, now.failed_attempts) == (0,) * 6
    assert now.last_error is now.last_error_at is now.up_since is now.driver is None


def test_bytes_and_chunks_are_those_that_receivers_and_the_device_got(pty: Pty) -> None:
    connection = SerialConnection(pty.path)
    hearer = Hearer(connection)
    data = pattern(100_000)
    assert connection.try_connect()
    pty.send(data)
    hearer.wait_for_data(data)
    assert connection.write(b"12345") == 5
    assert connection.write(b"678") == 3
    assert pty.receive(8) == b"12345678"
    now = connection.statistics
    connection.disconnect()
    assert now.bytes_in == len(data)
    assert now.bytes_out == 8
    wait_until(lambda: connection.statistics.chunks == len(hearer.chunks), "every chunk was counted")
    assert connection.try_connect()
    pty.send(b"more")
    hearer.wait_for_data(data + b"more")
    connection.teardown()
    assert connection.statistics.bytes_in == len(data) + 4, "counted since the connection was made"


def test_a_write_that_was_cut_short_counts_what_went_out(pty: Pty) -> None:
    connection = SerialConnection(pty.path, write_timeout=0.2)
    assert connection.try_connect()
    with pytest.raises(ConnectionException) as caught:
        connection.write(bytes(1_000_000))
    assert connection.statistics.bytes_out == caught.value.written > 0
    connection.teardown()
    with pytest.raises(ConnectionException):
        connection.write(b"x")
    assert connection.statistics.bytes_out == caught.value.written


def test_writes_from_many_threads_are_all_counted(pty: Pty) -> None:
    connection = SerialConnection(pty.path)
    assert connection.try_connect()

    def write() -> None:
        for _ in range(200):
            connection.write(b"xyz")

    writers = [Caller(write) for _ in range(5)]
    got = pty.receive(3000)
    for writer in writers:
        writer.join()
    connection.teardown()
    assert len(got) == connection.statistics.bytes_out == 3000


def test_connects_losses_and_failures(pty: Pty) -> None:
    connection = SerialConnection(pty.path)
    hearer = Hearer(connection)
    began = time.time()
    assert connection.try_connect()
    up = connection.statistics
    assert up.up_since is not None
    assert began <= up.up_since <= time.time()
    assert counted(connection) == (1, 0, 0)
    pty.pull()
    hearer.wait_for_event("alarm")
    lost = connection.statistics
    assert counted(connection) == (1, 1, 0)
    assert lost.up_since is None
    assert lost.last_error is hearer.alarms[0]
    assert lost.last_error_at is not None
    assert up.up_since <= lost.last_error_at <= time.time()
    assert not connection.try_connect()
    assert not connection.try_connect()
    failed = connection.statistics
    assert counted(connection) == (1, 1, 2)
    assert failed.last_error is connection.last_error
    assert failed.last_error_at is not None
    assert failed.last_error_at >= lost.last_error_at
    pty.plug()
    assert connection.try_connect()
    again = connection.statistics
    assert counted(connection) == (2, 1, 2)
    assert again.last_error is failed.last_error, "what the last error was stays to be seen"
    assert connection.last_error is None
    assert again.up_since is not None
    assert again.up_since >= up.up_since
    connection.teardown()
    assert connection.statistics.up_since is None
    assert counted(connection) == (2, 1, 2), "hanging up is no loss"


def test_a_snapshot_stays_as_it_was(pty: Pty) -> None:
    connection = SerialConnection(pty.path)
    before = connection.statistics
    assert connection.try_connect()
    connection.write(b"x")
    connection.teardown()
    assert (before.bytes_out, before.connects) == (0, 0)
    before.connects = 100
    assert connection.statistics.connects == 1


def test_an_opening_that_replaces_another_is_no_loss(pty: Pty) -> None:
    connection = SerialConnection(pty.path)
    assert connection.try_connect()
    first = connection.statistics.up_since
    assert first is not None
    assert connection.try_connect()
    assert counted(connection) == (2, 0, 0)
    second = connection.statistics.up_since
    assert second is not None
    assert second >= first
    connection.teardown()


def test_an_opening_that_its_prepare_refuses_is_a_failed_attempt(pty: Pty) -> None:
    class Refusing(SerialConnection):
        def prepare(self) -> bool:
            seen.append(self.statistics.up_since)
            return False

    seen: list[float | None] = []
    connection = Refusing(pty.path)
    assert not connection.try_connect()
    assert counted(connection) == (0, 0, 1)
    assert seen == [None]
    assert connection.statistics.up_since is None


def test_a_line_that_is_lost_in_prepare_is_a_failed_attempt_and_no_loss(pty: Pty) -> None:
    class Unlucky(SerialConnection):
        def prepare(self) -> bool:
            pty.pull()
            wait_until(lambda: not self.is_connected, "the loss is noticed")
            return True

    connection = Unlucky(pty.path)
    hearer = Hearer(connection)
    assert not connection.try_connect()
    connection.teardown()
    assert counted(connection) == (0, 0, 1)
    assert hearer.alarms == []


def test_an_attempt_that_was_overtaken_does_not_end_what_overtook_it(pty: Pty) -> None:
    class Slow(SerialConnection):
        def prepare(self) -> bool:
            if not in_first.is_set():
                in_first.set()
                go_on.wait(BOUND)
            return True

    in_first, go_on = threading.Event(), threading.Event()
    connection = Slow(pty.path)
    first = Caller(connection.try_connect)
    assert in_first.wait(BOUND)
    assert connection.try_connect()
    go_on.set()
    assert first.join() is False
    now = connection.statistics
    assert (now.connects, now.failed_attempts) == (1, 1)
    assert now.up_since is not None
    connection.teardown()


def test_it_is_not_up_any_more_once_a_receiver_has_hung_up(pty: Pty) -> None:
    connection = SerialConnection(pty.path)
    seen: list[float | None] = []
    told = threading.Event()

    def hang_up() -> None:
        connection.disconnect()
        seen.append(connection.statistics.up_since)
        told.set()

    connection.subscribe(hang_up)
    assert connection.try_connect()
    pty.send(b"x")
    assert told.wait(BOUND)
    connection.teardown()
    assert seen == [None]
    assert counted(connection) == (1, 0, 0)


def test_nor_if_a_receiver_never_returns(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnxman.serial.LONGEST_DELIVERY", 0.05)
    connection = SerialConnection(pty.path)
    stuck, free = threading.Event(), threading.Event()
    connection.subscribe(lambda: (stuck.set(), free.wait(BOUND)))
    assert connection.try_connect()
    pty.send(b"x")
    assert stuck.wait(BOUND)
    connection.disconnect()
    assert connection.statistics.up_since is None
    free.set()


# -- the driver's counters ----------------------------------------------------------------------------------


def answer(*counts: int) -> bytes:
    return struct.pack("20i", *counts, *(0 for _ in range(20 - len(counts))))


def test_the_drivers_counters_are_given_under_their_names(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    """As linux/serial.h has them: four for the modem lines come first."""
    asked: list[tuple[int, int, int]] = []

    def ioctl(number: int, request: int, argument: bytes) -> bytes:
        asked.append((number, request, len(argument)))
        return answer(1, 2, 3, 4, 50, 60, 7, 8, 9, 10, 11)

    connection = SerialConnection(pty.path)
    assert connection.try_connect()
    line = line_of(connection)
    with monkeypatch.context() as patch:
        patch.setattr(_line_statistics.fcntl, "ioctl", ioctl)
        found = connection.statistics.driver
    number = line.port.fileno()  # type: ignore[union-attr]
    connection.teardown()
    assert found == DriverCounts(received=50, sent=60, framing=7, overrun=8, parity=9, break_=10, buffer_overrun=11)
    assert asked == [(number, termios.TIOCGICOUNT, 80)]
    assert connection.statistics.driver is None, "there is no line"


@pytest.mark.parametrize("url", ["{}", "loop://"])
def test_where_a_driver_does_not_count_there_are_none(pty: Pty, url: str) -> None:
    connection = SerialConnection(url.format(pty.path), 4_000_000)
    assert connection.try_connect()
    assert connection.statistics.driver is None
    connection.teardown()


class Port:
    """A port that is somewhere between open and closed."""

    def __init__(self, number: Any) -> None:
        self.number = number

    def fileno(self) -> Any:
        if isinstance(self.number, Exception):
            raise self.number
        return self.number


@pytest.mark.parametrize("number", [None, -1, serial.PortNotOpenError(), OSError(errno.EIO, "gone")])
def test_a_port_that_is_just_being_closed_has_none(number: Any) -> None:
    assert driver_counts(Port(number)) is None  # type: ignore[arg-type]


def test_where_there_is_no_such_thing_there_are_none(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows and on macOS."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    there = runpy.run_path(_line_statistics.__file__)
    with serial.Serial(pty.path) as port:
        assert there["driver_counts"](port) is None


def test_statistics_may_be_asked_for_at_any_moment(pty: Pty) -> None:
    """Also by several threads, while the line comes and goes."""
    connections = [SerialConnection(pty.path), SerialConnection("loop://", 4_000_000)]
    over = threading.Event()

    def ask(connection: SerialConnection) -> int:
        last = 0
        while not over.is_set():
            now = connection.statistics
            assert now.connects >= last
            last = now.connects
        return last

    for connection in connections:
        over.clear()
        askers = [Caller(lambda connection=connection: ask(connection)) for _ in range(2)]
        for _ in range(20):
            assert connection.try_connect()
            connection.disconnect()
        over.set()
        for asker in askers:
            asker.join()
        assert counted(connection) == (20, 0, 0)


# -- a manager ----------------------------------------------------------------------------------------------


def test_a_managers_statistics_agree_with_its_connections(pty: Pty) -> None:
    connection = SerialConnection(pty.path)
    hearer = Hearer(connection)
    manager = ConnectionManager(connection, retry=AT_ONCE)
    assert manager.statistics.up_since is None
    manager.connect()
    for number in range(1, 4):
        pty.pull()
        hearer.wait_for_event("alarm", number)
        wait_until(lambda number=number: manager.statistics.failed_attempts >= number, "an attempt has failed")
        pty.plug()
        wait_until(lambda number=number: manager.statistics.connects == number + 1, "it is up again")
    now, line = manager.statistics, connection.statistics
    manager.teardown()
    assert (now.connects, now.losses) == (line.connects, line.losses) == (4, 3)
    assert now.failed_attempts == line.failed_attempts
    assert now.last_error is line.last_error
    assert now.last_error_at is not None
    assert now.up_since is not None
    assert line.up_since is not None
    assert line.up_since <= now.up_since
    assert manager.statistics.up_since is None
