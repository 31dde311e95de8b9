"""One test for each (state, input) pair of the manager's table: where it leads, what is called, what is told."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from automat import NoTransition

from cnxman._manager.input_queue import InputQueue
from cnxman.basics import ConnectionException, ConnectionManager, ConnectionState
from cnxman.retry import RetryPolicy
from cnxman.testing.manual_clock import ManualClock
from tests.kit.managers import (
    BOUND,
    NEVER,
    Caller,
    Ear,
    Gate,
    Outcome,
    Script,
    all_join,
    wait_in_line,
    wait_until_waiting,
)

STATES = [str(state) for state in ConnectionState]
INPUTS = ["connect", "disconnect", "teardown", "alarm"]


class Bench:
    """A manager brought into a state, with everything that led there forgotten."""

    def __init__(self, clock: ManualClock, state: str, retry: RetryPolicy = NEVER) -> None:
        self.clock = clock
        self.connection = Script(state != "recovering")
        self.manager = ConnectionManager(self.connection, retry=retry)
        self.ear = Ear(self.manager)
        self.attempt: Caller | None = None
        self.gate = Gate()
        for step in PATHS[state]:
            step(self)
        assert self.manager.state == state
        self.connection.calls.clear()
        self.ear.clear()

    def begin_attempt(self) -> None:
        self.connection.outcomes = [self.gate]
        self.attempt = Caller(self.manager.connect)
        assert self.gate.begun.wait(BOUND)

    def end_attempt(self, outcome: Outcome) -> None:
        assert self.attempt is not None
        self.gate.outcome = outcome
        self.connection.outcomes = [outcome]
        self.gate.go.set()
        self.attempt.join()
        self.clock.advance(0)

    def give(self, given: str) -> None:
        if given == "alarm":
            self.connection.raise_alarm(ALARM)
            self.clock.advance(0)  # until the manager has dealt with it
        else:
            getattr(self.manager, given)()

    def found(self) -> tuple[str, list[str], list[tuple[str, str]]]:
        return self.manager.state, self.connection.calls, self.ear.told


PATHS: dict[str, list[Callable[[Bench], None]]] = {
    "ready": [],
    "connecting": [Bench.begin_attempt],
    "connected": [lambda bench: bench.manager.connect()],
    "recovering": [lambda bench: bench.manager.connect()],
    "disconnected": [lambda bench: bench.manager.connect(), lambda bench: bench.manager.disconnect()],
    "torndown": [lambda bench: bench.manager.teardown()],
}

ALARM = ConnectionException("the line is lost", OSError(5, "Input/output error"))


def path(*states: str) -> list[tuple[str, str]]:
    """What is told on the way through these states."""
    return list(pairwise(states))


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    with ManualClock() as clock:
        yield clock


@pytest.fixture
def bench(clock: ManualClock) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(state: str, retry: RetryPolicy = NEVER) -> Bench:
        made.append(Bench(clock, state, retry))
        return made[-1]

    yield make
    for each in made:
        each.gate.go.set()
        each.manager.teardown()
        assert not each.connection.overlaps


# -- every state but connecting ---------------------------------------------------------------------------

TABLE: dict[tuple[str, str], tuple[str, list[str], list[tuple[str, str]]]] = {
    ("ready", "connect"): ("connected", ["try_connect"], path("ready", "connecting", "connected")),
    ("ready", "disconnect"): ("ready", [], []),
    ("ready", "teardown"): ("torndown", ["teardown"], path("ready", "torndown")),
    ("ready", "alarm"): ("ready", [], []),
    ("connected", "connect"): ("connected", [], []),
    ("connected", "disconnect"): ("disconnected", ["disconnect"], path("connected", "disconnected")),
    ("connected", "teardown"): ("torndown", ["disconnect", "teardown"], path("connected", "torndown")),
    ("connected", "alarm"): ("recovering", [], path("connected", "recovering")),
    ("recovering", "connect"): ("connected", ["try_connect"], path("recovering", "connecting", "connected")),
    ("recovering", "disconnect"): ("disconnected", ["disconnect"], path("recovering", "disconnected")),
    ("recovering", "teardown"): ("torndown", ["disconnect", "teardown"], path("recovering", "torndown")),
    ("recovering", "alarm"): ("recovering", [], []),
    ("disconnected", "connect"): ("connected", ["try_connect"], path("disconnected", "connecting", "connected")),
    ("disconnected", "disconnect"): ("disconnected", [], []),
    ("disconnected", "teardown"): ("torndown", ["teardown"], path("disconnected", "torndown")),
    ("disconnected", "alarm"): ("disconnected", [], []),
    ("torndown", "disconnect"): ("torndown", [], []),
    ("torndown", "teardown"): ("torndown", [], []),
    ("torndown", "alarm"): ("torndown", [], []),
}


@pytest.mark.parametrize(("state", "given"), TABLE, ids="-".join)
def test_table(bench: Callable[..., Bench], state: str, given: str) -> None:
    b = bench(state)
    b.connection.outcomes = [True]
    b.give(given)
    assert b.found() == TABLE[state, given]


def test_torndown_connect(bench: Callable[..., Bench]) -> None:
    b = bench("torndown")
    with pytest.raises(NoTransition):
        b.manager.connect()
    assert b.found() == ("torndown", [], [])


@pytest.mark.parametrize("state", ["ready", "recovering", "disconnected"])
def test_connect_that_fails(bench: Callable[..., Bench], state: str) -> None:
    b = bench(state)
    b.connection.outcomes = [False]
    b.manager.connect()
    assert b.found() == ("recovering", ["try_connect"], path(state, "connecting", "recovering"))


@pytest.mark.parametrize("state", ["ready", "recovering", "disconnected"])
def test_connect_that_uses_the_attempts_up(bench: Callable[..., Bench], state: str) -> None:
    b = bench(state, RetryPolicy(5, 1, 5, 0, attempts=2))
    b.connection.outcomes = [False]
    b.manager.connect()
    assert b.manager.state == "recovering"
    b.clock.advance(5)
    assert b.found() == (
        "disconnected",
        ["try_connect", "try_connect", "disconnect"],
        path(state, "connecting", "recovering", "connecting", "disconnected"),
    )
    assert [error is not None for error in b.ear.errors] == [False, True, False, True]
    assert b.ear.errors[-1] is b.manager.last_error


@pytest.mark.parametrize(
    ("outcome", "end"), [(True, "connected"), (False, "recovering"), (ValueError("no"), "recovering")]
)
def test_the_wait_ends_in_an_attempt(bench: Callable[..., Bench], outcome: Outcome, end: str) -> None:
    b = bench("recovering", RetryPolicy(5, 1, 5, 0))
    b.connection.outcomes = [outcome]
    b.clock.advance(4.99)
    assert b.found() == ("recovering", [], [])
    b.clock.advance(0.01)
    assert b.found() == (end, ["try_connect"], path("recovering", "connecting", end))


# -- connecting: an attempt is under way -------------------------------------------------------------------

OUTCOMES: dict[str, Outcome] = {"succeeds": True, "fails": False, "raises": OSError(5, "Input/output error")}
ENDS = {"succeeds": "connected", "fails": "recovering", "raises": "recovering"}


@pytest.mark.parametrize("how", OUTCOMES)
def test_connecting_connect(bench: Callable[..., Bench], how: str) -> None:
    """Whoever calls connect() during an attempt gets its outcome, and starts no other."""
    b = bench("connecting")
    callers = [Caller(b.manager.connect) for _ in range(3)]
    for caller in callers:
        wait_until_waiting(caller.thread, InputQueue.await_current)
    b.end_attempt(OUTCOMES[how])
    all_join(callers)
    assert b.found() == (ENDS[how], [], path("connecting", ENDS[how]))


@pytest.mark.parametrize("how", OUTCOMES)
def test_connecting_disconnect(bench: Callable[..., Bench], how: str) -> None:
    b = bench("connecting")
    caller = Caller(b.manager.disconnect)
    wait_in_line(b.manager, "disconnect")
    assert b.found() == ("connecting", [], [])
    b.end_attempt(OUTCOMES[how])
    caller.join()
    assert b.found() == ("disconnected", ["disconnect"], path("connecting", ENDS[how], "disconnected"))


@pytest.mark.parametrize("how", OUTCOMES)
def test_connecting_teardown(bench: Callable[..., Bench], how: str) -> None:
    b = bench("connecting")
    caller = Caller(b.manager.teardown)
    wait_in_line(b.manager, "teardown")
    assert b.found() == ("connecting", [], [])
    b.end_attempt(OUTCOMES[how])
    caller.join()
    assert b.found() == ("torndown", ["disconnect", "teardown"], path("connecting", ENDS[how], "torndown"))


@pytest.mark.parametrize("how", OUTCOMES)
def test_connecting_disconnect_then_connect(bench: Callable[..., Bench], how: str) -> None:
    """A connect() behind a disconnect() means a new attempt."""
    b = bench("connecting")
    first = Caller(b.manager.disconnect)
    wait_in_line(b.manager, "disconnect")
    second = Caller(b.manager.connect)
    wait_in_line(b.manager, "disconnect", "connect")
    b.end_attempt(OUTCOMES[how])
    all_join([first, second])
    assert b.found() == (
        ENDS[how],
        ["disconnect", "try_connect"],
        path("connecting", ENDS[how], "disconnected", "connecting", ENDS[how]),
    )


def test_connecting_teardown_then_connect(bench: Callable[..., Bench]) -> None:
    b = bench("connecting")
    first = Caller(b.manager.teardown)
    wait_in_line(b.manager, "teardown")
    second = Caller(b.manager.connect)
    wait_in_line(b.manager, "teardown", "connect")
    b.end_attempt(True)
    first.join()
    with pytest.raises(NoTransition):
        second.join()
    assert b.found() == ("torndown", ["disconnect", "teardown"], path("connecting", "connected", "torndown"))


def test_connecting_alarm_then_success(bench: Callable[..., Bench]) -> None:
    """What is lost while it is being made is recovered."""
    b = bench("connecting")
    b.connection.raise_alarm(ALARM)
    assert b.found() == ("connecting", [], [])
    b.end_attempt(True)
    assert b.found() == ("recovering", [], path("connecting", "connected", "recovering"))
    assert b.manager.last_error is ALARM


@pytest.mark.parametrize("how", ["fails", "raises"])
def test_connecting_alarm_then_failure(bench: Callable[..., Bench], how: str) -> None:
    b = bench("connecting")
    b.connection.raise_alarm(ALARM)
    b.end_attempt(OUTCOMES[how])
    assert b.found() == ("recovering", [], path("connecting", "recovering"))
    assert b.manager.last_error is not ALARM


def test_connecting_alarm_twice(bench: Callable[..., Bench]) -> None:
    """Two alarms about one line are one loss: the second finds it recovering."""
    b = bench("connecting")
    b.connection.raise_alarm(ALARM)
    b.connection.raise_alarm(None)
    b.end_attempt(True)
    assert b.found() == ("recovering", [], path("connecting", "connected", "recovering"))
    assert b.manager.last_error is ALARM
    assert b.ear.retries == [(1, 1e6)]


@pytest.mark.parametrize("given", ["disconnect", "teardown"])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_connecting_interrupted(bench: Callable[..., Bench], stop: type[BaseException], given: str) -> None:
    """An attempt that is broken off leads to disconnected, and whoever stands in line goes on from there."""
    b = bench("connecting")
    caller = Caller(getattr(b.manager, given))
    wait_in_line(b.manager, given)
    with pytest.raises(stop):
        b.end_attempt(stop())
    caller.join()
    if given == "disconnect":
        assert b.found() == ("disconnected", ["disconnect"], path("connecting", "disconnected"))
    else:
        assert b.found() == ("torndown", ["disconnect", "teardown"], path("connecting", "disconnected", "torndown"))


@pytest.mark.parametrize("given", ["disconnect", "teardown"])
def test_connecting_uses_the_attempts_up(bench: Callable[..., Bench], given: str) -> None:
    b = bench("connecting", RetryPolicy(attempts=1))
    caller = Caller(getattr(b.manager, given))
    wait_in_line(b.manager, given)
    b.end_attempt(False)
    caller.join()
    if given == "disconnect":
        assert b.found() == ("disconnected", ["disconnect"], path("connecting", "disconnected"))
    else:
        assert b.found() == ("torndown", ["disconnect", "teardown"], path("connecting", "disconnected", "torndown"))


# -- the table is whole ------------------------------------------------------------------------------------


def test_every_pair_is_here() -> None:
    pairs = {(state, given) for state in STATES for given in INPUTS}
    connecting = {("connecting", given) for given in INPUTS if f"test_connecting_{given}" in "\n".join(globals())}
    assert set(TABLE) | connecting | {("torndown", "connect")} == pairs


def test_order_of_states_as_sent(bench: Callable[..., Bench]) -> None:
    """Connecting is told before the attempt, disconnected and torndown after what they do."""
    b = bench("ready")
    order: list[str] = []
    b.manager.subscribe(lambda state: order.append(f"told {state}"))
    b.connection.outcomes = [lambda: bool(order.append("attempt")) or True]
    b.connection.on_disconnect = lambda: order.append("hung up")
    b.connection.on_teardown = lambda: order.append("released")
    b.manager.connect()
    b.manager.disconnect()
    b.manager.connect()
    b.manager.teardown()
    up = ["told connecting", "attempt", "told connected"]
    assert order == [*up, "hung up", "told disconnected", *up, "hung up", "released", "told torndown"]
