"""The host's half: QEMU with adapters that can be pulled out, their wires, the guest's requests."""

import contextlib
import fcntl
import glob
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import termios
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.kit.rigs import Message, Messages, RigError

from .cpio import Cpio

HERE = os.path.dirname(os.path.abspath(__file__))
CHECKOUT = os.path.dirname(os.path.dirname(HERE))
ADAPTERS = ("dev0", "dev1")  # in the USB ports 1 and 2; each is also the name of its wire
CONTROL = re.compile(r"usb_serial_handle_control dev \d+:\d+ got control 0x(\w+), value 0x(\w+)")
BAUD = re.compile(r"usb_serial_set_baud dev \d+:\d+ baud rate (\d+)")
SET_MODEM_LINES = 0x4001  # FTDI's request: the low byte holds DTR and RTS, the high byte which of them are meant


def dial(path: str) -> socket.socket:
    """A connection to QEMU's socket at `path`, which may not be there yet; RigError when it never is."""
    give_up = time.monotonic() + 10
    while True:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(path)
        except OSError as error:
            sock.close()
            if time.monotonic() > give_up:
                raise RigError("QEMU does not answer") from error
            time.sleep(0.02)
        else:
            return sock


class Wire:
    """The host's end of an adapter's wire. Always drained: QEMU stands still while nobody reads."""

    def __init__(self, path: str) -> None:
        self._sock = dial(path)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # so that calm() is soon over
        self._flood: threading.Thread | None = None
        self._calm = False
        self._came = bytearray()
        self._news = threading.Condition()
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._sock.recv(65536):
                with self._news:
                    self._came += data
                    self._news.notify_all()

    def send(self, data: bytes) -> None:
        """Sends all of `data`."""
        self._sock.sendall(data)

    def flood(self) -> None:
        """Sends numbered lines of 8 bytes until `calm`."""
        self._flood = threading.Thread(target=self._pour, daemon=True)
        self._flood.start()

    def _pour(self) -> None:
        with contextlib.suppress(OSError):
            for number in itertools.count():
                if self._calm:
                    return
                self.send(b"%07d\n" % number)

    def calm(self) -> None:
        """Ends a flood and waits until QEMU has taken it all, a second at most.

        QEMU 7.2 crashes when the wire brings something while the adapter is being pulled out. There is still
        enough under way then: in the adapter, and in the guest's driver.
        """
        give_up = time.monotonic() + 1
        self._calm = True
        if self._flood:
            self._flood.join(1)
        while any(fcntl.ioctl(self._sock, termios.TIOCOUTQ, bytes(4))) and time.monotonic() < give_up:
            time.sleep(0.0005)

    def expect(self, text: bytes, timeout: float) -> bool:
        """Whether `text` came within `timeout` seconds; takes all up to its end off the wire."""
        with self._news:
            found = self._news.wait_for(lambda: text in self._came, timeout)
            if found:
                del self._came[: self._came.find(text) + len(text)]
            return found

    def take(self) -> bytes:
        """Takes all that came off the wire, after the pull too."""
        with self._news:
            data = bytes(self._came)
            self._came.clear()
            return data

    def close(self) -> None:
        """Ends the connection; what came before can still be taken."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


class Rig:
    """A guest that runs the scenarios named, and what it may ask of the host: the methods in `REQUESTS`.

    Args:
        cache: The folder that build.sh filled.
        logs: A folder for the guest's console, QEMU's messages and what reached the adapters.
        scenarios: The names, in the order they are to run.
    """

    REQUESTS = ("plugged", "unplug", "replug", "bounce", "send", "flood", "expect", "take", "settings")

    def __init__(self, cache: str, logs: str, scenarios: list[str]) -> None:
        self._sockets = tempfile.mkdtemp(prefix="usbrig.")
        self._trace = os.path.join(logs, "trace.log")
        self._trace_read = 0
        self._wires: dict[str, Wire] = {}
        self._serials: dict[str, str] = {"dev0": "RIG0"}
        initrd = os.path.join(self._sockets, "initrd")
        write_initrd(initrd, os.path.join(cache, "base.cpio"), scenarios)
        with open(os.path.join(logs, "qemu.log"), "wb") as log:
            self._qemu = subprocess.Popen(
                self._command(os.path.join(cache, "vmlinux"), initrd, os.path.join(logs, "console.log")),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.guest = Messages(dial(f"{self._sockets}/guest"), "QEMU")
        self._monitor = Messages(dial(f"{self._sockets}/monitor"), "QEMU")
        self._monitor.get(time.monotonic() + 10)
        self._order("qmp_capabilities")
        self._wires["dev0"] = Wire(f"{self._sockets}/dev0")

    def _command(self, kernel: str, initrd: str, console: str) -> list[str]:
        def listening(name: str) -> str:
            return f"socket,id={name},path={self._sockets}/{name},server=on,wait=off"

        command = ["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"]  # QEMU ends with this process
        command += ["-accel", "tcg", "-M", "pc", "-cpu", "max", "-m", "512"]
        command += ["-nodefaults", "-display", "none", "-no-reboot"]
        command += ["-kernel", kernel, "-initrd", initrd, "-serial", f"file:{console}"]
        command += ["-append", "console=ttyS0 mitigations=off nokaslr panic=-1"]
        command += ["-chardev", listening("guest"), "-serial", "chardev:guest"]
        command += ["-chardev", listening("monitor"), "-mon", "chardev=monitor,mode=control"]
        # UHCI answers at once when the adapter is gone; QEMU's xHCI leaves a transfer unanswered for 5 s.
        command += ["-device", "piix3-usb-uhci,id=usb"]
        command += ["-trace", "usb_serial_handle_control", "-trace", "usb_serial_set_baud", "-D", self._trace]
        for adapter in ADAPTERS:
            command += ["-chardev", listening(adapter)]
        device = json.dumps(self._device("dev0", self._serials["dev0"]))
        return [*command, "-device", device]

    @staticmethod
    def _device(adapter: str, serial: str) -> Message:
        port = str(1 + ADAPTERS.index(adapter))
        device = {"driver": "usb-serial", "bus": "usb.0", "port": port, "always-plugged": True}
        return {**device, "id": adapter, "chardev": adapter, "serial": serial}

    def _order(self, command: str, **arguments: object) -> None:
        self._monitor.put({"execute": command, "arguments": arguments})
        while True:
            answer = self._monitor.get(time.monotonic() + 10)
            if "error" in answer:
                raise RigError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return

    def next(self, give_up: float) -> Message:
        """What the guest tells next; what it asks for until then is done. RigError if not by `give_up`."""
        while True:
            message = self.guest.get(give_up)
            if message["what"] not in self.REQUESTS:
                return message
            request: Callable[..., Any] = getattr(self, message["what"])
            try:
                answer = {"answer": request(*message["with"])}
            except (RigError, OSError, KeyError) as error:
                answer = {"error": repr(error)}
            self.guest.put(answer)

    def plugged(self) -> dict[str, str]:
        """The adapters that are plugged in, and their serial numbers."""
        return self._serials

    def unplug(self, adapter: str) -> None:
        """Pulls an adapter out; what was on the wire to it is lost."""
        del self._serials[adapter]
        self._wires[adapter].calm()
        self._order("device_del", id=adapter)
        self._wires[adapter].close()

    def replug(self, adapter: str, serial: str) -> None:
        """Puts an adapter in."""
        self._wires[adapter] = Wire(f"{self._sockets}/{adapter}")
        give_up = time.monotonic() + 2
        while True:  # QEMU frees what the pulled adapter held a moment late
            try:
                self._order("device_add", **self._device(adapter, serial))
            except RigError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.01)
            else:
                self._serials[adapter] = serial
                return

    def bounce(self, adapter: str) -> None:
        """Pulls an adapter out and puts it in at once."""
        serial = self._serials[adapter]
        self.unplug(adapter)
        self.replug(adapter, serial)

    def send(self, adapter: str, text: str) -> None:
        """Sends to the guest."""
        self._wires[adapter].send(text.encode())

    def flood(self, adapter: str) -> None:
        """Sends numbered lines of 8 bytes to the guest until the pull."""
        self._wires[adapter].flood()

    def expect(self, adapter: str, text: str, timeout: float) -> bool:
        """Whether the guest wrote `text` within `timeout` seconds."""
        return self._wires[adapter].expect(text.encode(), timeout)

    def take(self, adapter: str) -> str:
        """All that the guest wrote and nobody took yet."""
        return self._wires[adapter].take().decode("latin-1")

    def settings(self) -> list[str]:
        """What reached the adapters since it was asked last: "baud 9600", "dtr 1", "rts 0", in order."""
        with open(self._trace) as file:
            file.seek(self._trace_read)
            lines = file.readlines()
            self._trace_read = file.tell()
        return [setting for line in lines for setting in settings_in(line)]

    def close(self) -> None:
        """Ends QEMU, after a moment for the guest to power off."""
        try:
            self._qemu.wait(3)
        except subprocess.TimeoutExpired:
            self._qemu.kill()
            self._qemu.wait()
        self.guest.close()
        self._monitor.close()
        for wire in self._wires.values():
            wire.close()
        shutil.rmtree(self._sockets)


def write_initrd(path: str, base: str, scenarios: list[str]) -> None:
    """Writes what the guest boots from: `base`, the checkout's cnxman, this folder, the scenarios' names."""
    with open(path, "wb") as out:
        with open(base, "rb") as file:
            shutil.copyfileobj(file, out)
        archive = Cpio(out)
        for pattern in ("cnxman/**/*.py", "tests/usb/*.py"):
            for name in sorted(glob.glob(pattern, root_dir=CHECKOUT, recursive=True)):
                with open(os.path.join(CHECKOUT, name), "rb") as file:
                    archive.file(f"checkout/{name}", file.read())
        with open(os.path.join(HERE, "init.sh"), "rb") as file:
            archive.file("init", file.read(), mode=0o755)
        archive.file("scenarios", " ".join(scenarios).encode())
        archive.close()


def settings_in(line: str) -> list[str]:
    """What a line of QEMU's trace says was set."""
    if found := BAUD.match(line):
        return [f"baud {found[1]}"]
    found = CONTROL.match(line)
    if not found or int(found[1], 16) != SET_MODEM_LINES:
        return []
    value = int(found[2], 16)
    return [f"{name} {value >> bit & 1}" for bit, name in enumerate(("dtr", "rts")) if value >> bit + 8 & 1]
