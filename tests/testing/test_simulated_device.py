import contextlib
import doctest
import errno
import os
import random
import runpy
import select
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
import serial
from hypothesis import given, settings
from hypothesis import strategies as st

import cnxman.testing.device
import cnxman.testing.line
import cnxman.testing.pty
from cnxman import ConnectionManager, RetryPolicy, SerialConnection
from cnxman.testing import SimulatedDevice
from cnxman.testing.answers import Requests
from cnxman.testing.line import SETTLE
from cnxman.testing.pty import PseudoTerminal
from cnxman.testing.streams import Stream
from tests.kit.ordinary import AS_ORDINARY

IDN = {b"*IDN?\n": b"ACME,1000\n", b"\x05": b"\x06"}


@pytest.fixture
def device() -> Iterator[SimulatedDevice]:
    with SimulatedDevice() as device:
        yield device


@contextlib.contextmanager
def opened(device: SimulatedDevice) -> Iterator[int]:
    """A host that doesn't use pyserial, nor discards anything."""
    host = os.open(device.port, os.O_RDWR | os.O_NOCTTY)
    try:
        yield host
    finally:
        os.close(host)


def with_pyserial(device: SimulatedDevice, timeout: float = 5) -> serial.Serial:
    return serial.Serial(device.port, timeout=timeout)


def read(host: int, count: int, timeout: float = 5.0) -> bytes:
    """Read so many bytes, or what there is after `timeout` seconds of nothing."""
    data = b""
    while len(data) < count and select.select([host], [], [], timeout)[0]:
        data += os.read(host, count - len(data))
    return data


def read_all(host: int, quiet: float = 0.2) -> bytes:
    return read(host, sys.maxsize // 2**32, quiet)


def in_thread(work: Callable[[], object]) -> Queue[object]:
    """Run `work` on a thread; what it returns or raises comes out of the queue."""
    result: Queue[object] = Queue()

    def run() -> None:
        try:
            result.put(work())
        except Exception as error:
            result.put(error)

    threading.Thread(target=run, daemon=True).start()
    return result


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# Data


def test_data_goes_both_ways_with_pyserial(device: SimulatedDevice) -> None:
    with with_pyserial(device) as host:
        device.send(b"to the host\r\n\x00\xff\x03\x11\x13")
        assert host.read(18) == b"to the host\r\n\x00\xff\x03\x11\x13"
        host.write(b"to the device\r\n\x00\xff\x03\x11\x13")
        assert device.receive(20) == b"to the device\r\n\x00\xff\x03\x11\x13"


ODD_SETTINGS = [{"parity": "E"}, {"bytesize": 7}, {"parity": "O", "bytesize": 7, "stopbits": 2}]


@pytest.mark.parametrize("odd", ODD_SETTINGS, ids=str)
def test_reopens_with_parity_or_7_bits(device: SimulatedDevice, odd: dict[str, Any]) -> None:
    """glibc refuses what a pty can't do, if nothing else changes."""
    for _ in range(5):
        with serial.Serial(device.port, 9600, timeout=60, **odd) as host:
            device.wait_opened()
            device.send(b"some")
            assert host.read(4) == b"some"


@pytest.mark.parametrize("odd", ODD_SETTINGS, ids=str)
def test_settings_change_with_parity_or_7_bits(device: SimulatedDevice, odd: dict[str, Any]) -> None:
    with serial.Serial(device.port, 9600, **odd) as host:
        device.wait_opened()
        for number in range(5):
            host.timeout = 1 + number  # pyserial sets everything anew
            host.write(b"x")
            assert device.receive(1) == b"x"


def test_a_7e1_line_comes_back_after_an_outage(device: SimulatedDevice) -> None:
    connection = SerialConnection(device.port, 300, bytesize=7, parity="E")
    heard: Queue[bytes] = Queue()
    connection.subscribe(lambda data: heard.put(data))
    with ConnectionManager(connection, retry=RetryPolicy(0.01, 1, 0.01, 0)):
        for number in range(3):
            device.wait_opened()
            device.send(b"%d" % number)
            assert heard.get(timeout=60) == b"%d" % number
            device.unplug()
            device.plug()


def test_data_goes_both_ways_with_a_raw_descriptor(device: SimulatedDevice) -> None:
    with opened(device) as host:
        device.send(b"\r\n\x00\xff\x04")
        assert read(host, 5) == b"\r\n\x00\xff\x04"
        os.write(host, b"\r\n\x00\xff\x04")
        assert device.receive(5) == b"\r\n\x00\xff\x04"
        assert read_all(host) == b"", "the line echoes"


def test_5_mb_come_whole_both_ways_at_once(device: SimulatedDevice) -> None:
    to_host, to_device = random.Random(1).randbytes(5_000_000), random.Random(2).randbytes(5_000_000)
    with opened(device) as host:
        got = in_thread(lambda: read(host, len(to_host)))
        written = in_thread(lambda: sum(os.write(host, to_device[i : i + 9000]) for i in range(0, 5_000_000, 9000)))
        device.send(to_host, timeout=60)
        assert got.get(timeout=60) == to_host
        assert device.receive(len(to_device), timeout=60) == to_device
        assert written.get(timeout=60) == len(to_device)


def test_messages_of_several_threads_arent_mixed(device: SimulatedDevice) -> None:
    messages = [bytes([n]) * 20_000 for n in range(5)]
    with opened(device) as host:
        sent = [in_thread(partial(device.send, message)) for message in messages]
        data = read(host, 100_000)
        assert [each.get(timeout=60) for each in sent] == [None] * 5
    assert sorted(data[i : i + 20_000] for i in range(0, 100_000, 20_000)) == messages


def test_what_is_sent_before_the_port_is_opened_waits_for_pyserial_to_discard_old_input(
    device: SimulatedDevice,
) -> None:
    for number in range(50):  # in none of them does the host's discarding catch what was sent
        device.send(b"%4d" % number)
        with with_pyserial(device) as host:
            assert host.read(4) == b"%4d" % number
        device.wait_closed()


def test_what_is_sent_when_the_host_has_just_closed_waits_for_the_next_opening(device: SimulatedDevice) -> None:
    for number in range(50):
        with with_pyserial(device) as host:
            host.write(b"x")
            device.wait_opened()
        device.send(b"%4d" % number)
        with with_pyserial(device) as host:
            assert host.read(4) == b"%4d" % number


def test_send_says_how_much_went_out_when_the_host_doesnt_read(device: SimulatedDevice) -> None:
    with opened(device) as host:
        with pytest.raises(TimeoutError, match=r"only (\d+) of 100000 bytes could be sent") as caught:
            device.send(b"x" * 100_000, timeout=0.3)
        count = int(str(caught.value).split()[1])
        assert read_all(host) == b"x" * count
        device.send(b"new")
        assert read_all(host) == b"new", "the rest of what timed out was sent nevertheless"


def test_send_of_nothing_does_nothing(device: SimulatedDevice) -> None:
    device.send(b"")
    with opened(device) as host:
        device.send(b"a")
        assert read(host, 1) == b"a"


def test_send_takes_bytes_only(device: SimulatedDevice) -> None:
    with pytest.raises(TypeError):
        device.send("text")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        device.send(5)  # type: ignore[arg-type]


def test_send_to_an_unplugged_device_fails(device: SimulatedDevice) -> None:
    device.unplug()
    with pytest.raises(ConnectionError, match="isn't plugged in"):
        device.send(b"a")
    with pytest.raises(ConnectionError, match="isn't plugged in"):
        device.drain()


def test_drain_waits_until_the_host_has_read_all(device: SimulatedDevice) -> None:
    with opened(device) as host:
        device.drain()  # nothing sent yet
        device.send(b"x" * 5000)
        with pytest.raises(TimeoutError, match="hasn't read all"):
            device.drain(timeout=0.1)
        assert read(host, 4999) == b"x" * 4999
        with pytest.raises(TimeoutError, match="hasn't read all"):
            device.drain(timeout=0.1)
        drained = in_thread(device.drain)
        assert read(host, 1) == b"x"
        assert drained.get(timeout=60) is None


EXCLUDED = '''
import errno, subprocess, sys
from cnxman import SerialConnection
from cnxman.testing import SimulatedDevice

HOST = """
import fcntl, os, sys, termios
fcntl.ioctl(os.open(sys.argv[1], os.O_RDWR), termios.TIOCEXCL)
sys.stdin.read()
"""

with SimulatedDevice() as device:
    connection = SerialConnection(device.port)
    heard = []
    connection.subscribe(lambda data: heard.append(data))
    assert connection.try_connect()
    try:
        open(device.port)
    except OSError as error:
        assert error.errno == errno.EBUSY
    else:
        sys.exit("this process is not kept out")
    device.send(b"x" * 5000)
    device.drain()
    connection.disconnect()
    assert sum(map(len, heard)) == 5000
    device.unplug()
    device.plug()
    with subprocess.Popen([sys.executable, "-c", HOST, device.port], stdin=subprocess.PIPE) as host:
        device.wait_opened()
        while True:
            try:
                device.drain()
            except OSError as error:
                assert error.errno == errno.EBUSY
                break
        host.stdin.close()
'''
"""What somebody who isn't root meets: the library itself keeps all others from opening the port."""


def test_drain_where_the_host_keeps_others_out() -> None:
    done = subprocess.run(
        [*AS_ORDINARY, sys.executable, "-c", EXCLUDED], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_only_bytes_can_be_sent(device: SimulatedDevice) -> None:
    with pytest.raises(TypeError, match="data must be bytes, not 'x'"):
        device.send("x")  # type: ignore[arg-type]


def test_drain_waits_for_what_waits_for_a_host(device: SimulatedDevice) -> None:
    device.send(b"x")
    with pytest.raises(TimeoutError, match="hasn't read all"):
        device.drain(timeout=0.1)
    drained = in_thread(device.drain)
    with with_pyserial(device) as host:
        assert host.read(1) == b"x"
        assert drained.get(timeout=60) is None


def test_drain_and_unplug_lose_nothing(device: SimulatedDevice) -> None:
    for number in range(30):
        data = random.Random(number).randbytes(20_000)
        with with_pyserial(device) as host:

            def all_of_it(host: serial.Serial = host) -> bytes:
                data = b""
                with contextlib.suppress(serial.SerialException):
                    while True:
                        data += host.read(1)
                        data += host.read(host.in_waiting)
                return data

            got = in_thread(all_of_it)
            device.send(data)
            device.drain()
            device.unplug()
            assert got.get(timeout=60) == data
        device.plug()


# Receiving


def test_receive_gives_each_byte_once(device: SimulatedDevice) -> None:
    with opened(device) as host:
        os.write(host, b"one\ntwo\nthree")
        assert device.receive(until=b"\n") == b"one\n"
        assert device.receive(2) == b"tw"
        device.wait_received(b"three")
        assert device.receive() == b"o\nthree"
        assert device.received == b"one\ntwo\nthree"
        device.clear()
        assert device.received == b""
        os.write(host, b"four")
        assert device.receive(4) == b"four"


def test_receive_waits_for_what_is_to_come(device: SimulatedDevice) -> None:
    with opened(device) as host:
        got = in_thread(lambda: device.receive(until=b"\r\n"))
        os.write(host, b"line\r")
        device.wait_received(b"\r")
        assert got.empty()
        os.write(host, b"\n")
        assert got.get(timeout=60) == b"line\r\n"


def test_waits_in_vain_say_what_came_instead(device: SimulatedDevice) -> None:
    with opened(device) as host:
        os.write(host, b"abc")
        device.wait_received(b"abc")
        with pytest.raises(TimeoutError, match=r"wrote only b'abc' \(waited 0\.01 s\)"):
            device.receive(4, timeout=0.01)
        with pytest.raises(TimeoutError, match="wrote only b'abc'"):
            device.receive(until=b"\n", timeout=0.01)
        with pytest.raises(TimeoutError, match="wrote only b'abc'"):
            device.wait_received(b"abcd", timeout=0.01)
        assert device.receive() == b"abc", "a receive that timed out took bytes away"
        with pytest.raises(TimeoutError, match="wrote only b''"):
            device.receive(timeout=0)
        os.write(host, b"x" * 200)
        with pytest.raises(TimeoutError, match=r"203 bytes, last b'x{100}'"):
            device.wait_received(b"y", timeout=0.2)


def test_what_the_host_wrote_before_closing_is_received(device: SimulatedDevice) -> None:
    for _ in range(20):
        with opened(device) as host:
            os.write(host, b"last words" * 500)
        assert device.receive(5000) == b"last words" * 500


# Plugging


def test_the_path_stays_the_same_and_leads_somewhere_only_when_plugged(device: SimulatedDevice) -> None:
    port = device.port
    for number in range(5):
        assert os.path.lexists(port)
        with with_pyserial(device) as host:
            device.send(b"%d" % number)
            assert host.read(1) == b"%d" % number
            device.unplug()
            assert not device.is_plugged
            assert not os.path.lexists(port)
        device.plug()
        assert device.port == port


def test_plug_and_unplug_may_be_called_twice(device: SimulatedDevice) -> None:
    with opened(device) as host:
        device.plug()
        device.send(b"still there")
        assert read(host, 11) == b"still there"
    device.unplug()
    device.unplug()
    device.plug()
    assert device.is_plugged


def test_unplug_returns_though_another_thread_plugs_in_again_at_once(
    device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = device._line
    hang_up = line._hang_up

    def hang_up_and_plug_in() -> None:
        hang_up()
        monkeypatch.undo()
        device.plug()

    monkeypatch.setattr(line, "_hang_up", hang_up_and_plug_in)
    device.unplug()
    assert device.is_plugged


def test_plug_waits_for_a_pull_that_is_under_way(device: SimulatedDevice) -> None:
    line = device._line
    with line.changed:  # so the pull can't be done before `plug` waits
        line.pull()
        device.plug()
    with opened(device) as host:
        device.wait_opened()
        device.send(b"here")
        assert read(host, 4) == b"here"


def test_a_device_can_begin_unplugged() -> None:
    with SimulatedDevice(plugged=False) as device:
        assert not os.path.lexists(device.port)
        device.plug()
        with opened(device) as host:
            device.send(b"a")
            assert read(host, 1) == b"a"


def test_a_blocked_reader_notices_the_pull(device: SimulatedDevice) -> None:
    with with_pyserial(device, timeout=30) as host:
        got = in_thread(lambda: host.read(1))
        device.wait_opened()
        device.unplug()
        error = got.get(timeout=60)
        assert isinstance(error, serial.SerialException)
        assert "returned no data" in str(error)


def test_a_descriptor_left_open_stays_lost_when_the_device_is_back(device: SimulatedDevice) -> None:
    with opened(device) as host:
        device.unplug()
        device.plug()
        with pytest.raises(OSError, match="Input/output error"):
            os.write(host, b"a")
        assert os.read(host, 1) == b""
        assert not device.is_open


def test_a_send_that_waits_for_room_notices_the_pull(device: SimulatedDevice) -> None:
    with opened(device):
        device.wait_opened()
        sent = in_thread(lambda: device.send(b"x" * 100_000, timeout=60))
        with pytest.raises(TimeoutError):
            device.drain(timeout=0.1)
        device.unplug()
        error = sent.get(timeout=60)
        assert isinstance(error, ConnectionError)
        assert "of 100000 bytes had been sent" in str(error)


def test_what_waits_to_be_sent_is_lost_with_the_pull(device: SimulatedDevice) -> None:
    device.send(b"before")
    device.unplug()
    device.plug()
    device.send(b"after")
    with opened(device) as host:
        assert read_all(host, quiet=SETTLE + 0.2) == b"after"


def test_opening_and_closing_are_noticed(device: SimulatedDevice) -> None:
    device.wait_closed()
    with pytest.raises(TimeoutError, match=r"nobody has opened .* \(waited 0.05 s\)"):
        device.wait_opened(timeout=0.05)
    opening = in_thread(device.wait_opened)
    with with_pyserial(device):
        assert opening.get(timeout=60) is None
        assert device.is_open
        with pytest.raises(TimeoutError, match="is still open"):
            device.wait_closed(timeout=0.05)
        closing = in_thread(device.wait_closed)
    assert closing.get(timeout=60) is None
    assert not device.is_open


def test_a_host_that_uses_pyserial_is_known_by_its_discarding(
    device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cnxman.testing.line, "SETTLE", 1000)
    for _ in range(20):
        with with_pyserial(device):
            device.wait_opened()
        device.wait_closed()
        with opened(device), pytest.raises(TimeoutError, match="nobody has opened"):
            device.wait_opened(timeout=0.03)  # what is known of the one before says nothing of this one


def test_what_is_read_late_of_one_host_says_nothing_of_the_next(
    device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cnxman.testing.line, "SETTLE", 1000)
    device.stall()
    with with_pyserial(device):
        pass
    device.wait_closed()
    with opened(device):
        device.resume()
        with pytest.raises(TimeoutError, match="nobody has opened"):
            device.wait_opened(timeout=0.1)


def test_a_host_that_may_yet_discard_old_input_is_given_time(device: SimulatedDevice) -> None:
    begun = time.monotonic()
    with opened(device) as host:
        device.wait_opened()
        assert time.monotonic() - begun >= SETTLE
    device.wait_closed()
    begun = time.monotonic()
    with opened(device) as host:
        termios.tcflush(host, termios.TCOFLUSH)  # discards what it wrote, not what it may read
        device.wait_opened()
        assert time.monotonic() - begun >= SETTLE


def test_unplugging_closes(device: SimulatedDevice) -> None:
    with opened(device):
        device.wait_opened()
        closing = in_thread(device.wait_closed)
        device.unplug()
        assert closing.get(timeout=60) is None


# Answers


def test_a_table_answers(device: SimulatedDevice) -> None:
    with SimulatedDevice(IDN) as device, with_pyserial(device) as host:
        host.write(b"noise *IDN")
        host.write(b"?\n\x05*IDN?\nand more")
        assert host.read(21) == b"ACME,1000\n\x06ACME,1000\n"
        device.wait_received(b"and more")
        assert device.received == b"noise *IDN?\n\x05*IDN?\nand more"


def test_a_function_answers() -> None:
    asked = []

    def answer(request: bytes) -> bytes | None:
        asked.append((request, threading.current_thread()))
        return request.upper() if b"?" in request else None

    with SimulatedDevice(answer, terminator=b";") as device, with_pyserial(device) as host:
        host.write(b"set 1;get?;se")
        assert host.read(5) == b"GET?;"
        host.write(b"t 2;again?;")
        assert host.read(7) == b"AGAIN?;"
    assert [request for request, _ in asked] == [b"set 1;", b"get?;", b"set 2;", b"again?;"]
    assert {thread for _, thread in asked}.isdisjoint({threading.current_thread()})


def test_an_answer_function_may_use_the_device() -> None:
    device: SimulatedDevice
    back = threading.Event()

    def answer(request: bytes) -> bytes:
        device.send(b"first, ")
        device.drain()
        if request == b"reset\n":
            device.unplug()
            device.plug()
            back.set()
        return b"then\n"

    with SimulatedDevice(answer) as device:
        with with_pyserial(device) as host:
            host.write(b"x\n")
            assert host.readline() == b"first, then\n"
            host.write(b"reset\n")
            assert host.read(7) == b"first, "
            with pytest.raises(serial.SerialException):
                host.read(1)
        assert back.wait(60)
        with with_pyserial(device, timeout=0.3) as host:
            assert host.readline() == b"", "the answer of before the reset came"


def test_a_slow_answer_holds_up_nothing_else() -> None:
    go = threading.Event()

    def answer(request: bytes) -> bytes:
        assert go.wait(60)
        return b"slow\n"

    with SimulatedDevice(answer) as device, with_pyserial(device) as host:
        host.write(b"?\n")
        device.wait_received(b"?\n")
        device.send(b"fast\n")
        assert host.readline() == b"fast\n"
        go.set()
        assert host.readline() == b"slow\n"


def test_a_reply_ends_with_the_session_it_was_asked_in() -> None:
    asked, go = threading.Event(), threading.Event()

    def answer(request: bytes) -> bytes:
        asked.set()
        assert go.wait(60)
        return request

    with SimulatedDevice(answer) as device:
        with with_pyserial(device) as host:
            host.write(b"old\nha")
            assert asked.wait(60)
            device.wait_received(b"ha")
        device.wait_closed()
        with with_pyserial(device) as host:
            device.wait_opened()
            go.set()
            host.write(b"new\n")
            assert host.readline() == b"new\n"


def test_a_reply_that_isnt_read_ends_with_the_session(device: SimulatedDevice) -> None:
    with SimulatedDevice({b"?": b"x" * 100_000}) as device:
        with opened(device) as host:
            os.write(host, b"?")
            assert read(host, 10) == b"x" * 10
        device.wait_closed()
        device.send(b"new")
        with with_pyserial(device) as host:
            assert host.read(3) == b"new"


def test_what_an_answer_function_raises_is_raised_by_close() -> None:
    def answer(request: bytes) -> bytes:
        if request == b"good\n":
            return b"yes\n"
        raise LookupError(request)

    device = SimulatedDevice(answer)
    with with_pyserial(device) as host:
        host.write(b"bad\nworse\ngood\n")
        assert host.readline() == b"yes\n"
    with pytest.raises(RuntimeError, match="answer function raised") as caught:
        device.close()
    assert isinstance(caught.value.__cause__, LookupError)
    assert caught.value.__cause__.args == (b"bad\n",)
    device.close()  # told once


@pytest.mark.parametrize(("first", "error"), [("text", TypeError), (5, TypeError)])
def test_a_reply_that_isnt_bytes_is_raised_by_close(first: object, error: type[Exception]) -> None:
    replies = [b"good\n", first]
    device = SimulatedDevice(lambda request: replies.pop())  # type: ignore[arg-type, return-value]
    with with_pyserial(device) as host:
        host.write(b"\n\n")
        assert host.readline() == b"good\n"
    with pytest.raises(RuntimeError, match="answer function raised") as caught:
        device.close()
    assert isinstance(caught.value.__cause__, error)


def test_an_answer_function_cant_close_its_device() -> None:
    device: SimulatedDevice

    def answer(request: bytes) -> bytes:
        if request == b"close\n":
            device.close()
        return b"still here\n"

    device = SimulatedDevice(answer)
    with with_pyserial(device) as host:
        host.write(b"close\n?\n")
        assert host.readline() == b"still here\n"
    with pytest.raises(RuntimeError, match="answer function raised") as caught:
        device.close()
    assert "can't close its own device" in str(caught.value.__cause__)


def test_close_ends_what_an_answer_function_waits_for() -> None:
    device: SimulatedDevice
    asked = threading.Event()

    def answer(request: bytes) -> bytes:
        asked.set()
        return device.receive(100, timeout=60)

    device = SimulatedDevice(answer)
    with with_pyserial(device) as host:
        host.write(b"\n")
        assert asked.wait(60)
        device.close()
    assert not device._threads[1].is_alive()


def test_close_raises_for_an_answer_function_that_doesnt_return(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cnxman.testing.device, "PATIENCE", 0.1)
    asked, go = threading.Event(), threading.Event()

    def answer(request: bytes) -> None:
        asked.set()
        go.wait(60)

    device = SimulatedDevice(answer)
    with with_pyserial(device) as host:
        host.write(b"\n")
        assert asked.wait(60)
        with pytest.raises(RuntimeError, match=r"hasn't returned after 0\.1 s"):
            device.close()
    go.set()
    device._threads[1].join(60)
    assert not device._threads[1].is_alive()


@pytest.mark.parametrize(
    ("answers", "error", "message"),
    [
        ({b"": b"a"}, ValueError, "at least one byte"),
        ({"a": b"a"}, TypeError, "not b'a' for 'a'"),
        ({b"a": "a"}, TypeError, "not 'a' for b'a'"),
        ({b"ID": b"a", b"IDN?": b"b"}, ValueError, r"b'IDN\?' could never be asked: b'ID', within it"),
        ({b"DN": b"a", b"IDN?": b"b"}, ValueError, r"b'IDN\?' could never be asked"),
        ([b"a"], TypeError, "a table or a function"),
    ],
)
def test_answers_that_cant_work_are_refused(answers: object, error: type[Exception], message: str) -> None:
    before = descriptors()
    with pytest.raises(error, match=message):
        SimulatedDevice(answers)  # type: ignore[arg-type]
    assert descriptors() == before


def test_of_two_requests_that_end_together_the_longer_is_answered() -> None:
    assert Requests({b"\n": b"", b"A?\n": b""}, b"\n").feed(b"xA?\n\n") == [b"A?\n", b"\n"]


CHUNKS = st.lists(st.binary(max_size=4).map(lambda chunk: bytes(b"AB?\n"[byte % 4] for byte in chunk)))


@given(CHUNKS)
@settings(max_examples=300)
@pytest.mark.parametrize("answers", [{b"A?\n": b"", b"B": b"", b"\n": b""}, lambda request: request])
def test_the_cutting_into_chunks_changes_no_request(answers: object, chunks: list[bytes]) -> None:
    cut, whole = (Requests(answers, b"?\n") for _ in range(2))  # type: ignore[arg-type]
    assert [request for chunk in chunks for request in cut.feed(chunk)] == whole.feed(b"".join(chunks))


def test_a_table_keeps_no_more_than_may_be_the_beginning_of_a_request() -> None:
    requests = Requests({b"ABC": b""}, b"\n")
    for _ in range(10):
        assert requests.feed(b"x" * 10_000) == []
    assert len(requests._buffer) <= 3
    assert Requests({}, b"\n").feed(b"x") == []


# Faults


def test_a_stalled_device_neither_reads_nor_sends_until_it_is_resumed(device: SimulatedDevice) -> None:
    with with_pyserial(device, timeout=0.2) as host:
        device.wait_opened()
        device.stall()
        host.write(b"a")
        with pytest.raises(TimeoutError, match="only 0 of 1 bytes"):
            device.send(b"b", timeout=0.2)
        assert device.received == b""
        assert host.read(1) == b""
        sent = in_thread(lambda: device.send(b"c"))
        device.resume()
        assert sent.get(timeout=60) is None
        assert host.read(2) == b"c"
        assert device.receive() == b"a"


def test_a_stall_for_seconds_ends_by_itself(device: SimulatedDevice) -> None:
    with with_pyserial(device) as host:
        device.wait_opened()
        begun = time.monotonic()
        device.stall(0.3)
        host.write(b"a")
        device.send(b"b")
        assert device.receive(1) == b"a"
        assert time.monotonic() - begun >= 0.3


def test_a_stalled_device_notices_the_host_closing_and_reads_what_it_left(device: SimulatedDevice) -> None:
    with with_pyserial(device) as host:
        device.wait_opened()
        device.stall()
        host.write(b"a")
    device.wait_closed()
    with pytest.raises(TimeoutError):
        device.receive(timeout=0.1)
    device.resume()
    assert device.receive() == b"a"


@pytest.mark.parametrize("of", ["sent", "received"])
def test_a_stall_at_a_byte(device: SimulatedDevice, of: str) -> None:
    with with_pyserial(device, timeout=0.2) as host:
        device.wait_opened()
        device.stall(at=3, of=of)  # type: ignore[arg-type]
        if of == "sent":
            with pytest.raises(TimeoutError, match="only 3 of 6"):
                device.send(b"abcdef", timeout=0.3)
            assert host.read(6) == b"abc"
            host.write(b"x")
            with pytest.raises(TimeoutError):
                device.receive(timeout=0.1)
            device.resume()
            assert device.receive() == b"x"
        else:
            host.write(b"abcdef")
            assert device.receive(3) == b"abc"
            with pytest.raises(TimeoutError):
                device.receive(timeout=0.2)
            with pytest.raises(TimeoutError):
                device.send(b"x", timeout=0.1)
            device.resume()
            assert device.receive(3) == b"def"


@pytest.mark.parametrize("of", ["sent", "received"])
def test_a_delay_at_a_byte_begins_when_there_is_something_to_hold_up(device: SimulatedDevice, of: str) -> None:
    with with_pyserial(device) as host:
        device.wait_opened()
        device.delay(1, at=2, of=of)  # type: ignore[arg-type]

        def give(data: bytes) -> None:
            if of == "sent":
                device.send(data)
            else:
                host.write(data)

        def take(count: int) -> bytes:
            return host.read(count) if of == "sent" else device.receive(count)

        give(b"ab")
        assert take(2) == b"ab"
        time.sleep(1.05)  # it is over, had it begun when the two bytes were through
        begun = time.monotonic()
        give(b"cd")
        assert take(2) == b"cd"
        assert time.monotonic() - begun >= 1
        give(b"ef")
        assert take(2) == b"ef"
        assert time.monotonic() - begun < 2, "each byte was delayed"


def test_a_delay_in_one_direction_holds_up_only_that(device: SimulatedDevice) -> None:
    with with_pyserial(device) as host:
        device.delay(30, of="received")
        host.write(b"a")
        device.send(b"b")
        assert host.read(1) == b"b"
        assert device.received == b""


@pytest.mark.parametrize("at", [0, 1, 4096, 5000, 12_345])
def test_the_host_gets_exactly_the_bytes_before_a_cut(device: SimulatedDevice, at: int) -> None:
    data = random.Random(at).randbytes(20_000)
    with opened(device) as host:
        device.wait_opened()
        device.cut(at=at)
        sent = in_thread(lambda: device.send(data))
        got = b""
        with contextlib.suppress(OSError):
            while more := os.read(host, 5000):
                got += more
        assert got == data[:at]
        error = sent.get(timeout=60)
        assert isinstance(error, ConnectionError)
        if at:
            assert f"{at} of 20000 bytes had been sent" in str(error)
    assert not device.is_plugged
    assert not os.path.lexists(device.port)


def test_a_cut_comes_with_the_last_byte_and_not_with_the_next(device: SimulatedDevice) -> None:
    with with_pyserial(device) as host:
        device.cut(at=3)
        device.send(b"abc")
        assert host.read(3) == b"abc"
        with pytest.raises(serial.SerialException):
            host.read(1)
    device.plug()
    with with_pyserial(device) as host:
        device.send(b"def")
        assert host.read(3) == b"def"


def test_a_cut_of_what_is_received(device: SimulatedDevice) -> None:
    with with_pyserial(device) as host:
        device.cut(at=5000, of="received")
        host.write(b"x" * 5001)
        device.wait_closed()
        assert device.received == b"x" * 5000
        assert not device.is_plugged
    device.plug()
    with with_pyserial(device) as host:
        host.write(b"yy")
        assert device.receive(5002)[-2:] == b"yy"


def test_a_cut_of_what_is_received_comes_with_the_last_byte(device: SimulatedDevice) -> None:
    with with_pyserial(device) as host:
        device.cut(at=3, of="received")
        host.write(b"abc")
        device.wait_closed()


def test_faults_may_be_ordered_in_any_order(device: SimulatedDevice) -> None:
    with with_pyserial(device) as host:
        device.cut(at=6)
        device.delay(0.3, at=4)
        device.delay(0.3, at=2)
        device.corrupt(at=3)
        device.drop(at=1)
        begun = time.monotonic()
        device.send(b"012345")
        got = host.read(5)
        assert time.monotonic() - begun >= 0.6
        assert got[:2] + got[3:] == b"0245"
        assert got[2:3] != b"3"
        with pytest.raises(serial.SerialException):
            host.read(1)


def test_a_cut_doesnt_wait_for_a_host_that_has_closed(device: SimulatedDevice) -> None:
    with with_pyserial(device):
        device.send(b"abc")
        device.cut(at=0)
        with pytest.raises(TimeoutError):
            device.wait_closed(timeout=0.1)  # the three are still to be read
    deadline = time.monotonic() + 60
    while device.is_plugged:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_cut_now_pulls_a_device_that_nobody_has_open(device: SimulatedDevice) -> None:
    device.cut()
    deadline = time.monotonic() + 60
    while device.is_plugged:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_drops_and_corruptions_at_given_bytes(device: SimulatedDevice) -> None:
    with with_pyserial(device) as host:
        device.send(b"before")
        assert host.read(6) == b"before"
        device.drop(2, at=3)
        device.corrupt(at=7)
        device.send(b"0123456789")
        got = host.read(8)
        assert got[:5] == b"01256"
        assert got[6:] == b"89"
        assert (got[5] ^ ord("7")).bit_count() == 1
        device.drop(of="received")
        device.corrupt(2, at=2, of="received")
        host.write(b"abcde")
        got = device.receive(4)
        assert got[:1] + got[3:] == b"be"
        assert [(a ^ b).bit_count() for a, b in zip(got[1:3], b"cd", strict=True)] == [1, 1]


def test_a_message_that_is_all_dropped_is_sent(device: SimulatedDevice) -> None:
    with with_pyserial(device) as host:
        device.drop(5000)
        device.send(b"x" * 5000)
        device.send(b"y")
        assert host.read(1) == b"y"


def test_noise_is_the_same_for_the_same_seed() -> None:
    data = bytes(5000)

    def heard(seed: int) -> tuple[bytes, bytes]:
        with SimulatedDevice(seed=seed) as device, opened(device) as host:
            device.noise(drop=0.1, corrupt=0.2)
            device.noise(drop=0.1, corrupt=0.2, of="received")
            device.send(data)
            os.write(host, data[:4000])
            os.write(host, data[4000:])
            device.noise(drop=1)  # the end of what is sent: then "end", whole
            device.send(b"lost")
            device.noise()
            device.send(b"end")
            to_host = b""
            while not to_host.endswith(b"end"):
                to_host += os.read(host, 5000)
            device.cut(at=5000 - device._line.incoming.position, of="received")
            device.wait_closed()
            return to_host, device.received

    first = heard(1)
    assert first == heard(1)
    assert first != heard(2)
    assert first[0][:1000] != first[1][:1000], "both directions have the same faults"
    for got in first:
        assert 4300 < len(got) < 4700
        assert 750 < sum(byte.bit_count() == 1 for byte in got) < 1050


@given(st.lists(st.binary(max_size=50)), st.integers(0, 3))
def test_the_cutting_into_chunks_changes_no_fault(chunks: list[bytes], seed: int) -> None:
    def stream() -> Stream:
        stream = Stream(seed, "sent")
        stream.drop(5, 10)
        stream.corrupt(12, 20)
        stream.noise(0.1, 0.1)
        return stream

    cut, whole = stream(), stream()
    assert b"".join(cut.carry(chunk) for chunk in chunks) == whole.carry(b"".join(chunks))
    assert cut.position == whole.position


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda device: device.stall(-1), "seconds must be at least 0, not -1"),
        (lambda device: device.stall(-1, at=1), "seconds must be at least 0"),
        (lambda device: device.stall(at=-1), "at must be at least 0"),
        (lambda device: device.delay(-1), "seconds must be at least 0"),
        (lambda device: device.cut(at=-1), "at must be at least 0"),
        (lambda device: device.cut(of="read"), "of must be 'sent' or 'received', not 'read'"),
        (lambda device: device.drop(0), "count must be at least 1, not 0"),
        (lambda device: device.corrupt(0), "count must be at least 1"),
        (lambda device: device.noise(drop=1.1), "from 0 to 1, not 1.1"),
        (lambda device: device.noise(corrupt=-0.1), "from 0 to 1"),
        (lambda device: device.receive(0), "count of at least 1, not count=0"),
        (lambda device: device.receive(1, until=b"a"), "give until, or a count"),
        (lambda device: device.receive(until=b""), "at least one byte"),
        (lambda device: device.receive(timeout=-1), "timeout must be at least 0"),
        (lambda device: SimulatedDevice(baudrate=0), "baudrate must be above 0"),
        (lambda device: SimulatedDevice(IDN, terminator=b""), "terminator must be at least one byte"),
    ],
)
def test_senseless_arguments_are_refused(
    device: SimulatedDevice, call: Callable[[SimulatedDevice], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(device)


def test_a_terminator_that_isnt_bytes_is_refused() -> None:
    with pytest.raises(TypeError, match="terminator must be bytes"):
        SimulatedDevice(IDN, terminator="\n")  # type: ignore[arg-type]


# The pace of a baud rate


def test_a_paced_device_sends_no_faster_than_its_baud_rate() -> None:
    with SimulatedDevice(baudrate=9600) as device, opened(device) as host:
        device.wait_opened()
        begun = time.monotonic()
        sent = in_thread(lambda: device.send(b"x" * 480))
        arrived = 0
        while arrived < 480:
            select.select([host], [], [], 5)
            arrived += len(os.read(host, 480))
            # No byte is there before its ten bits have been sent, from the first on.
            assert arrived <= (time.monotonic() - begun) * 960
        assert sent.get(timeout=60) is None
        assert time.monotonic() - begun < 2.5, "slower than half the baud rate"


@pytest.mark.parametrize("hold", ["stall", "delay", "opening"])
def test_a_paced_device_doesnt_make_good_for_being_held_up(hold: str) -> None:
    with SimulatedDevice(baudrate=4800) as device:
        if hold == "stall":
            device.stall()
        elif hold == "delay":
            device.delay(0.3)
        device.send(b"x" * 96)  # nobody has the port open
        time.sleep(0.3)
        begun = time.monotonic()
        with opened(device) as host:
            device.wait_opened()
            if hold == "stall":
                begun = time.monotonic()
                device.resume()
            assert read(host, 96) == b"x" * 96
            held = {"stall": 0, "delay": SETTLE + 0.3, "opening": SETTLE}[hold]
            assert time.monotonic() - begun > held + 0.15, "the time was made good"


def test_a_paced_device_doesnt_make_good_for_a_host_that_didnt_read() -> None:
    with SimulatedDevice(baudrate=1_000_000) as device, opened(device) as host:
        device.wait_opened()
        with pytest.raises(TimeoutError, match=r"only \d+ of 60000 bytes") as caught:
            device.send(b"x" * 60_000, timeout=0.5)
        fits = int(str(caught.value).split()[1])
        assert read_all(host) == b"x" * fits
        sent = in_thread(lambda: device.send(b"y" * 60_000))
        time.sleep(0.5)
        begun = time.monotonic()
        assert read(host, 60_000) == b"y" * 60_000
        assert time.monotonic() - begun > (60_000 - fits) / 100_000 / 2, "the time was made good"
        assert sent.get(timeout=60) is None


# Threads, descriptors, and systems without ptys


def test_200_plug_cycles_leak_no_descriptor_and_no_thread() -> None:
    SimulatedDevice().close()
    before, threads = descriptors(), threading.active_count()
    with SimulatedDevice(IDN) as device:
        plugged, running = descriptors(), threading.active_count()
        for _ in range(200):
            with with_pyserial(device) as host:
                host.write(b"\x05")
                assert host.read(1) == b"\x06"
                device.unplug()
            device.plug()
        assert (descriptors(), threading.active_count()) == (plugged, running)
    assert (descriptors(), threading.active_count()) == (before, threads)


def test_close_takes_all_away() -> None:
    before, threads = descriptors(), threading.active_count()
    device = SimulatedDevice(IDN)
    with opened(device) as host:
        waiting = [in_thread(lambda: device.receive(timeout=60)), in_thread(lambda: device.wait_opened(timeout=30))]
        waiting.pop().get(timeout=60)
        device.close()
        assert os.read(host, 1) == b""
        assert isinstance(waiting.pop().get(timeout=60), RuntimeError)
    assert not os.path.exists(os.path.dirname(device.port))
    deadline = time.monotonic() + 60
    while threading.active_count() > threads:
        assert time.monotonic() < deadline
    assert descriptors() == before
    device.close()


@pytest.mark.parametrize(
    "call",
    [
        SimulatedDevice.plug,
        SimulatedDevice.unplug,
        SimulatedDevice.stall,
        SimulatedDevice.resume,
        SimulatedDevice.cut,
        SimulatedDevice.drop,
        SimulatedDevice.drain,
        SimulatedDevice.receive,
        lambda device: device.send(b"a"),
    ],
)
def test_a_closed_device_says_so(call: Callable[[SimulatedDevice], object]) -> None:
    device = SimulatedDevice()
    device.close()
    with pytest.raises(RuntimeError, match="has been closed"):
        call(device)


def test_all_threads_are_daemons() -> None:
    with SimulatedDevice(IDN) as device:
        ours = [thread for thread in threading.enumerate() if device.port in thread.name]
        assert len(ours) == 2
        assert all(thread.daemon for thread in ours)


def test_repr(device: SimulatedDevice) -> None:
    assert repr(device) == f"<SimulatedDevice {device.port}, plugged in>"
    device.unplug()
    assert repr(device) == f"<SimulatedDevice {device.port}, unplugged>"
    device.close()
    assert repr(device) == f"<SimulatedDevice {device.port}, closed>"


def test_an_idle_device_costs_next_to_nothing(device: SimulatedDevice) -> None:
    def cost() -> float:
        begun = time.thread_time(), time.process_time()
        time.sleep(0.5)
        return time.process_time() - begun[1]

    assert cost() < 0.05, "spins while nobody has the port open"
    with opened(device):
        device.wait_opened()
        assert cost() < 0.01, "spins while the port is open"
        device.stall()
        assert cost() < 0.01, "spins while stalled"


def test_where_no_pty_can_be_had_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    before, threads = descriptors(), threading.active_count()

    def none_left() -> tuple[int, int]:
        raise OSError(errno.ENOSPC, "out of pty devices")

    monkeypatch.setattr(os, "openpty", none_left)
    with pytest.raises(OSError, match="out of pty devices"):
        SimulatedDevice()
    assert (descriptors(), threading.active_count()) == (before, threads)


def test_a_pty_that_cant_be_set_up_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()

    def fails(descriptor: int) -> str:
        raise OSError(errno.ENODEV, "no name")

    monkeypatch.setattr(os, "ttyname", fails)
    with pytest.raises(OSError, match="no name"):
        PseudoTerminal()
    assert descriptors() == before


def test_a_read_of_nothing_is_silence_and_one_that_fails_otherwise_isnt() -> None:
    pty = PseudoTerminal()
    assert pty.read(1) == (b"", False)
    host = os.open(pty.path, os.O_RDWR | os.O_NOCTTY)
    assert pty.read(1) == (b"", False)
    os.close(host)
    pty.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        pty.read(1)


def test_where_there_is_no_termios_there_are_no_ptys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "termios", None)
    assert runpy.run_path(str(cnxman.testing.pty.__file__))["HAVE_PTYS"] is False


def test_end_of_file_at_the_master_is_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """So BSD and macOS say that nobody has the port open."""
    pty = PseudoTerminal()
    with monkeypatch.context() as patched:
        patched.setattr(os, "read", lambda descriptor, limit: b"")
        assert pty.read(1) == (b"", False)
    pty.close()


def test_the_examples_of_the_docstrings_run() -> None:
    result = doctest.testmod(cnxman.testing.device)
    assert result.attempted
    assert not result.failed


# The pytest plugin


def test_the_fixture_gives_a_plugged_device(serial_device: SimulatedDevice) -> None:
    with with_pyserial(serial_device) as host:
        serial_device.send(b"hello")
        assert host.read(5) == b"hello"


def test_the_fixture_closes_its_device(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import os\n"
        "ports = []\n"
        "def test_1(serial_device):\n"
        "    ports.append(serial_device.port)\n"
        "    assert os.path.exists(serial_device.port)\n"
        "def test_2(serial_device):\n    assert serial_device.port not in ports and not os.path.lexists(ports[0])\n"
    )
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_a_line_that_is_full_takes_nothing_and_waits_for_nobody() -> None:
    terminal = PseudoTerminal()
    slave = os.open(terminal.path, os.O_RDWR | os.O_NOCTTY)
    try:
        assert any(terminal.write(bytes(4096)) == 0 for _ in range(1000))
    finally:
        os.close(slave)
        terminal.close()


def test_a_child_closes_no_copy_of_a_line_that_was_hung_up_before() -> None:
    """The number would be somebody else's by then."""
    terminal = PseudoTerminal()
    terminal.close()
    terminal.abandon()
    assert terminal.master == -1
