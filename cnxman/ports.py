"""Names of ports, which ports there are, which program has one open, and when one comes back.

Importing this module makes the schemes `usb://` and `managed://` known to pyserial.
"""

import contextlib
import errno
import glob
import os
import re
import stat
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from importlib import import_module
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import serial
from serial.tools import list_ports
from serial.tools.list_ports_common import ListPortInfo

from cnxman._ports import windows as windows_ports
from cnxman._ports.watch import Callback
from cnxman._ports.watch import PortEvent as PortEvent
from cnxman._ports.watch import PortWatch as PortWatch
from cnxman.logging import printable

_SysFS: Callable[[str], ListPortInfo] | None = None
if sys.platform == "linux":
    with contextlib.suppress(ImportError):  # what stands in for pyserial may lack it
        from serial.tools.list_ports_linux import SysFS as _SysFS

_USB_NODES = ("/dev/ttyUSB*", "/dev/ttyACM*", "/dev/ttyXRUSB*")
"""What pyserial's `comports` knows as nodes of USB adapters on Linux."""

_handler_packages: list[str] = getattr(serial, "protocol_handler_packages", [])
"""Where pyserial looks for schemes. What stands in for pyserial may have schemes of its own, and no such list."""

_handler_packages.append("cnxman._urlhandlers")

_UNSETTLED = 0.05
"""A folder's time stamp is coarse (a tick of the kernel's, 1 to 10 ms): a younger one, in seconds, is not relied on."""

_FTDI = 0x0403

_CHANNELS = "ABCD"

_UNLISTED = 1.0
"""For so long, in seconds, Windows' own list of adapters may be behind its list of ports."""

BY_ID = "/dev/serial/by-id"
"""Where udev keeps links that are named after adapters."""


# -- port names -------------------------------------------------------------------------------------------


def scheme_of(port: str) -> str:
    """The scheme of a URL in lower case, or "" for a plain device name."""
    return port.split("://", 1)[0].lower() if "://" in port else ""


def check(port: str, schemes: Iterable[str] | None = None) -> None:
    """Refuse a port name that can never be opened.

    Args:
        port: a device name or a URL.
        schemes: the URL schemes to allow, "" for plain device names; None allows every one that pyserial knows.

    Raises:
        TypeError: if it is no str.
        ValueError: if it is empty, if it has control characters (which would get into logs), if its scheme is unknown
            or not allowed, if it is managed://, or if a usb:// URL is malformed, or one of a network port has no host
            or port number.
    """
    if isinstance(schemes, str):
        raise TypeError(f"schemes must be a collection of schemes, such as {{{schemes!r}}}, not the str {schemes!r}")
    if not isinstance(port, str):
        raise TypeError(f"port must be a str, such as '/dev/ttyUSB0' or a URL, not {port!r}")
    if not port or "\0" in port:
        raise ValueError(f"port must name a device, not {port!r}")
    scheme = scheme_of(port)
    if schemes is not None and scheme not in schemes:
        allowed = ", ".join(f"{s}://" if s else "plain device names" for s in schemes) or "nothing"
        raise ValueError(f"port {port!r} is not allowed here: only {allowed}")
    if scheme == "managed":
        raise ValueError(f"port must be the port itself, without managed://, which is for pyserial's users: {port!r}")
    if "://" in port and not _is_known(scheme):
        raise ValueError(f"port {port!r}: pyserial knows no scheme {scheme}://")
    if scheme == "usb":
        parse_usb(port)
    if scheme in ("socket", "rfc2217") and not _names_a_socket(port):
        raise ValueError(f"port must name a host and a port number, as in {scheme}://192.168.0.7:4001, not {port!r}")
    if any(unicodedata.category(character) == "Cc" for character in port):
        raise ValueError(f"port must name a device, without control characters, not {port!r}")


def _names_a_socket(port: str) -> bool:
    try:
        parts = urlsplit(port)
        return bool(parts.hostname and parts.port)
    except ValueError:  # no number, or one that is too large
        return False


def _is_known(scheme: str) -> bool:
    if not scheme.isidentifier():
        return False
    for package in _handler_packages:
        try:
            import_module(f"{package}.protocol_{scheme}")
        except ImportError:
            continue
        return True
    return False


# -- which ports there are --------------------------------------------------------------------------------


def available() -> list[ListPortInfo]:
    """The ports there are, by pyserial's `comports()`, which takes some 25 ms.

    If an adapter is pulled out meanwhile, pyserial raises a TypeError (a file of sysfs is gone); then it is asked
    again. An adapter that is about to go, with a node but no numbers, is in the list without numbers.
    """
    return _survivors(list_ports.comports)


def watch(callback: Callback) -> PortWatch:
    """Call a function whenever a port arrives or departs.

        with ports.watch(lambda event, info: print(event, info.device)) as watch:
            print("there are", [info.device for info in watch.at_start])
            ...

    An arrival is reported with the adapter's numbers, 0.2 to 0.5 s after it was plugged in. A port that comes back
    under the same name has departed and arrived. `watch` lists the ports before it returns, which takes 0.2 s.

    Args:
        callback: called with a `PortEvent` ("arrived" or "departed") and the port, as `available()` has it; on a
            thread of the watch's own, one call after another. What it raises is logged.

    Returns:
        The watch: `stop()` ends it, and so does leaving it as a context manager; `at_start` are the ports there were.

    Raises:
        TypeError: if the callback can't be called.
    """
    if not callable(callback):
        raise TypeError(f"callback must be callable, not {callback!r}")
    return PortWatch(available, callback)


def _usb_ports() -> list[ListPortInfo]:
    """Those of `available()` that may be USB adapters: on Linux without the 25 ms for everything else."""
    if _SysFS is None:
        return available()
    sysfs = _SysFS
    return _survivors(lambda: [sysfs(node) for pattern in _USB_NODES for node in glob.glob(pattern)])


def _survivors(look: Callable[[], Iterable[ListPortInfo]]) -> list[ListPortInfo]:
    """Ask again while adapters vanish under the asking."""
    for _ in range(10):
        try:
            return sorted(look(), key=lambda info: _natural(info.device))
        except (TypeError, OSError, ValueError):
            time.sleep(0.01)
    return []


def _natural(name: str) -> list[tuple[int, str]]:
    """ttyUSB2 before ttyUSB10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


@dataclass(frozen=True)
class UsbName:
    """The adapter that a usb:// URL names."""

    vid: int
    pid: int
    serial_number: str | None = None
    location: str | None = None

    def matches(self, info: ListPortInfo) -> bool:
        """Whether a listed port is this adapter."""
        return (
            (info.vid, info.pid) == (self.vid, self.pid)
            and (self.serial_number is None or self._is_numbered(info.serial_number))
            and self.location in (None, info.location)
        )

    def _is_numbered(self, number: str | None) -> bool:
        """Whether this is the adapter's number; FTDI's driver for Windows puts the letter of a channel behind it."""
        if number == self.serial_number:
            return True
        if self.vid != _FTDI or not number or not self.serial_number:
            return False
        shorter, longer = sorted((number, self.serial_number), key=len)
        return longer[:-1] == shorter and longer[-1] in _CHANNELS


def parse_usb(url: str) -> UsbName:
    """Read `usb://VID:PID[/SERIAL][?location=...]`, the numbers in hexadecimal.

    Raises:
        ValueError: if it is malformed.
    """
    expected = f"expected usb://VID:PID[/SERIAL][?location=BUS-PORT], such as usb://0403:6001/A50285BI, not {url!r}"
    try:
        parts = urlsplit(url)
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise ValueError(expected) from error
    numbers = re.fullmatch(r"([0-9a-fA-F]{1,4}):([0-9a-fA-F]{1,4})", parts.netloc)
    known = [value for name, value in options if name == "location" and value]
    if parts.scheme != "usb" or not numbers or parts.fragment or len(known) != len(options) or len(known) > 1:
        raise ValueError(expected)
    if not url.isprintable():  # `urlsplit` leaves out tabs and line ends
        raise ValueError(expected)
    return UsbName(
        int(numbers[1], 16), int(numbers[2], 16), unquote(parts.path[1:]) or None, known[0] if known else None
    )


def usb_name(info: ListPortInfo, *, with_location: bool = False) -> str | None:
    """The usb:// URL of a port that was listed, or None if it is no USB adapter."""
    if info.vid is None or info.pid is None:
        return None
    number = f"/{quote(info.serial_number, safe='')}" if info.serial_number else ""
    location = f"?location={quote(info.location, safe=':')}" if info.location and (with_location or not number) else ""
    return f"usb://{info.vid:04x}:{info.pid:04x}{number}{location}"


def by_id(path: str) -> str | None:
    """The link in /dev/serial/by-id that leads to a device: a name of udev's that survives renumbering.

    Returns:
        The link's path; None where there is none, as for a port that is no USB adapter, or without udev.
    """
    try:
        links = sorted(os.listdir(BY_ID))
    except OSError:
        return None
    device = os.path.realpath(path)
    found = (f"{BY_ID}/{link}" for link in links)
    return next((link for link in found if os.path.realpath(link) == device), None)


def find_usb(url: str) -> str:
    """The device that a usb:// URL names now.

    Raises:
        serial.SerialException: if no adapter matches (errno ENODEV) or several do (errno ENOTUNIQ).
        ValueError: if the URL is malformed.
    """
    wanted = parse_usb(url)
    found = [info for info in _usb_ports() if wanted.matches(info)]
    if not found:
        raise serial.SerialException(errno.ENODEV, f"no adapter that matches {url} is plugged in")
    if len(found) > 1:
        choice = "; ".join(f"{info.device} is {usb_name(info, with_location=True)}" for info in found)
        raise serial.SerialException(
            getattr(errno, "ENOTUNIQ", errno.EINVAL), f"{len(found)} adapters match {url}: {choice}"
        )
    return str(found[0].device)


def node_of(port: str) -> str:
    """The device node of a port name now, where that can be known without opening it; otherwise the name itself."""
    try:
        return find_usb(port) if scheme_of(port) == "usb" else port
    except serial.SerialException:
        return port


# -- when it comes back -----------------------------------------------------------------------------------


class Presence:
    """Whether a port is there, cheaply enough to be asked twenty times a second.

    For a device name that is one `stat` (4 us here), or a look into Windows' registry. A URL that names an adapter is
    looked up (25 ms) only after something in /dev, or in that registry, has changed. For other URLs it cannot be told.
    """

    def __init__(self, port: str) -> None:
        self._port = port
        self._lock = threading.Lock()
        self._stamp: Hashable = None
        self._answer: Hashable | None = None

    def __call__(self) -> Hashable | None:
        """None if it cannot be told, False while the port is absent, else what tells this device from the next."""
        scheme = scheme_of(self._port)
        if scheme not in ("", "usb", "hwgrep"):
            return None
        if not scheme:
            return _node(self._port)
        with self._lock:
            return self._look_up(scheme)

    def _look_up(self, scheme: str) -> Hashable | None:
        change = _last_change()
        if change is None:
            return None
        stamp, at, unsettled = change
        if stamp != self._stamp:
            self._answer = _usb_node(self._port) if scheme == "usb" else _grep_node(self._port)
            if abs(time.time() - at) > unsettled:
                self._stamp = stamp
        return self._answer


def _last_change() -> tuple[Hashable, float, float] | None:
    """When ports came or went: a time stamp, the same in seconds, and for how long it may be too early to rely on."""
    if windows_ports.is_windows():
        change = windows_ports.last_change()
        return None if change is None else (*change, _UNLISTED)
    try:
        folder = os.stat("/dev")
    except OSError:
        return None
    return (folder.st_ino, folder.st_mtime_ns), folder.st_mtime, _UNSETTLED


def _node(path: str) -> Hashable:
    """What tells one node from another of the same name: a new one has another inode or change time."""
    if windows_ports.is_windows():
        return windows_ports.identity(path)
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return False
    return (found.st_dev, found.st_ino, found.st_rdev, found.st_ctime_ns)


def _usb_node(url: str) -> Hashable:
    try:
        return _node(find_usb(url))
    except serial.SerialException:
        return False


def _grep_node(url: str) -> Hashable:
    pattern = url.split("://", 1)[1].split("&", 1)[0]
    try:
        found = [info.device for info in available() if re.search(pattern, _described(info), re.IGNORECASE)]
    except re.error:
        return False
    return tuple(_node(path) for path in found) or False


def _described(info: ListPortInfo) -> str:
    return f"{info.device} {info.description} {info.hwid}"


# -- who holds it -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Holder:
    """A process that has a port open."""

    pid: int
    command: str

    def __str__(self) -> str:
        mine = ", this very process" if self.pid == os.getpid() else ""
        return f"{self.command} (pid {self.pid}{mine})"


def holders(path: str) -> list[Holder]:
    """The processes that have a device open, as far as the system lets us see (on Linux, by /proc).

    Takes some ms: it reads the links of every descriptor of every process.
    """
    try:
        device = os.stat(path)
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except (OSError, ValueError):
        return []
    if not stat.S_ISCHR(device.st_mode):
        return []
    real = os.path.realpath(path)
    return [Holder(pid, _command(pid)) for pid in sorted(pids) if _has_open(pid, real)]


def _has_open(pid: int, real: str) -> bool:
    try:
        links = [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return False  # another user's, or it has just ended
    return any(_target(link) == real for link in links)


def _target(link: str) -> str | None:
    try:
        return os.readlink(link)
    except OSError:
        return None


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return printable(file.read().replace(b"\0", b" ").decode(errors="replace").strip()) or "a process"
    except OSError:
        return "a process"
