"""Each pair of things that can happen to a manager and its line, both at once, many times.

With threads switched as often as the interpreter can. `CNXMAN_ROUNDS` says how many rounds for each pair: a few here,
thousands in a long run.
"""

import gc
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import combinations_with_replacement, count
from typing import TypeVar

import pytest
from automat import NoTransition
from pydispatch import dispatcher

from cnxman.basics import Connection, ConnectionException, ConnectionManager
from cnxman.retry import RetryPolicy
from cnxman.serial import SerialConnection
from cnxman.testing import SimulatedDevice
from tests.kit.managers import BOUND, Caller, Ear, all_join, in_line, wait_until, worker_of
from tests.kit.probe import managers_listening

ROUNDS = int(os.environ.get("CNXMAN_ROUNDS", "15"))
Result = TypeVar("Result")
QUICK = RetryPolicy(0.001, 1, 0.001, 0)


NUMBERS = count()


class Line(SerialConnection):
    """A serial line that says when two use it at once, and keeps what it heard, opening by opening."""

    def __init__(self, port: str) -> None:
        super().__init__(port)
        self.calls: list[str] = []
        self.overlaps: list[str] = []
        self.heard: list[bytes] = []
        self.sent = b""
        self._alone = threading.Lock()
        self.subscribe(lambda: self.heard.append(b""), SerialConnection.Signals.OPENED)
        self.subscribe(self.hear)

    def hear(self, data: bytes) -> None:
        self.heard[-1] += data

    def try_connect(self) -> bool:
        return self._noted("try_connect", super().try_connect)

    def disconnect(self) -> None:
        return self._noted("disconnect", super().disconnect)

    def teardown(self) -> None:
        return self._noted("teardown", super().disconnect)

    def _noted(self, name: str, method: Callable[[], Result]) -> Result:
        self.calls.append(name)
        if not self._alone.acquire(blocking=False):
            self.overlaps.append(name)
            return method()
        try:
            return method()
        finally:
            self._alone.release()


class Round:
    """A manager with its line up, and everything that can happen to them."""

    def __init__(self, device: SimulatedDevice, line: Line) -> None:
        self.device, self.line = device, line
        line.calls.clear()
        line.heard.clear()
        self.manager: ConnectionManager | None = ConnectionManager(line, retry=QUICK)
        self.known = weakref.ref(self.manager)
        self.ear = Ear(self.manager)
        self.weak_receiver: Callable[[], None] | None = lambda: None
        for sender, signal in [
            (self.manager, ConnectionManager.Signals.STATE_CHANGED),
            (line, SerialConnection.Signals.DATA_RECEIVED),
            (line, Connection.Signals.RAISE_ALARM),
        ]:
            dispatcher.connect(self.weak_receiver, signal=signal, sender=sender)
        self.sending = threading.Lock()
        self.manager.connect()
        assert self.manager.is_connected

    def connect(self) -> None:
        with suppress(NoTransition):  # torn down
            self.known().connect()  # type: ignore[union-attr]

    def disconnect(self) -> None:
        self.known().disconnect()  # type: ignore[union-attr]

    def teardown(self) -> None:
        self.known().teardown()  # type: ignore[union-attr]

    def alarm(self) -> None:
        self.line.raise_alarm()

    def write(self) -> None:
        with suppress(ConnectionException):  # hung up
            assert self.line.write(b"0123456789") == 10

    def data(self) -> None:
        with self.sending, suppress(RuntimeError, TimeoutError):  # not plugged in
            self.line.sent += (piece := b"<%d>" % next(NUMBERS))
            self.device.send(piece, timeout=0.2)

    def loss(self) -> None:
        with self.sending:
            self.device.unplug()
            self.device.plug()

    def collect_manager(self) -> None:
        self.manager = None
        gc.collect(0)

    def collect_receiver(self) -> None:
        self.weak_receiver = None
        gc.collect(0)

    def both(self, one: str, other: str) -> None:
        start = threading.Barrier(2, timeout=BOUND)

        def act(name: str) -> None:
            start.wait()
            getattr(self, name)()

        held = self.known()  # what the two actions use is held by somebody: collecting drops the user's own reference
        assert held is not None
        all_join([Caller(lambda: act(one), one), Caller(lambda: act(other), other)])
        self.check(held, {one, other})

    def check(self, manager: ConnectionManager, done: set[str]) -> None:
        wait_until(lambda: not in_line(manager) or manager.state == "recovering", "everything is dealt with")
        if "teardown" in done:
            assert manager.state == "torndown"
        elif "disconnect" in done and "connect" not in done:
            assert manager.state == "disconnected"
        elif "disconnect" not in done:
            assert manager.wait_until_connected(BOUND), "it never came back"
        Caller(manager.teardown).join()
        assert worker_of(manager) is None
        assert self.line.overlaps == []
        assert self.line.calls.count("teardown") == 1
        assert self.line.calls[-1] == "teardown"
        self.ear.check_order()
        assert self.ear.states[0] == "connecting"
        assert self.ear.states[-1] == "torndown"
        # What the device sends while the port is closed waits for the next opening, in the next round.
        assert [heard for heard in self.line.heard if heard not in self.line.sent] == [], "lost, doubled or mixed up"
        assert not self.line.is_connected


ACTIONS = [
    *("connect", "disconnect", "teardown", "alarm", "write"),
    *("data", "loss", "collect_manager", "collect_receiver"),
]


def forget_frames(error: BaseException | None) -> None:
    """An error that is kept also keeps all that was in use where it was raised."""
    if error is not None:
        error.__traceback__ = None
        forget_frames(error.__cause__)
        forget_frames(error.__context__)


@pytest.fixture
def switching() -> Iterator[None]:
    """Switch threads all the time; keep no log, whose records would keep errors, and these what was in use."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    logging.disable()
    yield
    logging.disable(logging.NOTSET)
    sys.setswitchinterval(before)


@pytest.mark.timeout(60 + ROUNDS)
@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize("pair", list(combinations_with_replacement(ACTIONS, 2)), ids="-".join)
def test_both_at_once(pair: tuple[str, str]) -> None:
    with SimulatedDevice() as device:
        line = Line(device.port)
        for _ in range(ROUNDS):
            Round(device, line).both(*pair)
        forget_frames(line.last_error)
        forget_frames(line.statistics.last_error)
        gc.collect()
        assert not managers_listening(line), "a manager that is gone still listens"
        assert id(line) not in dispatcher.connections
