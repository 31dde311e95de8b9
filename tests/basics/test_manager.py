"""What the manager does on one thread at a time: recovering, telling, its errors, its life."""

import gc
import logging
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from automat import NoTransition
from automat._methodical import MethodicalState
from pydispatch import dispatcher

from cnxman.basics import Connection, ConnectionException, ConnectionManager, ConnectionState
from cnxman.retry import RetryPolicy
from cnxman.serial import SerialConnection
from cnxman.testing.manual_clock import ManualClock
from tests.kit.managers import BOUND, NEVER, Caller, Ear, Gate, Script, in_line, wait_until, wait_until_waiting

FIXED = RetryPolicy(5, 1, 5, 0)


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    with ManualClock() as clock:
        yield clock


class Thing(Script):
    """A connection to something that comes and goes, and tells which one is there."""

    def __init__(self, *outcomes: bool, there: object = False) -> None:
        super().__init__(*(outcomes or (False,)))
        self.there = there

    def presence(self) -> object:  # type: ignore[override]
        if isinstance(self.there, Exception):
            raise self.there
        return self.there


# -- what it is --------------------------------------------------------------------------------------------


def test_what_is_refused() -> None:
    with pytest.raises(TypeError, match="connection must be a Connection, not 'COM1'"):
        ConnectionManager("COM1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="retry must be a RetryPolicy, not 5"):
        ConnectionManager(Script(), retry=5)  # type: ignore[arg-type]


def test_what_is_added_to_the_api_page_is_keyword_only() -> None:
    with pytest.raises(TypeError, match="positional argument"):
        ConnectionManager(Script(), RetryPolicy())  # type: ignore[misc]
    assert ConnectionManager(connection=Script(), retry=RetryPolicy()).state == "ready"


def test_states_are_strings_and_still_on_the_class() -> None:
    assert [str(state) for state in ConnectionState] == [
        "ready",
        "connecting",
        "connected",
        "recovering",
        "disconnected",
        "torndown",
    ]
    for state in ConnectionState:
        assert isinstance(getattr(ConnectionManager, state), MethodicalState)


def test_a_new_manager() -> None:
    connection = Script()
    manager = ConnectionManager(connection)
    assert (manager.state, manager.is_connected, manager.last_error) == ("ready", False, None)
    assert isinstance(manager.state, ConnectionState)
    assert manager.connection is connection
    assert connection.calls == []


def test_with() -> None:
    connection = Script()
    with ConnectionManager(connection) as manager:
        assert manager.is_connected
    assert manager.state == "torndown"
    with pytest.raises(ZeroDivisionError), ConnectionManager(Script()) as manager:
        raise ZeroDivisionError
    assert manager.state == "torndown"


# -- recovering --------------------------------------------------------------------------------------------


def test_the_first_attempt_may_fail(clock: ManualClock) -> None:
    connection = Script(False, False, True)
    with ConnectionManager(connection, retry=FIXED) as manager:
        assert manager.state == "recovering"
        clock.advance(5)
        assert (manager.state, connection.attempts) == ("recovering", 2)
        clock.advance(5)
        assert (manager.state, connection.attempts) == ("connected", 3)


def test_the_first_attempt_may_fail_on_a_real_clock() -> None:
    connection = Script(False, False, False, True)
    with ConnectionManager(connection, retry=RetryPolicy(0.01, 1, 0.01)) as manager:
        assert manager.wait_until_connected(BOUND)
    assert connection.attempts == 4


def test_the_wait_and_the_failures_are_sent(clock: ManualClock) -> None:
    manager = ConnectionManager(Script(False), retry=RetryPolicy(1, 2, 5, 0))
    ear = Ear(manager)
    with manager:
        for seconds in (1, 2, 4, 5):
            clock.advance(seconds)
        assert ear.retries == [(1, 1), (2, 2), (3, 4), (4, 5), (5, 5)]


def test_the_wait_that_is_sent_is_the_one_that_is_waited(clock: ManualClock) -> None:
    times = []
    manager = ConnectionManager(Script(lambda: bool(times.append(clock.now()))), retry=RetryPolicy(10, 1, 10, 0.5))
    ear = Ear(manager)
    with manager:
        clock.advance(200)
    waited = [after - before for before, after in pairwise(times)]
    assert len(waited) >= 20
    assert waited == pytest.approx([delay for _, delay in ear.retries[: len(waited)]])
    assert all(5 <= delay <= 10 for delay in waited)
    assert len(set(waited)) > 15


def test_thousands_of_failures_deepen_no_stack(clock: ManualClock) -> None:
    depths = []

    def attempt() -> bool:
        frame, depth = sys._getframe(), 0
        while frame.f_back is not None:
            frame, depth = frame.f_back, depth + 1
        depths.append(depth)
        return False

    with ConnectionManager(Script(attempt), retry=FIXED) as manager:
        clock.advance(5 * 3000)
        assert len(depths) == 3001
        assert len(set(depths[1:])) == 1
        assert len(manager._inputs._queue) == 0
        assert len([thread for thread in threading.enumerate() if "cnxman" in thread.name]) == 1


def test_thousands_of_failures_without_a_wait() -> None:
    connection = Script(*[False] * 3000, True)
    with ConnectionManager(connection, retry=RetryPolicy(0, 1, 0, 0)) as manager:
        assert manager.wait_until_connected(50)
    assert connection.attempts == 3001


def test_a_wait_of_ages_can_be_ended() -> None:
    """Longer than a lock can wait, and longer than anybody will."""
    manager = ConnectionManager(connection := Script(False), retry=RetryPolicy(1e300, 1, 1e300, 0))
    manager.connect()
    worker = next(thread for thread in threading.enumerate() if thread.name.startswith("cnxman manager"))
    wait_until_waiting(worker, type(manager._inputs)._work)
    connection.outcomes = [True]
    connection.raise_alarm()  # wakes it, and is ignored
    manager.connect()
    assert manager.is_connected
    manager.teardown()
    assert not worker.is_alive()


def test_a_call_ends_the_wait_at_once(clock: ManualClock) -> None:
    connection = Script(False)
    with ConnectionManager(connection, retry=FIXED) as manager:
        manager.connect()
        assert connection.attempts == 2
        manager.disconnect()
        clock.advance(1000)
        assert (manager.state, connection.attempts) == ("disconnected", 2)


def test_connect_begins_to_count_afresh(clock: ManualClock) -> None:
    manager = ConnectionManager(Script(False), retry=RetryPolicy(1, 2, 100, 0))
    ear = Ear(manager)
    with manager:
        clock.advance(7)
        assert ear.retries == [(1, 1), (2, 2), (3, 4), (4, 8)]
        ear.clear()
        manager.connect()
        assert ear.retries == [(1, 1)]


def test_attempts_are_bounded(clock: ManualClock) -> None:
    """Since connect(), and anew since a loss; when they are used up: disconnected, and connect() begins again."""
    connection = Script(False, False, True, False)
    manager = ConnectionManager(connection, retry=RetryPolicy(5, 1, 5, 0, attempts=3))
    ear = Ear(manager)
    manager.connect()
    clock.advance(10)
    assert (manager.state, connection.attempts) == ("connected", 3)
    connection.raise_alarm()
    clock.advance(1000)
    assert (manager.state, connection.attempts) == ("disconnected", 6)
    assert ear.errors[-1] is manager.last_error is not None
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("cnxman manager")]
    manager.connect()
    assert (manager.state, connection.attempts) == ("recovering", 7)
    manager.teardown()


@pytest.mark.parametrize(("held", "failures"), [(9.9, [1, 2, 3]), (10, [1, 1, 1]), (1000, [1, 1, 1])])
def test_a_line_that_flaps_is_not_hammered(clock: ManualClock, held: float, failures: list[int]) -> None:
    connection = Script(True)
    manager = ConnectionManager(connection, retry=RetryPolicy(1, 2, 100, 0, reset_after=10))
    ear = Ear(manager)
    with manager:
        for _ in range(3):
            clock.advance(held)
            connection.raise_alarm()
            clock.advance(0)
            clock.advance(ear.retries[-1][1])
            assert manager.is_connected
    assert [attempt for attempt, _ in ear.retries] == failures


def test_failures_after_a_loss_go_on_counting(clock: ManualClock) -> None:
    connection = Script(True, False)
    manager = ConnectionManager(connection, retry=RetryPolicy(1, 2, 100, 0))
    ear = Ear(manager)
    with manager:
        clock.advance(1000)
        connection.raise_alarm()
        clock.advance(3)
    assert ear.retries == [(1, 1), (2, 2), (3, 4)]


# -- the thing comes back ----------------------------------------------------------------------------------


def test_it_is_found_when_it_comes() -> None:
    """On the real clock, where no retry would come by itself."""
    connection = Thing(False, True)
    with ConnectionManager(connection, retry=NEVER) as manager:
        assert manager.state == "recovering"
        connection.there = "bus 1, port 2"
        assert manager.wait_until_connected(BOUND)


def test_it_is_found_within_a_twentieth_of_a_second(clock: ManualClock) -> None:
    connection = Thing(False)
    with ConnectionManager(connection, retry=NEVER):
        clock.advance(100)
        assert connection.attempts == 1
        connection.there = True
        clock.advance(0.05)
        assert connection.attempts == 2


def test_what_stays_there_is_no_return(clock: ManualClock) -> None:
    connection = Thing(False, there="one")
    with ConnectionManager(connection, retry=NEVER):
        clock.advance(100)
        assert connection.attempts == 1
        connection.there = "another"  # taken out and put in between two looks
        clock.advance(0.05)
        assert connection.attempts == 2


def test_one_that_came_during_the_attempt_that_found_it_does_not_come_again_when_it_is_lost(clock: ManualClock) -> None:
    def attempt() -> bool:
        connection.there = "one"
        return True

    connection = Thing(False)
    connection.outcomes = [attempt, False]
    with ConnectionManager(connection, retry=NEVER) as manager:
        assert manager.is_connected
        connection.raise_alarm()
        clock.advance(10)
        assert connection.attempts == 1


def test_one_that_was_out_and_in_before_its_loss_was_dealt_with_is_found_at_once(clock: ManualClock) -> None:
    connection = Thing(True, False, there="one")
    with ConnectionManager(connection, retry=NEVER) as manager:
        assert manager.is_connected
        connection.there = "another"
        connection.raise_alarm()
        clock.advance(0.05)
        assert connection.attempts == 2


def test_going_is_no_return(clock: ManualClock) -> None:
    connection = Thing(False, there="one")
    with ConnectionManager(connection, retry=NEVER):
        connection.there = ""
        clock.advance(100)
        assert connection.attempts == 1


def test_after_a_return_attempts_follow_each_other_quickly_for_a_while(clock: ManualClock) -> None:
    connection = Thing(False)
    with ConnectionManager(connection, retry=NEVER) as manager:
        clock.advance(1000)
        connection.there = True
        clock.advance(0)
        assert connection.attempts == 2
        clock.advance(1)
        assert 6 <= connection.attempts - 2 <= 10
        clock.advance(14)  # as long as a modem manager may hold it, and some more
        quick = connection.attempts
        assert 95 <= quick - 2 <= 151
        clock.advance(1000)
        assert connection.attempts == quick
        connection.there = False
        clock.advance(1)
        connection.there = True
        clock.advance(1)
        assert connection.attempts > quick
        before = connection.attempts
        manager.connect()  # begins afresh, here too
        clock.advance(1)
        assert connection.attempts == before + 1


def test_a_thing_that_flaps_after_its_return_is_not_hammered(clock: ManualClock) -> None:
    """Quick attempts are for a thing that is not ready yet; one that was connected waits as the policy says."""
    connection = Thing(False)
    with ConnectionManager(connection, retry=NEVER) as manager:
        connection.outcomes = [True, False]
        connection.there = True
        clock.advance(0.05)
        assert (manager.state, connection.attempts) == ("connected", 2)
        connection.raise_alarm()
        clock.advance(4)
        assert (manager.state, connection.attempts) == ("recovering", 2)


@pytest.mark.parametrize("there", [None, RuntimeError("no idea")])
def test_where_presence_is_unknown_only_time_counts(clock: ManualClock, there: object) -> None:
    connection = Thing(False, there=there)
    with ConnectionManager(connection, retry=FIXED):
        clock.advance(4.99)
        assert connection.attempts == 1
        clock.advance(0.02)
        assert connection.attempts == 2


def test_a_presence_that_raises_later_does_no_harm(clock: ManualClock) -> None:
    connection = Thing(False)
    with ConnectionManager(connection, retry=NEVER):
        connection.there = RuntimeError("no idea")
        clock.advance(1)
        assert connection.attempts == 1
        connection.there = True
        clock.advance(0.05)
        assert connection.attempts == 2


def test_a_presence_that_cannot_be_compared_does_no_harm(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    class Odd:
        def __ne__(self, other: object) -> bool:
            raise ValueError("incomparable")

        __hash__ = None  # type: ignore[assignment]

    connection = Thing(False, there=Odd())
    with ConnectionManager(connection, retry=FIXED):
        clock.advance(20)
        assert connection.attempts == 5
    assert len([record for record in caplog.records if "look for the device's return" in record.message]) == 5


# -- errors ------------------------------------------------------------------------------------------------


def test_why_an_attempt_failed_as_the_connection_says() -> None:
    connection = Script(False)
    connection.last_error = ConnectionException("busy", OSError(16, "Device or resource busy"))
    manager = ConnectionManager(connection, retry=NEVER)
    ear = Ear(manager)
    manager.connect()
    assert manager.last_error is ear.errors[-1] is connection.last_error
    connection.outcomes = [True]
    manager.connect()
    assert manager.last_error is None
    assert ear.errors[-1] is None
    manager.teardown()


def test_why_an_attempt_failed_when_nobody_says() -> None:
    with ConnectionManager(Script(False), retry=NEVER) as manager:
        assert str(manager.last_error) == "the attempt failed and gave no reason"
        assert isinstance(manager.last_error, ConnectionException)
        assert isinstance(manager.last_error.inner, ConnectionError)


def test_what_an_attempt_raised_is_wrapped(caplog: pytest.LogCaptureFixture) -> None:
    raised = OSError(5, "Input/output error")
    with ConnectionManager(Script(raised), retry=NEVER) as manager:
        error = manager.last_error
        assert isinstance(error, ConnectionException)
        assert error.inner is error.__cause__ is raised
        assert error.errno == 5
    record = next(record for record in caplog.records if "the attempt raised" in record.message)
    assert (record.levelno, record.name) == (logging.WARNING, "cnxman.basics.ConnectionManager")
    assert record.exc_info is not None
    assert record.exc_info[1] is raised


def test_a_connection_exception_is_not_wrapped_again() -> None:
    raised = ConnectionException("no", OSError(5, "Input/output error"))
    with ConnectionManager(Script(raised), retry=NEVER) as manager:
        assert manager.last_error is raised


def test_an_outage_does_not_flood_the_log(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    """The first failure is a warning, the same one again is at debug; another one, or a new outage, warns again."""
    no, nope = ValueError("no"), ValueError("nope")
    connection = Script(no, no, no, nope, nope, True, nope)
    with caplog.at_level(logging.DEBUG), ConnectionManager(connection, retry=FIXED):
        clock.advance(25)
        connection.raise_alarm()
        clock.advance(5)
    levels = [record.levelname[0] for record in caplog.records if "the attempt raised" in record.message]
    assert "".join(levels) == "WDDWDW"


@pytest.mark.parametrize("told", [True, False])
def test_why_a_line_was_lost(clock: ManualClock, told: bool) -> None:
    connection = Script(True)
    manager = ConnectionManager(connection, retry=NEVER)
    ear = Ear(manager)
    why = ConnectionException("lost", OSError(5, "Input/output error"))
    with manager:
        connection.last_error = None if told else why
        connection.raise_alarm(why if told else None)
        clock.advance(0)
        assert manager.last_error is ear.errors[-1] is why


def test_why_a_line_was_lost_when_nobody_says(clock: ManualClock) -> None:
    connection = Script(True)
    with ConnectionManager(connection, retry=NEVER) as manager:
        connection.raise_alarm()
        clock.advance(0)
        assert str(manager.last_error) == "the connection raised the alarm"


def test_a_flood_of_alarms_takes_one_place_in_line(clock: ManualClock) -> None:
    connection = Script(True)

    def attempt() -> bool:
        for _ in range(1000):
            connection.raise_alarm()
        assert in_line(manager) == ["alarm"]
        return True

    connection.outcomes = [attempt, True]
    manager = ConnectionManager(connection, retry=NEVER)
    ear = Ear(manager)
    with manager:
        clock.advance(0)
    assert ear.states == ["connecting", "connected", "recovering", "torndown"]


@pytest.mark.parametrize("end", ["ready", "disconnected", "torndown"])
def test_an_alarm_about_what_is_not_kept_up_costs_no_thread(
    end: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    connection = Script(True)
    manager = ConnectionManager(connection, retry=NEVER)
    if end != "ready":
        manager.connect()
        (manager.disconnect if end == "disconnected" else manager.teardown)()
    started: list[threading.Thread] = []
    monkeypatch.setattr(threading.Thread, "start", started.append)
    connection.raise_alarm()
    assert (manager.state, started, in_line(manager)) == (end, [], [])
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


def test_an_alarm_sent_by_pydispatcher_counts_once(clock: ManualClock) -> None:
    connection = Script(True)
    manager = ConnectionManager(connection, retry=NEVER)
    ear = Ear(manager)
    with manager:
        dispatcher.send(signal=Connection.Signals.RAISE_ALARM, sender=connection)
        clock.advance(0)
        assert ear.states == ["connecting", "connected", "recovering"]


@pytest.mark.parametrize("method", ["disconnect", "teardown"])
def test_what_disconnect_raises_stops_nothing(method: str, caplog: pytest.LogCaptureFixture) -> None:
    connection = Script(True)
    boom = ValueError("boom")

    def explode() -> None:
        raise boom

    setattr(connection, f"on_{method}", explode)
    manager = ConnectionManager(connection, retry=NEVER)
    ear = Ear(manager)
    manager.connect()
    manager.teardown()
    assert connection.calls == ["try_connect", "disconnect", "teardown"]
    assert ear.states[-1] == "torndown"
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert f"Script.{method} raised" in record.message
    assert record.exc_info is not None
    assert record.exc_info[1] is boom


def test_no_thread_to_recover_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    connection = Script(True)
    manager = ConnectionManager(connection, retry=NEVER)
    ear = Ear(manager)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_start)
        with pytest.raises(ConnectionException, match="cannot recover: can't start new thread"):
            manager.connect()
    assert manager.state == "disconnected"
    assert connection.attempts == 0
    ear.check_order()
    manager.connect()
    assert manager.is_connected
    manager.teardown()


# -- telling -----------------------------------------------------------------------------------------------


def test_a_receiver_that_raises_hurts_nobody(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    connection = Script(True)
    manager = ConnectionManager(connection, retry=FIXED)

    def raising() -> None:
        raise ValueError("from a receiver")

    manager.subscribe(raising)
    manager.subscribe(raising, ConnectionManager.Signals.RETRY_SCHEDULED)
    ear = Ear(manager)
    manager.connect()
    connection.raise_alarm()
    clock.advance(5)
    manager.teardown()
    assert ear.states == ["connecting", "connected", "recovering", "connecting", "connected", "torndown"]
    assert ear.retries == [(1, 5)]
    records = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(records) == 7
    assert all(record.exc_info is not None for record in records)
    assert "raising, a receiver of Signals.STATE_CHANGED, raised" in records[0].message


def test_a_receiver_that_leaves_keeps_no_other_from_receiving() -> None:
    manager = ConnectionManager(Script(True), retry=NEVER)
    heard: list[str] = []

    def leaving(state: str) -> None:
        heard.append(f"leaving {state}")
        undo()

    undo = manager.subscribe(leaving)
    manager.subscribe(lambda state: heard.append(f"staying {state}"))
    with manager:
        assert heard == ["leaving connecting", "staying connecting", "staying connected"]


def test_a_receiver_sees_the_state_that_was_sent() -> None:
    manager = ConnectionManager(Script(True, False), retry=NEVER)
    seen: list[tuple[str, str]] = []
    manager.subscribe(lambda state: seen.append((state, manager.state)))
    manager.connect()
    manager.disconnect()
    manager.connect()
    manager.teardown()
    assert len(seen) == 6
    assert all(told == state for told, state in seen)


def test_a_receiver_interrupted_by_ctrl_c() -> None:
    """Everybody is told, and then the interrupt goes on to the caller."""
    manager = ConnectionManager(Script(True), retry=NEVER)

    def interrupted(state: str) -> None:
        if state == "connected":
            raise KeyboardInterrupt

    manager.subscribe(interrupted)
    ear = Ear(manager)
    with pytest.raises(KeyboardInterrupt):
        manager.connect()
    assert manager.is_connected
    assert ear.states == ["connecting", "connected"]
    manager.teardown()
    assert ear.states[-1] == "torndown"


# -- waiting until it is connected ---------------------------------------------------------------------------


def test_wait_until_connected(clock: ManualClock) -> None:
    connection = Script(False)
    with ConnectionManager(connection, retry=FIXED) as manager:
        assert not manager.wait_until_connected(0)
        assert not manager.wait_until_connected(0.01)
        waiting = [Caller(lambda each=each: manager.wait_until_connected(each)) for each in (None, BOUND, float("inf"))]
        for each in waiting:
            wait_until_waiting(each.thread, ConnectionManager.wait_until_connected)
        connection.outcomes = [True]
        clock.advance(5)
        assert [each.join() for each in waiting] == [True, True, True]
        assert manager.wait_until_connected() is True


@pytest.mark.parametrize(
    ("timeout", "kind"), [("5", TypeError), (True, TypeError), (-1, ValueError), (float("nan"), ValueError)]
)
def test_a_wait_that_makes_no_sense_is_refused(timeout: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=f"timeout must be .*, not {timeout!r}"):
        ConnectionManager(Script()).wait_until_connected(timeout)


def test_a_manager_says_what_it_is() -> None:
    manager = ConnectionManager(SerialConnection("/dev/ttyS0"))
    assert repr(manager) == "<ConnectionManager of <SerialConnection /dev/ttyS0>: ready>"
    manager.teardown()
    with pytest.raises(NoTransition) as refused:
        manager.connect()
    assert str(refused.value) == f"{manager!r} is torn down for good: make a new manager"


def test_a_connection_without_a_known_port(caplog: pytest.LogCaptureFixture) -> None:
    """It is none the worse for it; the records say so."""
    error = RuntimeError("no port today")

    class Odd(Script):
        @property
        def port(self) -> str:
            raise error

    caplog.set_level(logging.DEBUG, "cnxman")
    with ConnectionManager(Odd()) as manager:
        assert manager.is_connected
    assert {getattr(record, "port", None) for record in caplog.records if hasattr(record, "state")} == {error}


def test_wait_until_connected_ends_with_the_manager() -> None:
    manager = ConnectionManager(Script(False), retry=NEVER)
    manager.connect()
    waiting = Caller(manager.wait_until_connected)
    wait_until_waiting(waiting.thread, ConnectionManager.wait_until_connected)
    manager.teardown()
    assert waiting.join() is False
    assert manager.wait_until_connected() is False


def test_wait_until_connected_when_it_is_lost_again_at_once() -> None:
    """It was connected, so it says so, however soon it is lost."""

    class Flapping(ConnectionManager):
        looks = 0

        @property
        def state(self) -> ConnectionState:
            self.looks += 1
            return ConnectionState.CONNECTED if self.looks == 2 else ConnectionState.RECOVERING

    manager = Flapping(Script())
    assert manager.looks == 0
    waiting = Caller(lambda: manager.wait_until_connected(BOUND))
    wait_until_waiting(waiting.thread, ConnectionManager.wait_until_connected)
    with manager._inputs._change:
        manager._inputs._change.notify_all()
    assert waiting.join() is True


# -- its life ------------------------------------------------------------------------------------------------


def test_torndown_is_for_good() -> None:
    connection = Script(True)
    manager = ConnectionManager(connection, retry=NEVER)
    manager.connect()
    manager.teardown()
    manager.teardown()
    manager.disconnect()
    for _ in range(2):
        with pytest.raises(NoTransition):
            manager.connect()
    with pytest.raises(NoTransition), manager:
        pass
    assert connection.calls == ["try_connect", "disconnect", "teardown"]
    assert manager.state == "torndown"


def test_its_thread_is_a_daemon_and_named_after_what_it_serves() -> None:
    class Named(Script):
        def __str__(self) -> str:
            return "the pump"

    before = set(threading.enumerate())
    with ConnectionManager(Named(True), retry=NEVER) as manager:
        [worker] = set(threading.enumerate()) - before
        assert worker.daemon
        assert worker.name == "cnxman manager of the pump"
        manager.disconnect()
        assert set(threading.enumerate()) == before
        manager.connect()
        assert len(set(threading.enumerate()) - before) == 1
    assert set(threading.enumerate()) == before


class Kept(Script):
    """Tells, by way of what outlives it, that it is being used."""

    def __init__(self, attempts: list[str], *outcomes: bool) -> None:
        super().__init__(*outcomes)
        self.attempted = attempts

    def try_connect(self) -> bool:
        self.attempted.append("try_connect")
        return super().try_connect()


@pytest.mark.parametrize("falsy", [False, True])
def test_nobody_else_need_hold_them(falsy: bool) -> None:
    class Falsy(ConnectionManager):
        def __bool__(self) -> bool:
            return not falsy

    attempts: list[str] = []
    Falsy(connection := Kept(attempts, False, True), retry=NEVER).connect()
    held = weakref.ref(connection)
    del connection
    gc.collect()
    assert attempts == ["try_connect"]
    kept = held()
    assert kept is not None, "a connection in use was collected"
    manager = next(each for each in gc.get_objects() if type(each) is Falsy)
    manager.connect()
    ear = Ear(manager)
    manager = weakref.ref(manager)
    for _ in range(3):
        gc.collect()
        kept.raise_alarm()
        ear.wait_for_state("recovering")
        gc.collect()
        manager().connect()
        ear.wait_for_state("connected")
    manager().teardown()
    gc.collect()
    assert manager() is None
    del kept
    gc.collect()
    assert held() is None


@pytest.mark.parametrize("end", ["ready", "disconnected", "given up", "torndown"])
def test_what_is_not_kept_up_is_not_kept(end: str) -> None:
    """And leaves nothing in the connection, nor in PyDispatcher's tables."""
    connection = Script(end != "given up")
    manager = ConnectionManager(connection, retry=RetryPolicy(attempts=1))
    assert id(connection) in dispatcher.connections
    if end != "ready":
        manager.connect()
    if end == "disconnected":
        manager.disconnect()
    if end == "torndown":
        manager.teardown()
    gone = weakref.ref(manager)
    del manager
    wait_until(lambda: gc.collect() >= 0 and gone() is None, "the manager is collected")
    assert not connection.__dict__["_subscriptions"]
    assert id(connection) not in dispatcher.connections


def test_one_connection_after_another_manager(clock: ManualClock) -> None:
    """A manager that is gone hears no alarm, and the next one does."""
    connection = Script(True)
    for _ in range(3):
        with ConnectionManager(connection, retry=FIXED) as manager:
            connection.raise_alarm()
            clock.advance(0)
            assert manager.state == "recovering"
            clock.advance(5)
            assert manager.state == "connected"


def test_an_attempt_is_seen_by_others_while_it_is_under_way() -> None:
    gate = Gate()
    manager = ConnectionManager(Script(gate), retry=NEVER)
    caller = Caller(manager.connect)
    assert gate.begun.wait(BOUND)
    assert (manager.state, manager.is_connected, manager.last_error) == ("connecting", False, None)
    gate.go.set()
    caller.join()
    manager.teardown()


def test_statistics(clock: ManualClock) -> None:
    connection = Script(False, False, True, True)
    manager = ConnectionManager(connection, retry=FIXED)
    before = manager.statistics
    with manager:
        clock.advance(10)
        up = manager.statistics
        connection.raise_alarm()
        clock.advance(0)
        lost = manager.statistics
        clock.advance(5)
        again = manager.statistics
    after = manager.statistics
    counts = [(each.connects, each.losses, each.failed_attempts) for each in (before, up, lost, again, after)]
    assert counts == [(0, 0, 0), (1, 0, 2), (1, 1, 2), (2, 1, 2), (2, 1, 2)]
    assert [each.up_since is not None for each in (before, up, lost, again, after)] == [False, True, False, True, False]
    assert (before.last_error, before.last_error_at) == (None, None)
    assert str(up.last_error) == "the attempt failed and gave no reason"
    assert str(after.last_error) == "the connection raised the alarm"
    assert after.last_error_at is not None


def test_in_a_forked_child_it_is_the_parents() -> None:
    """As if there had been a fork: what is busy must not be touched, what is idle may be used."""
    busy, idle = ConnectionManager(Script(True)), ConnectionManager(Script(True))
    busy._process = os.getppid()  # what a child inherits of a manager that is connected
    assert (busy.state, busy.is_connected, busy.wait_until_connected()) == ("torndown", False, False)
    busy.disconnect()
    busy.teardown()
    with pytest.raises(ConnectionException, match="belongs to the process that this one was forked from"):
        busy.connect()
    assert busy.connection.calls == []  # type: ignore[attr-defined]
    with idle:
        assert idle.is_connected


# -- who keeps it up ---------------------------------------------------------------------------------------


def test_a_second_manager_on_one_connection_is_refused() -> None:
    connection = Script(True)
    with ConnectionManager(connection, retry=NEVER) as manager:
        with pytest.raises(ValueError, match=r"is kept up by .*: it has one manager at a time"):
            ConnectionManager(connection)
        assert manager.is_connected
    with ConnectionManager(connection, retry=NEVER) as second:
        assert second.is_connected


def test_the_second_of_two_idle_managers_may_not_connect() -> None:
    connection = Script(True)
    first, second = ConnectionManager(connection, retry=NEVER), ConnectionManager(connection, retry=NEVER)
    first.connect()
    with pytest.raises(ValueError, match="one manager at a time"):
        second.connect()
    assert (first.state, second.state, connection.attempts) == ("connected", "ready", 1)
    first.disconnect()
    second.connect()
    assert second.is_connected
    second.teardown()
    first.teardown()


def test_a_manager_that_is_torn_down_keeps_no_other_from_connecting() -> None:
    connection = Script(True)
    idle, torn_down = ConnectionManager(connection, retry=NEVER), ConnectionManager(connection, retry=NEVER)
    torn_down.teardown()
    with pytest.raises(NoTransition):
        torn_down.connect()
    with ConnectionManager(connection, retry=NEVER) as manager:
        idle.teardown()  # which takes nothing away from the one that keeps it up
        with pytest.raises(ValueError, match="one manager at a time"):
            ConnectionManager(connection)
        assert manager.is_connected


class SaysSo(Script):
    """A connection that tells a manager when it was closed by its own methods."""

    def disconnect(self) -> None:
        super().disconnect()
        self.report_disconnect()


@pytest.mark.parametrize("outcome", [True, False])
def test_a_connection_that_is_disconnected_by_itself_disconnects_its_manager(outcome: bool) -> None:
    connection = SaysSo(outcome)
    manager = ConnectionManager(connection, retry=NEVER)
    ear = Ear(manager)
    manager.connect()
    connection.disconnect()
    ear.wait_for_state("disconnected")
    connection.outcomes = [True]
    manager.connect()
    assert manager.is_connected
    manager.teardown()


def test_an_attempt_may_close_what_is_left_of_the_one_before() -> None:
    class Reopens(SaysSo):
        def try_connect(self) -> bool:
            self.disconnect()
            return super().try_connect()

    with ConnectionManager(Reopens(True), retry=NEVER) as manager:
        manager.connect()
        assert manager.is_connected


def test_a_connection_that_is_lost_is_not_connected_before_the_alarm() -> None:
    connection = Script(True)
    with ConnectionManager(connection, retry=NEVER) as manager:
        connection.is_lost = lambda: True  # type: ignore[method-assign]
        assert (manager.state, manager.is_connected) == ("recovering", False)
        assert manager.wait_until_connected(0) is False
        connection.is_lost = lambda: False  # type: ignore[method-assign]
        assert manager.wait_until_connected(0) is True


def test_connect_without_waiting_returns_before_the_attempt() -> None:
    gate = Gate()
    connection = Script(gate)
    manager = ConnectionManager(connection, retry=NEVER)
    manager.connect(wait=False)
    assert gate.begun.wait(BOUND)
    assert manager.state == "connecting"
    manager.connect(wait=False)
    gate.go.set()
    assert manager.wait_until_connected(BOUND)
    assert threading.current_thread() not in connection.threads
    manager.teardown()
    with pytest.raises(NoTransition, match="is torn down for good: make a new manager"):
        manager.connect(wait=False)


def test_an_alarm_whose_retry_raises_disconnects(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(RetryPolicy):
        def delay(self, failures: int) -> float:
            raise ZeroDivisionError("a policy with a bug")

    connection = Script(True)
    manager = ConnectionManager(connection, retry=Broken())
    ear = Ear(manager)
    manager.connect()
    connection.raise_alarm()
    ear.wait_for_state("disconnected")
    wait_until(lambda: "a policy with a bug" in caplog.text, "it is logged")
    manager.teardown()


def test_asking_a_manager_for_a_part_of_the_machine_warns() -> None:
    manager = ConnectionManager(Script(True))
    with pytest.warns(UserWarning, match="always true: ask manager.is_connected"):
        assert manager.connected
    with pytest.warns(UserWarning, match='ask manager.state == "recovering"'):
        assert manager.recovering
    assert type(ConnectionManager.connected).__name__ == "MethodicalState"
