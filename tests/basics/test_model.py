"""A machine of Hypothesis' drives the manager against a model, on a clock that is moved by hand.

InputQueue come from several kinds of thread, and from within attempts, which are the only moments when a manager is
connecting; alarms come from anywhere; time passes. State, attempts and everything told have to agree.
"""

import contextlib
import os
from typing import ClassVar

from automat import NoTransition
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from cnxman.basics import ConnectionManager, ConnectionState
from cnxman.retry import RetryPolicy
from cnxman.testing.manual_clock import ManualClock
from tests.kit.managers import BOUND, Caller, Ear, Script
from tests.kit.threads import OnLibraryThread

EXAMPLES = int(os.environ.get("CNXMAN_MODEL_EXAMPLES", "150"))
WAIT = 5

outcomes = st.sampled_from(["succeeds", "fails", "raises", "is interrupted"])
inputs = st.sampled_from(["connect", "disconnect", "teardown", "alarm"])
seldom_teardown = st.sampled_from(["connect", "disconnect", "alarm", "connect", "alarm", "teardown"])
threads = st.sampled_from(["here", "a thread", "a listener"])


class Model:
    """What the manager should do, in the words of its table."""

    def __init__(self, allowed: int | None, reached: set[tuple[str, str]]) -> None:
        self.state, self.told, self.attempts, self.used, self.due = "ready", [("", "ready")], 0, 0, 0.0
        self.allowed, self.reached, self.now = allowed, reached, 0.0
        self.outcome, self.during = "succeeds", list[str]()

    def enter(self, state: str) -> None:
        if state != self.state:
            self.told.append((self.state, state))
        self.state = state

    def give(self, given: str) -> None:
        self.reached.add((self.state, given))
        if given == "teardown":
            self.enter("torndown")
        elif given == "disconnect" and self.state not in ("ready", "torndown"):
            self.enter("disconnected")
        elif given == "alarm" and self.state == "connected":
            self.used, self.due = 0, self.now + WAIT
            self.enter("recovering")
        elif given == "connect" and self.state not in ("connected", "torndown"):
            self.used = 0
            self.attempt()

    def attempt(self) -> None:
        self.enter("connecting")
        during, self.during = self.during, []
        for given in during:
            self.reached.add(("connecting", given))
        self.attempts, self.used = self.attempts + 1, self.used + 1
        if self.outcome == "succeeds":
            self.enter("connected")
        elif self.outcome == "is interrupted" or self.used == self.allowed:
            self.enter("disconnected")
        else:
            self.due = self.now + WAIT
            self.enter("recovering")
        for number, given in enumerate(during):
            if given != "connect" or {"disconnect", "teardown"} & set(during[:number]):
                self.give(given)

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while self.state == "recovering" and self.due <= end:
            self.now = self.due
            self.attempt()
        self.now = end


class Machine(RuleBasedStateMachine):
    """The manager and the model, side by side."""

    reached: ClassVar[set[tuple[str, str]]] = set()

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.clock.__enter__()
        self.begin(None)

    def teardown(self) -> None:
        self.manager.teardown()
        self.clock.__exit__(None, None, None)

    def begin(self, allowed: int | None) -> None:
        self.connection = Script(self.attempt)
        policy = RetryPolicy(WAIT, 1, WAIT, 0, attempts=allowed)
        self.manager = ConnectionManager(self.connection, retry=policy)
        self.ear = Ear(self.manager)
        self.ear.told.append(("", "ready"))
        self.model = Model(allowed, self.reached)
        self.model.now = self.clock.now()
        self.outcome, self.during = "succeeds", list[str]()

    def attempt(self) -> bool:
        during, self.during = self.during, []
        for given in during:
            self.give(given)
        if self.outcome == "raises":
            raise OSError(5, "Input/output error")
        if self.outcome == "is interrupted":
            raise KeyboardInterrupt
        return self.outcome == "succeeds"

    def give(self, given: str) -> None:
        with contextlib.suppress(KeyboardInterrupt, NoTransition):
            (self.connection.raise_alarm if given == "alarm" else getattr(self.manager, given))()

    def run_on(self, thread: str, given: str) -> None:
        if thread == "here":
            self.give(given)
        elif thread == "a thread":
            Caller(lambda: self.give(given)).join()
        else:
            OnLibraryThread(lambda: self.give(given)).join(BOUND)

    @rule(given=seldom_teardown, thread=threads, outcome=outcomes, during=st.lists(inputs, max_size=4))
    def an_input(self, given: str, thread: str, outcome: str, during: list[str]) -> None:
        self.expect(outcome, during)
        self.run_on(thread, given)
        self.model.give(given)
        self.check()

    @rule(seconds=st.sampled_from([0, 1, 2.5, 5, 17.5]), outcome=outcomes, during=st.lists(inputs, max_size=2))
    def time_passes(self, seconds: float, outcome: str, during: list[str]) -> None:
        self.expect(outcome, during)
        self.clock.advance(seconds)
        self.model.advance(seconds)
        self.check()

    @precondition(lambda self: self.model.state == "torndown")
    @rule(allowed=st.sampled_from([None, 1, 3]))
    def another(self, allowed: int | None) -> None:
        self.begin(allowed)

    def expect(self, outcome: str, during: list[str]) -> None:
        self.outcome = self.model.outcome = outcome
        self.during, self.model.during = list(during), list(during)

    def check(self) -> None:
        self.clock.advance(0)
        assert self.manager.state == self.model.state
        assert self.ear.told == self.model.told
        assert self.connection.attempts == self.model.attempts
        assert self.connection.overlaps == []
        assert self.connection.calls.count("teardown") == (self.model.state == "torndown")
        assert (self.manager._inputs._worker is not None) == (self.model.state in ("connected", "recovering"))


def test_the_manager_does_as_the_model() -> None:
    Machine.reached.clear()
    run_state_machine_as_test(
        Machine,
        settings=settings(max_examples=EXAMPLES, stateful_step_count=30),
    )
    every = {
        (str(state), given) for state in ConnectionState for given in ("connect", "disconnect", "teardown", "alarm")
    }
    assert Machine.reached == every
