"""A line to a port that is read and written by its own methods, because a URL leads to it."""

import errno
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import serial

from cnxman import ConnectionException, SerialConnection
from cnxman._line import kinds
from cnxman._line.url import url_line
from cnxman.testing import SimulatedDevice
from tests.kit.lines import Hearer, no_leak
from tests.kit.managers import wait_until


@pytest.fixture
def spied(serial_device: SimulatedDevice) -> str:
    return f"spy://{serial_device.port}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The far end of a `socket://`, which is read and written by its own methods, as on Windows."""
    monkeypatch.setattr(kinds, "has_descriptor", lambda port: False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def url_of(server: socket.socket) -> str:
    return f"socket://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("timeout", [0, 0.2])
def test_write_that_times_out_does_not_spin_and_counts_truly(
    serial_device: SimulatedDevice, spied: str, timeout: float
) -> None:
    connection = SerialConnection(spied, write_timeout=timeout)
    with no_leak():
        assert connection.try_connect()
        serial_device.wait_opened()
        serial_device.stall()
        began, used = time.monotonic(), time.process_time()
        with pytest.raises(ConnectionException) as failed:
            connection.write(bytes(200_000))
        assert time.monotonic() - began < timeout + 2
        assert time.process_time() - used < 1
        written = failed.value.written
        assert written
        serial_device.resume()
        assert serial_device.receive(written) == bytes(written)
        connection.write(b"end")
        assert serial_device.receive(3) == b"end", "nothing more had gone out"
        connection.teardown()


def test_stop_ends_a_write_to_a_spied_port(serial_device: SimulatedDevice, spied: str) -> None:
    connection = SerialConnection(spied, write_timeout=None)
    with no_leak():
        assert connection.try_connect()
        serial_device.stall()
        failed: list[ConnectionException] = []

        def write() -> None:
            with pytest.raises(ConnectionException) as raised:
                connection.write(bytes(200_000))
            failed.append(raised.value)

        writer = threading.Thread(target=write)
        writer.start()
        time.sleep(0.2)
        connection.teardown()
        writer.join(60)
        assert failed
        assert 0 < (failed[0].written or 0) < 200_000


def test_reading_a_spied_port_goes_on_while_a_receiver_is_busy(serial_device: SimulatedDevice, spied: str) -> None:
    go, data = threading.Event(), bytearray()

    def receive(data_: bytes) -> None:
        data.extend(data_)
        go.wait(60)

    connection = SerialConnection(spied)
    connection.subscribe(lambda data: receive(data))
    with no_leak():
        assert connection.try_connect()
        serial_device.send(bytes(300_000))
        serial_device.drain()
        assert len(data) < 300_000
        go.set()
        wait_until(lambda: len(data) == 300_000, "all came")
        connection.teardown()


def test_socket_is_read_in_large_pieces(server: socket.socket) -> None:
    connection = SerialConnection(url_of(server))
    hearer = Hearer(connection)
    with no_leak():
        assert connection.try_connect()
        with server.accept()[0] as client:
            client.sendall(bytes(1_000_000))
            wait_until(lambda: connection.statistics.bytes_in == 1_000_000, "all came")
            assert connection.statistics.chunks < 2000
            assert connection.write(b"back") == 4
            assert client.recv(4) == b"back"
        hearer.wait_for_event("alarm")
        assert "the other end closed the connection" in str(connection.last_error)
        assert connection.last_error is not None
        assert connection.last_error.errno == errno.ECONNRESET
        connection.teardown()


def test_write_to_a_socket_nobody_reads_counts_truly(server: socket.socket) -> None:
    connection = SerialConnection(url_of(server), write_timeout=0.3)
    with no_leak():
        assert connection.try_connect()
        with server.accept()[0] as client:
            with pytest.raises(ConnectionException) as failed:
                connection.write(bytes(20_000_000))
            connection.teardown()
            came = 0
            while data := client.recv(1 << 20):
                came += len(data)
        assert failed.value.written == came


def test_error_with_a_number_of_its_own_is_left_as_it_is(server: socket.socket) -> None:
    with serial.serial_for_url(url_of(server)) as port:
        line = url_line(port, None)
        reset = serial.SerialException("connection failed")
        reset.__context__ = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        assert line._calls.explain(reset) is reset
        line.close()


def test_loop_that_takes_nothing_more_is_a_time_out() -> None:
    connection = SerialConnection("loop://", 115200, write_timeout=0.2, buffer_size=1000)
    release = threading.Event()
    connection.subscribe(lambda: release.wait(60), SerialConnection.Signals.OPENED)
    with no_leak():
        assert connection.try_connect()
        with pytest.raises(ConnectionException, match="took nothing"):
            connection.write(bytes(20_000))
        release.set()
        connection.teardown()
