"""`managed://`, as `serial.serial_for_url` opens it."""

import os
import socket
import subprocess
import sys

import pytest
import serial

from cnxman import SerialConnection
from cnxman.compat import Serial
from cnxman.testing import SimulatedDevice
from tests.kit.lines import BOUND, no_leak

ALLOWED = "expected managed://PORT or managed://PORT?must_exist"


@pytest.mark.parametrize("scheme", ["managed", "MANAGED"])
def test_program_that_opens_by_url_gets_a_kept_up_line(scheme: str) -> None:
    with SimulatedDevice({b"*IDN?\n": b"ACME\n"}) as device:
        port = serial.serial_for_url(f"{scheme}://{device.port}", 19200, timeout=BOUND, exclusive=True)
        assert type(port) is Serial
        assert (port.port, port.baudrate, port.exclusive) == (f"{scheme}://{device.port}", 19200, True)
        assert port.connection.port == device.port
        for _ in range(2):
            port.write(b"*IDN?\n")
            assert port.readline() == b"ACME\n"
            device.unplug()
            device.plug()
        port.close()


def test_do_not_open_leaves_it_closed() -> None:
    port = serial.serial_for_url("managed:///dev/cnxman-none", do_not_open=True)
    assert isinstance(port, Serial)
    assert not port.is_open
    port.open()
    assert port.is_open
    port.close()


def test_absent_device_is_no_error_unless_it_must_exist() -> None:
    with no_leak():
        port = serial.serial_for_url("managed:///dev/cnxman-none", timeout=0)
        assert port.is_open
        assert port.read() == b""
        port.close()
        with pytest.raises(serial.SerialException, match="no such port"):
            serial.serial_for_url("managed:///dev/cnxman-none?must_exist")


def test_must_exist_is_the_urls_and_not_the_next_ports() -> None:
    port = serial.serial_for_url("managed:///dev/cnxman-none?must_exist", do_not_open=True)
    port.port = "managed:///dev/cnxman-none"
    port.open()
    port.close()


def test_adapter_named_by_usb_url_may_be_absent() -> None:
    port = serial.serial_for_url("managed://usb://0403:6001/NONE?location=1-2", timeout=0)
    assert isinstance(port, Serial)
    assert port.connection.port == "usb://0403:6001/NONE?location=1-2"
    assert port.read() == b""
    port.close()
    with pytest.raises(serial.SerialException, match="plugged in"):
        serial.serial_for_url("managed://usb://0403:6001/NONE?must_exist")


def test_network_port_behind_the_scheme_keeps_its_own_options() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        url = f"managed://socket://127.0.0.1:{number}?must_exist&logging=error"
        with serial.serial_for_url(url, timeout=BOUND) as port:
            far, _ = server.accept()
            with far:
                far.sendall(b"abc")
                assert port.read(3) == b"abc"
                assert port.write(b"def") == 3
                assert far.recv(3, socket.MSG_WAITALL) == b"def"
                port.flush()
                assert port.out_waiting == 0


def test_loop_behind_the_scheme() -> None:
    with serial.serial_for_url("managed://loop://", timeout=BOUND) as port:
        port.write(b"hello\n")
        assert port.readline() == b"hello\n"
        port.flush()


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("", "names no port"),
        ("?must_exist", "names no port"),
        ("managed:///dev/ttyUSB0", "managed once"),
        ("MANAGED:///dev/ttyUSB0", "managed once"),
        ("spy://managed:///dev/ttyUSB0", "managed once"),
        ("/dev/ttyUSB0?must_exist&must_exist", "given once"),
        ("/dev/ttyUSB0?must_exist=1", "without a value"),
        ("/dev/ttyUSB0?must_exist=", "without a value"),
        ("/dev/ttyUSB0?bogus", "only option"),
        ("/dev/ttyUSB0?must_exist&bogus=1", "only option"),
        ("/dev/ttyUSB0?", "only option"),
        ("/dev/ttyUSB0?must_exist&", "only option"),
        ("loop://?", "only option"),
    ],
)
def test_malformed_url_is_a_valueerror_that_says_what_is_allowed(rest: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as raised:
        serial.serial_for_url(f"managed://{rest}")
    assert str(raised.value).startswith(ALLOWED)
    assert repr(f"managed://{rest}") in str(raised.value)
    with pytest.raises(ValueError, match=words):
        Serial(f"managed://{rest}")


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("nosuch:///dev/ttyUSB0", "no scheme nosuch://"),
        ("usb://zz", "expected usb://VID:PID"),
        ("usb://0403:6001?bogus=1", "expected usb://VID:PID"),
        ("socket://", "a host and a port number"),
        ("loop://?bogus", "unknown option"),
        ("loop://?bogus&must_exist", "unknown option"),
        ("/dev/tty\0USB0", "must name a device"),
        ("/dev/tty\nUSB0", "control characters"),
    ],
)
def test_port_that_can_never_be_opened_is_a_valueerror(rest: str, words: str) -> None:
    with no_leak(), pytest.raises(ValueError, match=words):
        serial.serial_for_url(f"managed://{rest}")


def test_connection_refuses_the_scheme() -> None:
    with pytest.raises(ValueError, match="without managed://"):
        SerialConnection("managed:///dev/ttyUSB0")


@pytest.mark.parametrize("imports", ["import cnxman", "import cnxman.compat"])
def test_scheme_is_known_once_cnxman_is_imported(imports: str) -> None:
    program = f"{imports}, serial; serial.serial_for_url('managed://loop://').close()"
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env=environment)
