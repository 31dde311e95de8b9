"""The documentation's connection of one's own, `docs/examples/tcp_heartbeat.py`, before a real server on a socket."""

import importlib.util
import queue
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cnxman import ConnectionManager, ConnectionState, RetryPolicy

PATIENCE = 60.0
QUICK = RetryPolicy(0.02, 1, 0.02, 0)
SOURCE = Path(__file__).parents[2] / "docs" / "examples" / "tcp_heartbeat.py"


@pytest.fixture(scope="module")
def example() -> Any:
    spec = importlib.util.spec_from_file_location("tcp_heartbeat", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Device:
    """Listens at one address, across its own outages; `call()` is the next one that comes in."""

    def __init__(self) -> None:
        self.calls: queue.Queue[socket.socket] = queue.Queue()
        self._all: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = self._server.getsockname()
        self._serve()

    def _serve(self) -> None:
        self._thread = threading.Thread(target=self._accept, args=(self._server,), daemon=True)
        self._thread.start()

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                line, _ = server.accept()
            except OSError:
                return
            line.settimeout(PATIENCE)
            self._all.append(line)
            self.calls.put(line)

    def call(self) -> socket.socket:
        return self.calls.get(timeout=PATIENCE)

    def go_down(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(PATIENCE)
        for line in self._all:
            line.close()
        self._all.clear()

    def come_back(self) -> None:
        self._server = socket.create_server(self.address, reuse_port=False)
        self._serve()


@pytest.fixture
def device() -> Iterator[Device]:
    device = Device()
    yield device
    device.go_down()


class Ear:
    """What a connection and its manager tell."""

    def __init__(self, connection: Any, manager: ConnectionManager, module: Any) -> None:
        self.data: queue.Queue[bytes] = queue.Queue()
        self.states: queue.Queue[tuple[ConnectionState, str]] = queue.Queue()
        connection.subscribe(lambda data: self.data.put(data), module.TcpConnection.Signals.DATA_RECEIVED)
        manager.subscribe(lambda state, error: self.states.put((state, str(error or ""))))

    def wait_for(self, wanted: str) -> str:
        while True:
            state, error = self.states.get(timeout=PATIENCE)
            if state == wanted:
                return error


def test_data_both_ways_and_back_after_an_outage(example: Any, device: Device) -> None:
    connection = example.TcpConnection(*device.address)
    manager = ConnectionManager(connection, retry=QUICK)
    ear = Ear(connection, manager, example)
    with manager:
        for _ in range(2):
            ear.wait_for("connected")
            line = device.call()
            connection.write(b"hello\n")
            assert line.recv(100) == b"hello\n"
            line.sendall(b"21.5\n")
            assert ear.data.get(timeout=PATIENCE) == b"21.5\n"
            device.go_down()
            assert "was lost" in ear.wait_for("recovering")
            assert "cannot reach" in ear.wait_for("recovering")
            device.come_back()
        ear.wait_for("connected")
        assert connection.last_error is None


def test_silence_is_asked_and_then_is_a_loss(example: Any, device: Device) -> None:
    connection = example.TcpConnection(*device.address, interval=0.1, missed=3)
    manager = ConnectionManager(connection, retry=QUICK)
    ear = Ear(connection, manager, example)
    with manager:
        ear.wait_for("connected")
        line = device.call()
        for _ in range(5):  # it answers, so it is not lost
            assert line.recv(5) == b"PING\n"
            line.sendall(b"PONG\n")
            assert ear.data.get(timeout=PATIENCE) == b"PONG\n"
        assert ear.states.empty()
        assert "3 heartbeats without an answer" in ear.wait_for("recovering")
        ear.wait_for("connected")


def test_disconnecting_is_no_alarm(example: Any, device: Device) -> None:
    connection = example.TcpConnection(*device.address)
    alarms: list[object] = []
    connection.subscribe(lambda error: alarms.append(error))
    manager = ConnectionManager(connection)
    manager.connect()
    line = device.call()
    manager.disconnect()
    assert line.recv(1) == b""
    manager.teardown()
    manager.teardown()
    with pytest.raises(Exception, match="is not connected"):
        connection.write(b"hello")
    for thread in threading.enumerate():
        if thread.name == f"listener of {connection}":
            thread.join(PATIENCE)
            assert not thread.is_alive()
    assert alarms == []


def test_a_receiver_may_disconnect(example: Any, device: Device) -> None:
    connection = example.TcpConnection(*device.address)
    manager = ConnectionManager(connection)
    ear = Ear(connection, manager, example)
    connection.subscribe(lambda data: manager.disconnect(), example.TcpConnection.Signals.DATA_RECEIVED)
    manager.connect()
    device.call().sendall(b"enough\n")
    ear.wait_for("disconnected")
    manager.teardown()
