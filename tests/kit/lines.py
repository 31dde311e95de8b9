"""What the tests of serial lines share: an ear for signals, a bare pseudo-terminal, and counts of what may leak."""

import contextlib
import errno
import gc
import json
import logging
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from cnxman.basics import Connection, ConnectionException
from cnxman.serial import SerialConnection
from tests.kit.managers import BOUND, wait_until
from tests.kit.threads import is_library_thread

with contextlib.suppress(ImportError):  # on Windows the host of `tests.windows` has the pseudo-terminals
    import tty

__all__ = ["BOUND", "Hearer", "Pty", "count_descriptors", "no_leak", "pattern", "run_script", "wait_until"]


class Hearer:
    """Hears all that a connection tells, in order, and on which thread."""

    def __init__(self, connection: SerialConnection) -> None:
        self.events: list[tuple[str, Any]] = []
        self.threads: set[threading.Thread] = set()
        self.data = bytearray()
        self.chunks: list[int] = []
        self._news = threading.Condition()
        self._undo = [
            connection.subscribe(self._on_data),
            connection.subscribe(self._on_open, SerialConnection.Signals.OPENED),
            connection.subscribe(self._on_close, SerialConnection.Signals.CLOSED),
            connection.subscribe(self._on_alarm, Connection.Signals.RAISE_ALARM),
        ]

    def _on_data(self, data: bytes) -> None:
        with self._news:
            self.data += data
            self.chunks.append(len(data))
        self._note("data", data)

    def _on_open(self) -> None:
        self._note("opened", None)

    def _on_close(self, error: ConnectionException | None) -> None:
        self._note("closed", error)

    def _on_alarm(self, error: ConnectionException | None) -> None:
        self._note("alarm", error)

    def _note(self, what: str, detail: object) -> None:
        with self._news:
            self.events.append((what, detail))
            self.threads.add(threading.current_thread())
            self._news.notify_all()

    @property
    def names(self) -> list[str]:
        """What was heard, with data that came in several chunks told once."""
        names = [name for name, _ in self.events]
        return [name for at, name in enumerate(names) if name != "data" or names[at - 1 : at] != ["data"]]

    @property
    def alarms(self) -> list[ConnectionException]:
        return [detail for name, detail in self.events if name == "alarm"]

    def count(self, what: str) -> int:
        return sum(name == what for name, _ in self.events)

    def wait_for(self, wanted: Callable[[], bool], timeout: float = BOUND) -> None:
        with self._news:
            assert self._news.wait_for(wanted, timeout), f"heard only {self.names}, {len(self.data)} bytes"

    def wait_for_data(self, data: bytes) -> None:
        """Wait for exactly these bytes, all that came since the beginning."""
        self.wait_for(lambda: len(self.data) >= len(data))
        assert self.data == data

    def wait_for_event(self, what: str, times: int = 1, timeout: float = BOUND) -> None:
        self.wait_for(lambda: self.count(what) >= times, timeout)

    def leave(self) -> None:
        for undo in self._undo:
            undo()


class Pty:
    """A pseudo-terminal with its far end in the test's own hand, under a path that stays the same."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="cnxman-test-")
        self.path = str(Path(self._folder) / "tty")
        self.master: int | None = None
        self.plug()

    def plug(self) -> None:
        self.master, slave = os.openpty()
        tty.setraw(slave)
        self.device = os.ttyname(slave)
        os.symlink(self.device, self.path)
        os.close(slave)
        os.set_blocking(self.master, False)

    def pull(self) -> None:
        os.unlink(self.path)
        master, self.master = self.master, None  # first: whoever hears of the loss may plug it in again
        assert master is not None
        os.close(master)

    def offer(self, data: bytes | memoryview) -> int:
        """Write what is taken at once."""
        assert self.master is not None
        try:
            return os.write(self.master, data)
        except BlockingIOError:
            return 0

    def send(self, data: bytes) -> None:
        """Write all, waiting for room."""
        assert self.master is not None
        rest, until = memoryview(data), time.monotonic() + BOUND
        while rest:
            assert time.monotonic() < until, f"{len(rest)} bytes were not taken"
            rest = rest[self.offer(rest) :]
            if rest:
                select.select([], [self.master], [], 0.1)

    def receive(self, count: int) -> bytes:
        """Read so many bytes of what the host writes."""
        assert self.master is not None
        data, until = b"", time.monotonic() + BOUND
        while len(data) < count:
            assert time.monotonic() < until, f"only {len(data)} of {count} bytes came"
            if select.select([self.master], [], [], 0.1)[0]:
                data += os.read(self.master, count - len(data))
        return data

    def close(self) -> None:
        if self.master is not None:
            self.pull()
        shutil.rmtree(self._folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def pattern(size: int, seed: int = 1) -> bytes:
    """Bytes in which a gap, a repetition or a swap shows."""
    return random.Random(seed).randbytes(size)


def count_descriptors() -> int:
    if os.name != "posix":
        return 0
    return len(os.listdir("/proc/self/fd")) - 1


def library_threads() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if is_library_thread(thread))


@contextlib.contextmanager
def no_leak() -> Iterator[None]:
    """Nothing is open, and no thread of the library's runs, that wasn't before."""
    gc.collect()
    descriptors, threads = count_descriptors(), library_threads()
    yield
    wait_until(lambda: library_threads() == threads, f"the threads are {threads} again: {library_threads()}")
    wait_until(lambda: count_descriptors() <= descriptors, f"{descriptors} descriptors are open, not more")


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the library logged for everyone to see."""
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and r.name.startswith("cnxman")]


WITH_LOGGING = "import logging; logging.getLogger('cnxman').addHandler(logging.NullHandler())\n"
"""Has the library's warnings go nowhere; without any handler they would be shown on standard error."""


def run_script(script: str, *arguments: str, as_nobody: bool = False, timeout: float = 60) -> dict[str, Any]:
    """Run a script in a process of its own; what it prints last is its result, in JSON.

    One that becomes nobody can't write down what it covers.
    """
    left_out = "COVERAGE_PROCESS" if as_nobody else "\0"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    ran = subprocess.run(
        [sys.executable, "-B", "-W", "error", "-c", WITH_LOGGING + script, *arguments],  # nothing is written but by it
        capture_output=True,
        check=False,
        text=True,
        timeout=timeout,
        env=environment,
    )
    assert ran.returncode == 0, ran.stderr
    assert not ran.stderr
    result: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return result


def become_nobody() -> None:
    """Give up the right to open everything; for scripts run by root."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


def eio() -> OSError:
    return OSError(errno.EIO, os.strerror(errno.EIO))
