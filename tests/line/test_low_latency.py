"""`low_latency=True` where there is no driver that could: the real thing is tested in `tests/usb`."""

import array
import fcntl
import logging
import termios
from pathlib import Path

import pytest

from cnxman import SerialConnection
from cnxman._line import low_latency
from cnxman.testing import SimulatedDevice

FLAG = 1 << 13


def debug_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == low_latency.__name__]


@pytest.mark.parametrize("url", [None, "loop://"])
def test_a_port_whose_driver_can_not_is_opened_all_the_same(url: str | None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with SimulatedDevice() as device:
        connection = SerialConnection(url or device.port, low_latency=True)
        for _ in range(2):
            assert connection.try_connect()
        connection.teardown()
    told = debug_lines(caplog)
    assert len(told) == 2  # one line for each opening
    assert all("has no low latency: no flag (" in line and "no timer" in line for line in told)


def test_it_is_off_unless_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with SimulatedDevice() as device:
        connection = SerialConnection(device.port)
        assert connection.try_connect()
        connection.teardown()
    assert debug_lines(caplog) == []


class Driver:
    """Stands in for a driver's two calls, and for its timer in sysfs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, timer: Path, *, knows_flag: bool = True) -> None:
        self.flags = 0x10
        self.knows_flag = knows_flag
        self._ioctl = fcntl.ioctl
        monkeypatch.setattr(fcntl, "ioctl", self.ioctl)
        monkeypatch.setattr(low_latency, "_TIMER", str(timer))

    def ioctl(self, fd: int, request: int, argument: object = 0, *rest: object) -> object:
        if not self.knows_flag or not isinstance(argument, array.array):
            return self._ioctl(fd, request, argument, *rest)  # type: ignore[call-overload]
        if request == termios.TIOCGSERIAL:
            argument[4] = self.flags
        elif request == termios.TIOCSSERIAL:
            self.flags = argument[4]
        return 0


def opened(device: SimulatedDevice) -> None:
    connection = SerialConnection(device.port, low_latency=True)
    assert connection.try_connect()
    connection.teardown()


def test_the_flag_is_set_and_the_others_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    driver = Driver(monkeypatch, tmp_path / "missing")
    with SimulatedDevice() as device:
        opened(device)
    assert driver.flags == 0x10 | FLAG
    assert debug_lines(caplog) == []


@pytest.mark.parametrize(("before", "after"), [("16\n", "1"), ("1\n", "1\n")])
def test_the_timer_is_set_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, before: str, after: str
) -> None:
    caplog.set_level(logging.DEBUG)
    timer = tmp_path / "latency_timer"
    timer.write_text(before)
    Driver(monkeypatch, timer, knows_flag=False)
    with SimulatedDevice() as device:
        opened(device)
    assert timer.read_text() == after
    assert debug_lines(caplog) == []


def test_a_timer_that_can_not_be_set_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    timer = tmp_path / "latency_timer"
    timer.write_text("16\n")
    Driver(monkeypatch, timer)
    real = open

    def refuse(path: object, mode: str = "r", *rest: object, **named: object) -> object:
        if path == str(timer) and "w" in mode:
            raise PermissionError(13, "Permission denied")
        return real(path, mode, *rest, **named)  # type: ignore[call-overload]

    monkeypatch.setattr("builtins.open", refuse)
    with SimulatedDevice() as device:
        opened(device)
    [line] = debug_lines(caplog)
    assert line.endswith("has no low latency: its timer can't be set ([Errno 13] Permission denied)")


def test_what_is_no_choice_is_refused() -> None:
    with pytest.raises(TypeError, match="low_latency must be True, False or None, not 'yes'"):
        SerialConnection("/dev/ttyS0", low_latency="yes")  # type: ignore[arg-type]
