"""The clock that is moved by hand, which users have for their own tests."""

import threading
from collections.abc import Iterator

import pytest

from cnxman._manager import clock as _clock
from cnxman.basics import ConnectionManager
from cnxman.retry import RetryPolicy
from cnxman.testing import ManualClock as PublicClock
from cnxman.testing import manual_clock as _manual_clock
from cnxman.testing.manual_clock import ManualClock
from tests.kit.managers import BOUND, NEVER, Caller, Ear, Gate, Script
from tests.kit.threads import OnLibraryThread

FIXED = RetryPolicy(5, 1, 5, 0)


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    with ManualClock() as clock:
        yield clock


def test_it_is_public() -> None:
    assert PublicClock is ManualClock


def test_the_example_in_its_docstring() -> None:
    """A device that is away for an hour."""
    connection = Script(False)
    with PublicClock() as clock, ConnectionManager(connection, retry=FIXED) as manager:
        assert manager.state == "recovering"
        clock.advance(3600)
        assert connection.attempts == 721
        connection.outcomes = [True]
        clock.advance(5)
        assert manager.is_connected


def test_it_is_current_while_it_is_installed() -> None:
    system = _clock.current
    outer, inner = ManualClock(), ManualClock()
    with outer:
        assert _clock.current is outer
        with inner, inner:
            assert _clock.current is inner
        assert _clock.current is outer
    assert _clock.current is system


def test_the_system_clock_is_put_back_after_an_exception() -> None:
    system = _clock.current
    with pytest.raises(ZeroDivisionError), ManualClock():
        raise ZeroDivisionError
    assert _clock.current is system


def test_time(clock: ManualClock) -> None:
    assert clock.now() == 0
    clock.advance(2.5)
    clock.advance(0)
    clock.advance(1)
    assert clock.now() == 3.5


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan")])
def test_what_it_cannot_be_advanced_by(clock: ManualClock, seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds must be 0 or more, not"):
        clock.advance(seconds)
    assert clock.now() == 0


def test_only_managers_made_under_it_go_by_it() -> None:
    before = Script(False, True)
    early = ConnectionManager(before, retry=RetryPolicy(0.01, 1, 0.01, 0))
    with ManualClock() as clock, early:
        assert early.wait_until_connected(BOUND)  # by itself
        clock.advance(5)
        late = ConnectionManager(Script(False), retry=FIXED)
        late.connect()
        with ManualClock() as other:
            other.advance(100)
        assert late.state == "recovering"
        late.teardown()


def test_several_managers_in_order_of_time(clock: ManualClock) -> None:
    order: list[str] = []

    def attempts(name: str) -> Script:
        return Script(lambda: bool(order.append(f"{name} at {clock.now():g}")))

    threes = ConnectionManager(attempts("three"), retry=RetryPolicy(3, 1, 3, 0))
    fives = ConnectionManager(attempts("five"), retry=RetryPolicy(5, 1, 5, 0))
    with threes, fives:
        order.clear()
        clock.advance(11)
    assert order == ["three at 3", "five at 5", "three at 6", "three at 9", "five at 10"]


def test_managers_that_call_each_other_are_waited_for(clock: ManualClock) -> None:
    """The retry of one makes the next one try, and so on; all of it is over when the clock has moved."""
    managers = [ConnectionManager(Script(False), retry=NEVER) for _ in range(4)]
    first = ConnectionManager(Script(False), retry=FIXED)
    for manager, following in zip([first, *managers], managers, strict=False):
        manager.subscribe(lambda state, each=following: state == "connected" and each.connection.raise_alarm())
    for manager in reversed([first, *managers]):  # so that none is waited for after the one that calls it
        manager.connect()
        manager.connection.outcomes = [True]  # type: ignore[attr-defined]
    for manager in managers:
        manager.connect()
        assert manager.is_connected
    ears = [Ear(manager) for manager in managers]
    managers[0].subscribe(lambda state: state == "recovering" and managers[0].connect())
    managers[1].subscribe(lambda state: state == "recovering" and managers[1].connect())
    managers[2].subscribe(lambda state: state == "recovering" and managers[2].connect())
    clock.advance(5)
    assert first.is_connected
    assert [ear.states[0] for ear in ears] == ["recovering"] * 4
    assert [manager.state for manager in managers] == ["connected"] * 3 + ["recovering"]
    for manager in [first, *managers]:
        manager.teardown()


def test_what_was_given_before_is_dealt_with_at_once(clock: ManualClock) -> None:
    connection = Script(True)
    with ConnectionManager(connection, retry=FIXED) as manager:
        for _ in range(100):
            connection.raise_alarm()
            clock.advance(0)
            assert manager.state == "recovering"
            clock.advance(5)
            assert manager.state == "connected"


def test_a_manager_that_ends_on_the_way(clock: ManualClock) -> None:
    with ConnectionManager(Script(False), retry=RetryPolicy(5, 1, 5, 0, attempts=3)) as manager:
        clock.advance(1000)
        assert manager.state == "disconnected"
        assert clock.now() == 1000


def test_it_cannot_be_advanced_from_a_receiver_on_the_managers_thread(clock: ManualClock) -> None:
    raised: list[str] = []

    def advance() -> None:
        try:
            clock.advance(1)
        except RuntimeError as error:
            raised.append(str(error))

    OnLibraryThread(advance).join(BOUND)
    assert raised == ["the clock cannot be advanced from a receiver on one of the library's threads"]


def test_a_manager_that_is_busy_for_ever(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_manual_clock, "PATIENCE", 0.05)
    gate = Gate()
    connection = Script(False, gate)
    manager = ConnectionManager(connection, retry=FIXED)
    manager.connect()
    with pytest.raises(TimeoutError, match=r"cnxman manager of .* is busy: does one of its receivers not return"):
        clock.advance(5)
    gate.go.set()
    manager.teardown()


def test_real_calls_need_no_clock(clock: ManualClock) -> None:
    """Waiting threads are woken by what happens, not by the clock."""
    connection = Script(False)
    with ConnectionManager(connection, retry=NEVER) as manager:
        waiting = Caller(lambda: manager.wait_until_connected(BOUND))
        connection.outcomes = [True]
        manager.connect()
        assert waiting.join() is True
        manager.disconnect()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("cnxman manager")]


def test_waits_of_no_time(clock: ManualClock) -> None:
    connection = Script(*[False] * 500, True)
    with ConnectionManager(connection, retry=RetryPolicy(0, 1, 0, 0)) as manager:
        assert (manager.state, connection.attempts) == ("recovering", 1)
        clock.advance(0)
        assert (manager.state, connection.attempts) == ("connected", 501)
