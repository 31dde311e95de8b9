"""Every example of the documentation is run as a program of its own, as its readers run it.

One that needs more than a simulated device of its own is named in `ELSEWHERE`, with the test that runs it.
"""

import ast
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import serial.threaded

from cnxman.testing import SimulatedDevice
from tests.kit.ordinary import AS_ORDINARY
from tests.kit.tcp_ports import free_port

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
PATIENCE = 60.0

ELSEWHERE = {
    "gui_qt.py": "test_gui.py",
    "gui_tkinter.py": "test_gui.py",
    "mqtt_gateway.py": "test_mqtt_gateway.py",
    "prometheus_exporter.py": "test_gateway.py",
    "protocol_tcp_redirect.py": "test_examples.py",
    "tcp_heartbeat.py": "test_tcp_heartbeat.py",
}

NEEDS = {"logging_structlog.py": "structlog"}

SAYS = {
    "logging_plain.py": ["state=connected", "state=recovering", "was lost", "port=- state=- at work"],
    "protocol_at_commands.py": [
        "reset: []",
        "identity: ['Simulated modem', 'Revision 1']",
        "event received: +CSQ: 20,99",
        "AT command timeout ('AT+NONSENSE')",
    ],
    "protocol_print_lines.py": ["line received: 'hello'", "port closed", "line received: 'hello again'"],
}
"""Some of what they print, where it is not enough that they end well."""


def run(example: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*AS_ORDINARY, sys.executable, "-W", "error", str(example), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )


def output_of(example: Path) -> str:
    with run(example) as process:
        try:
            output, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    # pyserial's own protocol, taken over word by word, raises in its connection_lost, and that is shown.
    assert ("Traceback" in errors) == (example.name == "protocol_print_lines.py")
    return output


HERE = [path for path in sorted(EXAMPLES.glob("*.py")) if path.name not in ELSEWHERE]


@pytest.mark.parametrize("example", HERE, ids=lambda path: path.name)
def test_it_runs(example: Path) -> None:
    if example.name in NEEDS:
        pytest.importorskip(NEEDS[example.name])
    output = output_of(example)
    assert output
    for words in SAYS.get(example.name, []):
        assert words in output


def test_those_that_are_run_elsewhere_are() -> None:
    for name, test in ELSEWHERE.items():
        assert (EXAMPLES / name).exists()
        source = (Path(__file__).parent / test).read_text()
        assert name in source.replace(f'"{name}": "{test}"', "")


def test_structlog_has_port_and_state_as_keys() -> None:
    pytest.importorskip("structlog")
    events = [json.loads(line) for line in output_of(EXAMPLES / "logging_structlog.py").splitlines()]
    assert {event["port"] for event in events} == {events[0]["port"]}
    changes = [event["state"] for event in events if event["logger"] == "cnxman.basics.ConnectionManager"]
    assert changes[:3] == ["connecting", "connected", "recovering"]
    assert changes[-3:] == ["connecting", "connected", "torndown"]
    (loss,) = [event for event in events if event["level"] == "warning"]
    assert loss["event"].startswith(f"{loss['port']} was lost")


def test_the_protocol_is_pyserial_s_own() -> None:
    def class_of(path: Path) -> str:
        (found,) = [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ClassDef) and node.name == "PrintLines"
        ]
        return ast.unparse(found)

    assert class_of(EXAMPLES / "protocol_print_lines.py") == class_of(Path(serial.threaded.__file__))


def test_the_bridge_goes_on_through_an_outage(serial_device: SimulatedDevice) -> None:
    number = free_port()
    with run(EXAMPLES / "protocol_tcp_redirect.py", serial_device.port, "115200", "-P", str(number)) as bridge:
        try:
            serial_device.wait_opened(PATIENCE)
            with called(number) as client:
                to_device(client, serial_device, b"before")
                to_client(serial_device, client, b"before")
                serial_device.unplug()
                client.sendall(b"lost")
                wait_for_line(bridge, "LOST: ")
                serial_device.plug()
                serial_device.wait_opened(PATIENCE)
                to_client(serial_device, client, b"after it")  # first: it shows that the bridge has the port again
                to_device(client, serial_device, b"after it")
            bridge.send_signal(signal.SIGINT)
            _, errors = bridge.communicate(timeout=PATIENCE)
        finally:
            bridge.kill()
    assert bridge.returncode == 0, errors
    assert "--- exit ---" in errors
    assert "Traceback" not in errors


def called(number: int) -> socket.socket:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return socket.create_connection(("127.0.0.1", number), timeout=PATIENCE)
        except ConnectionRefusedError:
            assert time.monotonic() < until, "the bridge never listened"
            time.sleep(0.02)


def wait_for_line(process: "subprocess.Popen[str]", beginning: str) -> None:
    """Read stderr until there is such a line. The test's time-out is its bound."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(beginning):
            return
    raise AssertionError(f"it ended without {beginning!r}")


def to_device(client: socket.socket, device: SimulatedDevice, data: bytes) -> None:
    client.sendall(data)
    assert device.receive(len(data), timeout=PATIENCE) == data


def to_client(device: SimulatedDevice, client: socket.socket, data: bytes) -> None:
    device.send(data)
    received = b""
    while len(received) < len(data):
        received += client.recv(100)
    assert received == data
