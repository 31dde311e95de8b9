"""A gateway for many readers: each line a device sends becomes an MQTT message, and messages are written to the device.

    python mqtt_gateway.py /dev/ttyUSB0 plant/pump1 --host 192.168.0.7

Topics, below the one given: `line`, what the device says; `write`, what to say to it; `state` (retained), "connected",
"recovering" and the like, "offline" when the gateway is gone; `error`. While the broker is away up to 10,000 lines are
kept for it; while the device is away, what is to be written is refused: nobody knows what it would mean later.
"""

import argparse
import signal
import threading

import paho.mqtt.client as mqtt

from cnxman import ConnectionException, ConnectionManager, ConnectionState, SerialConnection
from cnxman.framing import Lines


class Gateway:
    """Publishes what a connection receives, and writes what the broker receives."""

    def __init__(self, manager: ConnectionManager, connection: SerialConnection, topic: str) -> None:
        self.manager, self.connection, self.topic = manager, connection, topic
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self.client.will_set(f"{topic}/state", "offline", qos=1, retain=True)
        self.client.max_queued_messages_set(10_000)
        self.client.on_connect = lambda *_: self.greet()
        self.client.on_message = lambda _client, _data, message: self.write(bytes(message.payload))
        connection.subscribe(lambda frame: self.publish("line", frame), SerialConnection.Signals.FRAME_RECEIVED)
        manager.subscribe(self.tell_state)

    def greet(self) -> None:
        self.client.subscribe(f"{self.topic}/write", qos=1)
        self.tell_state(self.manager.state)

    def publish(self, name: str, payload: bytes | str) -> None:
        self.client.publish(f"{self.topic}/{name}", payload, qos=1, retain=name == "state")

    def tell_state(self, state: ConnectionState) -> None:
        self.publish("state", str(state))

    def leave(self) -> None:
        if self.client.is_connected():
            self.client.publish(f"{self.topic}/state", "offline", qos=1, retain=True).wait_for_publish(2)
        self.client.disconnect()
        self.client.loop_stop()

    def write(self, line: bytes) -> None:
        try:
            self.connection.write(line + b"\n")
        except ConnectionException as error:
            self.publish("error", str(error))


def main() -> None:
    parser = argparse.ArgumentParser(description="A serial device on MQTT.")
    for name in ("port", "topic"):
        parser.add_argument(name)
    parser.add_argument("--baudrate", type=int, default=115200)
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--mqtt-port", type=int, default=1883)
    given = parser.parse_args()
    connection = SerialConnection(given.port, given.baudrate)
    connection.add_framer(Lines())
    manager = ConnectionManager(connection)
    gateway = Gateway(manager, connection, given.topic)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    gateway.client.connect_async(given.host, given.mqtt_port)  # from here on paho keeps that side up, by itself
    gateway.client.loop_start()
    with manager:
        stop.wait()
    gateway.leave()


if __name__ == "__main__":
    main()
