"""Ports by URL: pyserial's schemes as lines, what each of them may touch, and the allow-list."""

import errno
import os
import pkgutil
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import serial
import serial.urlhandler
from serial.tools import list_ports
from serial.tools.list_ports_common import ListPortInfo

from cnxman._line.errors import PeerClosedError
from cnxman._line.settling import wait_until_settled
from cnxman.basics import ConnectionException, ConnectionManager
from cnxman.retry import RetryPolicy
from cnxman.serial import SerialConnection
from tests.kit.lines import BOUND, Hearer, Pty, no_leak, pattern, wait_until, warnings_of
from tests.kit.managers import Caller

STOP_WITHIN = 3.0  # seconds, on a busy machine; how long it takes on a quiet one is for benchmarks

FASTEST = 4_000_000
"""Bits per second: `loop://` refuses what would take longer to send than `write_timeout`."""


@pytest.fixture
def pty() -> Iterator[Pty]:
    with Pty() as pty:
        yield pty


def stops_promptly(connection: SerialConnection) -> None:
    began = time.monotonic()
    connection.disconnect()
    assert time.monotonic() - began < STOP_WITHIN


# -- loop:// ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [None, 0, 0.01, 3])
def test_loop_gives_back_what_is_written(timeout: float | None) -> None:
    connection = SerialConnection("loop://", FASTEST, timeout=timeout)
    hearer = Hearer(connection)
    data = pattern(50_000)
    with no_leak():
        assert connection.try_connect()
        assert connection.is_connected
        assert connection.write(b"x") == 1
        hearer.wait_for_data(b"x")
        assert connection.write(data) == len(data)
        hearer.wait_for_data(b"x" + data)
        assert min(hearer.chunks) > 0
        stops_promptly(connection)
    assert hearer.names == ["opened", "data", "closed"]
    with pytest.raises(ConnectionException, match="is not connected"):
        connection.write(b"x")


def test_loop_survives_200_quick_stops_and_starts() -> None:
    connection = SerialConnection("loop://", FASTEST, timeout=0.001)
    hearer = Hearer(connection)
    with no_leak():
        for number in range(200):
            assert connection.try_connect()
            if number % 2:
                connection.write(b"some")
            connection.disconnect()
    assert hearer.alarms == []


def test_loop_with_a_slow_receiver_keeps_the_order() -> None:
    connection = SerialConnection("loop://", FASTEST)
    heard = bytearray()

    def slow(data: bytes) -> None:
        time.sleep(0.002)
        heard.extend(data)

    connection.subscribe(slow)
    data = pattern(40_000)
    with no_leak():
        assert connection.try_connect()
        assert connection.write(data) == len(data)  # more than its queue takes: it waits for the reader
        wait_until(lambda: len(heard) >= len(data), "all was heard")
        assert heard == data
        connection.teardown()


# -- socket:// --------------------------------------------------------------------------------------------


class FarEnd:
    """A server of one connection at a time."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.url = f"socket://127.0.0.1:{self.port}"
        self.client: socket.socket | None = None

    def accept(self) -> socket.socket:
        self._server.settimeout(BOUND)
        self.client, _ = self._server.accept()
        self.client.settimeout(BOUND)
        return self.client

    def reset(self) -> None:
        """Break the connection off, as a host that was switched off and on does."""
        assert self.client is not None
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.hang_up()

    def hang_up(self) -> None:
        if self.client is not None:
            self.client.close()
            self.client = None

    def close(self) -> None:
        self.hang_up()
        self._server.close()


@pytest.fixture
def far_end() -> Iterator[FarEnd]:
    end = FarEnd()
    yield end
    end.close()


def test_socket_carries_data_both_ways_in_chunks(far_end: FarEnd) -> None:
    connection = SerialConnection(far_end.url, timeout=0)
    hearer = Hearer(connection)
    data = pattern(1_000_000)
    assert connection.try_connect()
    client = far_end.accept()
    sender = Caller(lambda: client.sendall(data))
    hearer.wait_for_data(data)
    sender.join()
    assert len(hearer.chunks) < 2000, "not byte by byte"
    writer = Caller(lambda: connection.write(data))
    received = b""
    while len(received) < len(data):
        received += client.recv(65536)
    assert received == data
    assert writer.join() == len(data)
    stops_promptly(connection)
    assert client.recv(1) == b""
    assert hearer.alarms == []


@pytest.mark.parametrize("how", [FarEnd.hang_up, FarEnd.reset])
def test_the_loss_of_a_sockets_far_end_is_an_alarm_after_its_last_words(
    far_end: FarEnd, how: Callable[[FarEnd], None], caplog: pytest.LogCaptureFixture
) -> None:
    connection = SerialConnection(far_end.url)
    hearer = Hearer(connection)
    with no_leak():
        assert connection.try_connect()
        far_end.accept().sendall(b"last words")
        hearer.wait_for_data(b"last words")
        how(far_end)
        hearer.wait_for_event("alarm")
        connection.teardown()
    assert hearer.names == ["opened", "data", "closed", "alarm"]
    assert len(hearer.alarms) == 1
    assert "the other end closed the connection" in str(hearer.alarms[0])
    assert hearer.alarms[0].errno == errno.ECONNRESET
    assert len(warnings_of(caplog)) == 1


def test_a_socket_comes_back_under_a_manager(far_end: FarEnd) -> None:
    connection = SerialConnection(far_end.url)
    hearer = Hearer(connection)
    with ConnectionManager(connection, retry=RetryPolicy(0.01, 1, 0.01, 0)) as manager:
        for number in range(3):
            client = far_end.accept()
            hearer.wait_for_event("opened", number + 1)
            assert manager.wait_until_connected(BOUND)
            client.sendall(b"%d" % number)
            hearer.wait_for(lambda number=number: hearer.data.endswith(b"%d" % number))
            connection.write(b"answer")
            assert client.recv(6) == b"answer"
            far_end.hang_up()
            hearer.wait_for_event("alarm", number + 1)
        far_end.accept()
    assert hearer.data == b"012"


def test_a_socket_whose_far_end_does_not_read_stalls_and_times_out(far_end: FarEnd) -> None:
    connection = SerialConnection(far_end.url, write_timeout=0.2)
    assert connection.try_connect()
    far_end.accept()
    with pytest.raises(ConnectionException, match=r"of 50000000 bytes were written.*took nothing for 0\.2 s"):
        connection.write(bytes(50_000_000))
    assert connection.is_connected
    connection.teardown()


def test_the_overflow_reader_takes_over_on_a_socket_too(far_end: FarEnd) -> None:
    connection = SerialConnection(far_end.url)
    begun, go_on = threading.Event(), threading.Event()
    heard = bytearray()

    def stall(data: bytes) -> None:
        begun.set()
        assert go_on.wait(BOUND)
        heard.extend(data)

    connection.subscribe(stall)
    data = pattern(8_000_000)
    with no_leak():
        assert connection.try_connect()
        client = far_end.accept()
        client.sendall(b"!")
        assert begun.wait(BOUND)
        client.sendall(data)  # more than the kernel keeps: somebody reads
        far_end.hang_up()
        wait_until(lambda: not connection.is_connected, "the loss is noticed")
        go_on.set()
        wait_until(lambda: len(heard) == len(data) + 1, "all was heard")
        assert heard == b"!" + data
        connection.teardown()


@pytest.mark.parametrize("how", [FarEnd.hang_up, FarEnd.reset])
def test_settle_refuses_a_socket_that_closes_at_once(far_end: FarEnd, how: Callable[[FarEnd], None]) -> None:
    connection = SerialConnection(far_end.url, settle=BOUND)
    hearer = Hearer(connection)
    with no_leak():
        attempt = Caller(connection.try_connect)
        far_end.accept().sendall(b"no device\r\n")
        how(far_end)
        assert attempt.join() is False
    assert "the other end closed the connection" in str(connection.last_error)
    assert connection.last_error.errno == errno.ECONNRESET
    assert hearer.names == []


def test_settle_repeats_what_the_other_end_said(far_end: FarEnd) -> None:
    port = serial.serial_for_url(far_end.url)  # which discards what has come by now
    far_end.accept().sendall(b"no \xff device\r\n")
    far_end.hang_up()
    with pytest.raises(PeerClosedError, match="closed the connection within 10 s, saying 'no \ufffd device'"):
        wait_until_settled(port, 10)
    port.close()


def is_within(thread: threading.Thread, function: Callable[..., object]) -> bool:
    """Whether a thread is within a call of a function."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None and frame.f_code is not function.__code__:  # type: ignore[attr-defined]
        frame = frame.f_back
    return frame is not None


def test_settle_keeps_what_comes_meanwhile(far_end: FarEnd) -> None:
    connection = SerialConnection(far_end.url, settle=0.2)
    hearer = Hearer(connection)
    began = time.monotonic()
    attempt = Caller(connection.try_connect)
    far_end_socket = far_end.accept()
    wait_until(lambda: is_within(attempt.thread, wait_until_settled), "pyserial has discarded what came before")
    far_end_socket.sendall(b"hello")
    assert attempt.join() is True
    assert time.monotonic() - began >= 0.18  # Windows' clock is coarse
    hearer.wait_for_data(b"hello")
    connection.teardown()


def test_settle_holds_up_no_other_port(pty: Pty) -> None:
    connection = SerialConnection(pty.path, settle=1000)
    assert connection.try_connect()
    connection.teardown()


# -- spy://, alt://, hwgrep:// ----------------------------------------------------------------------------


def test_spy_shows_what_goes_over_the_line_and_loses_nothing(pty: Pty, capsys: pytest.CaptureFixture[str]) -> None:
    """It is read by its own methods; what it shows is pyserial's own."""
    connection = SerialConnection(f"spy://{pty.path}")
    hearer = Hearer(connection)
    data = pattern(30_000)
    assert connection.try_connect()
    pty.send(b"hello")
    hearer.wait_for_data(b"hello")
    pty.send(data)
    hearer.wait_for_data(b"hello" + data)
    assert len(hearer.chunks) < 3000, "not byte by byte"
    connection.write(b"world")
    assert pty.receive(5) == b"world"
    pty.pull()
    hearer.wait_for_event("alarm")
    assert hearer.names == ["opened", "data", "closed", "alarm"]
    assert "was lost" in str(hearer.alarms[0])
    shown = capsys.readouterr().err
    assert "68" in shown
    assert "77 6F 72 6C 64" in shown


@pytest.mark.parametrize("kind", ["Serial", "PosixPollSerial", "VTIMESerial"])
@pytest.mark.parametrize("timeout", [None, 0, 0.01])
def test_alt_uses_pyserials_other_classes(pty: Pty, kind: str, timeout: float | None) -> None:
    connection = SerialConnection(f"alt://{pty.path}?class={kind}", timeout=timeout)
    hearer = Hearer(connection)
    with no_leak():
        assert connection.try_connect(), connection.last_error
        time.sleep(0.3)  # a line that is silent for longer than a read waits is none that is lost
        pty.send(b"x")
        hearer.wait_for_data(b"x")
        data = pattern(20_000)
        pty.send(data)
        hearer.wait_for_data(b"x" + data)
        connection.write(b"y")
        assert pty.receive(1) == b"y"
        stops_promptly(connection)
    assert hearer.names == ["opened", "data", "closed"]


def test_alt_with_a_class_that_is_none_is_a_failed_attempt(pty: Pty) -> None:
    for kind in ("Nonsense", "SerialException", "os"):
        connection = SerialConnection(f"alt://{pty.path}?class={kind}")
        assert not connection.try_connect()
        assert kind in str(connection.last_error)


def test_hwgrep_opens_the_first_port_that_matches(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    info = ListPortInfo(pty.device)
    info.description, info.hwid = "The pump", "USB VID:PID=0403:6001 SER=P1"
    listed = [ListPortInfo("/dev/nothing"), info]
    monkeypatch.setattr(list_ports, "comports", lambda *_: listed)
    connection = SerialConnection("hwgrep://pump")
    hearer = Hearer(connection)
    with no_leak():
        assert connection.try_connect()
        pty.send(b"x")
        hearer.wait_for_data(b"x")
        connection.disconnect()
        listed.pop()
        assert not connection.try_connect()
        assert connection.last_error is not None
        listed.append(info)
        assert connection.try_connect()
        connection.teardown()


def test_hwgrep_survives_an_enumeration_that_races_with_a_pull(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    def vanished(*_: object) -> list[Any]:
        raise TypeError("expected str, bytes or os.PathLike object, not NoneType")

    monkeypatch.setattr(list_ports, "comports", vanished)
    connection = SerialConnection("hwgrep://pump")
    with no_leak():
        assert not connection.try_connect()
    assert connection.presence() in (None, False)


def test_a_link_as_udev_makes_it_leads_to_the_port(pty: Pty, tmp_path: Path) -> None:
    link = tmp_path / "usb-FTDI_FT232R_USB_UART_A50285BI-if00-port0"
    link.symlink_to(pty.device)
    connection = SerialConnection(str(link))
    with no_leak():
        assert connection.try_connect()
        link.unlink()
        assert connection.is_connected
        assert connection.presence() is False
        connection.teardown()


# -- what a port string can do ----------------------------------------------------------------------------

SCHEMES = {
    "alt": "chooses a class of pyserial's",
    "cp2110": "opens a HID device",
    "hwgrep": "searches by a pattern, which may take its time",
    "loop": "nothing",
    "managed": "our own, for pyserial's users: opens what stands behind it",
    "simulated": "our own: nothing, but in a process with a simulated device",
    "rfc2217": "opens a socket",
    "socket": "opens a socket",
    "spy": "writes a file",
    "usb": "our own: searches",
}
"""What a port string from somebody else could do besides opening a port."""


def test_these_are_all_the_schemes_there_are() -> None:
    """Should pyserial get another one, it is to be looked at, and told of in the documentation."""
    found = {
        module.name.removeprefix("protocol_")
        for package in serial.protocol_handler_packages
        for module in pkgutil.iter_modules(__import__(package, fromlist=["x"]).__path__)
        if module.name.startswith("protocol_")
    }
    assert found <= set(SCHEMES)
    assert found >= {"alt", "hwgrep", "loop", "rfc2217", "socket", "spy", "usb"}


URLS = {
    "": "/dev/ttyUSB0",
    "alt": "alt:///dev/ttyUSB0?class=PosixPollSerial",
    "hwgrep": "hwgrep://pump",
    "loop": "loop://",
    "simulated": "simulated://1",
    "rfc2217": "rfc2217://localhost:1",
    "socket": "socket://localhost:1",
    "spy": "spy:///dev/ttyUSB0?file=/tmp/cnxman-must-not-be-written",
    "usb": "usb://0403:6001",
}


@pytest.mark.parametrize("scheme", URLS)
def test_making_a_connection_opens_nothing(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Any:
        raise AssertionError("something was opened")

    SerialConnection(URLS[scheme])  # whose handler is imported now
    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(list_ports, "comports", refuse)
    connection = SerialConnection(URLS[scheme])
    monkeypatch.undo()
    assert connection.port == URLS[scheme]
    assert not os.path.exists("/tmp/cnxman-must-not-be-written")


@pytest.mark.parametrize("allowed", URLS)
def test_the_allow_list_allows_what_is_on_it_and_nothing_else(allowed: str) -> None:
    for scheme, url in URLS.items():
        if scheme == allowed:
            assert SerialConnection(url, schemes=[allowed]).port == url
            assert SerialConnection(url, schemes={allowed, "loop", ""}).port == url
            assert SerialConnection(url, schemes=None).port == url
        else:
            with pytest.raises(ValueError, match="is not allowed here: only"):
                SerialConnection(url, schemes=[allowed])


@pytest.mark.parametrize(
    "port",
    [
        "SPY:///dev/x?file=/tmp/f",
        "Spy://x",
        "spy://spy://x",
        "socket://usb://0403:6001",
        " spy:///dev/x",
        "spy\n:///dev/x",
        "alt://x?class=Serial",
        "loop://?logging=debug",
    ],
)
def test_no_spelling_gets_past_the_allow_list(port: str) -> None:
    with pytest.raises(ValueError, match="is not allowed here"):
        SerialConnection(port, schemes=["", "usb"])


def test_the_error_names_what_is_allowed() -> None:
    with pytest.raises(ValueError, match="only plain device names, usb://"):
        SerialConnection("loop://", schemes=["", "usb"])
    with pytest.raises(ValueError, match="only nothing"):
        SerialConnection("/dev/ttyUSB0", schemes=[])
    assert SerialConnection("LOOP://", schemes=["loop"]).try_connect.__self__.port == "LOOP://"


@pytest.mark.parametrize("port", ["gopher://x", "://x", "..://x", "a.b://x", "cnxman/x://y", "é://x", "1://x"])
def test_a_scheme_that_nobody_knows_is_refused_at_construction(port: str) -> None:
    with pytest.raises(ValueError, match="pyserial knows no scheme"):
        SerialConnection(port)


def test_an_upper_case_scheme_works() -> None:
    connection = SerialConnection("LOOP://", FASTEST)
    hearer = Hearer(connection)
    with no_leak():
        assert connection.try_connect()
        connection.write(b"x")
        hearer.wait_for_data(b"x")
        connection.teardown()
