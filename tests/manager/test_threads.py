"""What the manager does when many threads use it at once: deadlocks, interrupts, ends of processes, on purpose."""

import logging
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable

import pytest
from automat import NoTransition

from cnxman._manager import input_queue as _inputs
from cnxman._manager.input_queue import Input, InputQueue
from cnxman._threads import library_thread, on_library_thread
from cnxman.basics import Connection, ConnectionManager
from cnxman.retry import RetryPolicy
from cnxman.serial import SerialConnection
from cnxman.testing import SimulatedDevice
from cnxman.testing.manual_clock import ManualClock
from tests.kit.managers import (
    AT_ONCE,
    BOUND,
    NEVER,
    Caller,
    Ear,
    Gate,
    Script,
    all_join,
    in_line,
    wait_in_line,
    wait_until,
    wait_until_waiting,
    worker_of,
)

SECONDS = float(os.environ.get("CNXMAN_STORM_SECONDS", "2"))


class LibraryCaller(Caller):
    """Calls something on one of the library's own threads, as a receiver of data does."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.error = None
        self.result = None
        self.began = threading.Event()
        self.done = threading.Event()
        self._function = function
        self.thread = library_thread("listener of a test", self._run)
        self.thread.start()


# -- who waits, and who doesn't ------------------------------------------------------------------------------


def test_inputs_run_in_the_order_they_came() -> None:
    gate = Gate()
    connection = Script(gate, True)
    manager = ConnectionManager(connection, retry=NEVER)
    callers = [Caller(manager.connect)]
    assert gate.begun.wait(BOUND)
    names = ["disconnect", "connect", "disconnect", "disconnect", "connect", "teardown"]
    for number, name in enumerate(names, 1):
        callers.append(Caller(getattr(manager, name)))
        wait_in_line(manager, *names[:number])
    gate.go.set()
    all_join(callers)
    assert connection.calls == [
        *("try_connect", "disconnect", "try_connect", "disconnect"),
        *("try_connect", "disconnect", "teardown"),
    ]
    assert len(set(connection.threads)) == 6, "each caller runs its own input"


def test_a_connect_that_comes_after_an_alarm_is_a_new_attempt() -> None:
    """Also while the success of the one before is still being told: only an attempt under way is joined."""
    told, go = threading.Event(), threading.Event()
    connection = Script(True)
    manager = ConnectionManager(connection, retry=NEVER)

    def busy(state: str) -> None:
        if state == "connected" and not told.is_set():
            told.set()
            assert go.wait(BOUND)

    manager.subscribe(busy)
    first = Caller(manager.connect)
    assert told.wait(BOUND)
    connection.raise_alarm()
    second = Caller(manager.connect)
    wait_in_line(manager, "alarm", "connect")
    go.set()
    all_join([first, second])
    assert (manager.state, connection.attempts) == ("connected", 2)
    manager.teardown()


@pytest.mark.parametrize("call", ["connect", "disconnect", "teardown"])
def test_a_retry_that_stands_behind_a_call_is_off(call: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its time came while something else ran; the call before it in line ends the wait that it belongs to."""
    told, go = threading.Event(), threading.Event()

    def busy(state: str) -> None:
        if state == "recovering" and not told.is_set():
            told.set()
            assert go.wait(BOUND)

    with ManualClock() as clock:
        connection = Script(False)
        manager = ConnectionManager(connection, retry=RetryPolicy(5, 1, 5, 0))
        manager.subscribe(busy)
        first = Caller(manager.connect)
        assert told.wait(BOUND)
        second = Caller(getattr(manager, call))
        wait_in_line(manager, call)
        clock.advance(5)
        assert in_line(manager) == [call, "retry"]
        go.set()
        all_join([first, second])
        clock.advance(4)
        attempts = 2 if call == "connect" else 1
        assert connection.attempts == attempts
        assert manager.state == {"connect": "recovering", "disconnect": "disconnected", "teardown": "torndown"}[call]
        manager.teardown()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_return_that_is_seen_too_late(caplog: pytest.LogCaptureFixture) -> None:
    """While the worker looks for the thing somebody disconnects; then it is back, and nobody wants it any more."""
    callers: list[Caller] = []

    class Returning(Script):
        there = False

        def presence(self) -> bool:
            if threading.current_thread() is worker_of(manager):
                callers.append(Caller(manager.disconnect))
                wait_until(lambda: manager.state == "disconnected", "it is disconnected")
                self.there = True
            return self.there

    connection = Returning(False)
    manager = ConnectionManager(connection, retry=NEVER)
    manager.connect()
    wait_until(lambda: bool(callers), "somebody disconnects")
    all_join(callers)
    assert (manager.state, connection.attempts, in_line(manager)) == ("disconnected", 1, [])
    assert worker_of(manager) is None
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("call", ["disconnect", "teardown"])
def test_when_it_returns_the_thread_has_ended(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only left its work: a thread that is slow to end is waited for."""
    work = InputQueue._work

    def slowly(inputs: InputQueue) -> None:
        work(inputs)
        threading.Event().wait(0.1)

    monkeypatch.setattr(InputQueue, "_work", slowly)
    manager = ConnectionManager(Script(True), retry=NEVER)
    manager.connect()
    worker = worker_of(manager)
    getattr(manager, call)()
    assert worker is not None
    assert not worker.is_alive()
    manager.teardown()


@pytest.mark.parametrize("call", ["disconnect", "teardown"])
def test_worker_is_joined_though_it_left_its_work_before(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends while a receiver of the last change still runs, on the caller's thread."""
    work, left = InputQueue._work, threading.Event()

    def slowly(inputs: InputQueue) -> None:
        work(inputs)
        left.set()
        threading.Event().wait(0.1)

    monkeypatch.setattr(InputQueue, "_work", slowly)
    manager = ConnectionManager(Script(True), retry=NEVER)
    manager.connect()
    worker = worker_of(manager)
    manager.subscribe(lambda: left.wait(BOUND), ConnectionManager.Signals.STATE_CHANGED)
    getattr(manager, call)()
    assert left.is_set()
    assert worker is not None
    assert not worker.is_alive()
    manager.teardown()


@pytest.mark.parametrize("when", ["connecting", "connected", "recovering", "disconnected", "torndown"])
@pytest.mark.parametrize("what", ["connect", "disconnect", "teardown"])
def test_a_receiver_may_call_the_manager(when: str, what: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is dealt with once the outermost call has returned; nobody misses anything; what it raises is logged."""
    manager = ConnectionManager(connection := Script(True), retry=NEVER)
    called: list[str] = []

    def calling(state: str) -> None:
        if state == when and not called:
            called.append(what)
            getattr(manager, what)()

    manager.subscribe(calling)
    ear = Ear(manager)
    manager.connect()
    connection.raise_alarm()
    if manager.state == "connected" and not in_line(manager):
        ear.wait_for(lambda: "recovering" in ear.states or manager.state != "connected")
    manager.disconnect()
    manager.teardown()
    assert called == [what]
    assert in_line(manager) == []
    assert manager.state == "torndown"
    assert connection.overlaps == []
    assert connection.calls[-1] == "teardown"
    assert connection.calls.count("teardown") == 1
    ear.check_order()
    raised = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(raised) == (when == "torndown" and what == "connect")
    if raised:
        assert "connect() raised; its caller has not waited" in raised[0].message
        assert raised[0].exc_info is not None
        assert raised[0].exc_info[0] is NoTransition


def test_an_attempt_may_call_the_manager() -> None:
    connection = Script(True)
    manager = ConnectionManager(connection, retry=NEVER)
    ear = Ear(manager)

    def attempt() -> bool:
        manager.connect()  # takes the outcome of the very attempt it is in
        manager.disconnect()
        manager.connect()  # stands behind a disconnect: a new attempt
        assert manager.state == "connecting"
        connection.outcomes = [True]
        return True

    connection.outcomes = [attempt]
    manager.connect()
    assert ear.states == ["connecting", "connected", "disconnected", "connecting", "connected"]
    assert connection.attempts == 2
    manager.teardown()


def test_what_a_receiver_on_the_worker_calls_is_run_by_the_worker() -> None:
    connection = Script(True)
    manager = ConnectionManager(connection, retry=NEVER)
    ear = Ear(manager)
    manager.subscribe(lambda state: manager.disconnect() if state == "recovering" else None)
    manager.connect()
    connection.raise_alarm()
    ear.wait_for_state("disconnected")
    assert connection.threads[-1].name.startswith("cnxman manager")
    manager.teardown()


def test_a_receiver_may_connect_again() -> None:
    connection = Script(True)
    manager = ConnectionManager(connection, retry=NEVER)
    ear = Ear(manager)

    def redial(state: str) -> None:
        if state == "recovering":
            manager.disconnect()
            manager.connect()

    manager.subscribe(redial)
    manager.connect()
    for _ in range(20):
        ear.clear()
        connection.raise_alarm()
        ear.wait_for_state("connected")
        assert ear.states == ["recovering", "disconnected", "connecting", "connected"]
    manager.teardown()


def test_a_receiver_may_wait_for_a_thread_that_reads_the_state() -> None:
    manager = ConnectionManager(connection := Script(True), retry=NEVER)
    seen: list[object] = []

    def asking(state: str) -> None:
        reader = Caller(lambda: (manager.state, manager.is_connected, manager.last_error))
        seen.append((state, reader.join()[0]))  # type: ignore[index]

    manager.subscribe(asking)
    ear = Ear(manager)
    manager.connect()
    connection.raise_alarm()
    ear.wait_for_state("recovering")
    manager.teardown()
    assert seen == [(state, state) for state in ["connecting", "connected", "recovering", "torndown"]]


@pytest.mark.parametrize("method", ["try_connect", "disconnect", "teardown"])
def test_the_state_is_read_while_a_method_runs(method: str) -> None:
    connection = Script(True)
    manager = ConnectionManager(connection, retry=NEVER)
    seen: list[object] = []

    def read() -> bool:
        seen.append(Caller(lambda: manager.state).join())
        return True

    connection.outcomes = [read] if method == "try_connect" else [True]
    connection.on_disconnect = read if method == "disconnect" else connection.on_disconnect
    connection.on_teardown = read if method == "teardown" else connection.on_teardown
    manager.connect()
    manager.teardown()
    assert seen == ["connecting" if method == "try_connect" else "torndown"]


@pytest.mark.parametrize("call", ["connect", "disconnect", "teardown"])
def test_a_call_on_a_thread_of_the_library_never_waits(call: str) -> None:
    gate = Gate()
    connection = Script(gate, True)
    manager = ConnectionManager(connection, retry=NEVER)
    ear = Ear(manager)
    caller = Caller(manager.connect)
    assert gate.begun.wait(BOUND)
    listener = LibraryCaller(getattr(manager, call))
    listener.join()
    assert LibraryCaller(lambda: manager.wait_until_connected(BOUND)).join() is False
    gate.go.set()
    caller.join()
    ear.wait_for_state({"connect": "connected", "disconnect": "disconnected", "teardown": "torndown"}[call])
    assert listener.thread not in connection.threads
    manager.teardown()


def test_the_same_call_again_and_again_on_a_thread_of_the_library_stands_in_line_once() -> None:
    """As from a receiver that calls connect() for each chunk of data while an attempt takes its time."""
    gate = Gate(False)
    connection = Script(gate, True)
    manager = ConnectionManager(connection, retry=NEVER)
    caller = Caller(lambda: (manager.connect(), None))
    assert gate.begun.wait(BOUND)
    for call in (manager.disconnect, manager.connect, manager.disconnect):
        for _ in range(100):
            LibraryCaller(call).join()
    assert in_line(manager) == ["disconnect", "connect", "disconnect"]
    ear = Ear(manager)
    gate.go.set()
    caller.join()
    ear.wait_for(lambda: ear.states.count("disconnected") == 2)
    assert connection.attempts == 2
    manager.teardown()


def test_a_call_on_a_thread_of_the_library_runs_there_when_nothing_else_does() -> None:
    connection = Script(True)
    manager = ConnectionManager(connection, retry=NEVER)
    listener = LibraryCaller(manager.connect)
    listener.join()
    assert manager.is_connected
    assert connection.threads == [listener.thread]
    manager.teardown()


def test_what_came_from_inside_there_is_left_to_the_worker_if_it_would_have_to_wait() -> None:
    """A listener's own connect() is not followed by a wait for others who came before what its receivers called."""
    first, second = Gate(), Gate()
    connection = Script(first, second, True)
    manager = ConnectionManager(connection, retry=NEVER)
    ear = Ear(manager)

    def inside(state: str) -> None:
        if state == "connected":
            wait_in_line(manager, "disconnect")
            manager.connect()
            manager.disconnect()
            undo()

    undo = manager.subscribe(inside)
    listener = LibraryCaller(manager.connect)
    assert first.begun.wait(BOUND)
    other = Caller(lambda: (manager.disconnect(), manager.connect()))
    first.go.set()
    listener.join()
    second.go.set()
    other.join()
    ear.wait_for(lambda: len(ear.told) == 8)
    up = ["connecting", "connected"]
    assert ear.states == [*up, "disconnected", *up, "disconnected", *up]
    assert connection.threads.count(listener.thread) == 1
    assert connection.overlaps == []
    manager.teardown()


# -- deadlocks, looked for -----------------------------------------------------------------------------------


class Joined(Connection):
    """A connection with a listener: its disconnect joins the thread, and a receiver on that thread calls."""

    def __init__(self) -> None:
        self.listener: LibraryCaller | None = None
        self.listen: Callable[[], object] = lambda: None
        self.hanging_up = threading.Event()
        self.timely = True

    def try_connect(self) -> bool:
        self.listener = LibraryCaller(lambda: self.listen())
        return True

    def disconnect(self) -> None:
        self.hanging_up.set()
        if self.listener is not None and self.listener.thread is not threading.current_thread():
            self.listener.thread.join(BOUND)
            self.timely &= not self.listener.thread.is_alive()

    teardown = disconnect


@pytest.mark.parametrize("ours", ["disconnect", "teardown"])
@pytest.mark.parametrize("theirs", ["connect", "disconnect", "teardown"])
def test_disconnecting_while_a_receiver_on_the_listener_calls(ours: str, theirs: str) -> None:
    """Thread A waits for the listener, whose receiver calls what A is doing."""
    connection = Joined()
    manager = ConnectionManager(connection, retry=NEVER)
    called = threading.Event()

    def call() -> None:
        assert connection.hanging_up.wait(BOUND)
        if not called.is_set():
            called.set()
            getattr(manager, theirs)()

    connection.listen = call
    manager.connect()
    Caller(getattr(manager, ours)).join()
    Caller(manager.teardown).join()
    assert called.is_set()
    assert connection.timely
    assert manager.state == "torndown"


def test_disconnecting_a_real_line_while_its_receiver_does(serial_device: SimulatedDevice) -> None:
    connection = SerialConnection(serial_device.port)
    manager = ConnectionManager(connection)
    running, go = threading.Event(), threading.Event()

    def receiver() -> None:
        running.set()
        assert go.wait(BOUND)
        manager.disconnect()

    connection.subscribe(receiver)
    for _ in range(10):
        running.clear()
        go.clear()
        manager.connect()
        serial_device.send(b"x")
        assert running.wait(BOUND)
        began = time.monotonic()
        caller = Caller(manager.disconnect)
        wait_until(lambda: manager.state == "disconnected", "the disconnect is under way")
        go.set()
        caller.join()
        assert time.monotonic() - began < 4, "it waited for the receiver that waited for it"
        assert manager.state == "disconnected"
    manager.teardown()


def test_receivers_of_two_managers_that_call_each_other() -> None:
    managers = [ConnectionManager(Script(True), retry=NEVER) for _ in range(2)]
    for _ in range(50):
        both = threading.Barrier(2, timeout=BOUND)

        def call(state: str, other: ConnectionManager, both: threading.Barrier = both) -> None:
            if state == "connecting":
                both.wait()
                other.connect()
                other.disconnect()

        undo = [
            manager.subscribe(lambda state, other=other, call=call: call(state, other))
            for manager, other in zip(managers, reversed(managers), strict=True)
        ]
        all_join([Caller(manager.connect) for manager in managers])
        for each in undo:
            each()
        for manager in managers:
            wait_until(lambda manager=manager: not in_line(manager), "all is done")
            manager.disconnect()
    for manager in managers:
        manager.teardown()


def test_a_receiver_may_use_another_manager() -> None:
    """One that is idle answers a call from another's receiver at once."""
    inner = ConnectionManager(Script(True), retry=NEVER)
    outer = ConnectionManager(Script(True), retry=NEVER)
    inner_ear = Ear(inner)
    inner.subscribe(lambda state: inner.disconnect() if state == "connected" else None)
    seen: list[str] = []

    def call(state: str) -> None:
        if state == "connected":
            inner.connect()
            seen.append(inner.state)

    outer.subscribe(call)
    with outer, inner:
        assert seen == ["disconnected"]
    assert inner_ear.states[:3] == ["connecting", "connected", "disconnected"]


def test_a_receiver_that_never_returns_stops_nobody_from_asking() -> None:
    connection = Script(True)
    manager = ConnectionManager(connection, retry=NEVER)
    stuck, go = threading.Event(), threading.Event()

    def never(state: str) -> None:
        if state == "recovering":
            stuck.set()
            assert go.wait(BOUND)

    manager.subscribe(never)
    manager.connect()
    connection.raise_alarm()
    assert stuck.wait(BOUND)
    assert (manager.state, manager.is_connected) == ("recovering", False)
    assert manager.wait_until_connected(0.01) is False
    connection.raise_alarm()
    LibraryCaller(manager.connect).join()
    waiting = Caller(manager.teardown)
    wait_until_waiting(waiting.thread, InputQueue.submit)
    go.set()
    waiting.join()
    assert manager.state == "torndown"


# -- interrupts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_attempt_leaves_the_manager_usable(stop: type[BaseException]) -> None:
    connection = Script(stop(), True)
    manager = ConnectionManager(connection, retry=NEVER)
    ear = Ear(manager)
    with pytest.raises(stop):
        manager.connect()
    assert ear.told == [("ready", "connecting"), ("connecting", "disconnected")]
    assert connection.calls == ["try_connect", "disconnect"]
    assert worker_of(manager) is None
    Caller(manager.connect).join()
    assert manager.is_connected
    manager.teardown()


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals")
def test_ctrl_c_in_an_attempt() -> None:
    """A real SIGINT, on the main thread, which waits within the attempt."""
    gate = Gate()
    connection = Script(gate, True)
    manager = ConnectionManager(connection, retry=NEVER)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in a shell's background
    try:
        sender = Caller(lambda: gate.begun.wait(BOUND) and os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            manager.connect()
    finally:
        signal.signal(signal.SIGINT, before)
    sender.join()
    assert manager.state == "disconnected"
    manager.connect()
    assert manager.is_connected
    manager.teardown()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_retry(stop: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    """On the manager's own thread it goes to the log, and the manager is disconnected too, and usable."""
    connection = Script(False, stop(), True)
    manager = ConnectionManager(connection, retry=AT_ONCE)
    ear = Ear(manager)
    manager.connect()
    ear.wait_for_state("disconnected")
    wait_until(lambda: worker_of(manager) is None, "the thread has ended")
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == [
        "retry() raised; its caller has not waited for it"
    ]
    manager.connect()
    assert manager.is_connected
    manager.teardown()


@pytest.mark.parametrize("joins", [True, False])
def test_ctrl_c_while_waiting_for_ones_turn(joins: bool) -> None:
    gate = Gate()
    connection = Script(gate, True)
    manager = ConnectionManager(connection, retry=NEVER)
    other = Caller(manager.connect)
    assert gate.begun.wait(BOUND)
    waits = threading.Event()

    def handler(*_: object) -> None:
        if waits.is_set():
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt

    def watch() -> None:
        wait_until_waiting(threading.main_thread(), InputQueue.await_current if joins else InputQueue.submit)
        waits.set()

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)  # again and again: one that comes just before a wait is not enough
    try:
        watcher = Caller(watch)
        with pytest.raises(KeyboardInterrupt):
            (manager.connect if joins else manager.disconnect)()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    watcher.join()
    assert in_line(manager) == []
    gate.go.set()
    other.join()
    assert connection.calls == ["try_connect"]
    assert manager.is_connected
    Caller(manager.teardown).join()


def test_an_interrupt_within_what_came_from_inside(caplog: pytest.LogCaptureFixture) -> None:
    """The rest of what came from inside is still done, and then the interrupt goes on."""
    connection = Script(True, KeyboardInterrupt())
    manager = ConnectionManager(connection, retry=NEVER)
    ear = Ear(manager)

    def inside(state: str) -> None:
        undo()
        manager.disconnect()
        manager.connect()
        manager.teardown()

    undo = manager.subscribe(inside)
    with pytest.raises(KeyboardInterrupt):
        manager.connect()
    assert in_line(manager) == []
    assert manager.state == "torndown"
    assert connection.calls == ["try_connect", "disconnect", "try_connect", "disconnect", "teardown"]
    ear.check_order()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("call", ["disconnect", "teardown"])
@pytest.mark.parametrize("method", ["disconnect", "teardown"])
def test_an_interrupt_while_it_disconnects(call: str, method: str) -> None:
    """Nothing is left undone: a manager that is torn down will not do it later."""
    connection = Script(True)
    manager = ConnectionManager(connection, retry=NEVER)
    ear = Ear(manager)

    def interrupt() -> None:
        connection.on_disconnect = connection.on_teardown = lambda: None
        raise KeyboardInterrupt

    setattr(connection, f"on_{method}", interrupt)
    manager.connect()
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 (one of the two)
        getattr(manager, call)()
        manager.teardown()
    manager.teardown()
    assert connection.calls == ["try_connect", "disconnect", "teardown"]
    assert ear.states == ["connecting", "connected", *(["disconnected"] if call == "disconnect" else []), "torndown"]


def test_an_interrupt_while_it_disconnects_after_the_last_attempt() -> None:
    connection = Script(KeyboardInterrupt("in the attempt"))

    def interrupt() -> None:
        raise KeyboardInterrupt("in disconnect")

    connection.on_disconnect = interrupt
    manager = ConnectionManager(connection, retry=NEVER)
    ear = Ear(manager)
    with pytest.raises(KeyboardInterrupt):
        manager.connect()
    assert ear.states == ["connecting", "disconnected"]
    connection.outcomes = [True]
    manager.connect()  # raises nothing from before
    connection.on_disconnect = lambda: None
    manager.teardown()


def test_a_signal_handler_may_call_the_manager_while_its_thread_waits() -> None:
    gate = Gate()
    connection = Script(gate, True)
    manager = ConnectionManager(connection, retry=NEVER)
    other = Caller(manager.connect)
    assert gate.begun.wait(BOUND)
    handled = threading.Event()

    def handler(*_: object) -> None:
        manager.teardown()
        handled.set()

    def send() -> None:
        wait_in_line(manager, "disconnect")
        os.kill(os.getpid(), signal.SIGUSR1)
        assert handled.wait(BOUND), "the handler waits for the call that it interrupted"
        gate.go.set()

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        sender = Caller(send)
        manager.disconnect()
    finally:
        signal.signal(signal.SIGUSR1, before)
    sender.join()
    other.join()
    assert manager.state == "torndown"
    assert connection.calls == ["try_connect", "disconnect", "teardown"]


# -- storms ----------------------------------------------------------------------------------------------------


@pytest.mark.timeout(60 + 4 * SECONDS)
@pytest.mark.parametrize("library", [False, True], ids=["users' threads", "the library's threads"])
def test_eight_threads_at_once(library: bool) -> None:
    """Connecting, disconnecting and raising alarms at random, then racing teardowns."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201
    chance = random.Random(seed)
    connection = Script(lambda: chance.random() < 0.5)
    manager = ConnectionManager(connection, retry=RetryPolicy(0, 1, 0.001, 1))
    ear = Ear(manager)
    manager.subscribe(lambda: chance.random() < 0.1 and manager.connect())
    torn = threading.Event()
    after_teardown: list[str] = []
    manager.subscribe(lambda state: after_teardown.append(state) if torn.is_set() else None)
    end = time.monotonic() + SECONDS

    def storm() -> None:
        acts = [manager.connect, manager.disconnect, connection.raise_alarm]
        while time.monotonic() < end:
            chance.choice(acts)()

    kind = LibraryCaller if library else Caller
    all_join([kind(storm) for _ in range(8)], SECONDS + BOUND)
    all_join([kind(manager.teardown) for _ in range(8)])
    Caller(manager.teardown).join(SECONDS + BOUND)  # the library's threads have left it a long line
    torn.set()
    attempts = connection.attempts
    assert manager.state == "torndown"
    connection.raise_alarm()
    with pytest.raises(NoTransition):
        manager.connect()
    assert connection.overlaps == []
    assert connection.attempts == attempts
    assert after_teardown == []
    assert connection.calls.count("teardown") == 1
    assert connection.calls[-1] == "teardown"
    assert len(connection.calls) > 100
    ear.check_order()
    assert in_line(manager) == []


def test_teardown_while_everybody_connects() -> None:
    for _ in range(100):
        connection = Script(True)
        manager = ConnectionManager(connection, retry=AT_ONCE)
        ready = threading.Barrier(5, timeout=BOUND)

        def connect(manager: ConnectionManager = manager, ready: threading.Barrier = ready) -> None:
            ready.wait()
            try:
                for _ in range(3):
                    manager.connect()
            except NoTransition:
                assert manager.state == "torndown"

        callers = [Caller(connect) for _ in range(4)]
        ready.wait()
        manager.teardown()
        all_join(callers)
        assert connection.calls[-1] == "teardown"
        assert connection.calls.count("teardown") == 1
        assert connection.overlaps == []


# -- the end of the process ------------------------------------------------------------------------------------

BEGIN = """
import sys, threading, time
from cnxman import Connection, ConnectionManager, RetryPolicy

class C(Connection):
    def __init__(self, attempt): self.attempt = attempt
    def try_connect(self): return self.attempt()
    def disconnect(self): pass
    def teardown(self): pass

def for_ever(*args): threading.Event().wait()
never = RetryPolicy(1e6, 1, 1e6)
"""

UNMEASURED = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
"""Without coverage, which writes its file while the threads of a script go on, and takes seconds for it."""

SCRIPTS = {
    "ready": "m = ConnectionManager(C(lambda: True))",
    "connecting": """
        begun = threading.Event()
        m = ConnectionManager(C(lambda: begun.set() or for_ever()), retry=never)
        threading.Thread(target=m.connect, daemon=True).start()
        begun.wait()
        """,
    "connecting again": """
        begun = threading.Event()
        answers = [lambda: False, lambda: begun.set() or for_ever()]
        m = ConnectionManager(C(lambda: answers.pop(0)()), retry=RetryPolicy(0))
        m.connect()
        begun.wait()
        """,
    "connected": "m = ConnectionManager(C(lambda: True)); m.connect()",
    "connected, held by nobody": "ConnectionManager(C(lambda: True)).connect()",
    "recovering": "m = ConnectionManager(C(lambda: False), retry=never); m.connect()",
    "recovering quickly": "m = ConnectionManager(C(lambda: False), retry=RetryPolicy(0, 1, 0)); m.connect()",
    "recovering, raising": "m = ConnectionManager(C(lambda: 1 / 0), retry=RetryPolicy(0, 1, 0)); m.connect()",
    "disconnected": "m = ConnectionManager(C(lambda: True)); m.connect(); m.disconnect()",
    "torndown": "m = ConnectionManager(C(lambda: True)); m.connect(); m.teardown()",
    "a receiver never returns": """
        m = ConnectionManager(C(lambda: True))
        m.connect()
        m.subscribe(for_ever)
        m.connection.raise_alarm()
        while m.state != "recovering": time.sleep(0.001)
        """,
    "a receiver raises": """
        m = ConnectionManager(C(lambda: True))
        m.subscribe(lambda: 1 / 0)
        m.connect()
        m.disconnect()
        """,
    "hanging up raises": """
        c = C(lambda: True)
        c.disconnect = c.teardown = lambda: 1 / 0
        m = ConnectionManager(c)
        m.connect()
        m.teardown()
        """,
    "sys.exit in the middle": "m = ConnectionManager(C(lambda: True)); m.connect(); sys.exit(0)",
}


@pytest.mark.parametrize("state", SCRIPTS)
def test_a_script_that_ends_without_tearing_down_ends_at_once_and_quietly(state: str) -> None:
    """Status 0, and not a word where logging is set up, whatever happens."""
    quiet = "import logging; logging.getLogger().addHandler(logging.NullHandler())\n"
    script = BEGIN + quiet + textwrap.dedent(SCRIPTS[state])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", script],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=UNMEASURED,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_leaves_it_to_the_parent() -> None:
    script = BEGIN + textwrap.dedent("""
        import os, warnings
        warnings.simplefilter("ignore")
        from cnxman import ConnectionException
        m, idle = ConnectionManager(C(lambda: True)), ConnectionManager(C(lambda: True))
        m.connect()
        child = os.fork()
        if not child:
            assert m.state == "torndown" and not m.is_connected
            m.disconnect()
            m.teardown()
            m.connection.raise_alarm()
            try:
                m.connect()
            except ConnectionException as error:
                assert "belongs to the process" in str(error), error
                with idle:
                    assert idle.is_connected
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert m.state == "connected"
        m.teardown()
        """)
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# -- additions --


def test_a_call_on_a_thread_of_the_library_does_not_wait_for_one_that_has_yet_to_begin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between two inputs nothing runs, and still it would not be its turn."""
    run_in_turn = InputQueue._run_in_turn
    held, go = threading.Event(), threading.Event()

    def hold(inputs: InputQueue, given: Input) -> None:
        if not on_library_thread():
            held.set()
            assert go.wait(BOUND)
        run_in_turn(inputs, given)

    connection = Script(True)
    manager = ConnectionManager(connection, retry=NEVER)
    ear = Ear(manager)
    with monkeypatch.context() as patch:
        patch.setattr(InputQueue, "_run_in_turn", hold)
        caller = Caller(manager.connect)
        assert held.wait(BOUND)
        try:
            LibraryCaller(manager.disconnect).join()
            assert in_line(manager) == ["connect", "disconnect"]
        finally:
            go.set()
        caller.join()
    ear.wait_for_state("disconnected")
    assert connection.calls == ["try_connect", "disconnect"]
    manager.teardown()


def test_what_a_thread_of_the_library_asks_for_is_not_lost_with_an_interrupted_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It stands in line by itself, also right behind a caller who wants the same and may yet be broken off."""
    gate = Gate()
    connection = Script(gate, True)
    manager = ConnectionManager(connection, retry=NEVER)
    ear = Ear(manager)
    caller = Caller(manager.connect)
    assert gate.begun.wait(BOUND)

    def interrupted(*_: object) -> None:
        LibraryCaller(manager.disconnect).join()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(InputQueue, "_run_in_turn", interrupted)
        with pytest.raises(KeyboardInterrupt):
            manager.disconnect()
    assert in_line(manager) == ["disconnect"]
    gate.go.set()
    caller.join()
    ear.wait_for_state("disconnected")
    assert connection.calls == ["try_connect", "disconnect"]
    manager.teardown()


@pytest.mark.parametrize("call", ["disconnect", "teardown"])
def test_it_returns_as_soon_as_the_thread_has_ended(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only when the longest farewell is over: the thread says that it goes."""
    monkeypatch.setattr(_inputs, "JOIN_TIMEOUT", 3 * BOUND)
    manager = ConnectionManager(Script(True), retry=NEVER)
    manager.connect()
    Caller(getattr(manager, call)).join()
    assert worker_of(manager) is None
    Caller(manager.teardown).join()
