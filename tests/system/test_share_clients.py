"""Programs as people have them, unchanged, on `cnxman share`: none notices that the device is pulled out, five times.

Those that can't be installed by pip are Debian's: tio, socat, gpsd.
"""

import contextlib
import functools
import json
import operator
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
import serial

from cnxman.testing import SimulatedDevice
from tests.kit.command import Collected, Command
from tests.kit.tcp_ports import free_port

minimalmodbus = pytest.importorskip("minimalmodbus", reason="minimalmodbus is not installed")

PULLS = 5


def tool(name: str) -> str:
    """Where a program is; without it the test is skipped."""
    path = shutil.which(name, path="/usr/bin:/usr/sbin:/usr/local/bin")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


class Gateway(Command):
    """The command, before a device that can be pulled out."""

    def __init__(self, device: SimulatedDevice, *arguments: object) -> None:
        # Who keeps others out lets only root tell whether all that the device sent was read.
        super().__init__("share", device.port, "--no-exclusive", *arguments)
        self.device = device
        with contextlib.ExitStack() as undo:
            undo.push(self.__exit__)  # who isn't made has no end of its own
            self.wait_event("connected")
            undo.pop_all()

    def pull(self) -> None:
        """Pull the device out when all that it said was read, and put it back."""
        count = len(re.findall(rb"\d  recovering .* was lost", self.err.data))
        self.device.drain()
        self.device.unplug()
        self.err.wait(lambda data: len(re.findall(rb"\d  recovering .* was lost", data)) > count)
        self.device.plug()
        self.device.wait_opened()

    def pull_flowing(self) -> None:
        """Pull it out while it is talking, and put it back."""
        count = len(re.findall(rb"\d  connected", self.err.data))
        self.device.unplug()
        self.device.plug()
        self.err.wait(lambda data: len(re.findall(rb"\d  connected", data)) > count)

    def nobody_left(self) -> bool:
        return not re.search(rb"\d  (left|dropped)  ", self.err.data)


@pytest.fixture
def device() -> Iterator[SimulatedDevice]:
    with SimulatedDevice() as device:
        yield device


def test_pyserial_reads_each_line_once(device: SimulatedDevice, tmp_path: Path) -> None:
    link = str(tmp_path / "tty")
    with Gateway(device, "--pty", link) as gateway, serial.Serial(link, 115200, timeout=60) as port:
        gateway.wait_event("came")
        for count in range(PULLS):
            told = [b"line %d of %d\n" % (line, count) for line in range(200)]
            device.send(b"".join(told))
            assert [port.readline() for _ in told] == told
            port.write(b"before the pull %d\n" % count)
            assert device.receive(until=b"\n") == b"before the pull %d\n" % count
            gateway.pull()
        assert gateway.nobody_left()


def test_minimalmodbus_by_a_device_s_name(tmp_path: Path) -> None:
    request, reply = (with_crc(bytes.fromhex(text)) for text in ("010300000001", "010302092a"))
    with SimulatedDevice({request: reply}) as device, Gateway(device, "--pty", tmp_path / "tty") as gateway:
        instrument = minimalmodbus.Instrument(str(tmp_path / "tty"), 1)
        instrument.serial.timeout = 5
        for _ in range(PULLS):
            assert instrument.read_register(0) == 0x092A
            gateway.pull()
        assert instrument.read_register(0) == 0x092A
        assert gateway.nobody_left()
        instrument.serial.close()


def with_crc(frame: bytes) -> bytes:
    """A Modbus frame with its checksum."""

    def shifted(crc: int) -> int:
        return functools.reduce(lambda value, _: (value >> 1) ^ (0xA001 if value & 1 else 0), range(8), crc)

    crc = functools.reduce(lambda value, byte: shifted(operator.xor(value, byte)), frame, 0xFFFF)
    return frame + crc.to_bytes(2, "little")


def test_tio_stays_connected(device: SimulatedDevice, tmp_path: Path) -> None:
    master, slave = os.openpty()
    with Gateway(device, "--pty", tmp_path / "tty") as gateway:
        process = subprocess.Popen([tool("tio"), str(tmp_path / "tty")], stdin=slave, stdout=slave, stderr=slave)
        try:
            shown = Collected(master)
            shown.wait(b"Connected")
            gateway.wait_event("came")
            for count in range(PULLS):
                device.send(b"said %d\r\n" % count)
                shown.wait(b"said %d\r\n" % count)
                os.write(master, b"typed %d\r" % count)
                device.wait_received(b"typed %d\r" % count)
                gateway.pull()
            assert b"isconnected" not in shown.data
            assert gateway.nobody_left()
        finally:
            process.terminate()
            process.wait(60)
            os.close(slave)
            shown.wait_end()
            os.close(master)


@pytest.mark.parametrize("how", ["pty", "unix", "tcp"])
def test_socat_stays_connected(device: SimulatedDevice, tmp_path: Path, how: str) -> None:
    places = {"pty": ("--pty", tmp_path / "x"), "unix": ("--listen", f"unix:{tmp_path}/x")}
    with Gateway(device, *places.get(how, ("--listen", "tcp:127.0.0.1:0"))) as gateway:
        found = re.search(rb"listening +tcp:([\d.:]+)", gateway.err.data)
        address = {"pty": f"{tmp_path}/x,raw,echo=0", "unix": f"UNIX-CONNECT:{tmp_path}/x"}.get(how)
        if address is None:
            assert found is not None
            address = f"TCP:{found[1].decode()}"
        with subprocess.Popen([tool("socat"), "-", address], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            shown = Collected(process.stdout.fileno())
            gateway.wait_event("came")
            told = b""
            for count in range(PULLS):
                told += b"said %d\n" % count
                device.send(b"said %d\n" % count)
                shown.wait(told)
                process.stdin.write(b"asked %d\n" % count)
                process.stdin.flush()
                assert device.receive(until=b"\n") == b"asked %d\n" % count
                gateway.pull()
            assert shown.data == told
            assert gateway.nobody_left()
            process.terminate()
            shown.wait_end()


def nmea(sentence: str) -> bytes:
    """A sentence with its checksum."""
    return f"${sentence}*{functools.reduce(operator.xor, sentence.encode()):02X}\r\n".encode()


class Watch:
    """A client of gpsd's, which is told of positions."""

    def __init__(self, port: int) -> None:
        self._socket = connected(port)
        self._file = self._socket.makefile("rwb")
        self._file.write(b'?WATCH={"enable":true,"json":true};\n')
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def wait_position(self, times: int = 3) -> None:
        """Wait until so many positions have come."""
        while times:
            report = json.loads(self._file.readline())
            if report["class"] == "TPV" and "lat" in report:
                assert abs(report["lat"] - 48.1173) < 0.001
                times -= 1


def test_gpsd_goes_on_reporting_positions(device: SimulatedDevice, tmp_path: Path) -> None:
    gpsd = tool("gpsd")
    for folder in (tmp_path, *tmp_path.parents[:-1]):  # gpsd becomes somebody else, if it is started by root
        if folder.owner() == tmp_path.owner():
            folder.chmod(folder.stat().st_mode | 0o011)
    port = free_port()
    stop = threading.Event()

    def drive() -> None:
        second = 0
        while not stop.wait(0.1):
            second = (second + 1) % 86400
            clock = f"{second // 3600:02}{second // 60 % 60:02}{second % 60:02}.00"
            try:
                device.send(
                    nmea(f"GPRMC,{clock},A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W")
                    + nmea(f"GPGGA,{clock},4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,")
                )
            except ConnectionError:
                continue  # it is out

    link = str(tmp_path / "gps")
    with Gateway(device, "--read-only", "--mode", "666", "--pty", link) as gateway:
        driver = threading.Thread(target=drive)
        driver.start()
        process = subprocess.Popen([gpsd, "-N", "-n", "-b", "-S", str(port), link], stderr=subprocess.DEVNULL)
        try:
            gateway.wait_event("came", timeout=60)
            with Watch(port) as watch:
                watch.wait_position()
                for _ in range(PULLS):
                    gateway.pull_flowing()
                    watch.wait_position()
            assert gateway.nobody_left()
        finally:
            stop.set()
            driver.join()
            process.terminate()
            process.wait(60)


def processor_time(pid: int) -> float:
    """Seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def connected(port: int) -> socket.socket:
    """A connection to a server that may be only just starting."""
    until = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=60)
        except ConnectionRefusedError:
            assert time.monotonic() < until
            time.sleep(0.02)
