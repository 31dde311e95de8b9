"""A simulated device whose port is a URL: what it is where there are no pseudo-terminals."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from queue import Queue

import pytest
import serial

import cnxman.testing.device
from cnxman import ConnectionException, ConnectionManager, RetryPolicy, SerialConnection
from cnxman.testing import SimulatedDevice
from tests.kit.managers import wait_until

IDN = {b"*IDN?\n": b"ACME,1000\n"}
LATER = 0.05


@pytest.fixture
def device() -> Iterator[SimulatedDevice]:
    with SimulatedDevice(IDN, by_url=True) as device:
        yield device


def opened(device: SimulatedDevice, timeout: float | None = 5, **settings: float) -> serial.SerialBase:
    return serial.serial_for_url(device.port, timeout=timeout, **settings)


def later(what: object) -> None:
    threading.Timer(LATER, what).start()  # type: ignore[arg-type]


def test_device_answers_over_its_url(device: SimulatedDevice) -> None:
    assert device.port.startswith("simulated://")
    assert not device.is_open
    with opened(device) as host:
        host.write(b"*IDN?\n")
        assert host.read_until(b"\n") == b"ACME,1000\n"
        assert device.is_open
        assert device.received == b"*IDN?\n"
    device.wait_closed()


def test_large_messages_go_both_ways_whole(device: SimulatedDevice) -> None:
    data = bytes(range(256)) * 400
    with opened(device) as host:
        device.wait_opened()
        results: Queue[bytes] = Queue()
        reader = threading.Thread(target=lambda: results.put(host.read(len(data))))
        reader.start()
        device.send(data)
        assert results.get(timeout=60) == data
        reader.join()
        host.write(data)
        assert device.receive(len(data)) == data
        device.drain()


def test_old_input_is_discarded_at_the_opening(device: SimulatedDevice) -> None:
    device.send(b"waits for a host that has discarded its input")
    with opened(device) as host:
        assert host.read(5) == b"waits"
        host.reset_input_buffer()
        host.reset_output_buffer()
        host.flush()
        assert host.in_waiting == 0


def test_only_one_host_has_the_port_at_a_time(device: SimulatedDevice) -> None:
    with opened(device), pytest.raises(serial.SerialException, match="open already"):
        opened(device)
    opened(device).close()


def test_port_that_is_not_plugged_in_does_not_open(device: SimulatedDevice) -> None:
    device.unplug()
    with pytest.raises(serial.SerialException, match="no simulated device is plugged in"):
        opened(device)
    device.plug()
    opened(device).close()


def test_pull_ends_a_read_and_fails_what_follows(device: SimulatedDevice) -> None:
    with opened(device, None) as host:
        device.wait_opened()
        later(device.unplug)
        with pytest.raises(OSError, match="pulled out"):
            host.read(1)
        with pytest.raises(OSError, match="pulled out"):
            host.write(b"x")
        with pytest.raises(OSError, match="pulled out"):
            _ = host.in_waiting


def test_pull_gives_what_was_read_before_it(device: SimulatedDevice) -> None:
    with opened(device, None) as host:
        device.wait_opened()
        device.send(b"abc")
        later(device.unplug)
        assert host.read(10) == b"abc"


def test_reads_and_writes_end_in_time(device: SimulatedDevice) -> None:
    device.stall()
    with opened(device, LATER, write_timeout=LATER) as host:
        assert host.read(1) == b""
        with pytest.raises(serial.SerialTimeoutException):
            host.write(bytes(100_000))
        host.write_timeout = 0
        assert host.write(bytes(100_000)) == 0


def test_reads_and_writes_can_be_cancelled(device: SimulatedDevice) -> None:
    device.stall()
    with opened(device, None) as host:
        later(host.cancel_read)
        assert host.read(1) == b""
        later(host.cancel_write)
        assert 0 < host.write(bytes(100_000)) < 100_000


def test_closed_port_refuses_everything(device: SimulatedDevice) -> None:
    host = opened(device)
    host.close()
    host.close()
    with pytest.raises(serial.PortNotOpenError):
        host.read(1)


def test_port_has_no_modem_lines_and_takes_any_settings(device: SimulatedDevice) -> None:
    with opened(device, parity="E", bytesize=7) as host:
        host.baudrate = 300
        host.dtr = host.rts = True
        host.send_break(0)
        assert (host.cts, host.dsr, host.ri, host.cd) == (False,) * 4


def test_connection_outlives_an_outage(device: SimulatedDevice) -> None:
    connection = SerialConnection(device.port)
    with ConnectionManager(connection, retry=RetryPolicy(0.02, 1, 0.02, 0)) as manager:
        for _ in range(3):
            device.wait_opened()
            assert manager.wait_until_connected(5)
            assert connection.query(b"*IDN?\n") == b"ACME,1000\n"
            device.unplug()
            device.plug()


def test_connection_stops_within_a_moment(device: SimulatedDevice) -> None:
    connection = SerialConnection(device.port)
    assert connection.try_connect()
    device.stall()
    failed: Queue[ConnectionException] = Queue()

    def write() -> None:
        with pytest.raises(ConnectionException) as raised:
            connection.write(bytes(100_000))
        failed.put(raised.value)

    threading.Thread(target=write).start()
    wait_until(lambda: connection.statistics.bytes_out == 0 and device.is_open, "the port is open")
    began = time.monotonic()
    connection.teardown()
    assert time.monotonic() - began < 10
    assert failed.get(timeout=60).written is not None


def test_without_ptys_the_port_is_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cnxman.testing.device, "HAVE_PTYS", False)
    with SimulatedDevice() as device:
        assert device.port.startswith("simulated://")
    with pytest.raises(NotImplementedError, match="needs POSIX pseudo-terminals"):
        SimulatedDevice(by_url=False)


def test_device_works_where_there_is_no_termios_and_no_poll() -> None:
    script = (
        "import sys, select, serial\n"
        "del select.poll\n"
        "sys.modules.update(dict.fromkeys(['termios', 'fcntl', 'tty', 'pty']))\n"
        "from cnxman.testing import SimulatedDevice\n"
        "with SimulatedDevice() as device: print(device.port)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("simulated://")
