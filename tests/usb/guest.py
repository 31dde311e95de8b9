"""The guest's half: asks the host to pull and plug, observes a managed line, runs the scenarios."""

import contextlib
import faulthandler
import glob
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from cnxman.basics import ConnectionException
    from cnxman.serial import SerialConnection

NODE = "/dev/ttyUSB0"


class Host:
    """The way to the host, over the guest's second serial port. Any thread may use it."""

    def __init__(self) -> None:
        self._file = open("/dev/ttyS1", "r+b", buffering=0)  # noqa: SIM115 - open until the guest powers off
        self._asking = threading.Lock()
        self._telling = threading.Lock()

    def tell(self, what: str, **fields: object) -> None:
        """Tells something that needs no answer."""
        data = json.dumps({"what": what, **fields}, default=repr).encode() + b"\n"
        with self._telling:
            while data:
                data = data[self._file.write(data) :]

    def ask(self, what: str, *arguments: object) -> Any:
        """Calls a method of the host's Rig, and gives back what it answers."""
        with self._asking:
            self.tell(what, **{"with": arguments})
            answer = json.loads(self._file.readline())
        if "error" in answer:
            raise RuntimeError(f"{what}{arguments}: {answer['error']}")
        return answer["answer"]


_host: Host


def unplug(adapter: str = "dev0") -> float:
    """Pulls an adapter out; returns when, in seconds of the monotonic clock."""
    at = time.monotonic()
    _host.ask("unplug", adapter)
    return at


def replug(adapter: str = "dev0", serial: str = "") -> None:
    """Puts an adapter in, with the serial number RIG0 or RIG1 unless told otherwise."""
    _host.ask("replug", adapter, serial or adapter.replace("dev", "RIG"))


def bounce(adapter: str = "dev0") -> float:
    """Pulls an adapter out and puts it in at once; returns when."""
    at = time.monotonic()
    _host.ask("bounce", adapter)
    return at


def flood(adapter: str = "dev0") -> None:
    """Has the host send numbered lines of 8 bytes until the pull."""
    _host.ask("flood", adapter)


def take(adapter: str = "dev0") -> str:
    """All that came out of the adapter and wasn't taken yet, after its pull too."""
    text: str = _host.ask("take", adapter)
    return text


def settings_reach(wanted: Callable[[list[str]], bool], timeout: float = 2) -> list[str]:
    """What reached the adapters since the last call: once that is as wanted, or `timeout` seconds later."""
    give_up = time.monotonic() + timeout
    came: list[str] = []
    while True:
        came += _host.ask("settings")
        if wanted(came) or time.monotonic() > give_up:
            return came
        time.sleep(0.05)


def check(name: str, ok: bool = True, **facts: object) -> None:
    """Reports a check; one that does not hold makes the run fail."""
    _host.tell("check", name=name, ok=bool(ok), facts={} if ok else facts)


def figure(name: str, seconds: float) -> None:
    """Reports a measured time."""
    _host.tell("figure", name=name, seconds=seconds)


def nodes() -> list[str]:
    """The adapters' device nodes."""
    return sorted(glob.glob("/dev/ttyUSB*"))


def wait_for_nodes(count: int) -> None:
    """Waits until there are so many device nodes."""
    wait_for(lambda: len(nodes()) == count, f"{count} device nodes")


def node_of(serial: str) -> str:
    """The device node of the adapter with this serial number, as sysfs has it."""
    for path in glob.glob("/sys/bus/usb-serial/devices/ttyUSB*"):
        with contextlib.suppress(FileNotFoundError), open(f"{os.path.realpath(path)}/../../serial") as file:
            if file.read().strip() == serial:
                return f"/dev/{os.path.basename(path)}"
    return ""


def appeared(node: str) -> float:
    """When the kernel made the node, in seconds of the monotonic clock: up to 4 ms early, never late."""
    return os.stat(node).st_ctime - (time.time() - time.monotonic())


def wait_for(condition: Callable[[], object], what: str, timeout: float = 5) -> None:
    """Looks until the condition holds; AssertionError when it doesn't within `timeout` seconds."""
    give_up = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < give_up, f"not within {timeout} s: {what}"
        time.sleep(0.005)


class Line:
    """A managed connection, and what it told. A context: connected on entering, torn down on leaving.

    Args:
        port: What SerialConnection takes.
        kind: SerialConnection itself, unless told otherwise.
        wait: Whether to be connected on entering, or only to have tried.
        settings: Further arguments of SerialConnection.
    """

    def __init__(
        self,
        port: str = NODE,
        kind: "type[SerialConnection] | None" = None,
        wait: bool = True,
        **settings: Any,
    ) -> None:
        from cnxman.basics import ConnectionManager
        from cnxman.serial import SerialConnection

        self.connection = (kind or SerialConnection)(port, **{"baudrate": 115200, **settings})
        self.manager = ConnectionManager(self.connection)
        self.told: list[tuple[float, str]] = []
        self.received = bytearray()
        self._wait = wait
        self._news = threading.Condition()
        self.connection.subscribe(self._on_data, signal=SerialConnection.Signals.DATA_RECEIVED)
        self.manager.subscribe(self._on_state, signal=ConnectionManager.Signals.STATE_CHANGED)

    def _on_data(self, data: bytes) -> None:
        with self._news:
            self.received += data
            self._news.notify_all()

    def _on_state(self, state: str) -> None:
        with self._news:
            self.told.append((time.monotonic(), str(state)))
            self._news.notify_all()

    def __enter__(self) -> Self:
        self.manager.connect()
        if self._wait:
            try:
                self.when("connected", 0, 10)
            except AssertionError:
                self.manager.teardown()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        self.manager.teardown()

    def when(self, state: str, since: float, timeout: float = 5) -> float:
        """When the manager first told of `state` since then; AssertionError if not in `timeout` seconds."""

        def found() -> list[float]:
            return [at for at, told in self.told if told == state and at >= since]

        with self._news:
            if not self._news.wait_for(found, timeout):
                raise AssertionError(f"not {state} in {timeout} s: {self.told}, {self.why()}")
            return found()[0]

    def why(self) -> "ConnectionException | None":
        """The manager's last error."""
        return self.manager.last_error

    def exchange(self, adapter: str = "dev0") -> None:
        """Data flows both ways, through this adapter; AssertionError if not."""
        token = os.urandom(8).hex()
        self.connection.write(f"from guest {token}\n".encode())
        assert _host.ask("expect", adapter, f"from guest {token}\n", 5), f"nothing came out of {adapter}"
        _host.ask("send", adapter, f"from host {token}\n")
        with self._news:
            arrived = self._news.wait_for(lambda: f"from host {token}\n".encode() in self.received, 5)
        assert arrived, f"what went into {adapter} was not received"

    def returns(self, pulled: float, node: str = NODE, adapter: str = "dev0", timeout: float = 10) -> None:
        """After a pull and the adapter's return: the line is back by itself, on this node, data both ways."""
        lost = self.when("recovering", pulled, timeout)
        figure("loss", lost - pulled)
        back = self.when("connected", lost, timeout)
        assert node in descriptors(), f"{node} is not open; there: {nodes()}; open: {descriptors()}"
        figure("return", back - appeared(node))
        self.exchange(adapter)


def outage(line: Line, seconds: float = 0.3) -> None:
    """Pulls the first adapter out, puts it back after this time, sees the line return."""
    pulled = unplug()
    time.sleep(seconds)
    replug()
    line.returns(pulled)


def descriptors() -> list[str]:
    """What each open descriptor of this process leads to."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the descriptor of the listing itself
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return sorted(found)


def resources() -> list[str]:
    """The descriptors and threads of this process, without their numbers: two such lists can be compared."""
    threads = sorted(f"thread {thread.name}" for thread in threading.enumerate())
    return [re.sub(r"(\[|Thread-|0x)\w+", r"\1", name) for name in descriptors() + threads]


@contextlib.contextmanager
def process(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Runs Python code in a process of its own, from its first line of output on; it ends with its input."""
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        read_line(running)
        yield running


def read_line(running: subprocess.Popen[str]) -> str:
    """The next line that the process writes."""
    assert running.stdout is not None
    return running.stdout.readline().strip()


def end(running: subprocess.Popen[str]) -> None:
    """Ends the process's input."""
    assert running.stdin is not None
    running.stdin.close()


def restore() -> None:
    """One adapter, with its own serial number, under its own name."""
    plugged: dict[str, str] = _host.ask("plugged")
    if plugged != {"dev0": "RIG0"} or nodes() != [NODE]:
        for adapter in plugged:
            unplug(adapter)
        wait_for_nodes(0)
        replug()
    wait_for(lambda: nodes() == [NODE] and node_of("RIG0"), "one adapter")
    _host.ask("settings")


def run(name: str, body: Callable[[], None], limit: float) -> None:
    """Runs a scenario, and reports whatever ends it. After `limit` seconds the stacks go to the console."""
    _host.tell("begin", name=name)
    restore()
    died: list[str] = []
    threading.excepthook = lambda args: died.append("".join(traceback.format_exception(args.exc_value)))
    before = resources()
    faulthandler.dump_traceback_later(limit)
    started = time.monotonic()
    try:
        body()
    except BaseException as error:
        check(f"{type(error).__name__}: {error}", False, at=traceback.format_exc())
    faulthandler.cancel_dump_traceback_later()
    left, gone = difference(resources(), before), difference(before, resources())
    check("descriptors and threads as before", not (left or gone), left=left, gone=gone)
    if died:
        check("no thread died of an exception", False, died=died)
    _host.tell("end", name=name, took=round(time.monotonic() - started, 1))


def difference(more: Collection[str], less: Collection[str]) -> list[str]:
    """What is in the one and not in the other, counted."""
    rest = list(more)
    for item in less:
        if item in rest:
            rest.remove(item)
    return rest


def main() -> None:
    """Runs the scenarios named on the command line."""
    global _host  # noqa: PLW0603 - there is one way to the host
    from .scenarios import SCENARIOS

    _host = Host()
    logging.basicConfig(
        level=logging.DEBUG, format="%(relativeCreated)d %(threadName)s %(name)s %(levelname)s %(message)s"
    )
    wait_for(nodes, "the first adapter", 20)
    with open("/proc/version") as file:
        _host.tell("boot", kernel=file.read().split()[2])
    for name in sys.argv[1:]:
        scenario = SCENARIOS[name]
        run(name, scenario.body, scenario.limit)
