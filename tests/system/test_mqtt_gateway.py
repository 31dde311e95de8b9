"""The documentation's gateway, `docs/examples/mqtt_gateway.py`, before a real mosquitto; either side goes and comes."""

import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cnxman.testing import SimulatedDevice
from tests.kit.tcp_ports import free_port

mqtt = pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed")

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
GATEWAY = Path(__file__).parents[2] / "docs" / "examples" / "mqtt_gateway.py"
PATIENCE = 60.0

pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


def wait_until(true: Callable[[], object], what: str) -> None:
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until, what
        time.sleep(0.01)


class Broker:
    """A mosquitto that can be killed, and started again at the same address, with nothing remembered."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        config = self._folder / "mosquitto.conf"
        config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
        with (self._folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen([str(MOSQUITTO), "-c", str(config)], stdout=log, stderr=log)
        wait_until(self._answers, "mosquitto did not start")

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Reader:
    """One of the many who read: what it was told, topic by topic."""

    def __init__(self, port: int) -> None:
        self.told: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.ready = threading.Event()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = lambda client, *_: client.subscribe("plant/pump/#", qos=1)
        self.client.on_subscribe = lambda *_: self.ready.set()
        self.client.on_message = lambda _client, _data, message: self.told.put((message.topic, message.payload))
        self.client.connect_async("127.0.0.1", port)
        self.client.loop_start()
        assert self.ready.wait(PATIENCE)

    def wait_for(self, topic: str, payload: bytes) -> list[tuple[str, bytes]]:
        """Everything up to and with a message that begins so."""
        told = []
        until = time.monotonic() + PATIENCE
        while not any(got == f"plant/pump/{topic}" and what.startswith(payload) for got, what in told):
            try:
                told.append(self.told.get(timeout=max(0.0, until - time.monotonic())))
            except queue.Empty:
                pytest.fail(f"{topic} {payload!r} never came, but {told}")
        return told

    def say(self, payload: bytes) -> None:
        self.client.publish("plant/pump/write", payload, qos=1)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
        del self.client  # with the last reference to it go two sockets


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path)
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def reader(broker: Broker) -> Iterator[Reader]:
    reader = Reader(broker.port)
    yield reader
    reader.close()


@pytest.fixture
def gateway(broker: Broker, serial_device: SimulatedDevice) -> Iterator["subprocess.Popen[bytes]"]:
    arguments = [serial_device.port, "plant/pump", "--host", "127.0.0.1", "--mqtt-port", str(broker.port)]
    process = subprocess.Popen(
        [sys.executable, "-W", "error", str(GATEWAY), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        serial_device.wait_opened(PATIENCE)
        yield process
    finally:
        process.kill()
        process.communicate()


def lines(told: list[tuple[str, bytes]]) -> list[bytes]:
    return [payload for topic, payload in told if topic == "plant/pump/line"]


def test_both_ways_through_an_outage_of_the_device(
    reader: Reader, gateway: "subprocess.Popen[bytes]", serial_device: SimulatedDevice
) -> None:
    reader.wait_for("state", b"connected")
    serial_device.send(b"21.5\n21.6\n21.")
    told = reader.wait_for("line", b"21.6")
    reader.say(b"RATE 5")
    assert serial_device.receive(until=b"\n") == b"RATE 5\n"

    serial_device.unplug()
    reader.wait_for("state", b"recovering")
    reader.say(b"lost")
    told += reader.wait_for("error", f"{serial_device.port} is not connected: ".encode())
    serial_device.plug()
    told += reader.wait_for("state", b"connected")
    serial_device.wait_opened()
    serial_device.send(b"21.7\n")
    told += reader.wait_for("line", b"21.7")
    assert lines(told) == [b"21.5", b"21.6", b"21.7"]  # no half line glued to the next one

    gateway.send_signal(signal.SIGTERM)
    assert gateway.wait(PATIENCE) == 0
    reader.wait_for("state", b"offline")


def test_through_an_outage_of_the_broker(
    broker: Broker, reader: Reader, gateway: "subprocess.Popen[bytes]", serial_device: SimulatedDevice
) -> None:
    reader.wait_for("state", b"connected")
    serial_device.send(b"before\n")
    reader.wait_for("line", b"before")
    broker.kill()
    serial_device.send(b"during 1\nduring 2\n")
    reader.ready.clear()
    broker.start()
    assert reader.ready.wait(PATIENCE)
    reader.wait_for("state", b"connected")  # told again: the new broker remembers nothing
    serial_device.send(b"after\n")
    reader.wait_for("line", b"after")
    reader.say(b"still there?")
    assert serial_device.receive(until=b"\n", timeout=PATIENCE) == b"still there?\n"


def test_a_killed_gateway_is_shown_as_offline(reader: Reader, gateway: "subprocess.Popen[bytes]") -> None:
    reader.wait_for("state", b"connected")
    gateway.kill()
    reader.wait_for("state", b"offline")


def test_it_is_short() -> None:
    assert len(GATEWAY.read_text().splitlines()) < 80
