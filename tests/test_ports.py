"""Which port is meant, where it is now, who holds it, and when it comes back."""

import errno
import os
import re
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import serial
from hypothesis import example, given, settings
from hypothesis import strategies as st
from serial.tools import list_ports
from serial.tools.list_ports_common import ListPortInfo

from cnxman import ports
from cnxman.ports import Holder, Presence, UsbName, find_usb, holders, parse_usb, usb_name
from cnxman.serial import SerialConnection
from tests.kit.lines import BOUND, Hearer, Pty, no_leak, wait_until


@pytest.fixture
def pty() -> Iterator[Pty]:
    with Pty() as pty:
        yield pty


def adapter(
    device: str, vid: int | None = 0x0403, pid: int | None = 0x6001, number: str | None = None, place: str | None = None
) -> ListPortInfo:
    """A port as pyserial lists it."""
    info = ListPortInfo(device)
    info.vid, info.pid, info.serial_number, info.location = vid, pid, number, place
    info.description, info.hwid = "FT232R", f"USB VID:PID={vid or 0:04X}:{pid or 0:04X} SER={number}"
    return info


Listing = list[ListPortInfo] | Callable[[], list[ListPortInfo]]


class Plugged:
    """What pyserial's comports() lists, in the test's hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.listings: list[Listing] = [[]]
        self.asked = 0
        monkeypatch.setattr(ports, "_SysFS", None)
        monkeypatch.setattr(list_ports, "comports", self.comports)

    def __call__(self, *adapters: ListPortInfo) -> None:
        self.listings = [list(adapters)]

    def comports(self, include_links: bool = False) -> list[ListPortInfo]:
        self.asked += 1
        listing = self.listings.pop(0) if len(self.listings) > 1 else self.listings[0]
        return list(listing) if isinstance(listing, list) else listing()


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> Plugged:
    return Plugged(monkeypatch)


def vanished() -> list[ListPortInfo]:
    raise TypeError("expected str, bytes or os.PathLike object, not NoneType")


def gone() -> list[ListPortInfo]:
    raise OSError(errno.ENODEV, "No such device")


def misread() -> list[ListPortInfo]:
    raise ValueError("invalid literal for int() with base 16: ''")


# -- usb:// URLs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("usb://0403:6001", UsbName(0x0403, 0x6001)),
        ("usb://403:1", UsbName(0x0403, 0x0001)),
        ("USB://ABCD:ef01", UsbName(0xABCD, 0xEF01)),
        ("usb://0403:6001/", UsbName(0x0403, 0x6001)),
        ("usb://0403:6001/A50285BI", UsbName(0x0403, 0x6001, "A50285BI")),
        ("usb://0403:6001/a%20b%2Fc%3F", UsbName(0x0403, 0x6001, "a b/c?")),
        ("usb://0403:6001?location=1-1.4:1.0", UsbName(0x0403, 0x6001, None, "1-1.4:1.0")),
        ("usb://0403:6001/X?location=2-3", UsbName(0x0403, 0x6001, "X", "2-3")),
    ],
)
def test_a_usb_url_is_read(url: str, name: UsbName) -> None:
    assert parse_usb(url) == name
    ports.check(url)


@pytest.mark.parametrize(
    "url",
    [
        "usb://",
        "usb:0403:6001",
        "usb://0403",
        "usb://0403:",
        "usb://:6001",
        "usb://0403:60011",
        "usb://0403:600G",
        "usb://0403:-001",
        "usb://0403:6001:1",
        "usb://me@0403:6001",
        "usb://[0403:6001",
        "usb://0403:6001#here",
        "usb://0403:6001?place=1-1",
        "usb://0403:6001?location=",
        "usb://0403:6001?location",
        "usb://0403:6001?location=1-1&location=1-2",
        "usb://0403:6001?location=1-1&other=1",
        "usb://0403:6001/A\tB",
        "usb://04\n03:6001",
        "usb://٠٤٠٣:6001",
        "tty://0403:6001",
        "/dev/ttyUSB0",
        "",
    ],
)
def test_a_malformed_usb_url_is_refused_at_construction_with_an_example(url: str) -> None:
    with pytest.raises(ValueError, match=r"expected usb://VID:PID\[/SERIAL\]") as refused:
        parse_usb(url)
    assert repr(url) in str(refused.value)
    if url.startswith("usb://"):
        with pytest.raises(ValueError, match="expected usb://"):
            SerialConnection(url)
        with pytest.raises(ValueError, match="expected usb://"):
            serial.serial_for_url(url, do_not_open=True)


@settings(max_examples=150)
@given(st.one_of(st.text(), st.text().map(lambda text: f"usb://{text}"), st.text().map("usb://0403:6001{}".format)))
@example("usb://0403:6001//")
@example("usb://0403:6001/%ff?location=%00")
def test_any_text_is_read_or_refused_and_nothing_else(url: str) -> None:
    try:
        name = parse_usb(url)
    except ValueError:
        return
    assert 0 <= name.vid <= 0xFFFF
    assert 0 <= name.pid <= 0xFFFF
    assert name.serial_number != ""
    assert name.location != ""
    assert urlsplit(url).scheme == "usb"


@settings(max_examples=150)
@given(
    vid=st.integers(0, 0xFFFF),
    pid=st.integers(0, 0xFFFF),
    number=st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), min_size=1)),
    place=st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), min_size=1)),
    with_location=st.booleans(),
)
@example(vid=1, pid=1, number="a?b#c%41 +&=/", place="1-1.4:1.0+&", with_location=True)
def test_the_url_that_names_an_adapter_means_that_adapter(
    vid: int, pid: int, number: str | None, place: str | None, with_location: bool
) -> None:
    info = adapter("/dev/ttyUSB0", vid, pid, number, place)
    url = usb_name(info, with_location=with_location)
    assert url is not None
    name = parse_usb(url)
    assert name.matches(info)
    assert name.serial_number == number
    assert name.location == (place if with_location or number is None else None)
    ports.check(url)


def test_the_url_of_what_is_usual_is_easy_to_read() -> None:
    assert usb_name(adapter("x", number="A50285BI", place="1-1.4")) == "usb://0403:6001/A50285BI"
    assert usb_name(adapter("x", place="1-1.4:1.0")) == "usb://0403:6001?location=1-1.4:1.0"
    assert usb_name(adapter("x", number="A 1", place="1-2"), with_location=True) == "usb://0403:6001/A%201?location=1-2"
    assert usb_name(adapter("x", None, None)) is None
    assert usb_name(adapter("x", 1, None)) is None


# -- which adapter is meant -------------------------------------------------------------------------------


def test_an_adapter_is_found_by_what_is_said_of_it(plugged: Plugged) -> None:
    plugged(
        adapter("/dev/ttyUSB0", number="A", place="1-1"),
        adapter("/dev/ttyUSB1", number="B", place="1-2"),
        adapter("/dev/ttyUSB2", 0x10C4, 0xEA60, "A", "1-3"),
        adapter("/dev/ttyS0", None, None),
    )
    assert find_usb("usb://0403:6001/A") == "/dev/ttyUSB0"
    assert find_usb("usb://0403:6001/B") == "/dev/ttyUSB1"
    assert find_usb("usb://0403:6001?location=1-2") == "/dev/ttyUSB1"
    assert find_usb("usb://10c4:ea60") == "/dev/ttyUSB2"


def test_one_that_is_not_there_says_so(plugged: Plugged) -> None:
    plugged(adapter("/dev/ttyUSB0", number="A"), adapter("/dev/ttyS0", None, None))
    for url in ("usb://0403:6001/B", "usb://0403:6002", "usb://0403:6001/A?location=1-1"):
        with pytest.raises(serial.SerialException, match="no adapter that matches") as refused:
            find_usb(url)
        assert refused.value.errno == errno.ENODEV


def test_several_matches_are_refused_and_listed_with_their_differences(plugged: Plugged) -> None:
    """Cheap twins even share a serial number: then the location tells."""
    plugged(adapter("/dev/ttyUSB10", number="0001", place="1-1"), adapter("/dev/ttyUSB2", number="0001", place="1-2"))
    with pytest.raises(serial.SerialException, match="2 adapters match usb://0403:6001/0001") as refused:
        find_usb("usb://0403:6001/0001")
    assert refused.value.errno == getattr(errno, "ENOTUNIQ", errno.EINVAL)
    assert (
        "/dev/ttyUSB2 is usb://0403:6001/0001?location=1-2; /dev/ttyUSB10 is usb://0403:6001/0001?location=1-1"
        in str(refused.value)
    )
    for place, device in (("1-1", "/dev/ttyUSB10"), ("1-2", "/dev/ttyUSB2")):
        assert find_usb(f"usb://0403:6001/0001?location={place}") == device


def test_an_adapter_that_is_half_gone_is_not_taken_for_another(plugged: Plugged) -> None:
    """Pulled out meanwhile, it may be listed with no numbers."""
    plugged(adapter("/dev/ttyUSB0", None, None), adapter("/dev/ttyUSB1", number="B"))
    assert find_usb("usb://0403:6001") == "/dev/ttyUSB1"
    plugged(adapter("/dev/ttyUSB0", None, None))
    with pytest.raises(serial.SerialException):
        find_usb("usb://0403:6001")


@pytest.mark.parametrize("race", [vanished, gone, misread])
def test_an_enumeration_that_races_with_a_pull_is_asked_again(
    plugged: Plugged, race: Callable[[], list[ListPortInfo]]
) -> None:
    plugged.listings = [race, race, [adapter("/dev/ttyUSB0")]]
    assert [info.device for info in ports.available()] == ["/dev/ttyUSB0"]
    plugged.listings = [race, [adapter("/dev/ttyUSB0")]]
    assert find_usb("usb://0403:6001") == "/dev/ttyUSB0"


def test_an_enumeration_that_never_succeeds_ends_with_nothing(plugged: Plugged) -> None:
    plugged.listings = [vanished]
    began = time.monotonic()
    assert ports.available() == []
    assert time.monotonic() - began < 4
    assert 1 < plugged.asked <= 20


def test_ports_are_listed_as_a_person_counts() -> None:
    names = ["/dev/ttyUSB10", "/dev/ttyUSB2", "/dev/ttyACM0", "/dev/ttyUSB1", "/dev/ttyS0", "/dev/x1²3", "/dev/x1٢"]
    assert sorted(names, key=ports._natural)[:5] == [
        "/dev/ttyACM0",
        "/dev/ttyS0",
        "/dev/ttyUSB1",
        "/dev/ttyUSB2",
        "/dev/ttyUSB10",
    ]


def test_the_real_enumeration_works_here() -> None:
    assert isinstance(ports.available(), list)
    with pytest.raises(serial.SerialException, match="no adapter that matches"):
        find_usb("usb://fffe:fffe/cnxman-test")


class Vanishing(ListPortInfo):
    """What sysfs says of nodes, as pyserial reads it: the first two readings find the adapter half gone."""

    races = 2

    def __init__(self, device: str) -> None:
        super().__init__(device)
        if Vanishing.races and device.endswith("ttyUSB0"):
            Vanishing.races -= 1
            raise TypeError
        self.vid, self.pid, self.serial_number = 0x0403, 0x6001, Path(device).name


@pytest.mark.skipif(sys.platform != "linux", reason="sysfs is Linux's")
def test_on_linux_only_nodes_of_usb_adapters_are_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ttyUSB0", "ttyACM0", "ttyS0"):
        (tmp_path / name).touch()
    monkeypatch.setattr(ports, "_USB_NODES", tuple(str(tmp_path / Path(node).name) for node in ports._USB_NODES))
    monkeypatch.setattr(ports, "_SysFS", Vanishing)
    monkeypatch.setattr(Vanishing, "races", 2)
    monkeypatch.setattr(list_ports, "comports", vanished)
    assert find_usb("usb://0403:6001/ttyUSB0") == str(tmp_path / "ttyUSB0")
    assert find_usb("usb://0403:6001/ttyACM0") == str(tmp_path / "ttyACM0")
    with pytest.raises(serial.SerialException):
        find_usb("usb://0403:6001/ttyS0")


# -- usb:// as a port -------------------------------------------------------------------------------------


def test_serial_for_url_opens_the_adapter_under_its_name_of_today(plugged: Plugged, pty: Pty) -> None:
    plugged(adapter(pty.device, number="A"))
    with no_leak():
        port = serial.serial_for_url("usb://0403:6001/A", timeout=BOUND)
        assert port.port == "usb://0403:6001/A"
        pty.send(b"hello")
        assert port.read(5) == b"hello"
        port.close()
        with Pty() as other:
            plugged(adapter(other.device, number="A"), adapter(pty.device, number="B"))
            port.open()
            other.send(b"world")
            assert port.read(5) == b"world"
            port.close()


def test_it_is_read_as_fast_as_a_plain_port() -> None:
    from cnxman._line.posix import has_descriptor

    assert has_descriptor(serial.serial_for_url("usb://0403:6001", do_not_open=True))


def test_a_connection_finds_its_adapter_under_another_name(plugged: Plugged, pty: Pty) -> None:
    """Two adapters that swap names: each connection keeps to its own."""
    with Pty() as second, no_leak():
        plugged(adapter(pty.device, number="A"), adapter(second.device, number="B"))
        a, b = SerialConnection("usb://0403:6001/A"), SerialConnection("usb://0403:6001/B")
        ears = Hearer(a), Hearer(b)
        for names in ((pty, second), (second, pty)):
            plugged(adapter(names[0].device, number="A"), adapter(names[1].device, number="B"))
            for connection, ear, line, what in ((a, ears[0], names[0], b"a"), (b, ears[1], names[1], b"b")):
                assert connection.try_connect()
                before = len(ear.data)
                line.send(what)
                ear.wait_for(lambda ear=ear, before=before: len(ear.data) > before)
                connection.disconnect()
        assert (ears[0].data, ears[1].data) == (b"aa", b"bb")


def test_an_adapter_that_is_absent_or_ambiguous_is_a_failed_attempt_in_its_own_words(plugged: Plugged) -> None:
    connection = SerialConnection("usb://0403:6001")
    with no_leak():
        plugged()
        assert not connection.try_connect()
        assert "no adapter that matches usb://0403:6001 is plugged in" in str(connection.last_error)
        plugged(adapter("/dev/ttyUSB0", place="1-1"), adapter("/dev/ttyUSB1", place="1-2"))
        assert not connection.try_connect()
        assert "2 adapters match" in str(connection.last_error)
        plugged.listings = [vanished]
        assert not connection.try_connect()


def test_holders_of_an_adapter_are_found_by_its_url_too(plugged: Plugged, pty: Pty) -> None:
    plugged(adapter(pty.device, number="A"))
    first, second = (SerialConnection("usb://0403:6001/A") for _ in range(2))
    with no_leak():
        assert first.try_connect()
        assert not second.try_connect()
        assert "this very process" in str(second.last_error)
        first.teardown()


def test_the_hint_for_a_forbidden_adapter_is_that_of_its_node(
    plugged: Plugged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = tmp_path / "ttyUSB0"
    node.touch()
    node.chmod(0o600)
    plugged(adapter(str(node), number="A"))

    def refuse(port: serial.Serial) -> None:
        raise serial.SerialException(errno.EACCES, "Permission denied")

    monkeypatch.setattr(serial.Serial, "open", refuse)
    connection = SerialConnection("usb://0403:6001/A")
    assert not connection.try_connect()
    assert "only its owner may" in str(connection.last_error)


# -- presence ---------------------------------------------------------------------------------------------


def test_the_presence_of_a_node(pty: Pty) -> None:
    presence = Presence(pty.path)
    first = presence()
    assert first
    assert presence() == first
    time.sleep(0.02)  # the kernel's time stamps are coarse, and the next pseudo-terminal may have the same number
    pty.pull()
    assert presence() is False
    pty.plug()
    assert presence()
    assert presence() != first, "one that was put back is another"


def test_opening_and_using_a_node_does_not_change_it(pty: Pty) -> None:
    connection = SerialConnection(pty.path)
    before = connection.presence()
    with no_leak():
        assert connection.try_connect()
        connection.write(b"x")
        assert pty.receive(1) == b"x"
        connection.teardown()
    assert connection.presence() == before


@pytest.mark.parametrize("port", ["loop://", "socket://localhost:1", "rfc2217://localhost:1", "spy:///dev/ttyS0"])
def test_holders_of_other_urls_are_unknown(port: str) -> None:
    assert Presence(port)() is None
    assert SerialConnection(port).presence() is None


def test_a_name_that_is_none_is_absent() -> None:
    assert Presence("/dev/no\0such")() is False
    assert Presence("x" * 5000)() is False


class Folder:
    """/dev in the test's hand: only its time stamp counts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.changed = 1.0
        self.there = True
        self._original = os.stat
        monkeypatch.setattr(os, "stat", self.stat)

    def stat(self, path: Any, **more: Any) -> Any:
        if path != "/dev":
            return self._original(path, **more)
        if not self.there:
            raise FileNotFoundError
        found = list(self._original("/"))
        return type("Stat", (), {"st_ino": found[1], "st_mtime_ns": int(self.changed * 1e9), "st_mtime": self.changed})


@pytest.mark.parametrize("scheme", ["usb", "hwgrep"])
def test_an_adapter_is_looked_up_only_after_dev_has_changed(
    plugged: Plugged, pty: Pty, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    folder = Folder(monkeypatch)
    presence = Presence({"usb": "usb://0403:6001/A", "hwgrep": "hwgrep://SER=A"}[scheme])
    assert presence() is False
    asked = plugged.asked
    for _ in range(5):
        assert presence() is False
    assert plugged.asked == asked, "nothing has changed"
    plugged(adapter(pty.device, number="A"), adapter("/dev/other", number="B"))
    folder.changed += 1
    there = presence()
    assert there
    assert presence() == there
    asked = plugged.asked
    presence()
    assert plugged.asked == asked
    plugged()
    folder.changed += 1
    assert presence() is False
    folder.there = False
    assert presence() is None


def test_a_time_stamp_that_is_young_is_not_relied_on(
    plugged: Plugged, pty: Pty, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is coarse: the next change may have the same."""
    folder = Folder(monkeypatch)
    folder.changed = time.time()
    presence = Presence("usb://0403:6001")
    assert presence() is False
    plugged(adapter(pty.device))
    wait_until(lambda: bool(presence()), "it is found though the time stamp is the same")


def test_a_pattern_that_is_none_is_absent(plugged: Plugged, monkeypatch: pytest.MonkeyPatch) -> None:
    Folder(monkeypatch)
    plugged(adapter("/dev/ttyUSB0"))
    assert Presence("hwgrep://(")() is False
    assert Presence("hwgrep://FT232R&n=1")() is not None


# -- who holds it -----------------------------------------------------------------------------------------


def test_holders_are_named_by_pid_and_command(pty: Pty) -> None:
    assert holders(pty.path) == []
    with (
        open(pty.device, "rb+", buffering=0),
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys; f = open(sys.argv[1]); print(1, flush=True); sys.stdin.read()",
                pty.path,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as other,
    ):
        assert other.stdout is not None
        assert other.stdout.readline() == b"1\n"
        found = holders(pty.path)
        assert sorted(holder.pid for holder in found) == sorted([os.getpid(), other.pid])
        by_pid = {holder.pid: holder for holder in found}
        assert sys.executable in by_pid[other.pid].command
        assert str(by_pid[other.pid]).endswith(f"(pid {other.pid})")
        assert str(by_pid[os.getpid()]).endswith(f"(pid {os.getpid()}, this very process)")
        assert other.stdin is not None
        other.stdin.close()


def test_holders_of_what_is_no_device_are_none(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with file.open("w"):
        assert holders(str(file)) == []
    assert holders(str(tmp_path / "nothing")) == []
    assert holders("no\0name") == []


def test_processes_that_end_or_are_anothers_are_passed_over(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    list_folder = os.listdir
    missing = 2**22 + 5

    def with_one_that_has_ended(path: Any) -> list[str]:
        found = list_folder(path)
        if path == "/proc":
            return [*found, str(missing)]
        return [*found, "99999"] if str(path).endswith(f"{os.getpid()}/fd") else found

    with open(pty.device, "rb+", buffering=0):
        monkeypatch.setattr(os, "listdir", with_one_that_has_ended)
        assert [holder.pid for holder in holders(pty.path)] == [os.getpid()]
    assert ports._command(missing) == "a process"


def test_without_proc_nobody_is_named(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Any) -> list[str]:
        raise FileNotFoundError

    monkeypatch.setattr(os, "listdir", refuse)
    assert holders(pty.path) == []
    assert str(Holder(1, "init")) == "init (pid 1)"


# -- port names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("port", "scheme"),
    [
        ("/dev/ttyUSB0", ""),
        ("COM3", ""),
        ("\\\\.\\COM10", ""),
        ("./a:b", ""),
        ("loop://", "loop"),
        ("Socket://host:1", "socket"),
        ("usb://0403:6001", "usb"),
        ("spy://socket://x", "spy"),
    ],
)
def test_the_scheme_of_a_port(port: str, scheme: str) -> None:
    assert ports.scheme_of(port) == scheme


@pytest.mark.parametrize(
    "port", ["socket://127.0.0.1", "socket://:4001", "rfc2217://host:x", "rfc2217://host:70000", "socket://[::1:4001"]
)
def test_a_network_port_without_host_or_number_is_refused(port: str) -> None:
    message = rf"port must name a host and a port number, as in .*, not {re.escape(repr(port))}"
    with pytest.raises(ValueError, match=message):
        ports.check(port)


@settings(max_examples=150)
@given(st.one_of(st.text(), st.builds("{}://{}".format, st.text(max_size=8), st.text())))
@example("..://x")
@example("os.path://x")
@example("spy/../loop://")
@example("__init__://")
def test_any_text_is_a_port_name_or_refused_and_nothing_is_opened(port: str) -> None:
    try:
        ports.check(port)
    except ValueError:
        return
    scheme = ports.scheme_of(port)
    assert scheme == "" or re.fullmatch(r"[a-z0-9_]+", scheme)
    with pytest.raises(ValueError, match=r"not allowed|knows no"):
        ports.check(port, [s for s in ("", "loop", "spy") if s != scheme])


# -- elsewhere --------------------------------------------------------------------------------------------


def test_where_there_is_no_sysfs_all_ports_are_looked_at(plugged: Plugged, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS and Windows."""
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(serial, "protocol_handler_packages", [])
    there = runpy.run_path(ports.__file__)
    assert serial.protocol_handler_packages == ["cnxman._urlhandlers"]
    plugged(adapter("/dev/cu.usbserial-1", number="A"))
    assert there["find_usb"]("usb://0403:6001/A") == "/dev/cu.usbserial-1"


def test_the_node_of_a_port(plugged: Plugged) -> None:
    plugged(adapter("/dev/ttyUSB7", number="A"))
    assert ports.node_of("usb://0403:6001/A") == "/dev/ttyUSB7"
    assert ports.node_of("usb://0403:6001/B") == "usb://0403:6001/B"
    assert ports.node_of("/dev/ttyS0") == "/dev/ttyS0"
    assert ports.node_of("loop://") == "loop://"


def test_the_link_that_udev_named_after_the_adapter(pty: Pty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "BY_ID", str(tmp_path / "by-id"))
    assert ports.by_id(pty.device) is None, "without udev"
    (tmp_path / "by-id").mkdir()
    assert ports.by_id(pty.device) is None
    (tmp_path / "by-id" / "usb-1").symlink_to("/dev/null")
    link = tmp_path / "by-id" / "usb-2"
    link.symlink_to(pty.device)
    assert ports.by_id(pty.path) == str(link)
