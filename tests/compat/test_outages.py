"""`cnxman.compat.Serial` when the adapter falls out: each call, and each pair of calls in two threads."""

import errno
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import serial

from cnxman import ConnectionManager, RetryPolicy, SerialConnection
from cnxman._compat import kept_line
from cnxman._compat.kept_line import KeptLine
from cnxman._compat.receive_buffer import ReceiveBuffer
from cnxman.compat import Serial
from cnxman.testing import SimulatedDevice
from tests.kit.lines import BOUND, Pty, no_leak, pattern, run_script
from tests.kit.managers import NEVER, Caller, wait_until, wait_until_waiting

Call = Callable[[Serial], object]


@pytest.fixture
def device() -> Iterator[SimulatedDevice]:
    with SimulatedDevice({b"*IDN?\n": b"ACME\n"}) as device:
        yield device


@pytest.fixture
def port(device: SimulatedDevice) -> Iterator[Serial]:
    with Serial(device.port, timeout=BOUND) as port:
        yield port


def pull(device: SimulatedDevice, port: Serial) -> None:
    """Pull it out, and wait until that is noticed."""
    device.unplug()
    wait_until(lambda: not port.connection.is_connected, "the loss is noticed")


def raised_by(call: Callable[[], object]) -> list[serial.SerialException]:
    """What a call raised, if it did."""
    try:
        call()
    except serial.SerialException as error:
        return [error]
    return []


# -- absent from the beginning ----------------------------------------------------------------------------


def test_opening_succeeds_though_the_device_is_absent(device: SimulatedDevice) -> None:
    device.unplug()
    with Serial(device.port, timeout=0.05) as port:
        assert port.is_open
        assert not port.is_connected
        assert port.read(3) == b""
        device.plug()
        assert port.write(b"*IDN?\n") == 6
        port.timeout = BOUND
        assert port.readline() == b"ACME\n"


# -- reads in an outage -----------------------------------------------------------------------------------


def test_read_in_an_outage_is_silent_for_its_timeout(port: Serial, device: SimulatedDevice) -> None:
    pull(device, port)
    port.timeout = 0.2
    for call in (lambda: port.read(3), port.readline, port.read_until):
        began = time.monotonic()
        assert call() == b""
        assert time.monotonic() - began >= 0.18  # Windows' clock is coarse
    assert port.in_waiting == 0
    port.timeout = 0
    assert port.read(3) == b""


def test_read_that_waits_goes_on_over_outages(port: Serial, device: SimulatedDevice) -> None:
    port.timeout = None
    reading = Caller(lambda: port.read(3))
    for _ in range(3):
        device.unplug()
        device.plug()
    device.wait_opened()
    device.send(b"abc")
    assert reading.join() == b"abc"


def test_read_never_spans_two_openings(port: Serial, device: SimulatedDevice) -> None:
    device.send(b"old")
    device.drain()
    pull(device, port)
    device.plug()
    device.wait_opened()
    device.send(b"new")
    wait_until(lambda: port.manager.is_connected, "it is back")
    assert port.in_waiting == 3
    assert [port.read(10), port.read(3)] == [b"old", b"new"]


def test_read_that_has_some_ends_with_the_outage(port: Serial, device: SimulatedDevice) -> None:
    port.timeout = None
    reading = Caller(lambda: port.read(10))
    device.send(b"old")
    device.drain()
    wait_until(lambda: port.in_waiting == 3, "it has come")
    device.unplug()
    assert reading.join() == b"old"


@pytest.mark.parametrize("call", [lambda port: port.readline(), lambda port: port.read_until(b"\n")])
def test_line_cut_by_an_outage_is_not_glued(port: Serial, device: SimulatedDevice, call: Call) -> None:
    device.send(b"half a li")
    device.drain()
    pull(device, port)
    device.plug()
    device.wait_opened()
    device.send(b"ne\nwhole\n")
    assert [call(port), call(port), call(port)] == [b"half a li", b"ne\n", b"whole\n"]


def test_bytes_of_many_short_openings_are_kept_apart(port: Serial, device: SimulatedDevice) -> None:
    for number in range(5):
        device.wait_opened()
        device.send(b"%d" % number)
        device.drain()
        pull(device, port)
        device.plug()
    assert [port.read(10) for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
    port.timeout = 0
    assert port.read(10) == b""


def test_reset_input_buffer_in_an_outage_forgets_what_came_before(port: Serial, device: SimulatedDevice) -> None:
    device.send(b"old")
    device.drain()
    pull(device, port)
    port.reset_input_buffer()
    device.plug()
    device.wait_opened()
    device.send(b"new")
    assert port.read(3) == b"new"


# -- writes in an outage ----------------------------------------------------------------------------------


def test_write_in_an_outage_waits_for_the_line(port: Serial, device: SimulatedDevice) -> None:
    pull(device, port)
    writing = Caller(lambda: port.write(b"*IDN?\n"))
    wait_until_waiting(writing.thread, KeptLine.write)
    device.plug()
    assert writing.join() == 6
    assert port.readline() == b"ACME\n"
    assert device.received == b"*IDN?\n"


def test_write_in_an_outage_times_out_and_is_not_sent_later(port: Serial, device: SimulatedDevice) -> None:
    pull(device, port)
    port.write_timeout = 0.2
    began = time.monotonic()
    with pytest.raises(serial.SerialTimeoutException, match="nothing was written") as raised:
        port.write(b"too late\n")
    assert time.monotonic() - began >= 0.18  # Windows' clock is coarse
    assert raised.value.errno == errno.ETIMEDOUT
    assert "lost" in str(raised.value) or "cannot open" in str(raised.value)
    device.plug()
    port.write_timeout = BOUND
    port.write(b"in time\n")
    device.wait_received(b"in time\n")
    assert device.received == b"in time\n"


def test_write_without_timeout_gives_up_after_a_default(
    port: Serial, device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnxman.compat.WRITE_TIMEOUT", 0.1)
    assert port.write_timeout is None
    pull(device, port)
    with pytest.raises(serial.SerialTimeoutException, match=r"0\.1 s"):
        port.write(b"x")


def test_write_with_timeout_0_in_an_outage_raises_at_once(port: Serial, device: SimulatedDevice) -> None:
    pull(device, port)
    port.write_timeout = 0
    with pytest.raises(serial.SerialTimeoutException):
        port.write(b"x")


def test_write_that_finds_no_line_waits_for_the_next_one(
    port: Serial, device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the loss was told; also where a write that fails does not tell how much went out, as on Windows."""
    monkeypatch.setattr(kept_line, "sys", SimpleNamespace(platform="win32", is_finalizing=sys.is_finalizing))
    closed, write, tries = SerialConnection(device.port), port.connection.write, []

    def find_none(data: bytes) -> int:
        tries.append(data)
        if len(tries) > 1:
            return write(data)
        device.unplug()
        device.plug()
        return closed.write(data)

    monkeypatch.setattr(port.connection, "write", find_none)
    assert port.write(b"*IDN?\n") == 6
    assert port.readline() == b"ACME\n"
    assert device.received == b"*IDN?\n"


def test_write_that_finds_the_line_lost_goes_out_on_the_next_one(
    port: Serial, device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = port.connection
    write, tries = line.write, []

    def pulled_just_before(data: bytes) -> int:
        tries.append(data)
        if len(tries) == 1:
            device.unplug()
            device.plug()
        return write(data)

    monkeypatch.setattr(line, "write", pulled_just_before)
    assert port.write(b"*IDN?\n") == 6
    device.wait_received(b"*IDN?\n")
    assert device.received == b"*IDN?\n"


def test_cancel_write_ends_a_write_that_waits_for_the_line(port: Serial, device: SimulatedDevice) -> None:
    pull(device, port)
    writing = Caller(lambda: port.write(b"x"))
    wait_until_waiting(writing.thread, KeptLine.write)
    port.cancel_write()
    assert writing.join() == 0


# -- all else in an outage --------------------------------------------------------------------------------

RAISING: dict[str, Call] = {
    "cts": lambda port: port.cts,
    "dsr": lambda port: port.dsr,
    "ri": lambda port: port.ri,
    "cd": lambda port: port.cd,
    "flush": lambda port: port.flush(),
    "send_break": lambda port: port.send_break(),
    "break_condition": lambda port: setattr(port, "break_condition", True),
    "set_output_flow_control": lambda port: port.set_output_flow_control(),
}
SILENT: dict[str, Call] = {
    "out_waiting": lambda port: port.out_waiting,
    "in_waiting": lambda port: port.in_waiting,
    "reset_input_buffer": lambda port: port.reset_input_buffer(),
    "reset_output_buffer": lambda port: port.reset_output_buffer(),
    "rts": lambda port: setattr(port, "rts", False),
    "dtr": lambda port: setattr(port, "dtr", False),
    "baudrate": lambda port: setattr(port, "baudrate", 19200),
    "timeout": lambda port: setattr(port, "timeout", 3),
    "exclusive": lambda port: setattr(port, "exclusive", True),
}


@pytest.mark.parametrize("name", RAISING)
def test_call_in_an_outage_raises_with_errno_and_reason(port: Serial, device: SimulatedDevice, name: str) -> None:
    pull(device, port)
    with pytest.raises(serial.SerialException, match="not connected") as raised:
        RAISING[name](port)
    assert raised.value.errno


@pytest.mark.parametrize("name", SILENT)
def test_call_in_an_outage_is_silent(port: Serial, device: SimulatedDevice, name: str) -> None:
    pull(device, port)
    assert not SILENT[name](port)
    device.plug()
    port.write(b"*IDN?\n")
    assert port.readline() == b"ACME\n"


@pytest.mark.parametrize("name", [*RAISING, *SILENT])
def test_call_at_the_moment_of_a_pull_raises_nothing_else(port: Serial, device: SimulatedDevice, name: str) -> None:
    calls = {**RAISING, **SILENT}
    for _ in range(5):
        device.unplug()
        for _ in range(20):
            assert all(error.errno for error in raised_by(lambda: calls[name](port)))
        device.plug()
        assert port.manager.wait_until_connected(BOUND)


def test_close_in_an_outage_leaves_nothing(device: SimulatedDevice) -> None:
    with no_leak():
        port = Serial(device.port)
        pull(device, port)
        port.close()
        port.close()


def test_reads_raise_when_the_policy_has_given_up(device: SimulatedDevice) -> None:
    with Serial(device.port, timeout=BOUND, retry=RetryPolicy(0.01, attempts=2)) as port:
        reading = Caller(port.read)
        device.unplug()
        with pytest.raises(serial.SerialException) as raised:
            reading.join()
        assert raised.value.errno
        with pytest.raises(serial.SerialException):
            port.write(b"x")
        device.plug()
        port.close()
        port.open()
        port.write(b"*IDN?\n")
        assert port.readline() == b"ACME\n"


# -- threads ----------------------------------------------------------------------------------------------


def test_close_ends_a_read_that_waits(port: Serial, device: SimulatedDevice) -> None:
    port.timeout = None
    reading = Caller(lambda: port.read(10))
    device.send(b"abc")
    wait_until(lambda: port.in_waiting == 3, "it has come")
    port.close()
    assert reading.join() == b"abc"


def test_read_that_wakes_after_closing_and_opening_takes_nothing(port: Serial, monkeypatch: pytest.MonkeyPatch) -> None:
    assert port._line is not None
    buffer = port._line.buffer
    wait = buffer.change.wait

    def wakes_late(timeout: float | None = None) -> bool:
        woken = wait(timeout)
        buffer.is_open = True  # opened again before it comes to look
        buffer.add(b"of the new line")
        return woken

    reading = Caller(lambda: port.read(3))
    wait_until_waiting(reading.thread, ReceiveBuffer.read)
    port.cancel_read()
    assert reading.join() == b""
    monkeypatch.setattr(buffer.change, "wait", wakes_late)
    reading = Caller(lambda: port.read(3))
    wait_until_waiting(reading.thread, ReceiveBuffer.read)
    port.close()
    assert reading.join() == b""


@pytest.mark.parametrize("call", [lambda port: port.read(), lambda port: port.readline()])
def test_close_in_an_outage_ends_a_read_that_waits(port: Serial, device: SimulatedDevice, call: Call) -> None:
    port.timeout = None
    pull(device, port)
    reading = Caller(lambda: call(port))
    port.close()
    closed_before_it_began = raised_by(reading.join)
    assert reading.result == b"" or [error.errno for error in closed_before_it_began] == [errno.EBADF]


def test_close_in_an_outage_ends_a_write_that_waits(port: Serial, device: SimulatedDevice) -> None:
    pull(device, port)
    writing = Caller(lambda: port.write(b"x"))
    wait_until_waiting(writing.thread, KeptLine.write)
    began = time.monotonic()
    port.close()
    with pytest.raises(serial.SerialException, match="closed") as raised:
        writing.join()
    assert not isinstance(raised.value, serial.SerialTimeoutException)
    assert time.monotonic() - began < BOUND / 2  # and not its time-out


def test_close_ends_a_write_that_flow_control_holds() -> None:
    with Pty() as pty:
        port = Serial(pty.path, write_timeout=BOUND)
        writing = Caller(lambda: port.write(bytes(1_000_000)))
        assert pty.receive(1)
        port.close()
        with pytest.raises(serial.SerialException, match="of 1000000 bytes"):
            writing.join()


def test_pull_ends_a_write_that_flow_control_holds() -> None:
    with Pty() as pty, Serial(pty.path, write_timeout=BOUND, retry=NEVER) as port:
        writing = Caller(lambda: port.write(bytes(1_000_000)))
        assert pty.receive(1)
        pty.pull()
        with pytest.raises(serial.SerialException, match="of 1000000 bytes") as raised:
            writing.join()
        assert not isinstance(raised.value, serial.SerialTimeoutException)


def test_close_waits_for_no_reader_whose_buffer_is_full(
    device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_line, "LIMIT", 1000)
    monkeypatch.setattr("cnxman.serial.LONGEST_DELIVERY", BOUND)
    with no_leak():
        port = Serial(device.port)
        device.send(bytes(100_000))
        wait_until(lambda: port._line.buffer.is_awaited, "the listener waits")  # type: ignore[union-attr]
        began = time.monotonic()
        port.close()
        assert time.monotonic() - began < BOUND / 2  # a receiver that doesn't return is waited for for BOUND


def test_line_comes_back_though_nobody_reads(device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_line, "LIMIT", 1000)
    data = pattern(100_000)
    with Serial(device.port, timeout=BOUND) as port:
        device.send(data)
        wait_until(lambda: port._line.buffer.is_awaited, "the listener waits")  # type: ignore[union-attr]
        device.drain()
        device.unplug()
        device.plug()
        device.wait_opened()
        device.send(b"new")
        wait_until(port.manager.wait_until_connected, "it is back")
        assert port.read(200_000) == data
        assert port.read(3) == b"new"


def test_other_users_of_a_manager_may_disconnect_it_though_nobody_reads(
    device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_line, "LIMIT", 1000)
    monkeypatch.setattr("cnxman.serial.LONGEST_DELIVERY", BOUND)
    with ConnectionManager(SerialConnection(device.port, buffer_size=1000)) as manager:
        port = Serial.over(manager)
        sending = Caller(lambda: device.send(bytes(100_000)))
        wait_until(lambda: port._line.buffer.is_awaited, "the listener waits")  # type: ignore[union-attr]
        began = time.monotonic()
        manager.disconnect()
        assert time.monotonic() - began < BOUND / 2
        sending.done.wait(BOUND)


def test_receiver_that_would_wait_for_its_own_line_is_refused(port: Serial, device: SimulatedDevice) -> None:
    raised: list[Exception] = []
    done = threading.Event()

    def ask() -> None:
        for call in (port.read, port.readline, lambda: port.read(100)):
            try:
                call()
            except serial.SerialException as error:
                raised.append(error)
        port.reset_input_buffer()
        port.write(b"from a receiver\n")
        done.set()

    undo = port.connection.subscribe(ask)
    port.timeout = None
    device.send(b"x")
    assert done.wait(BOUND)
    undo()
    assert [error.errno for error in raised if isinstance(error, OSError)][-1] == errno.EDEADLK
    device.wait_received(b"from a receiver\n")


def test_receiver_that_writes_in_an_outage_is_refused(port: Serial, device: SimulatedDevice) -> None:
    told: list[Exception] = []

    def on_closed() -> None:
        try:
            port.write(b"x")
        except serial.SerialException as error:
            told.append(error)

    port.connection.subscribe(on_closed, SerialConnection.Signals.CLOSED)
    device.unplug()
    wait_until(lambda: bool(told), "it was refused")
    device.plug()
    assert port.manager.wait_until_connected(BOUND)


def test_receiver_may_close_the_line(port: Serial, device: SimulatedDevice) -> None:
    closed = threading.Event()

    def close() -> None:
        port.close()
        closed.set()

    port.connection.subscribe(close)
    device.send(b"x")
    assert closed.wait(BOUND)
    device.wait_closed()
    assert not port.is_open


def test_receiver_may_close_the_line_when_it_is_lost(port: Serial, device: SimulatedDevice) -> None:
    port.connection.subscribe(lambda error: port.close(), SerialConnection.Signals.CLOSED)
    device.unplug()
    wait_until(lambda: port.manager.state == "disconnected", "it is disconnected")


SIGNALLED = """
import json, signal
from cnxman.compat import Serial

port = Serial("loop://", timeout=0.001)
port.write(bytes(range(256)) * 8)
looks = []
signal.signal(signal.SIGALRM, lambda *_: looks.append(port.cancel_read()))
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
while len(looks) < 300:
    port.read(1), port.readline(3)
signal.setitimer(signal.ITIMER_REAL, 0)
signal.signal(signal.SIGALRM, lambda *_: port.close())
port.cancel_read()
port.read(10**6)
port.timeout = None
signal.setitimer(signal.ITIMER_REAL, 0.2)
port.read(10**6)
print(json.dumps({"open": port.is_open}))
"""


def test_signal_handler_may_cancel_and_close_a_read() -> None:
    assert run_script(SIGNALLED) == {"open": False}


def test_everything_at_once_ends_and_leaves_nothing(device: SimulatedDevice) -> None:
    """Threads read, write, set, close and open while the adapter comes and goes."""
    over = threading.Event()
    odd: list[BaseException] = []

    def again(call: Callable[[], object]) -> None:
        while not over.is_set():
            try:
                call()
            except serial.SerialException as error:
                if not error.errno:
                    odd.append(error)
            except BaseException as error:
                odd.append(error)
                return

    with no_leak():
        port = Serial(device.port, timeout=0.01, write_timeout=0.05)

        def change() -> None:
            port.timeout = 0.02 if port.timeout == 0.01 else 0.01
            port.baudrate = 19200 if port.baudrate == 9600 else 9600

        def toggle() -> None:
            port.close()
            port.open()

        calls = [
            lambda: port.read(5),
            port.readline,
            lambda: port.write(b"*IDN?\n"),
            port.reset_input_buffer,
            port.flush,
            change,
            toggle,
        ]
        threads = [Caller(lambda call=call: again(call)) for call in calls]
        for _ in range(10):
            device.unplug()
            device.plug()
            over.wait(0.05)
        over.set()
        for thread in threads:
            thread.join()
        assert odd == []
        if not port.is_open:
            port.open()
        port.timeout, port.write_timeout = BOUND, BOUND
        port.reset_input_buffer()
        port.write(b"*IDN?\n")
        assert port.read_until(b"ACME\n").endswith(b"ACME\n")
        port.close()


@pytest.mark.parametrize("other", ["close", "unplug"])
@pytest.mark.parametrize("call", ["read", "readline", "write", "flush", "reset_input_buffer", "open"])
def test_each_pair_of_calls_ends(device: SimulatedDevice, call: str, other: str) -> None:
    calls: dict[str, Call] = {
        "read": lambda port: port.read(3),
        "readline": lambda port: port.readline(),
        "write": lambda port: port.write(b"x"),
        "flush": lambda port: port.flush(),
        "reset_input_buffer": lambda port: port.reset_input_buffer(),
        "open": lambda port: port.open(),
    }
    with no_leak():
        for _ in range(10):
            port = Serial(device.port, timeout=0.5, write_timeout=0.5)
            if call == "open":
                port.close()
            one = Caller(lambda port=port: calls[call](port))
            two = Caller(port.close if other == "close" else device.unplug)
            for each in (one, two):
                assert all(error.errno for error in raised_by(each.join))
            device.plug()
            port.close()
        del port, one, two


def test_it_may_take_the_place_of_pyserials_class(device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serial, "Serial", Serial)
    with serial.Serial(device.port, timeout=BOUND) as port:
        for _ in range(2):
            port.write(b"*IDN?\n")
            assert port.readline() == b"ACME\n"
            device.unplug()
            wait_until(lambda: not port.connection.is_connected, "the loss is noticed")
            device.plug()
