"""The guest's half: asks the host to pull and plug, observes a managed line, runs the scenarios."""

import contextlib
import ctypes
import faulthandler
import json
import logging
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from cnxman.basics import ConnectionException

PORT = "COM5"
now = time.perf_counter  # (Windows' monotonic clock goes by 16 ms)


class Host:
    """The way to the host. Any thread may use it."""

    def __init__(self, port: int) -> None:
        sock = socket.create_connection(("127.0.0.1", port), 10)
        self._out, self._answers = sock.makefile("wb", buffering=0), sock.makefile("rb")
        self._asking = threading.Lock()
        self._telling = threading.Lock()

    def tell(self, what: str, **fields: object) -> None:
        """Tells something that needs no answer."""
        with self._telling:
            self._out.write(json.dumps({"what": what, **fields}, default=repr).encode() + b"\n")

    def ask(self, what: str, *arguments: object) -> Any:
        """Calls a method of the host's Guest, and gives back what it answers."""
        with self._asking:
            self.tell(what, **{"with": arguments})
            answer = json.loads(self._answers.readline())
        if "error" in answer:
            raise RuntimeError(f"{what}{arguments}: {answer['error']}")
        return answer["answer"]


_host: Host


def ask(what: str, *arguments: object) -> Any:
    """Calls a method of the host's Guest, and gives back what it answers."""
    return _host.ask(what, *arguments)


def check(name: str, ok: bool = True, **facts: object) -> None:
    """Reports a check; one that does not hold makes the run fail."""
    _host.tell("check", name=name, ok=bool(ok), facts={} if ok else facts)


def figure(name: str, value: float, most: float | None = None, unit: str = "s") -> None:
    """Reports a measured figure, and checks it against the most that is allowed."""
    _host.tell("figure", name=name, value=value, most=most, unit=unit)


# -- ports, as Windows lists them ---------------------------------------------------------------------------


def list_port(name: str, listed: bool) -> None:
    """Windows lists its ports in the registry; Wine only those that were there when it began."""
    winreg = import_module("winreg")
    with winreg.CreateKey(winreg.HKEY_LOCAL_MACHINE, r"HARDWARE\DEVICEMAP\SERIALCOMM") as key:
        if listed:
            winreg.SetValueEx(key, rf"\Device\Serial{name}", 0, winreg.REG_SZ, name)
        else:
            with contextlib.suppress(FileNotFoundError):
                winreg.DeleteValue(key, rf"\Device\Serial{name}")


def plug(name: str = PORT) -> float:
    """Plugs a port in; returns since when it has been listed."""
    ask("plug", name)
    list_port(name, True)
    return now()


def pull(name: str = PORT) -> float:
    """Pulls a port out; returns when."""
    at = now()
    ask("pull", name)
    list_port(name, False)
    return at


@contextlib.contextmanager
def plugged(name: str = PORT) -> Iterator[str]:
    """A port that is plugged in, and pulled out in the end, unless it has been."""
    plug(name)
    try:
        yield name
    finally:
        with contextlib.suppress(RuntimeError):
            pull(name)


def handles() -> int:
    """How many handles this process has."""
    kernel32 = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined, unused-ignore]
    count = ctypes.c_ulong()
    kernel32.GetProcessHandleCount(ctypes.c_void_p(-1), ctypes.byref(count))
    return count.value


# -- a managed line -----------------------------------------------------------------------------------------


def wait_for(condition: Callable[[], object], what: str, timeout: float = 5) -> None:
    """Looks until the condition holds; AssertionError when it doesn't within `timeout` seconds."""
    give_up = now() + timeout
    while not condition():
        assert now() < give_up, f"not within {timeout} s: {what}"
        time.sleep(0.005)


class Line:
    """A managed connection, and what it told. A context: connected on entering, torn down on leaving.

    Args:
        port: What SerialConnection takes.
        settings: Further arguments of SerialConnection.
    """

    def __init__(self, port: str = PORT, **settings: Any) -> None:
        from cnxman.basics import Connection, ConnectionManager
        from cnxman.serial import SerialConnection

        self.connection = SerialConnection(port, **{"baudrate": 115200, **settings})
        self.manager = ConnectionManager(self.connection)
        self.told: list[tuple[float, str]] = []
        self.alarms = 0
        self.received = bytearray()
        self.on_data: Callable[[bytes], object] = lambda data: None
        self._news = threading.Condition()
        self.connection.subscribe(self._on_data, signal=SerialConnection.Signals.DATA_RECEIVED)
        self.connection.subscribe(self._on_alarm, signal=Connection.Signals.RAISE_ALARM)
        self.manager.subscribe(self._on_state, signal=ConnectionManager.Signals.STATE_CHANGED)

    def _on_data(self, data: bytes) -> None:
        with self._news:
            self.received += data
            self._news.notify_all()
        self.on_data(data)

    def _on_alarm(self) -> None:
        self.alarms += 1

    def _on_state(self, state: str) -> None:
        with self._news:
            self.told.append((now(), str(state)))
            self._news.notify_all()

    def __enter__(self) -> Self:
        self.manager.connect()
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

    def wait_received(self, size: int, timeout: float = 5) -> None:
        """Waits until so many bytes came in all; AssertionError if they don't."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.received) >= size, timeout), f"only {len(self.received)} came"

    def exchange(self, name: str = PORT) -> None:
        """Data flows both ways; AssertionError if not."""
        ask("take", name)
        self.connection.write(b"from the guest\n")
        assert ask("expect", name, 15, 5) == 15, "what was written did not come out"
        ask("take", name)
        had = len(self.received)
        ask("send", name, "from the host\n")
        self.wait_received(had + 14)
        assert bytes(self.received[had:]) == b"from the host\n", bytes(self.received[had:])


# -- the scenarios ------------------------------------------------------------------------------------------


def run(name: str, body: Callable[[], None], limit: float) -> None:
    """Runs a scenario, and reports whatever ends it. After `limit` seconds the stacks go to the log."""
    _host.tell("begin", name=name)
    died: list[str] = []
    threading.excepthook = lambda args: died.append("".join(traceback.format_exception(args.exc_value)))
    faulthandler.dump_traceback_later(limit)
    started = now()
    try:
        body()
    except BaseException as error:
        check(f"{type(error).__name__}: {error}", False, at=traceback.format_exc())
    faulthandler.cancel_dump_traceback_later()

    def left() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("cnxman ")]

    with contextlib.suppress(AssertionError):
        wait_for(lambda: not left(), "no thread of the library")
    check("no thread of the library is left", not left(), left=left())
    if died:
        check("no thread died of an exception", False, died=died)
    _host.tell("end", name=name, took=round(now() - started, 1))


def main() -> None:
    """Runs the scenarios named on the command line."""
    global _host  # noqa: PLW0603 - there is one way to the host
    from tests.windows.scenarios import SCENARIOS

    _host = Host(int(sys.argv[1]))
    faulthandler.enable()
    logging.basicConfig(
        level=logging.DEBUG, format="%(relativeCreated)d %(threadName)s %(name)s %(levelname)s %(message)s"
    )
    _host.tell("boot", python=sys.version.split()[0])
    for name in sys.argv[2:]:
        run(name, SCENARIOS[name].body, SCENARIOS[name].limit)
    _host.tell("exit")
