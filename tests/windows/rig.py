"""The host's half: Wine, COM ports that can be pulled out, what the guest asks for."""

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import threading
import tty
from collections.abc import Callable, Sequence
from typing import Any

from tests.kit.rigs import Message, Messages, RigError

from .data import numbered

HERE = os.path.dirname(os.path.abspath(__file__))
CHECKOUT = os.path.dirname(os.path.dirname(HERE))
SERVER = "/usr/lib/wine/wineserver64"  # (Debian's `wineserver` is a script around it that has it end by itself)
MAIN = "from tests.windows import guest; guest.main()"


class Port:
    """The host's end of a COM port: a pseudo-terminal's master, drained all the time unless it is held.

    Args:
        link: Wine's name for the port, a link that is there while it is plugged in.
    """

    def __init__(self, link: str) -> None:
        self._link = link
        self._master, self._slave = (
            os.openpty()
        )  # the slave is held, or reading the master fails while nobody has the port open
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self._bell, self._ring = os.pipe()
        self._over = False
        self._held = False
        self._came = bytearray()
        self._sent = 0
        self._news = threading.Condition()
        self._threads = [threading.Thread(target=self._drain, daemon=True)]
        self._threads[0].start()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(link)
        os.symlink(os.ttyname(self._slave), link)

    def _drain(self) -> None:
        while not self._over:
            ready, _, _ = select.select([self._bell] if self._held else [self._bell, self._master], [], [], 5)
            if self._bell in ready:
                os.read(self._bell, 100)
            if self._master in ready:
                with contextlib.suppress(BlockingIOError), self._news:
                    self._came += os.read(self._master, 65536)
                    self._news.notify_all()

    def hold(self, held: bool) -> None:
        """Drain the port no more, or again."""
        self._held = held
        os.write(self._ring, b"!")

    def send(self, data: bytes) -> None:
        """Sends `data`, on a thread of its own, as fast as the guest reads."""
        self._threads.append(threading.Thread(target=self._pour, args=(data,), daemon=True))
        self._threads[-1].start()

    def _pour(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest and not self._over:
            if select.select([], [self._master], [], 0.1)[1]:
                with contextlib.suppress(BlockingIOError):
                    count = os.write(self._master, rest[:4096])
                    rest = rest[count:]
                    self._sent += count

    def sent(self) -> int:
        """How many bytes the guest's side has taken since the port was plugged in."""
        return self._sent

    def expect(self, size: int, timeout: float) -> int:
        """Waits until `size` bytes came in all, `timeout` seconds at most; returns how many did."""
        with self._news:
            self._news.wait_for(lambda: len(self._came) >= size, timeout)
            return len(self._came)

    def take(self) -> bytes:
        """Takes all that came."""
        with self._news:
            data = bytes(self._came)
            self._came.clear()
            return data

    def pull(self) -> None:
        """Pulls it out: reads and writes fail, and the name is gone."""
        os.unlink(self._link)
        self._over = True
        os.write(self._ring, b"!")
        for thread in self._threads:
            thread.join(5)
        for descriptor in (self._slave, self._master, self._bell, self._ring):
            os.close(descriptor)


class Windows:
    """A machine of Wine's, running, with no port. A context: everything in it has ended on leaving.

    Args:
        cache: The folder that build.sh filled.
        version: Which Python, such as "3.11".
        name: Of the machine. Machines of different names run at once, each with a registry and ports of its own.
    """

    def __init__(self, cache: str, version: str, name: str) -> None:
        self._prefix = os.path.join(cache, f"machine-{name}")
        self._python = os.path.join(cache, f"py{version}", "python.exe")
        self.ports: dict[str, Port] = {}
        self._running: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE", "PYTHON"))},
            "WINEPREFIX": self._prefix,
            "WINEDEBUG": "-all",
            "WINEDLLOVERRIDES": "mscoree,mshtml=",
            "PYTHONPATH": in_windows(CHECKOUT),
            "PYTHONUTF8": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def __enter__(self) -> "Windows":
        self._stop_server()
        self._make()
        # In the foreground: the server that Wine starts by itself leads a session, so that a pseudo-terminal it opens
        # becomes its controlling terminal, and it dies of SIGHUP at the pull.
        self._spawn([SERVER, "-f", "-p"], subprocess.DEVNULL)
        # Wine's services would hold the output of the first program open for as long as they live.
        try:
            subprocess.run(
                ["wine", "cmd", "/c", "exit"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=60,
                check=False,
            )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for port in list(self.ports):
            self.pull(port)
        for process in reversed(self._running[1:]):
            process.kill()
        self._stop_server()
        for process in self._running:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
            if process.stdout is not None:
                process.stdout.close()

    def _make(self) -> None:
        """A new machine: the registry as it was built, no ports, and the files that all machines share."""
        built = os.path.join(os.path.dirname(self._prefix), "prefix")
        shutil.rmtree(self._prefix, ignore_errors=True)
        os.makedirs(self.devices)
        os.makedirs(self.temporary)
        for name in os.listdir(built):
            if name.endswith(".reg") or name == ".update-timestamp":
                shutil.copy2(os.path.join(built, name), self._prefix)
        os.symlink(os.path.join(built, "drive_c"), os.path.join(self._prefix, "drive_c"))
        os.symlink("../drive_c", os.path.join(self.devices, "c:"))
        os.symlink("/", os.path.join(self.devices, "z:"))

    def _stop_server(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run([SERVER, "-k"], env=self.environment, capture_output=True, timeout=20, check=False)

    def _spawn(self, command: Sequence[str], output: int) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],  # it ends with this process
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        self._running.append(process)
        return process

    @property
    def devices(self) -> str:
        """The folder of Wine's device names."""
        return os.path.join(self._prefix, "dosdevices")

    @property
    def temporary(self) -> str:
        """A folder for files of the machine's own, on this side."""
        return os.path.join(self._prefix, "temporary")

    def python(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Starts Python in the guest; its output, both kinds, is the pipe `stdout`. (Wine's Python needs pipes.)"""
        return self._spawn(["wine", self._python, "-u", *arguments], subprocess.PIPE)

    def plug(self, name: str) -> None:
        """Plugs a COM port in."""
        self.ports[name] = Port(os.path.join(self.devices, name.lower()))

    def pull(self, name: str) -> None:
        """Pulls a COM port out."""
        self.ports.pop(name).pull()


def in_windows(path: str) -> str:
    """A path of the host's, as the guest has it."""
    return "Z:" + path.replace("/", "\\")


class Guest:
    """A Python in the guest that runs the scenarios named. It may ask for the methods in `REQUESTS`."""

    REQUESTS = ("plug", "pull", "hold", "send", "sent", "expect", "take")

    def __init__(self, windows: Windows, scenarios: Sequence[str], log: str) -> None:
        self._windows = windows
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(30)
            self._process = windows.python("-c", MAIN, str(server.getsockname()[1]), *scenarios)
            self._log = threading.Thread(target=self._keep, args=(log,), daemon=True)
            self._log.start()
            try:
                self._messages = Messages(server.accept()[0], "the guest")
            except TimeoutError as error:
                raise RigError(f"the guest does not begin; what it says is in {log}") from error

    def _keep(self, log: str) -> None:
        assert self._process.stdout is not None
        with open(log, "wb") as file:
            while data := os.read(self._process.stdout.fileno(), 65536):
                file.write(data)
                file.flush()

    def next(self, give_up: float) -> Message:
        """What the guest tells next; what it asks for until then is done. RigError if not by `give_up`."""
        while True:
            message = self._messages.get(give_up)
            if message["what"] not in self.REQUESTS:
                return message
            request: Callable[..., Any] = getattr(self, message["what"])
            try:
                answer = {"answer": request(*message["with"])}
            except (OSError, KeyError) as error:
                answer = {"error": repr(error)}
            self._messages.put(answer)

    def plug(self, name: str) -> None:
        """Plugs a COM port in."""
        self._windows.plug(name)

    def pull(self, name: str) -> None:
        """Pulls a COM port out."""
        self._windows.pull(name)

    def hold(self, name: str, held: bool) -> None:
        """Drain the port no more, or again."""
        self._windows.ports[name].hold(held)

    def send(self, name: str, data: str | int) -> None:
        """Sends text, or so many bytes of numbered lines, to the guest; does not wait for it."""
        self._windows.ports[name].send(numbered(data) if isinstance(data, int) else data.encode())

    def sent(self, name: str) -> int:
        """How many bytes the guest's side has taken since the port was plugged in."""
        return self._windows.ports[name].sent()

    def expect(self, name: str, size: int, timeout: float) -> int:
        """Waits until the guest wrote so much since the last `take`; returns how much it did."""
        return self._windows.ports[name].expect(size, timeout)

    def take(self, name: str) -> str:
        """All that the guest wrote and nobody took yet."""
        return self._windows.ports[name].take().decode("latin-1")

    def close(self) -> None:
        """Ends the guest, after a moment for it to end by itself."""
        self._messages.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(10)
        self._log.join(5)
