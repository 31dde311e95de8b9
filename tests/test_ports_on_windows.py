"""The list of ports in Windows' registry, which lets a manager notice a port's return."""

import time
from queue import Queue
from typing import Any, Self

import pytest
import serial
from serial.tools import list_ports
from serial.tools.list_ports_common import ListPortInfo

from cnxman import ports
from cnxman._ports import windows as windows_ports
from cnxman.ports import Presence, UsbName, find_usb


class Registry:
    """A registry with one key, in the part of `winreg` that is used."""

    HKEY_LOCAL_MACHINE = 0x80000002

    def __init__(self) -> None:
        self.values: list[tuple[str, str]] | None = []
        self.stamp = 0
        self.is_racing = False
        self.read = 0

    def list(self, *values: tuple[str, str]) -> None:
        """What drivers have entered now."""
        self.values = list(values)
        self.stamp = max(self.stamp + 1, int((time.time() + 11_644_473_600) * 1e7))

    def OpenKey(self, root: int, path: str) -> Self:
        assert (root, path) == (self.HKEY_LOCAL_MACHINE, r"HARDWARE\DEVICEMAP\SERIALCOMM")
        if self.values is None:
            raise FileNotFoundError(2, "The system cannot find the file specified.")
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def QueryInfoKey(self, key: object) -> tuple[int, int, int]:
        assert self.values is not None
        return 0, len(self.values) + self.is_racing, self.stamp

    def EnumValue(self, key: object, number: int) -> tuple[str, str, int]:
        self.read += 1
        assert self.values is not None
        if number >= len(self.values):
            raise OSError(22, "No more data is available.")
        return (*self.values[number], 1)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    registry = Registry()
    monkeypatch.setattr(windows_ports, "_winreg", registry)
    monkeypatch.setattr(windows_ports, "_cached", None)
    return registry


USB = (r"\Device\VCP0", "COM5")


@pytest.mark.parametrize("name", ["COM5", "com5", r"\\.\COM5", "com5 "])
def test_presence_of_a_port_under_each_of_its_names(registry: Registry, name: str) -> None:
    presence = Presence(name)
    assert presence() is False
    registry.list((r"\Device\Serial0", "COM1"), USB)
    first = presence()
    assert first
    assert presence() == first
    registry.list()
    assert presence() is False
    registry.list(USB)
    assert presence()
    assert presence() != first, "one that was put back is another"


def test_presence_reads_a_list_that_has_not_changed_lately_once(registry: Registry) -> None:
    registry.list((r"\Device\Serial0", "COM1"), USB)
    registry.stamp -= 20_000_000
    presence = Presence("COM5")
    assert len({presence() for _ in range(10)}) == 1
    assert registry.read == 2
    registry.list()
    assert presence() is False


def test_presence_without_a_list_of_ports(registry: Registry) -> None:
    registry.values = None
    assert Presence("COM5")() is False
    assert Presence("usb://0403:6001")() is None


def test_presence_while_ports_vanish(registry: Registry) -> None:
    registry.list((r"\Device\Serial0", "COM1"))
    registry.is_racing = True
    assert Presence("COM5")() is False


def test_presence_of_an_adapter_is_looked_up_only_after_a_change(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    found = ListPortInfo("COM5")
    found.vid, found.pid, found.serial_number = 0x0403, 0x6001, "A50285BIA"

    def comports(include_links: bool = False) -> list[ListPortInfo]:
        asked.append("comports")
        return [found] if registry.values else []

    monkeypatch.setattr(ports, "_SysFS", None)
    monkeypatch.setattr(list_ports, "comports", comports)
    monkeypatch.setattr(ports, "_UNLISTED", 0.0)
    presence = Presence("usb://0403:6001/A50285BI")
    assert presence() is False
    registry.list(USB)
    first = presence()
    assert first
    before = len(asked)
    assert [presence() for _ in range(20)] == [first] * 20
    assert len(asked) == before
    registry.list()
    assert presence() is False


def test_watch_notices_a_change_of_the_list_at_once(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    arrived = Queue[str]()
    monkeypatch.setattr(list_ports, "comports", lambda: [ListPortInfo(port) for _, port in registry.values or []])
    monkeypatch.setattr("cnxman._ports.watch._LIST_EVERY", 60.0)
    with ports.watch(lambda event, info: arrived.put(f"{info.device} {event}")):
        registry.list(USB)
        assert arrived.get(timeout=60) == "COM5 arrived"
        registry.list()
        assert arrived.get(timeout=60) == "COM5 departed"


@pytest.mark.parametrize(
    ("vid", "wanted", "listed", "is_meant"),
    [
        (0x0403, "A50285BI", "A50285BIA", True),
        (0x0403, "A50285BIA", "A50285BI", True),
        (0x0403, "A50285BIA", "A50285BIA", True),
        (0x0403, "A50285BIA", "A50285BIB", False),
        (0x0403, "A50285BI", "A50285BIE", False),
        (0x0403, "A50285BI", "A50285BIAA", False),
        (0x0403, "A50285BI", None, False),
        (0x10C4, "0001", "0001A", False),
    ],
)
def test_ftdi_channel_letter_behind_a_serial_number(vid: int, wanted: str, listed: str | None, is_meant: bool) -> None:
    info = ListPortInfo("COM5")
    info.vid, info.pid, info.serial_number = vid, 0x6001, listed
    assert UsbName(vid, 0x6001, wanted).matches(info) is is_meant


def test_usb_port_opens_its_device_by_either_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyserial opens `portstr` on POSIX, and `name` on Windows."""
    opened: list[tuple[str, str]] = []

    def note(port: Any) -> None:
        opened.append((port.portstr, port.name))

    monkeypatch.setattr(ports, "find_usb", lambda url: "COM5")
    monkeypatch.setattr(serial.Serial, "open", note)
    port = serial.serial_for_url("usb://0403:6001/A50285BI", do_not_open=True)
    port.open()
    assert opened == [("COM5", "COM5")]
    assert port.port == port.name == "usb://0403:6001/A50285BI"


def test_usb_name_without_and_with_a_letter_leads_to_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    info = ListPortInfo("COM7")
    info.vid, info.pid, info.serial_number = 0x0403, 0x6001, "FT1A"
    monkeypatch.setattr(ports, "_SysFS", None)
    monkeypatch.setattr(list_ports, "comports", lambda: [info])
    assert find_usb("usb://0403:6001/FT1") == find_usb("usb://0403:6001/FT1A") == "COM7"
