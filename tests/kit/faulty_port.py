"""A port of pyserial's kind that fails to order: `faulty://NAME`.

It is read and written by its own methods, as all ports are that aren't pyserial's own POSIX one.
"""

import queue
import sys
import types
from collections.abc import Callable

import serial

PACKAGE = "cnxman_test_handlers"


class Orders:
    """What the ports named `faulty://...` are to do, and what they were asked."""

    def __init__(self) -> None:
        self.faults: dict[str, Exception] = {}
        self.input: queue.Queue[bytes] = queue.Queue()
        self.output = b""
        self.open_ports: set[int] = set()
        self.blocked: Callable[[], object] = lambda: None

    def check(self, operation: str) -> None:
        if operation in self.faults:
            raise self.faults[operation]


class FaultyPort(serial.SerialBase):
    """A port whose operations raise what `orders` say."""

    orders = Orders()

    def open(self) -> None:
        self.orders.check("open")
        self.orders.open_ports.add(id(self))
        self.is_open = True

    def close(self) -> None:
        if not self.is_open:  # its destructor closes it, too
            return
        self.orders.check("close")
        self.orders.open_ports.discard(id(self))
        self.is_open = False

    def _reconfigure_port(self, *_: object, **__: object) -> None:
        self.orders.check("configure")

    def read(self, size: int = 1) -> bytes:
        self.orders.check("read")
        try:
            data = self.orders.input.get(timeout=self.timeout)
        except queue.Empty:
            self.orders.check("read")
            return b""
        if len(data) > size:
            with self.orders.input.mutex:
                self.orders.input.queue.appendleft(data[size:])
        return data[:size]

    @property
    def in_waiting(self) -> int:
        self.orders.check("in_waiting")
        with self.orders.input.mutex:
            return sum(map(len, self.orders.input.queue))

    def write(self, data: bytes) -> int | None:
        self.orders.blocked()
        self.orders.check("write")
        self.orders.output += data[:100]
        return min(len(data), 100)  # a little at a time

    @property
    def cts(self) -> bool:
        self.orders.check("cts")
        return True

    def _update_break_state(self) -> None:
        self.orders.check("break")


def serial_class_for_url(url: str) -> tuple[str, type[FaultyPort]]:
    return url, FaultyPort


def install() -> Orders:
    """Teach pyserial the scheme, with no faults ordered yet."""
    FaultyPort.orders = Orders()
    if PACKAGE not in sys.modules:
        package = types.ModuleType(PACKAGE)
        package.__path__ = []
        module = types.ModuleType(f"{PACKAGE}.protocol_faulty")
        module.serial_class_for_url = serial_class_for_url  # type: ignore[attr-defined]
        sys.modules |= {PACKAGE: package, module.__name__: module}
    if PACKAGE not in serial.protocol_handler_packages:
        serial.protocol_handler_packages.append(PACKAGE)
    return FaultyPort.orders
