"""`pytest -p tests.windows.lent`, in the guest: devices and pseudo-terminals are the host's, each as a COM port."""

import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Client
from types import ModuleType
from typing import Any, Self

import pytest

import cnxman.testing
import cnxman.testing.device
import tests.kit.lines
from tests.windows.guest import list_port

METHOD = "a method"

POSIX_MODULES = ("fcntl", "grp", "pty", "pwd", "resource", "termios", "tty")
PARTLY_POSIX = (os, select, signal, socket)


class Missing(ModuleType):
    """A module that Windows lacks: a test may import it, and is skipped when it uses it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        pytest.skip(f"Windows has no {self.__name__}.{name}", allow_module_level=True)


sys.modules.update({name: Missing(name) for name in POSIX_MODULES})  # cnxman knows already what there is


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Iterator[None]:
    """Skips a test that uses what a module lacks on Windows."""
    try:
        return (yield)
    except AttributeError as error:
        if error.obj in PARTLY_POSIX:
            pytest.skip(f"Windows has no {error.obj.__name__}.{error.name}")
        raise


_RealDevice = cnxman.testing.SimulatedDevice

_port, _key = os.environ["LENDER"].split()
_here = threading.local()


def _ask(*request: object) -> Any:
    """Ask the host; each thread has a connection of its own, since some answers take long."""
    if not hasattr(_here, "connection"):
        _here.connection = Client(("127.0.0.1", int(_port)), authkey=bytes.fromhex(_key))
    _here.connection.send(request)
    is_answer, answer = _here.connection.recv()
    if not is_answer:
        raise answer
    return answer


class Lent:
    """Something on the host, with its methods and attributes, and its port."""

    def __init__(self, *arguments: object, **named: object) -> None:
        if any(callable(argument) for argument in (*arguments, *named.values())):
            pytest.skip("the host can't call a function of the guest's")
        self._number, self.port = _ask("make", type(self).__name__, arguments, named)
        self.path = self.port
        list_port(self.port, bool(named.get("plugged", True)))

    def __getattr__(self, name: str) -> Any:
        value = _ask("get", self._number, name)
        if value != METHOD:
            return value
        return lambda *arguments, **named: self._call(name, *arguments, **named)

    def _call(self, name: str, *arguments: object, **named: object) -> Any:
        answer = _ask("call", self._number, name, arguments, named)
        if name in ("plug", "unplug"):
            list_port(self.port, name == "plug")
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        list_port(self.port, False)
        _ask("close", self._number)


class SimulatedDevice(Lent):
    def __new__(cls, *arguments: Any, **named: Any) -> Any:
        """One that is reached by URL needs nobody's pseudo-terminal: it is the real one."""
        return _RealDevice(*arguments, **named) if named.get("by_url") else super().__new__(cls)


class Pty(Lent):
    pass


for module in (cnxman.testing, cnxman.testing.device):
    module.SimulatedDevice = SimulatedDevice  # type: ignore[attr-defined]
tests.kit.lines.Pty = Pty  # type: ignore[misc, assignment]
tests.kit.lines.WITH_LOGGING += "import tests.windows.lent\n"  # so in what a test runs in a process of its own


@pytest.fixture
def serial_device() -> Iterator[SimulatedDevice]:
    """As `cnxman.testing.pytest_plugin` has it, which isn't installed in the guest."""
    with SimulatedDevice() as device:
        yield device
