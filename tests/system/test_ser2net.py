"""Ports on another machine: a real ser2net before a simulated device, by rfc2217:// and socket://.

Killed and started again, and with the network cut so that nothing answers.
"""

import contextlib
import gc
import logging
import os
import select
import shutil
import socket
import struct
import subprocess
import termios
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cnxman import ConnectionManager, RetryPolicy, SerialConnection
from cnxman.testing import SimulatedDevice
from tests.kit.tcp_ports import free_port

pytestmark = [
    pytest.mark.skipif(not shutil.which("ser2net"), reason="ser2net is not installed"),
    # pyserial's rfc2217 port, at each opening:
    pytest.mark.filterwarnings(r"ignore:set(Daemon|Name)\(\) is deprecated:DeprecationWarning"),
]

PATIENCE = 60.0
QUICK = RetryPolicy(0.05, 1, 0.05, 0)
EVERY_BYTE = bytes(range(256))  # with 255, which telnet doubles, and the flow control characters
SCHEMES = ["rfc2217", "socket"]

CONFIG = """\
%YAML 1.1
---
connection: &rfc2217
  accepter: telnet(rfc2217),tcp,127.0.0.1,{rfc2217}
  connector: serialdev,{device},9600n81,local
  options: {{kickolduser: true}}
connection: &socket
  accepter: tcp,127.0.0.1,{socket}
  connector: serialdev,{device},9600n81,local
  options: {{kickolduser: true}}
"""


def wait_until(true: Callable[[], object], what: str) -> None:
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until, what
        time.sleep(0.005)


def is_listening(port: int) -> bool:
    """Whether anybody listens there, without calling: a call would open the device."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[3] == "0A" and int(row[1].split(":")[1], 16) == port for row in rows)


class Server:
    """A ser2net before a device; it can be killed, and started again at the same address."""

    def __init__(self, device: SimulatedDevice, folder: Path) -> None:
        self.device = device
        self.ports = {scheme: free_port() for scheme in SCHEMES}
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        config = self._folder / "ser2net.yaml"
        config.write_text(CONFIG.format(device=self.device.port, **self.ports))
        with (self._folder / "ser2net.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["ser2net", "-d", "-u", "-c", str(config), "-P", str(self._folder / "pid")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        for port in self.ports.values():
            wait_until(lambda port=port: is_listening(port), f"ser2net did not start: {self._folder}/ser2net.log")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def url(self, scheme: str, port: int | None = None) -> str:
        options = "?ign_set_control" if scheme == "rfc2217" else ""
        return f"{scheme}://127.0.0.1:{port or self.ports[scheme]}{options}"

    def termios(self) -> list[object]:
        """The device's settings, as ser2net has set them."""
        line = os.open(self.device.port, os.O_RDWR | os.O_NOCTTY)
        try:
            return termios.tcgetattr(line)
        finally:
            os.close(line)


class Network:
    """A relay before a server: `cut()`, and nothing goes through any more, though nobody hangs up."""

    def __init__(self, port: int) -> None:
        self._server = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._bell, self._ear = socket.socketpair()
        self._cut = False
        self._orders: list[str] = []
        self._peers: dict[socket.socket, socket.socket] = {}
        self._thread = threading.Thread(target=self._relay, name="network")
        self._thread.start()

    def cut(self) -> None:
        """From now on nothing goes through."""
        self._order("cut")

    def hang_up(self, *, reset: bool = False) -> None:
        """Hang up on everybody, by a reset if asked for, and let new callers through again."""
        self._order("reset" if reset else "hang up")

    def _order(self, order: str) -> None:
        self._orders.append(order)
        self._bell.send(b"!")

    def close(self) -> None:
        self._bell.close()
        self._thread.join()
        for one in [self._listening, self._ear, *self._peers]:
            one.close()

    def _relay(self) -> None:
        while True:
            heard = [self._ear, self._listening, *([] if self._cut else self._peers)]
            ready, _, _ = select.select(heard, [], [])
            if self._ear in ready:
                if not self._ear.recv(1):
                    return
                self._obey(self._orders.pop(0))
                continue
            for one in ready:
                if one is self._listening:
                    self._call()
                elif one in self._peers:
                    self._pass_on(one)

    def _call(self) -> None:
        caller, _ = self._listening.accept()
        if self._cut:
            self._peers[caller] = caller
            return
        with contextlib.suppress(ConnectionRefusedError):
            called = socket.create_connection(("127.0.0.1", self._server))
            self._peers[caller], self._peers[called] = called, caller
            return
        caller.close()

    def _pass_on(self, one: socket.socket) -> None:
        other = self._peers[one]
        with contextlib.suppress(ConnectionError):
            if data := one.recv(65536):
                other.sendall(data)
                return
        for end in (one, other):
            del self._peers[end]
            end.close()

    def _obey(self, order: str) -> None:
        self._cut = order == "cut"
        if not self._cut:
            for one in self._peers:
                if order == "reset":
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.close()
            self._peers.clear()


class Heard:
    """What a connection delivers, and how it ends."""

    def __init__(self, connection: SerialConnection) -> None:
        self.data = bytearray()
        self.ends: list[Exception | None] = []
        self._change = threading.Condition()
        connection.subscribe(self._on_data)
        connection.subscribe(self._on_closed, SerialConnection.Signals.CLOSED)

    def _on_data(self, data: bytes) -> None:
        with self._change:
            self.data += data
            self._change.notify_all()

    def _on_closed(self, error: Exception | None) -> None:
        with self._change:
            self.ends.append(error)
            self._change.notify_all()

    def wait(self, until: Callable[["Heard"], object]) -> None:
        with self._change:
            assert self._change.wait_for(lambda: until(self), PATIENCE), (bytes(self.data), self.ends)


@pytest.fixture
def server(serial_device: SimulatedDevice, tmp_path: Path) -> Iterator[Server]:
    server = Server(serial_device, tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def network(server: Server) -> Iterator[Callable[[str], Network]]:
    made: list[Network] = []

    def make(scheme: str) -> Network:
        made.append(Network(server.ports[scheme]))
        return made[-1]

    yield make
    for one in made:
        one.close()


def talk(device: SimulatedDevice, manager: ConnectionManager, heard: Heard, said: bytes = EVERY_BYTE) -> None:
    """Data goes both ways, and arrives as it was sent."""
    connection = manager.connection
    assert isinstance(connection, SerialConnection)
    device.clear()
    heard.data.clear()
    assert connection.write(said) == len(said)
    assert device.receive(len(said)) == said
    device.send(said[::-1])
    heard.wait(lambda heard: len(heard.data) >= len(said))
    assert bytes(heard.data) == said[::-1]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_data_both_ways(server: Server, scheme: str) -> None:
    with ConnectionManager(SerialConnection(server.url(scheme))) as manager:
        heard = Heard(manager.connection)
        assert manager.is_connected, manager.last_error
        server.device.wait_opened()
        talk(server.device, manager, heard)
        talk(server.device, manager, heard, EVERY_BYTE * 8)
    assert heard.ends == [None]


def test_settings_arrive(server: Server) -> None:
    connection = SerialConnection(server.url("rfc2217"), 19200, stopbits=2)  # (a pty has no parity, and 8 bits)
    with ConnectionManager(connection, retry=QUICK) as manager:
        assert manager.is_connected, manager.last_error
        _, _, flags, _, speed_in, speed_out, _ = server.termios()
        assert (speed_in, speed_out) == (termios.B19200, termios.B19200)
        assert flags & termios.CSTOPB

        connection.configure(baudrate=57600, stopbits=1)
        wait_until(lambda: server.termios()[4] == termios.B57600, "the new baud rate never came")
        wait_until(lambda: not server.termios()[2] & termios.CSTOPB, "the new stop bits never came")
        connection.configure(timeout=60.0, write_timeout=60.0)  # both are cnxman's own affair

        server.kill()
        wait_until(lambda: not manager.is_connected, "the loss was never noticed")
        server.start()
        assert manager.wait_until_connected(PATIENCE)
        assert server.termios()[4] == termios.B57600
        began = time.monotonic()
    assert time.monotonic() - began < 30  # no read of 60 s is waited for


@pytest.mark.parametrize("scheme", SCHEMES)
def test_killed_and_started_again(server: Server, scheme: str) -> None:
    with ConnectionManager(SerialConnection(server.url(scheme)), retry=QUICK) as manager:
        heard = Heard(manager.connection)
        errors: list[str] = []
        manager.subscribe(lambda error: errors.append(str(error)), ConnectionManager.Signals.RETRY_SCHEDULED)
        for _ in range(2):
            assert manager.is_connected, manager.last_error
            server.device.wait_opened()
            talk(server.device, manager, heard)
            server.kill()
            heard.wait(lambda heard: heard.ends)
            (error,) = heard.ends
            assert error is not None
            assert "was lost" in str(error)
            wait_until(lambda: any("nobody listens there" in error for error in errors), str(errors))
            server.start()
            assert manager.wait_until_connected(PATIENCE)
            heard.ends.clear()
            errors.clear()
        server.device.wait_opened()
        talk(server.device, manager, heard)


def test_a_missing_device_is_a_failed_attempt(server: Server) -> None:
    """ser2net accepts, says so in words, and hangs up: nothing of it is the device's data."""
    server.device.unplug()
    connection = SerialConnection(server.url("socket"), settle=2)
    heard = Heard(connection)
    opened: list[str] = []
    connection.subscribe(lambda: opened.append("opened"), SerialConnection.Signals.OPENED)
    with ConnectionManager(connection, retry=QUICK) as manager:
        assert not manager.is_connected
        assert "the other end closed the connection" in str(manager.last_error)
        assert (heard.data, heard.ends, opened, manager.statistics.connects) == (b"", [], [], 0)
        server.device.plug()
        assert manager.wait_until_connected(PATIENCE)
        server.device.wait_opened()
        talk(server.device, manager, heard)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_came_before_the_end_is_delivered_though_the_receiver_is_slow(server: Server, scheme: str) -> None:
    connection = SerialConnection(server.url(scheme))
    first, go_on = threading.Event(), threading.Event()

    def dawdle() -> None:
        first.set()
        assert go_on.wait(PATIENCE)

    connection.subscribe(dawdle)
    with ConnectionManager(connection, retry=QUICK):
        heard = Heard(connection)
        server.device.wait_opened()
        server.device.send(b"a")
        assert first.wait(PATIENCE)
        server.device.send(EVERY_BYTE * 300)  # more than is delivered at once
        server.device.drain()
        time.sleep(0.2)  # from ser2net to us: nothing tells when it is through
        server.kill()
        time.sleep(0.2)
        go_on.set()
        heard.wait(lambda heard: heard.ends)
        assert bytes(heard.data) == b"a" + EVERY_BYTE * 300


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_network_is_cut_and_the_idle_timeout_notices(
    server: Server, network: Callable[[str], Network], scheme: str
) -> None:
    relay = network(scheme)
    connection = SerialConnection(server.url(scheme, relay.port), idle_timeout=4.0)
    with ConnectionManager(connection, retry=QUICK) as manager:
        heard = Heard(connection)
        states: list[tuple[str, str]] = []
        manager.subscribe(lambda state, error: states.append((str(state), str(error))))
        server.device.wait_opened()
        began = time.monotonic()  # before the last that is heard: this thread may be held up after it
        talk(server.device, manager, heard)
        relay.cut()
        server.device.send(b"nobody will hear this")
        heard.wait(lambda heard: heard.ends)
        assert time.monotonic() - began > 3.8
        error = str(heard.ends[0])
        assert error == f"{connection.port} was lost: nothing came from it for 4.0 s"
        wait_until(lambda: states, "no alarm")
        assert states[0] == ("recovering", error)

        relay.hang_up()  # and let new callers through
        stop = threading.Event()
        chatter = threading.Thread(target=chat, args=(server.device, stop))
        chatter.start()
        wait_until(lambda: heard.data.endswith(b"tick" * 8), "no data")
        heard.ends.clear()
        wait_until(lambda: len(heard.data) > 4 * 60, "no more data")
        assert heard.ends == []  # one that is heard from is left in peace
        stop.set()
        chatter.join()


def chat(device: SimulatedDevice, stop: threading.Event) -> None:
    while not stop.wait(0.02):
        device.send(b"tick")


def test_a_device_that_is_silent_but_open_raises_the_alarm(serial_device: SimulatedDevice) -> None:
    connection = SerialConnection(serial_device.port, idle_timeout=2)
    with ConnectionManager(connection, retry=QUICK) as manager:
        heard = Heard(connection)
        serial_device.wait_opened()
        serial_device.send(b"last words")
        heard.wait(lambda heard: heard.ends)
        assert bytes(heard.data) == b"last words"
        assert str(heard.ends[0]) == f"{serial_device.port} was lost: nothing came from it for 2 s"
        assert isinstance(manager.connection, SerialConnection)


def test_no_time_out_of_a_port_s_own_keeps_it_from_being_closed() -> None:
    connection = SerialConnection("loop://", timeout=30)
    assert connection.try_connect()
    connection.configure(timeout=20, baudrate=19200)
    heard = Heard(connection)
    connection.write(b"x")
    heard.wait(lambda heard: heard.data == b"x")
    began = time.monotonic()
    connection.disconnect()
    assert time.monotonic() - began < 2


# -- failing openings -----------------------------------------------------------------------------------------


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Mute:
    """A server that takes calls, and says nothing or hangs up with a reset."""

    def __init__(self, reset: bool) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._reset = reset
        self.calls: list[socket.socket] = []
        self._thread = threading.Thread(target=self._take_calls)
        self._thread.start()

    def _take_calls(self) -> None:
        while True:
            call, _ = self._listening.accept()
            if not call.recv(1):
                call.close()
                return
            if self._reset:
                call.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                call.close()
            else:
                self.calls.append(call)

    def close(self) -> None:
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join()
        for one in [self._listening, *self.calls]:
            one.close()


@pytest.fixture
def mute(request: pytest.FixtureRequest) -> Iterator[Mute]:
    mute = Mute(reset="reset" in request.node.name)
    yield mute
    mute.close()


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # by pyserial, when the far end has reset
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nobody", "nobody listens there"),
        ("mute", "Remote does not seem to support RFC2217"),
        ("reset", "cannot open"),  # where it notices depends on how soon it comes
        ("unacknowledged", "add ign_set_control to the URL"),
    ],
)
def test_a_failing_opening_leaves_nothing(
    server: Server, mute: Mute, kind: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)  # a record holds its traceback, and with it the port
    if kind == "nobody":
        server.kill()
        port = server.ports["rfc2217"]
    elif kind == "unacknowledged":
        port = server.ports["rfc2217"]  # ser2net can't set a pty's modem lines
    else:
        port = mute.port
    connection = SerialConnection(f"rfc2217://127.0.0.1:{port}?timeout=0.2")
    before, threads = descriptors(), threading.active_count()
    for _ in range(2):
        assert not connection.try_connect()
        assert str(connection.last_error).startswith(f"cannot open {connection.port}: ")
        assert words in str(connection.last_error)
        assert descriptors() - len(mute.calls) == before
        assert threading.active_count() == threads


def test_an_opening_that_fails_half_way_is_closed(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    connection = SerialConnection(server.url("rfc2217"))
    before = descriptors()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as many test suites do: then pyserial's open() raises, once it has called
        assert not connection.try_connect()
        assert "setDaemon() is deprecated" in str(connection.last_error)
        assert descriptors() == before
    assert connection.try_connect(), connection.last_error
    connection.disconnect()
    gc.collect()  # the destructor of the port that failed has nothing left to raise, which would be an error here


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_line_that_was_reset_leaves_nothing(
    server: Server, network: Callable[[str], Network], scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    relay = network(scheme)
    connection = SerialConnection(server.url(scheme, relay.port))
    heard = Heard(connection)
    before, threads = descriptors(), threading.active_count()
    for _ in range(2):
        assert connection.try_connect(), connection.last_error
        server.device.wait_opened()
        relay.hang_up(reset=True)
        heard.wait(lambda heard: heard.ends)
        error = heard.ends.pop()
        assert "was lost" in str(error)
        connection.disconnect()
        wait_until(lambda: descriptors() == before, "a descriptor is left")
        assert threading.active_count() == threads


def test_disconnecting_ends_a_write_that_nothing_takes(server: Server, network: Callable[[str], Network]) -> None:
    relay = network("rfc2217")
    connection = SerialConnection(server.url("rfc2217", relay.port))
    failures: list[Exception] = []

    def write() -> None:
        try:
            connection.write(bytes(20_000_000))
        except Exception as error:
            failures.append(error)

    assert connection.try_connect(), connection.last_error
    relay.cut()
    writing = threading.Thread(target=write)
    writing.start()
    time.sleep(0.3)  # until all buffers on the way are full
    began = time.monotonic()
    connection.disconnect()
    writing.join(PATIENCE)
    assert time.monotonic() - began < 2
    assert len(failures) == 1
    assert "bytes were written" in str(failures[0])
