"""A connection to a serial port: opening it, its data, writing, hanging up, and what it refuses."""

import contextlib
import errno
import fcntl
import json
import logging
import os
import pickle
import re
import runpy
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import serial
from serial.rs485 import RS485Settings

import cnxman
from cnxman import serial as cnxman_serial
from cnxman._line import posix as descriptor_line
from cnxman._line.port import IncompleteWriteError
from cnxman._line.posix import PosixLine
from cnxman.basics import Connection, ConnectionException
from cnxman.serial import SerialConnection, SerialListener
from cnxman.testing import SimulatedDevice
from tests.kit.lines import (
    BOUND,
    Hearer,
    Pty,
    count_descriptors,
    library_threads,
    no_leak,
    pattern,
    run_script,
    wait_until,
    warnings_of,
)
from tests.kit.managers import Caller, all_join
from tests.kit.probe import is_writing, port_of, waits_to_write

Signals = SerialConnection.Signals
STOP_WITHIN = 3.0  # seconds, on a busy machine; how long it takes on a quiet one is for benchmarks


@pytest.fixture
def pty() -> Iterator[Pty]:
    with Pty() as pty:
        yield pty


@pytest.fixture
def connection(pty: Pty) -> Iterator[SerialConnection]:
    """A connection that is up, and whose end leaves nothing behind."""
    with no_leak():
        connection = SerialConnection(pty.path, 115200)
        assert connection.try_connect()
        yield connection
        connection.teardown()


@pytest.fixture
def hearer(connection: SerialConnection) -> Hearer:
    return Hearer(connection)


# -- what is refused at once ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("baudrate", -1),
        ("baudrate", 0),
        ("baudrate", "fast"),
        ("baudrate", None),
        ("baudrate", 115200.5),
        ("baudrate", True),
        ("rtscts", "yes"),
        ("rtscts", None),
        ("xonxoff", 2),
        ("dsrdtr", "no"),
        ("bytesize", 9),
        ("bytesize", "8"),
        ("bytesize", None),
        ("parity", "X"),
        ("parity", "even"),
        ("parity", None),
        ("stopbits", 3),
        ("stopbits", 0),
        ("timeout", -1),
        ("timeout", "soon"),
        ("timeout", float("nan")),
        ("timeout", float("inf")),
        ("write_timeout", -0.1),
        ("write_timeout", float("nan")),
        ("write_timeout", float("inf")),
        ("write_timeout", 2e6 + 1),
        ("inter_byte_timeout", -1),
        ("inter_byte_timeout", "x"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_at_construction(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{setting} must be .*, not {value!r}"):
        SerialConnection("/dev/ttyS0", **{setting: value})


@pytest.mark.parametrize(
    ("keyword", "value", "kind"),
    [
        ("buffer_size", -5, ValueError),
        ("buffer_size", 1.5, TypeError),
        ("buffer_size", True, TypeError),
        ("idle_timeout", 0, ValueError),
        ("idle_timeout", -1, ValueError),
        ("idle_timeout", float("inf"), ValueError),
        ("idle_timeout", 2e6 + 1, ValueError),
        ("idle_timeout", float("nan"), ValueError),
        ("idle_timeout", "1", TypeError),
        ("idle_timeout", True, TypeError),
        ("dtr", "high", TypeError),
        ("rts", 2, TypeError),
        ("exclusive", "yes", TypeError),
        ("port", "", ValueError),
        ("port", "a\0b", ValueError),
        ("port", None, TypeError),
        ("port", 3, TypeError),
        ("port", b"/dev/ttyS0", TypeError),
        ("port", "gopher://host", ValueError),
        ("schemes", "usb", TypeError),
    ],
)
def test_another_bad_argument_is_refused_at_construction(keyword: str, value: Any, kind: type[Exception]) -> None:
    arguments = {"port": "/dev/ttyS0"} | {keyword: value}
    with pytest.raises(kind, match=keyword):
        SerialConnection(**arguments)


def test_the_refusal_names_what_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"parity must be one of 'N', 'E', 'O', 'M', 'S', not 'X'"):
        SerialConnection("/dev/ttyS0", parity="X")
    with pytest.raises(ValueError, match=r"bytesize must be one of 5, 6, 7, 8, not 9"):
        SerialConnection("/dev/ttyS0", bytesize=9)
    with pytest.raises(ValueError, match=r"stopbits must be one of 1, 1.5, 2, not 7"):
        SerialConnection("/dev/ttyS0", stopbits=7)
    with pytest.raises(ValueError, match="timeout must be a number of seconds"):
        SerialConnection("/dev/ttyS0", timeout=-1)


@pytest.mark.parametrize(
    ("setting", "value"), [("baudrate", 9600.0), ("rtscts", 1), ("dsrdtr", None), ("exclusive", None)]
)
def test_what_pyserial_takes_is_taken(pty: Pty, setting: str, value: Any) -> None:
    connection = SerialConnection(pty.path, **{setting: value})
    assert connection.try_connect()
    connection.disconnect()


def test_the_settings_are_the_pages() -> None:
    """The API page's defaults, by position too."""
    connection = SerialConnection("/dev/ttyS0", 9600, 8, "N", 1, None)
    assert connection.port == "/dev/ttyS0"
    assert not connection.is_connected
    assert connection.last_error is None
    assert repr(connection) == "<SerialConnection /dev/ttyS0>"
    assert connection.logger.name == "cnxman.serial.SerialConnection"
    assert Signals.DATA_RECEIVED.value == "data-received"


# -- opening ----------------------------------------------------------------------------------------------


def test_try_connect_returns_at_once_with_the_listener_running(pty: Pty) -> None:
    with no_leak():
        connection = SerialConnection(pty.path)
        began = time.monotonic()
        assert connection.try_connect() is True
        assert time.monotonic() - began < STOP_WITHIN
        assert connection.is_connected
        assert f"cnxman listener on {pty.path}" in library_threads()
        hearer = Hearer(connection)
        pty.send(b"hello")
        hearer.wait_for_data(b"hello")
        connection.disconnect()
        assert not connection.is_connected


def test_opened_data_and_closed_come_in_order_on_the_listeners_thread(pty: Pty) -> None:
    connection = SerialConnection(pty.path)
    hearer = Hearer(connection)
    assert connection.try_connect()
    pty.send(b"x")
    hearer.wait_for_data(b"x")
    connection.disconnect()
    assert hearer.events == [("opened", None), ("data", b"x"), ("closed", None)]
    assert [thread.name for thread in hearer.threads] == [f"cnxman listener on {pty.path}"]
    assert all(thread.daemon for thread in hearer.threads)


def test_input_from_before_the_opening_is_discarded(pty: Pty) -> None:
    connection = SerialConnection(pty.path)
    hearer = Hearer(connection)
    keeper = os.open(pty.device, os.O_RDWR | os.O_NOCTTY)
    try:
        pty.send(b"old")
        wait_until(lambda: bool(select.select([keeper], [], [], 0)[0]), "the old input waits")
        assert connection.try_connect()
        pty.send(b"new")
        hearer.wait_for_data(b"new")
        connection.disconnect()
    finally:
        os.close(keeper)


def make_folder(path: str) -> None:
    os.mkdir(path)


def make_file(path: str) -> None:
    with open(path, "w") as file:
        file.write("no serial port")


def make_nothing(path: str) -> None:
    pass


def make_null(path: str) -> None:
    os.symlink("/dev/null", path)


def make_dead_link(path: str) -> None:
    os.symlink(path + "-nowhere", path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (make_nothing, "there is no such port"),
        (make_dead_link, "there is no such port"),
        (make_folder, "folder"),
        (make_file, "no serial port"),
        (make_null, "no serial port"),
    ],
)
def test_what_cannot_be_opened_is_false_and_says_why(
    make: Callable[[str], None], words: str, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="cnxman")
    path = str(tmp_path / "port")
    make(path)
    connection = SerialConnection(path)
    hearer = Hearer(connection)
    with no_leak():
        assert connection.try_connect() is False
        assert not connection.is_connected
        error = connection.last_error
        assert isinstance(error, ConnectionException)
        assert words in str(error)
        assert path in str(error)
        assert error.__cause__ is error.inner
        assert isinstance(error.errno, int)
        assert warnings_of(caplog) == [str(error)]
        assert connection.try_connect() is False
        assert warnings_of(caplog) == [str(error)], "the same reason again is at debug"
        assert sum(record.getMessage() == str(error) for record in caplog.records) == 2
    connection.disconnect()
    assert hearer.events == []


def test_a_refused_socket_is_false(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    connection = SerialConnection(f"socket://127.0.0.1:{port}")
    with no_leak():
        assert connection.try_connect() is False
    assert connection.last_error is not None
    assert connection.last_error.errno == errno.ECONNREFUSED
    assert "nobody listens there" in str(connection.last_error)
    assert len(warnings_of(caplog)) == 1


HOLDER = """
import fcntl, os, sys
held = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
fcntl.flock(held, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def held_by_another_process(path: str) -> Iterator[int]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield holder.pid
        finally:
            assert holder.stdin is not None
            holder.stdin.close()
            holder.wait(BOUND)


def test_a_port_that_another_process_holds_is_false_names_it_and_works_once_it_is_free(pty: Pty) -> None:
    connection = SerialConnection(pty.path)
    with no_leak():
        with held_by_another_process(pty.device) as pid:
            assert connection.try_connect() is False
            assert f"(pid {pid})" in str(connection.last_error)
            assert connection.last_error is not None
            assert connection.last_error.errno in (errno.EAGAIN, errno.EBUSY)
        assert connection.try_connect() is True
        assert connection.last_error is None
        connection.teardown()


def test_two_connections_of_one_process_keep_each_other_out(connection: SerialConnection, pty: Pty) -> None:
    second = SerialConnection(pty.path)
    assert second.try_connect() is False
    assert "this very process" in str(second.last_error)
    connection.disconnect()
    assert second.try_connect() is True
    second.teardown()


def test_a_program_that_inherited_the_descriptor_keeps_nobody_out(connection: SerialConnection, pty: Pty) -> None:
    number = port_of(connection).fileno()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[number]) as program:
        connection.disconnect()
        second = SerialConnection(pty.path)
        opened = second.try_connect()
        second.teardown()
        program.communicate(b"end")
    assert opened


def test_without_exclusive_two_may_open_it(pty: Pty) -> None:
    first, second = (SerialConnection(pty.path, exclusive=None) for _ in range(2))
    with no_leak():
        assert first.try_connect()
        assert second.try_connect()
        first.teardown()
        second.teardown()


OPEN_AS_NOBODY = """
import grp, json, sys, cnxman.serial, cnxman.ports
from tests.kit import lines as line_kit
line_kit.become_nobody()
connection = cnxman.serial.SerialConnection(sys.argv[1])
opened = connection.try_connect()
error = connection.last_error
connection.teardown()
print(json.dumps({
    "opened": opened, "error": str(error), "errno": error and error.errno, "threads": line_kit.library_threads(),
    "descriptors": line_kit.count_descriptors()
}))
"""


def test_a_port_that_is_kept_by_tiocexcl_is_busy_to_those_who_are_not_root(pty: Pty) -> None:
    os.chmod(pty.device, 0o666)
    holder = os.open(pty.device, os.O_RDWR | os.O_NOCTTY)
    try:
        fcntl.ioctl(holder, termios.TIOCEXCL)
        found = run_script(OPEN_AS_NOBODY, pty.device, as_nobody=True)
    finally:
        os.close(holder)
    assert found == {**found, "opened": False, "errno": errno.EBUSY, "threads": [], "descriptors": 3}
    assert "in use by" in found["error"]


def test_a_connection_keeps_others_out_until_it_is_closed(pty: Pty, connection: SerialConnection) -> None:
    """Also those who ask for no lock: TIOCEXCL."""
    os.chmod(pty.device, 0o666)
    assert run_script(OPEN_AS_NOBODY, pty.device, as_nobody=True)["errno"] == errno.EBUSY
    connection.disconnect()
    assert run_script(OPEN_AS_NOBODY, pty.device, as_nobody=True)["opened"]


@pytest.mark.parametrize(("mode", "words"), [(0o600, "only its owner may"), (0o060, "usermod -a -G")])
def test_a_forbidden_port_is_false_with_a_hint(pty: Pty, mode: int, words: str) -> None:
    if os.geteuid() == 0:
        os.chown(pty.device, -1, 20)
    os.chmod(pty.device, mode)
    if os.geteuid() != 0 and mode == 0o600:
        os.chmod(pty.device, 0)
    found = run_script(OPEN_AS_NOBODY, pty.device, as_nobody=True)
    assert found == {**found, "opened": False, "errno": errno.EACCES, "threads": [], "descriptors": 3}
    assert words in found["error"]


def test_a_second_try_connect_replaces_the_line_without_an_alarm(pty: Pty) -> None:
    connection = SerialConnection(pty.path)
    hearer = Hearer(connection)
    with no_leak():
        for _ in range(3):
            assert connection.try_connect()
            assert connection.is_connected
        pty.send(b"data")
        hearer.wait_for_data(b"data")
        connection.teardown()
    assert hearer.names == ["opened", "closed", "opened", "closed", "opened", "data", "closed"]
    assert [detail for name, detail in hearer.events if name == "closed"] == [None] * 3


def test_disconnect_and_teardown_may_be_called_in_any_state_and_twice(pty: Pty) -> None:
    connection = SerialConnection(pty.path)
    with no_leak():
        connection.disconnect()
        connection.teardown()
        for _ in range(2):
            assert connection.try_connect()
            connection.disconnect()
            connection.disconnect()
            connection.teardown()
            connection.teardown()


class Held(SerialConnection):
    """A connection whose opening waits until it is let go."""

    def __init__(self, port: str) -> None:
        super().__init__(port)
        self.opening, self.go_on = threading.Event(), threading.Event()

    def _open_port(self) -> serial.Serial:
        self.opening.set()
        assert self.go_on.wait(BOUND)
        return super()._open_port()


def test_a_disconnect_while_the_port_is_being_opened_wins(pty: Pty) -> None:
    """Nothing is told of a line that was given up before it was there."""
    connection = Held(pty.path)
    hearer = Hearer(connection)
    with no_leak():
        attempt = Caller(connection.try_connect)
        assert connection.opening.wait(BOUND)
        connection.disconnect()
        connection.go_on.set()
        assert attempt.join() is False
        assert not connection.is_connected
        assert "disconnected while it was being opened" in str(connection.last_error)
    assert hearer.events == []


def test_a_newer_attempt_overtakes_one_that_is_still_opening(pty: Pty) -> None:
    connection = Held(pty.path)
    hearer = Hearer(connection)
    with no_leak():
        attempt = Caller(connection.try_connect)
        assert connection.opening.wait(BOUND)
        connection.opening.clear()
        newer = Caller(connection.try_connect)
        assert connection.opening.wait(BOUND)
        connection.go_on.set()
        results = [attempt.join(), newer.join()]
        assert results[0] is False, "the older one never wins"
        if results[1] is False:  # both had the port open at the same moment: the lock kept the second one out
            assert connection.try_connect()
        assert connection.is_connected
        connection.teardown()
    assert hearer.alarms == []


# -- prepare ----------------------------------------------------------------------------------------------


class Prepared(SerialConnection):
    """A connection that prepares its device by a function."""

    def __init__(self, port: str, how: Callable[["Prepared"], bool]) -> None:
        super().__init__(port)
        self.how = how

    def prepare(self) -> bool:
        return self.how(self)


def test_prepare_may_ask_the_device_and_wait_for_its_answer() -> None:
    def ask(connection: Prepared) -> bool:
        assert connection.is_connected
        with contextlib.closing(Answer(connection)) as answer:
            connection.write(b"*IDN?\n")
            return answer.wait() == b"ACME\n"

    with SimulatedDevice({b"*IDN?\n": b"ACME\n"}) as device, no_leak():
        connection = Prepared(device.port, ask)
        assert connection.try_connect() is True
        assert connection.is_connected
        connection.teardown()


class Answer:
    """The first line that comes."""

    def __init__(self, connection: SerialConnection) -> None:
        self._data, self._whole = bytearray(), threading.Event()
        self.close = connection.subscribe(self._on_data)

    def _on_data(self, data: bytes) -> None:
        self._data += data
        if self._data.endswith(b"\n"):
            self._whole.set()

    def wait(self) -> bytes:
        assert self._whole.wait(BOUND)
        return bytes(self._data)


def no(_: Prepared) -> bool:
    return False


def broken(_: Prepared) -> bool:
    raise KeyError("no answer")


def own_words(_: Prepared) -> bool:
    raise ConnectionException("the pump is off", TimeoutError())


@pytest.mark.parametrize(
    ("how", "words", "inner"),
    [
        (no, "prepare() returned False, which is not True", ConnectionError),
        (lambda _: None, "prepare() returned None, which is not True", ConnectionError),
        (broken, "no answer", KeyError),
        (own_words, "the pump is off", TimeoutError),
    ],
)
def test_a_device_that_cannot_be_prepared_is_a_failed_attempt_without_alarm(
    pty: Pty, how: Callable[[Prepared], bool], words: str, inner: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    connection = Prepared(pty.path, how)
    hearer = Hearer(connection)
    with no_leak():
        assert connection.try_connect() is False
        assert not connection.is_connected
        assert connection.last_error is not None
        assert words in str(connection.last_error)
        assert isinstance(connection.last_error.inner, inner)
    assert hearer.names == ["opened", "closed"]
    assert warnings_of(caplog) == [str(connection.last_error)]


def test_a_line_lost_while_it_is_prepared_is_a_failed_attempt_without_alarm(
    pty: Pty, caplog: pytest.LogCaptureFixture
) -> None:
    def lose(connection: Prepared) -> bool:
        pty.pull()
        hearer.wait_for_event("closed")
        return True

    connection = Prepared(pty.path, lose)
    hearer = Hearer(connection)
    with no_leak():
        assert connection.try_connect() is False
    assert hearer.names == ["opened", "closed"]
    assert "was lost" in str(connection.last_error)
    assert len(warnings_of(caplog)) == 1


def test_prepare_that_disconnects_is_a_failed_attempt(pty: Pty) -> None:
    def hang_up(connection: Prepared) -> bool:
        connection.disconnect()
        return True

    connection = Prepared(pty.path, hang_up)
    hearer = Hearer(connection)
    with no_leak():
        assert connection.try_connect() is False
        assert not connection.is_connected
    assert hearer.names in (["opened", "closed"], [])
    assert hearer.alarms == []


def test_an_interrupt_in_prepare_closes_the_port_and_goes_on_to_the_caller(pty: Pty) -> None:
    def interrupt(_: Prepared) -> bool:
        raise KeyboardInterrupt

    connection = Prepared(pty.path, interrupt)
    with no_leak():
        with pytest.raises(KeyboardInterrupt):
            connection.try_connect()
        assert not connection.is_connected
        connection.how = lambda _: True
        assert connection.try_connect()
        connection.teardown()


# -- data -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [None, 0, 0.01, 3])
def test_bytes_arrive_as_they_come_whatever_timeout_is(pty: Pty, timeout: float | None) -> None:
    connection = SerialConnection(pty.path, 115200, timeout=timeout)
    hearer = Hearer(connection)
    sent = b""
    with no_leak():
        assert connection.try_connect()
        for number in range(20):
            data = pattern(1 + number * 13, number)
            pty.send(data)
            sent += data
            hearer.wait_for(lambda sent=sent: hearer.data == sent)  # each before the next is sent
        flood = pattern(200_000)
        pty.send(flood)
        hearer.wait_for_data(sent + flood)
        assert min(hearer.chunks) > 0
        assert len(hearer.chunks) < 20 * 2 + 200_000 / 500, "in chunks, not byte by byte"
        assert hearer.alarms == []
        connection.teardown()


def test_5_mb_arrive_whole(pty: Pty, connection: SerialConnection, hearer: Hearer) -> None:
    data = pattern(5_000_000)
    pty.send(data)
    hearer.wait_for_data(data)
    assert max(hearer.chunks) <= 64 * 1024


def test_a_receiver_that_raises_hurts_neither_the_line_nor_the_others(
    pty: Pty, connection: SerialConnection, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(data: bytes) -> None:
        raise MemoryError("no room")

    connection.subscribe(broken)
    hearer = Hearer(connection)
    for byte in b"abc":
        pty.send(bytes([byte]))
        hearer.wait_for(lambda byte=byte: hearer.data.endswith(bytes([byte])))
    assert hearer.data == b"abc"
    raised = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(raised) == 3
    assert all("broken" in record.getMessage() and record.exc_info for record in raised)
    assert connection.is_connected


def test_a_receiver_may_write(pty: Pty, connection: SerialConnection) -> None:
    connection.subscribe(lambda data: connection.write(data.upper()))
    pty.send(b"echo")
    assert pty.receive(4) == b"ECHO"


def test_nobody_misses_anything_when_a_receiver_leaves_while_others_listen(
    pty: Pty, connection: SerialConnection
) -> None:
    undo: list[Callable[[], None]] = []
    first = Hearer(connection)
    undo.append(connection.subscribe(lambda data: undo[0]()))
    last = Hearer(connection)
    pty.send(b"one")
    for hearer in (first, last):
        hearer.wait_for_data(b"one")
    pty.send(b"two")
    for hearer in (first, last):
        hearer.wait_for_data(b"onetwo")


# -- hanging up -------------------------------------------------------------------------------------------


def test_a_stop_from_another_thread_is_prompt(connection: SerialConnection) -> None:
    caller = Caller(connection.disconnect)
    assert caller.done.wait(STOP_WITHIN)
    caller.join()
    assert library_threads() == []


def test_a_stop_from_a_receivers_thread_is_prompt(pty: Pty, connection: SerialConnection) -> None:
    took: list[float] = []

    def hang_up(data: bytes) -> None:
        began = time.monotonic()
        connection.disconnect()
        took.append(time.monotonic() - began)
        assert not connection.is_connected

    connection.subscribe(hang_up)
    hearer = Hearer(connection)
    pty.send(b"bye")
    hearer.wait_for_event("closed")
    assert took[0] < STOP_WITHIN
    assert hearer.events[-1] == ("closed", None)
    wait_until(lambda: library_threads() == [], "the thread ends when the receiver has returned")


def test_nothing_is_delivered_once_disconnect_has_returned(pty: Pty, connection: SerialConnection) -> None:
    hearer = Hearer(connection)
    flood = Flood(pty)
    try:
        hearer.wait_for_event("data")
        connection.disconnect()
        heard = len(hearer.events)
        assert hearer.events[-1] == ("closed", None)
        flood.wait_for_more()
        assert len(hearer.events) == heard
    finally:
        flood.stop()


class Flood:
    """Writes without end, dropping what isn't taken."""

    def __init__(self, pty: Pty) -> None:
        self._pty = pty
        self._over = threading.Event()
        self.rounds = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            if not self._pty.offer(b"\x55" * 4000):
                time.sleep(0.0005)
            self.rounds += 1

    def wait_for_more(self) -> None:
        seen = self.rounds
        wait_until(lambda: self.rounds > seen + 5, "the flood goes on")

    def stop(self) -> None:
        self._over.set()
        self._thread.join(BOUND)


def test_200_quick_stops_and_starts_under_a_flood(pty: Pty, caplog: pytest.LogCaptureFixture) -> None:
    """No exception (threads' ones would be warnings, so errors), no alarm, no leak; each stop is quick."""
    connection = SerialConnection(pty.path)
    hearer = Hearer(connection)
    worst = 0.0
    with no_leak():
        flood = Flood(pty)
        try:
            for number in range(200):
                assert connection.try_connect()
                if number % 3 == 0:
                    seen = hearer.count("data")
                    hearer.wait_for_event("data", seen + 1)
                began = time.monotonic()
                connection.disconnect()
                worst = max(worst, time.monotonic() - began)
        finally:
            flood.stop()
    assert worst < STOP_WITHIN
    assert hearer.alarms == []
    assert [name for name in hearer.names if name != "data"] == ["opened", "closed"] * 200
    assert warnings_of(caplog) == []


def test_a_receiver_that_reconnects_receives_both_lines_in_order(pty: Pty) -> None:
    connection = SerialConnection(pty.path)

    def redial(data: bytes) -> None:
        if data == b"again":
            connection.disconnect()
            assert connection.try_connect()
            pty.send(b"new")
            wait_until(lambda: connection.is_connected, "the new line is up")

    hearer = Hearer(connection)
    connection.subscribe(redial)
    with no_leak():
        assert connection.try_connect()
        pty.send(b"again")
        hearer.wait_for_data(b"againnew")
        connection.teardown()
    assert hearer.names == ["opened", "data", "closed", "opened", "data", "closed"]
    assert [detail for name, detail in hearer.events if name == "closed"] == [None, None]


def test_a_receiver_that_reconnects_many_times_leaves_nothing_behind(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it ever wait for itself."""
    monkeypatch.setattr("cnxman.serial.LONGEST_DELIVERY", BOUND)
    connection = SerialConnection(pty.path)
    took: list[float] = []

    def redial(data: bytes) -> None:
        if data == b"again":
            began = time.monotonic()
            for _ in range(20):
                assert connection.try_connect()
            took.append(time.monotonic() - began)

    hearer = Hearer(connection)
    connection.subscribe(redial)
    with no_leak():
        assert connection.try_connect()
        pty.send(b"again")
        hearer.wait_for(lambda: len(took) == 1)
        hearer.wait_for_event("opened", 2)
        pty.send(b"new")
        hearer.wait_for_data(b"againnew")
        connection.teardown()
    assert took[0] < BOUND / 2
    assert hearer.names == ["opened", "data", "closed", "opened", "data", "closed"]


def test_a_receiver_that_fails_to_open_and_disconnects_does_not_wait_for_itself(
    pty: Pty, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnxman.serial.LONGEST_DELIVERY", BOUND)
    connection = Prepared(pty.path, lambda _: True)
    done = threading.Event()
    took: list[float] = []

    def redial(data: bytes) -> None:
        began = time.monotonic()
        connection.how = no
        assert not connection.try_connect()
        connection.how = lambda _: True
        assert connection.try_connect()
        connection.disconnect()
        took.append(time.monotonic() - began)
        done.set()

    connection.subscribe(redial)
    hearer = Hearer(connection)
    with no_leak():
        assert connection.try_connect()
        pty.send(b"again")
        assert done.wait(BOUND)
        assert took[0] < BOUND / 2
        hearer.wait_for_event("closed")
        connection.teardown()
    assert hearer.names == ["opened", "data", "closed"]
    assert len(warnings_of(caplog)) == 1, "the attempt in vain"


def test_a_receiver_that_opens_while_there_are_no_threads_receives_both_lines_in_order_later(
    pty: Pty, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = SerialConnection(pty.path)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def redial(data: bytes) -> None:
        if data == b"again":
            with monkeypatch.context() as patch:
                patch.setattr(SerialListener, "start", refuse)
                assert not connection.try_connect()
            assert connection.try_connect()
            wait_until(lambda: connection.is_connected, "the new line is up")

    connection.subscribe(redial)
    hearer = Hearer(connection)
    with no_leak():
        assert connection.try_connect()
        pty.send(b"again")
        hearer.wait_for_event("opened", 2)
        connection.teardown()
    assert hearer.names == ["opened", "data", "closed", "opened", "closed"]


def test_lines_opened_from_receivers_are_not_kept(pty: Pty) -> None:
    """Each listener forgets the one before it."""
    import gc
    import weakref

    connection = SerialConnection(pty.path)
    listeners: list[Any] = []

    def redial(data: bytes) -> None:
        listeners.append(weakref.ref(threading.current_thread()))
        connection.disconnect()
        assert connection.try_connect()

    hearer = Hearer(connection)
    connection.subscribe(redial)
    assert connection.try_connect()
    for number in range(5):
        hearer.wait_for_event("opened", number + 1)
        pty.send(b"x")
        hearer.wait_for_event("closed", number + 1)
    hearer.wait_for_event("opened", 6)
    hearer.threads.clear()

    def kept() -> int:
        gc.collect()
        return sum(listener() is not None for listener in listeners)

    wait_until(lambda: kept() <= 1, "earlier listeners are gone")
    connection.teardown()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> float:
    """Five seconds are promised; to wait for a third of one shows the same."""
    monkeypatch.setattr(cnxman_serial, "LONGEST_DELIVERY", 0.3)
    return 0.3


def test_5_seconds_are_what_a_receiver_is_given() -> None:
    assert cnxman_serial.LONGEST_DELIVERY == 5.0


class Stuck:
    """A receiver that does not return until it is let go."""

    def __init__(self) -> None:
        self.begun, self.go_on, self.returned = threading.Event(), threading.Event(), threading.Event()

    def never_returns(self, data: bytes | None = None) -> None:
        self.begun.set()
        self.go_on.wait(BOUND * 2)
        self.returned.set()


@pytest.mark.parametrize("signal", [Signals.OPENED, Signals.DATA_RECEIVED, Signals.CLOSED])
def test_a_receiver_that_never_returns_is_named_and_nothing_more_is_delivered(
    pty: Pty, impatient: float, caplog: pytest.LogCaptureFixture, signal: SerialConnection.Signals
) -> None:
    connection = SerialConnection(pty.path)
    stuck = Stuck()
    first = Hearer(connection)
    connection.subscribe(stuck.never_returns, signal)
    after = Hearer(connection)
    with no_leak():
        descriptors = count_descriptors()
        assert connection.try_connect()
        pty.send(b"one")
        hanger_up: Caller | None = None
        if signal is Signals.CLOSED:
            after.wait_for_data(b"one")
            hanger_up = Caller(connection.disconnect)
        assert stuck.begun.wait(BOUND)
        first.wait_for_event(signal.name.split("_")[0].lower())
        pty.send(b"two")
        began = time.monotonic()
        connection.disconnect()
        assert impatient * 0.9 < time.monotonic() - began < impatient + STOP_WITHIN
        if hanger_up is not None:
            hanger_up.join()
        assert not connection.is_connected
        assert count_descriptors() <= descriptors, "the port is closed in spite of it"
        assert any("never_returns" in warning for warning in warnings_of(caplog))
        heard = list(first.events), list(after.events)
        stuck.go_on.set()
        assert stuck.returned.wait(BOUND)
    assert (first.events, after.events) == heard, "no new delivery begins"


def test_a_receiver_that_never_returns_on_another_kind_of_port_is_left_behind_too(
    impatient: float, caplog: pytest.LogCaptureFixture
) -> None:
    connection = SerialConnection("loop://")
    stuck = Stuck()
    connection.subscribe(stuck.never_returns)
    with no_leak():
        assert connection.try_connect()
        port = port_of(connection)
        connection.write(b"x")
        assert stuck.begun.wait(BOUND)
        connection.disconnect()
        assert not port.is_open
        assert any("never_returns" in warning for warning in warnings_of(caplog))
        stuck.go_on.set()


def test_after_a_receiver_that_never_returns_the_next_line_works(pty: Pty, impatient: float) -> None:
    connection = SerialConnection(pty.path)
    stuck = Stuck()
    undo = connection.subscribe(stuck.never_returns)
    with no_leak():
        assert connection.try_connect()
        pty.send(b"one")
        assert stuck.begun.wait(BOUND)
        undo()
        hearer = Hearer(connection)
        assert connection.try_connect()
        hearer.wait_for_event("opened")
        pty.send(b"two")
        hearer.wait_for_data(b"two")
        stuck.go_on.set()
        connection.teardown()
        assert stuck.returned.wait(BOUND)
    assert hearer.names == ["opened", "data", "closed"]


def test_two_disconnects_at_once_do_not_wait_for_each_other(pty: Pty, connection: SerialConnection) -> None:
    """Thread A in disconnect() while a receiver on the listener's thread calls it, too."""
    in_receiver, go_on = threading.Event(), threading.Event()

    def hang_up(data: bytes) -> None:
        in_receiver.set()
        assert go_on.wait(BOUND)
        connection.disconnect()

    connection.subscribe(hang_up)
    hearer = Hearer(connection)
    pty.send(b"x")
    assert in_receiver.wait(BOUND)
    caller = Caller(connection.disconnect)
    wait_until(lambda: not connection.is_connected, "A hangs up")
    go_on.set()
    assert caller.done.wait(STOP_WITHIN * 2)
    caller.join()
    assert hearer.events[-1] == ("closed", None)


# -- writing ----------------------------------------------------------------------------------------------


def test_a_write_says_how_much_which_is_all(pty: Pty, connection: SerialConnection) -> None:
    assert connection.write(b"hello") == 5
    assert connection.write(bytearray(b"abc")) == 3
    assert connection.write(memoryview(b"a-b-c-")[::2]) == 3
    assert connection.write(b"") == 0
    assert pty.receive(11) == b"helloabcabc"


@pytest.mark.parametrize("data", ["text", 5, None, [1, 2]])
def test_a_write_of_what_is_no_bytes_is_refused(connection: SerialConnection, data: Any) -> None:
    with pytest.raises(TypeError, match="data must be bytes"):
        connection.write(data)


def test_writes_of_four_threads_arrive_whole_and_unmixed(pty: Pty, connection: SerialConnection) -> None:
    rounds, size = 25, 20_000  # more than a pty takes at once, so writers do wait

    def write(letter: bytes) -> None:
        for _ in range(rounds):
            assert connection.write(letter * size) == size

    callers = [Caller(lambda letter=letter: write(letter)) for letter in (b"A", b"B", b"C", b"D")]
    for _ in range(4 * rounds):
        message = pty.receive(size)
        assert len(set(message)) == 1
    all_join(callers)


def test_a_write_without_a_connection_fails_with_its_cause(pty: Pty) -> None:
    connection = SerialConnection(pty.path)
    with pytest.raises(ConnectionException, match="is not connected") as never:
        connection.write(b"x")
    assert isinstance(never.value.inner, ConnectionError)
    assert never.value.__cause__ is never.value.inner
    pty.pull()
    assert not connection.try_connect()
    with pytest.raises(ConnectionException, match="is not connected") as failed:
        connection.write(b"x")
    assert failed.value.inner is connection.last_error
    assert pickle.loads(pickle.dumps(never.value)).message == never.value.message


def test_a_write_after_a_pull_fails_with_its_cause(pty: Pty, connection: SerialConnection, hearer: Hearer) -> None:
    pty.pull()
    hearer.wait_for_event("alarm")
    with pytest.raises(ConnectionException, match="is not connected") as failed:
        connection.write(b"x")
    assert failed.value.inner is connection.last_error
    assert failed.value.errno in (errno.EIO, errno.ENXIO)  # the latter on Windows


def test_a_write_to_a_stalled_line_fails_after_write_timeout_and_says_how_much_went_out(pty: Pty) -> None:
    connection = SerialConnection(pty.path, write_timeout=0.2)
    with no_leak():
        assert connection.try_connect()
        began = time.monotonic()
        with pytest.raises(ConnectionException, match=r"(\d+) of 1000000 bytes were written") as failed:
            connection.write(bytes(1_000_000))
        assert 0.18 <= time.monotonic() - began < BOUND  # Windows' clock is coarse
        assert isinstance(failed.value.inner, TimeoutError)
        assert failed.value.errno == errno.ETIMEDOUT
        went_out = int(failed.value.message.split(" of ")[0])
        assert len(pty.receive(went_out)) == went_out
        assert select.select([pty.master], [], [], 0.05)[0] == [], "no more than it said"
        assert connection.is_connected, "a stall is no loss"
        assert connection.write(b"after") == 5
        assert pty.receive(5) == b"after"
        connection.teardown()


def test_a_slow_line_that_makes_progress_does_not_time_out(pty: Pty) -> None:
    connection = SerialConnection(pty.path, write_timeout=1.5)
    size = 40_000
    with no_leak():
        assert connection.try_connect()
        began = time.monotonic()
        writer = Caller(lambda: connection.write(bytes(size)))
        left = size
        while left:
            time.sleep(0.25)  # the far end is slow: that is what is tested
            left -= len(pty.receive(min(left, 5000)))
        assert writer.join() == size
        assert time.monotonic() - began > 1.5
        connection.teardown()


def test_a_second_writer_waits_while_the_first_makes_progress_and_gives_up_when_it_does_not(pty: Pty) -> None:
    connection = SerialConnection(pty.path, write_timeout=0.3)
    with no_leak():
        assert connection.try_connect()
        first = Caller(lambda: connection.write(bytes(1_000_000)))
        wait_until(lambda: is_writing(connection), "the first has the turn")
        second = Caller(lambda: connection.write(b"x"))
        for caller in (first, second):
            with pytest.raises(ConnectionException, match=r"took nothing for 0\.3 s"):
                caller.join()
        connection.teardown()


def test_a_second_writer_waits_for_as_long_as_the_first_makes_progress(pty: Pty) -> None:
    connection = SerialConnection(pty.path, write_timeout=2)
    size = 150_000
    with no_leak():
        assert connection.try_connect()
        first = Caller(lambda: connection.write(bytes(size)))
        wait_until(lambda: is_writing(connection), "the first has the turn")
        began = time.monotonic()
        second = Caller(lambda: connection.write(b"second"))
        left = size
        while left:
            time.sleep(0.08)  # the far end is slow: that is what is tested
            left -= len(pty.receive(min(left, 5000)))
        assert pty.receive(6) == b"second"
        all_join([first, second])
        assert time.monotonic() - began > 2
        connection.teardown()


def test_a_second_writer_with_less_patience_gives_up_before_the_first(pty: Pty) -> None:
    connection = SerialConnection(pty.path, write_timeout=None)
    with no_leak():
        assert connection.try_connect()
        first = Caller(lambda: connection.write(bytes(1_000_000)))
        wait_until(lambda: waits_to_write(connection), "the first waits for room")
        connection.configure(write_timeout=0.1)
        with pytest.raises(ConnectionException, match=r"0 of 1 bytes were written.*took nothing for 0\.1 s"):
            connection.write(b"x")
        assert not first.done.is_set()
        connection.teardown()
        with pytest.raises(ConnectionException, match="closed meanwhile"):
            first.join()


def test_a_line_that_is_closed_between_two_parts_of_a_write_says_how_much_went_out(
    pty: Pty, connection: SerialConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = PosixLine.write_some

    def write_and_stop(line: PosixLine, data: bytes, start: int) -> int:
        written = original(line, data, start)
        line.stop()
        return written

    monkeypatch.setattr(PosixLine, "write_some", write_and_stop)
    with pytest.raises(ConnectionException, match=r"([1-9]\d+) of 1000000 bytes were written.*closed meanwhile"):
        connection.write(bytes(1_000_000))


def test_a_line_that_takes_nothing_for_once_is_asked_again(
    pty: Pty, connection: SerialConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = port_of(connection).fileno()
    original, answers = os.write, [0, BlockingIOError()]

    def write(fd: int, data: bytes) -> int:
        if fd == number and answers:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        return original(fd, data)

    monkeypatch.setattr(os, "write", write)
    assert connection.write(b"hello") == 5
    assert pty.receive(5) == b"hello"


@pytest.mark.parametrize("url", ["", "loop://"])
def test_a_line_that_is_closed_at_that_very_moment_is_not_used(pty: Pty, url: str) -> None:
    connection = SerialConnection(url or pty.path)
    with no_leak():
        assert connection.try_connect()
        line = connection._line()
        connection.disconnect()
        for use in (lambda: line.use(lambda port: port.cts), lambda: line.write(b"x", 1)):
            with pytest.raises((OSError, IncompleteWriteError), match="closed meanwhile"):
                use()


def test_a_break_on_another_kind_of_port_is_cut_short_too() -> None:
    connection = SerialConnection("loop://")
    with no_leak():
        assert connection.try_connect()
        connection.send_break(0.01)
        breaker = Caller(lambda: connection.send_break(BOUND))
        wait_until(lambda: port_of(connection).break_condition, "the break has begun")
        connection.disconnect()
        with pytest.raises(ConnectionException):
            breaker.join()


def test_closing_gives_what_was_written_a_moment_to_go_out_and_then_drops_it(
    pty: Pty, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel by itself would wait up to 30 seconds for flow control."""
    connection = SerialConnection(pty.path)
    original = fcntl.ioctl

    def ioctl(fd: int, request: int, *rest: Any) -> Any:
        return (5).to_bytes(4, "little") if request == termios.TIOCOUTQ else original(fd, request, *rest)

    with no_leak():
        assert connection.try_connect()
        monkeypatch.setattr(fcntl, "ioctl", ioctl)
        began = time.monotonic()
        connection.disconnect()
        assert 0.18 <= time.monotonic() - began < 0.2 + STOP_WITHIN  # Windows' clock is coarse


def test_a_port_that_has_nothing_to_read_after_all_is_waited_for_again(
    pty: Pty, connection: SerialConnection, hearer: Hearer, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = port_of(connection).fileno()
    original, surprises = os.read, [BlockingIOError()]

    def read(fd: int, size: int) -> bytes:
        if fd == number and surprises:
            raise surprises.pop()
        return original(fd, size)

    monkeypatch.setattr(os, "read", read)
    pty.send(b"x")
    hearer.wait_for_data(b"x")
    assert surprises == []


def test_without_eventfd_a_pipe_does(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS."""
    monkeypatch.delattr(os, "eventfd", raising=False)
    connection = SerialConnection(pty.path)
    hearer = Hearer(connection)
    with no_leak():
        for _ in range(3):
            assert connection.try_connect()
            pty.send(b"x")
            hearer.wait_for(lambda: hearer.names[-1:] == ["data"])
            writer = Caller(lambda: connection.write(bytes(1_000_000)))
            wait_until(lambda: waits_to_write(connection), "it waits for room")
            connection.disconnect()
            with pytest.raises(ConnectionException):
                writer.join()
            with contextlib.suppress(OSError):  # EIO if closing has dropped all that was left
                os.read(pty.master or 0, 65536)


def test_without_termios_every_port_is_read_by_its_own_methods(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""
    monkeypatch.setitem(sys.modules, "termios", None)
    there = runpy.run_path(descriptor_line.__file__)
    assert there["has_descriptor"](serial.serial_for_url(pty.path, do_not_open=True)) is False
    monkeypatch.undo()
    monkeypatch.setattr(descriptor_line, "_POSIX", False)
    connection = SerialConnection(pty.path, exclusive=True)
    hearer = Hearer(connection)
    with no_leak():
        assert connection.try_connect()
        pty.send(b"x")
        hearer.wait_for_data(b"x")
        assert connection.write(b"y") == 1
        assert pty.receive(1) == b"y"
        connection.teardown()


def test_write_timeout_none_waits_and_0_does_not(pty: Pty) -> None:
    with no_leak():
        patient = SerialConnection(pty.path, write_timeout=None)
        assert patient.try_connect()
        writer = Caller(lambda: patient.write(bytes(100_000)))
        assert len(pty.receive(100_000)) == 100_000
        assert writer.join() == 100_000
        patient.teardown()
        hasty = SerialConnection(pty.path, write_timeout=0)
        assert hasty.try_connect()
        assert hasty.write(b"x") == 1
        with pytest.raises(ConnectionException, match="of 1000000 bytes"):
            hasty.write(bytes(1_000_000))
        hasty.teardown()


@pytest.mark.parametrize("write_timeout", [None, 10.0])
def test_a_waiting_write_fails_at_once_on_disconnect(pty: Pty, write_timeout: float | None) -> None:
    connection = SerialConnection(pty.path, write_timeout=write_timeout)
    with no_leak():
        assert connection.try_connect()
        writers = [Caller(lambda: connection.write(bytes(1_000_000))) for _ in range(2)]
        wait_until(lambda: waits_to_write(connection), "one waits for room")
        began = time.monotonic()
        connection.disconnect()
        for writer in writers:
            with pytest.raises(ConnectionException, match=r"of 1000000 bytes were written.*closed meanwhile"):
                writer.join()
        assert time.monotonic() - began < STOP_WITHIN


def test_closing_waits_until_every_writer_has_left_the_line(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a writer waits with has a number that would be somebody else's by then."""
    connection = SerialConnection(pty.path)
    real = select.poll

    class SlowPoll:
        """It returns in time, and its thread is slow to go on."""

        def __init__(self) -> None:
            self._poll = real()
            self.register, self.unregister = self._poll.register, self._poll.unregister

        def poll(self, *timeout: Any) -> list[tuple[int, int]]:
            found = self._poll.poll(*timeout)
            if threading.current_thread().name == "caller":
                time.sleep(0.1)
            return found

    with no_leak():
        assert connection.try_connect()
        line = connection._line()
        monkeypatch.setattr(select, "poll", SlowPoll)
        writer = Caller(lambda: connection.write(bytes(1_000_000)))
        wait_until(lambda: line._writers > 0, "it waits for room")  # type: ignore[attr-defined]
        connection.disconnect()
        assert line._writers == 0  # type: ignore[attr-defined]
        with pytest.raises(ConnectionException, match="closed meanwhile"):
            writer.join()


def test_a_waiting_write_fails_at_once_on_a_pull(pty: Pty, connection: SerialConnection, hearer: Hearer) -> None:
    writer = Caller(lambda: connection.write(bytes(1_000_000)))
    wait_until(lambda: waits_to_write(connection), "it waits for room")
    pty.pull()
    began = time.monotonic()
    with pytest.raises(ConnectionException, match="of 1000000 bytes were written"):
        writer.join()
    assert time.monotonic() - began < STOP_WITHIN
    hearer.wait_for_event("alarm")


def test_a_write_is_not_sent_again_after_an_outage(pty: Pty, connection: SerialConnection, hearer: Hearer) -> None:
    writer = Caller(lambda: connection.write(b"old" * 100_000))
    wait_until(lambda: waits_to_write(connection), "it waits for room")
    pty.pull()
    with pytest.raises(ConnectionException):
        writer.join()
    hearer.wait_for_event("alarm")
    pty.plug()
    assert connection.try_connect()
    connection.write(b"new")
    assert pty.receive(3) == b"new"
    assert select.select([pty.master], [], [], 0.05)[0] == []


def test_a_signal_during_a_write_and_a_read_breaks_nothing(
    pty: Pty, connection: SerialConnection, hearer: Hearer
) -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: came.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    data = pattern(300_000)
    try:
        far_end = Caller(lambda: (pty.receive(300_000), pty.send(data)))
        assert connection.write(data) == 300_000  # on the main thread, where signals are handled
        far_end.join()
        hearer.wait_for_data(data)
        wait_until(lambda: len(came) > 5, "signals came")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert hearer.alarms == []


class Interrupted(Exception):
    pass


def test_an_exception_from_a_signal_handler_ends_a_waiting_write_and_the_line_goes_on(pty: Pty) -> None:
    connection = SerialConnection(pty.path, write_timeout=None)

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    with no_leak():
        assert connection.try_connect()
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(Interrupted):
                connection.write(bytes(1_000_000))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        termios.tcflush(pty.master or 0, termios.TCIOFLUSH)
        while select.select([pty.master], [], [], 0.05)[0]:
            os.read(pty.master or 0, 65536)
        assert connection.write(b"after") == 5
        assert pty.receive(5) == b"after"
        connection.teardown()


# -- settings, modem lines, break -------------------------------------------------------------------------


def baudrate_of(pty: Pty) -> int:
    speeds = {getattr(termios, name): int(name[1:]) for name in dir(termios) if name[:1] == "B" and name[1:].isdigit()}
    return speeds[termios.tcgetattr(pty.master or 0)[5]]


def test_configure_changes_the_line_and_is_kept_for_the_next(pty: Pty) -> None:
    connection = SerialConnection(pty.path, 9600)
    with no_leak():
        connection.configure(baudrate=19200)
        assert connection.try_connect()
        assert baudrate_of(pty) == 19200
        connection.configure(baudrate=57600, timeout=1, parity="N")
        assert baudrate_of(pty) == 57600
        assert connection.try_connect()
        assert baudrate_of(pty) == 57600
        connection.teardown()


def test_configure_refuses_what_makes_no_sense_and_changes_nothing(pty: Pty, connection: SerialConnection) -> None:
    before = baudrate_of(pty)
    with pytest.raises(ValueError, match="bytesize must be one of"):
        connection.configure(baudrate=300, bytesize=4)
    with pytest.raises(TypeError, match="'speed' is no setting"):
        connection.configure(speed=300)  # type: ignore[call-arg]
    assert baudrate_of(pty) == before


def test_the_modem_lines_under_pyserials_names() -> None:
    connection = SerialConnection("loop://", rts=False, dtr=True)  # on loop://, RTS is wired to CTS and DTR to DSR
    assert (connection.rts, connection.dtr) == (False, True)
    for name in ("cts", "dsr", "ri", "cd"):
        with pytest.raises(ConnectionException, match="is not connected"):
            getattr(connection, name)
    with no_leak():
        assert connection.try_connect()
        assert (connection.cts, connection.dsr, connection.ri, connection.cd) == (False, True, False, True)
        connection.rts = True
        connection.dtr = False
        assert (connection.cts, connection.dsr) == (True, False)
        assert connection.try_connect()
        assert (connection.cts, connection.dsr) == (True, False), "kept for the next line"
        connection.rts = None
        assert connection.rts is None
        connection.teardown()
    with pytest.raises(TypeError, match="dtr must be True, False or None"):
        connection.dtr = "up"  # type: ignore[assignment]


def test_a_line_without_modem_lines_says_so_and_is_not_called_lost(connection: SerialConnection) -> None:
    with pytest.raises(ConnectionException) as failed:
        connection.cts  # noqa: B018
    assert failed.value.errno == errno.ENOTTY
    assert "lost" not in str(failed.value)
    assert connection.is_connected


def test_dtr_and_rts_are_set_before_the_port_opens(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, bool]] = []
    original = serial.Serial.open

    def look(port: serial.Serial) -> None:
        seen.append((port.dtr, port.rts))
        original(port)

    monkeypatch.setattr(serial.Serial, "open", look)
    for dtr, rts in ((False, True), (True, False), (None, None)):
        connection = SerialConnection(pty.path, dtr=dtr, rts=rts)
        assert connection.try_connect()
        connection.teardown()
    assert seen == [(False, True), (True, False), (True, True)]


def test_rs485_mode_is_pyserials(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(
        serial.Serial, "open", lambda port: seen.append(port.rs485_mode) or (_ for _ in ()).throw(OSError(errno.ENOENT))
    )
    mode = RS485Settings()
    assert not SerialConnection(pty.path, rs485_mode=mode).try_connect()
    assert seen == [mode]


@pytest.mark.parametrize(
    ("duration", "kind"), [(-1, ValueError), (float("inf"), ValueError), ("long", TypeError), (None, TypeError)]
)
def test_a_break_that_makes_no_sense_is_refused(
    connection: SerialConnection, duration: Any, kind: type[Exception]
) -> None:
    """Before it begins: else nobody would end it."""
    assert connection.try_connect()
    port = port_of(connection)
    with pytest.raises(kind, match=re.escape(f"not {duration!r}")):
        connection.send_break(duration)
    assert not port.break_condition


def test_send_break_takes_its_time_and_is_cut_short_by_the_lines_end(
    connection: SerialConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels: list[bool] = []
    monkeypatch.setattr(serial.Serial, "_update_break_state", lambda port: levels.append(port._break_state))
    began = time.monotonic()
    connection.send_break(0.1)
    assert time.monotonic() - began >= 0.08  # Windows' clock is coarse
    assert levels == [True, False]
    breaker = Caller(lambda: connection.send_break(BOUND))
    wait_until(lambda: levels == [True, False, True], "the break has begun")
    connection.disconnect()
    with pytest.raises(ConnectionException):
        breaker.join()


# -- an idle line, many lines, and a process that ends ----------------------------------------------------


def switches(thread: threading.Thread) -> int:
    with open(f"/proc/self/task/{thread.native_id}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("voluntary"))


def test_an_idle_line_costs_no_wake_up(pty: Pty, connection: SerialConnection, hearer: Hearer) -> None:
    """Neither on its listener, nor on any other thread that its data has called up."""
    pty.send(b"x" * 10_000)
    hearer.wait_for_data(b"x" * 10_000)
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("cnxman")]
    assert len(threads) >= 1
    wait_until(lambda: is_idle(threads), "the threads sleep for half a second")


def is_idle(threads: list[threading.Thread]) -> bool:
    """Whether nothing happens for half a second. What is just falling asleep has several chances."""
    before, used = [switches(thread) for thread in threads], time.process_time()
    time.sleep(0.5)
    return [switches(thread) for thread in threads] == before and time.process_time() - used < 0.05


HIGH_DESCRIPTORS = """
import json, os, resource
from tests.kit import lines as line_kit
resource.setrlimit(resource.RLIMIT_NOFILE, (1400, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
pty = line_kit.Pty()
connection = line_kit.SerialConnection(pty.path)
hearer = line_kit.Hearer(connection)
assert connection.try_connect()
number = connection.current_opening.port.fileno()
data = line_kit.pattern(200_000)
pty_reader = __import__("threading").Thread(target=lambda: echo())
def echo():
    import select
    left = len(data)
    poll = select.poll()
    poll.register(pty.master, select.POLLIN)
    while left:
        poll.poll(1000)
        came = os.read(pty.master, 65536)
        left -= len(came)
        while came:
            came = came[pty.offer(came):]
pty_reader.start()
written = connection.write(data)
pty_reader.join()
hearer.wait_for_data(data)
connection.teardown()
pty.close()
print(json.dumps({"number": number, "written": written, "alarms": len(hearer.alarms)}))
"""


def test_beyond_1024_descriptors_the_line_reads_and_writes() -> None:
    found = run_script(HIGH_DESCRIPTORS)
    assert found["number"] > 1100
    assert found == {**found, "written": 200_000, "alarms": 0}


FULL_TABLE = """
import errno, json, os, resource
from tests.kit import lines as line_kit
pty = line_kit.Pty()
connection = line_kit.SerialConnection(pty.path)
hearer = line_kit.Hearer(connection)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
open_now = line_kit.count_descriptors()
outcomes = []
for free in range(8):  # so many descriptors are left: each step of the opening fails once
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    for number in held[:free]:
        os.close(number)
    opened = connection.try_connect()
    error = connection.last_error
    connection.disconnect()
    for number in held[free:]:
        os.close(number)
    outcomes.append((opened, error and error.errno, str(error)))
    assert line_kit.count_descriptors() == open_now, (free, opened)
alarms = len(hearer.alarms)
assert connection.try_connect()
pty.send(b"back")
hearer.wait_for_data(b"back")
connection.teardown()
pty.close()
print(json.dumps({"outcomes": outcomes, "alarms": alarms, "events": hearer.names, "EMFILE": errno.EMFILE}))
"""


def test_a_full_descriptor_table_is_a_failed_attempt_at_every_step_and_leaks_nothing() -> None:
    found = run_script(FULL_TABLE)
    failed = [outcome for outcome in found["outcomes"] if not outcome[0]]
    assert len(failed) >= 4
    for _, number, message in failed:
        assert number == errno.EMFILE
        assert "cannot open" in message
        assert "this process has too many files open" in message
    assert found["alarms"] == 0
    lines = len(found["outcomes"]) - len(failed) + 1
    assert [name for name in found["events"] if name != "data"] == ["opened", "closed"] * lines


def test_a_thread_that_cannot_be_started_is_a_failed_attempt(
    pty: Pty, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    connection = SerialConnection(pty.path)
    hearer = Hearer(connection)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with no_leak():
        with monkeypatch.context() as patch:
            patch.setattr(SerialListener, "start", refuse)
            assert connection.try_connect() is False
            assert "can't start new thread" in str(connection.last_error)
            assert not connection.is_connected
        assert len(warnings_of(caplog)) == 1
        assert hearer.events == []
        assert connection.try_connect() is True
        connection.teardown()


ENDS_AT_ONCE = """
import json, os, shutil, sys, cnxman
from tests.kit import lines as line_kit
pty = line_kit.Pty()
manager = cnxman.ConnectionManager(cnxman.SerialConnection(pty.path))
manager.connect()
if os.name == "posix":  # else it is the host's
    shutil.rmtree(pty._folder)
print(json.dumps({"state": manager.state}))
"""


def test_a_script_that_ends_without_tearing_down_ends_at_once_and_quietly() -> None:
    began = time.monotonic()
    assert run_script(ENDS_AT_ONCE) == {"state": "connected"}
    assert time.monotonic() - began < 10


def test_nothing_is_printed(pty: Pty, capfd: pytest.CaptureFixture[str]) -> None:
    """Not without any logging set up, either: see the script above, whose stderr has to be empty."""
    logger = logging.getLogger("cnxman")
    assert any(isinstance(handler, logging.NullHandler) for handler in logger.handlers)
    connection = SerialConnection(pty.path)
    hearer = Hearer(connection)
    connection.subscribe(lambda data: 1 / 0)
    assert connection.try_connect()
    pty.send(b"x")
    hearer.wait_for_data(b"x")
    pty.pull()
    hearer.wait_for_event("alarm")
    assert not connection.try_connect()
    connection.teardown()
    assert capfd.readouterr() == ("", "")


def test_a_line_that_falls_silent_raises_the_alarm(pty: Pty) -> None:
    connection = SerialConnection(pty.path, idle_timeout=2)
    hearer = Hearer(connection)
    with no_leak():
        assert connection.try_connect()
        for _ in range(12):
            time.sleep(0.2)  # longer in all than the time-out, and never so long at once
            pty.send(b"x")
        hearer.wait_for_data(b"x" * 12)
        assert hearer.alarms == []
        hearer.wait_for_event("alarm")
        assert "nothing came from it for 2 s" in str(hearer.alarms[0])
        assert hearer.names == ["opened", "data", "closed", "alarm"]
    assert not connection.is_connected


def test_the_longest_timeouts_there_are_can_be_waited_for(pty: Pty) -> None:
    connection = SerialConnection(pty.path, idle_timeout=2e6, write_timeout=2e6)
    hearer = Hearer(connection)
    with no_leak():
        assert connection.try_connect()
        pty.send(b"x")
        hearer.wait_for_data(b"x")
        writer = Caller(lambda: connection.write(bytes(100_000)))
        assert len(pty.receive(100_000)) == 100_000
        assert writer.join() == 100_000
        assert connection.is_connected
        connection.teardown()
    assert hearer.alarms == []


def test_the_package_hands_them_on() -> None:
    assert cnxman.SerialConnection is SerialConnection
    assert cnxman.SerialListener is SerialListener
    assert SerialListener.__module__ == SerialConnection.__module__ == "cnxman.serial"
    assert issubclass(SerialConnection, Connection)
    assert json.dumps(Signals.OPENED.value) == '"opened"'


# -- additions --


def test_why_it_could_not_be_prepared_is_said_also_when_prepare_has_hung_up(pty: Pty) -> None:
    """A device that does not answer, and a prepare() that disconnects before it says so."""

    def give_up(connection: Prepared) -> bool:
        connection.disconnect()
        return own_words(connection)

    connection = Prepared(pty.path, give_up)
    with no_leak():
        assert connection.try_connect() is False
        assert not connection.is_connected
    assert "the pump is off" in str(connection.last_error)


def test_a_newer_attempt_made_by_prepare_holds_when_the_older_one_is_given_up(pty: Pty) -> None:
    def begin_again(connection: Prepared) -> bool:
        connection.how = lambda _: True
        return connection.try_connect()

    connection = Prepared(pty.path, begin_again)
    with no_leak():
        assert connection.try_connect() is False, "the older one never wins"
        assert connection.is_connected
        connection.teardown()
