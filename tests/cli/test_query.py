"""`cnxman query`: the installed command before a simulated device."""

import os
import signal
import subprocess
import threading

import pytest

from cnxman.testing import SimulatedDevice
from tests.kit.command import COMMAND, Command, usage


def query(*arguments):
    return subprocess.run(
        [COMMAND, "query", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_answer_is_printed_and_nothing_else():
    with SimulatedDevice({b"*IDN?\n": b"ACME,1000\n"}) as device:
        done = query(device.port, "*IDN?")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ACME,1000\n", "")


def test_escapes_and_where_the_answer_ends():
    with SimulatedDevice({b"AT\r": b"\r\nQ: 5\r\nOK\r\nmore"}) as device:
        done = query(device.port, r"AT\r", "--until", r"OK\r\n")
        assert (done.returncode, done.stdout) == (0, "\n\nQ: 5\n\nOK\n\n".replace("\n\n", "\n"))
    with SimulatedDevice({b"\x02R\x03": b"\x027\x03"}) as device:
        done = query(device.port, r"\x02R\x03", "--until", r"\x03")
        assert (done.returncode, done.stdout) == (0, "\x027\x03")
    with SimulatedDevice({b"V\r": b"5 V\r"}) as device:
        done = subprocess.run(
            [COMMAND, "query", device.port, "V", "--eol", "cr"], capture_output=True, timeout=60, check=True
        )
        assert (done.returncode, done.stdout) == (0, b"5 V\r")


def test_no_answer_is_status_1_and_a_line():
    with SimulatedDevice({b"Q\n": b"half an ans"}) as device:
        done = query(device.port, "Q", "--timeout", 0.5)
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("cnxman query: ")
    assert "half an ans" in line


def test_no_device_is_status_1_and_a_line():
    done = query("/dev/cnxman-nowhere", "Q", "--timeout", 0.3)
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert "/dev/cnxman-nowhere: there is no such port" in line


def test_a_device_that_comes_late_is_waited_for():
    with SimulatedDevice({b"Q\n": b"A\n"}, plugged=False) as device:
        late = threading.Timer(0.5, device.plug)
        late.start()
        done = query(device.port, "Q", "--timeout", 10)
        late.join()
    assert (done.returncode, done.stdout) == (0, "A\n")


def test_a_device_that_repeats_the_question():
    with SimulatedDevice({b"Q\n": b"Q\nA\n", b"R\n": b"A\n"}) as device:
        assert query(device.port, "Q").stdout == "Q\n"
        assert query(device.port, "Q", "--echo").stdout == "A\n"
        done = query(device.port, "R", "--echo", "--timeout", 5)
        assert done.returncode == 1
        assert "doesn't repeat it" in done.stderr


def test_in_a_terminal_the_answer_ends_with_a_line_end():
    with (
        SimulatedDevice({b"Q\r": b"A\r"}) as device,
        Command("query", device.port, "Q", "--eol", "cr", terminal=True) as command,
    ):
        assert command.end() == 0
        os.close(command.slave)
        assert command.out.wait_end().endswith(b"A\r\r\n")
        command.slave = os.open("/dev/null", os.O_RDWR)


def test_ctrl_c_ends_it():
    with SimulatedDevice() as device, Command("query", device.port, "Q", "--timeout", 60) as command:
        device.wait_received(b"Q\n", timeout=60)
        command.signal(signal.SIGINT)
        assert command.end() == 130
        assert command.err.wait_end() == b""


@pytest.mark.parametrize(
    "arguments", [(r"\q",), ("",), ("Q", "--timeout", "-1"), ("Q", "--until", ""), ("Q", "--baudrate", "-1"), ()]
)
def test_wrong_usage_is_status_2(arguments, capsys):
    status, _, _ = usage(capsys, "query", "/dev/x", *arguments)
    assert status == 2


def test_it_leaves_the_port_as_it_was():
    with SimulatedDevice({b"Q\n": b"A\n"}) as device:
        assert query(device.port, "Q").returncode == 0
        device.wait_closed()
        assert query(device.port, "Q").returncode == 0
