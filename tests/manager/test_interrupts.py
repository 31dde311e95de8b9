"""Ctrl-C anywhere in the manager's own code: the call ends with it, and the manager is none the worse for it.

A KeyboardInterrupt in an attempt or in a receiver is tested elsewhere; here it comes in between, at each place in turn
where the interpreter looks for signals: after a call, at the beginning of a function, and where a loop begins anew.
"""

import contextlib
import dis
import functools
import itertools
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType

import pytest

import cnxman
from cnxman._manager.input_queue import Input, InputQueue
from cnxman.basics import ConnectionManager
from cnxman.retry import RetryPolicy
from tests.kit.managers import AT_ONCE, NEVER, Caller, Ear, Script, in_line, wait_until, wait_until_waiting, worker_of

HOUSE = Path(cnxman.__file__).parent
WHERE = {str(HOUSE / f"{name}.py") for name in ("basics", "_inputs", "_observed", "_recovery", "_statistics", "_wait")}


@functools.cache
def places(code: CodeType) -> frozenset[int]:
    """The offsets of the instructions before which the interpreter has looked for signals."""
    instructions = list(dis.get_instructions(code))
    looks = ("CALL", "RESUME", "JUMP_BACKWARD")
    return frozenset(
        after.offset
        for before, after in itertools.pairwise(instructions)
        if before.opname.startswith(looks) and not (before.opname == "RESUME" and before.arg)
    )


class InterruptAt:
    """Within this, a KeyboardInterrupt comes at the given one of those places in the manager's code, on this thread."""

    def __init__(self, place: int) -> None:
        self._left = place
        self.where = ""

    def __enter__(self) -> "InterruptAt":
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, _: object) -> Callable[..., object] | None:
        if frame.f_code.co_filename not in WHERE:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and frame.f_lasti in places(frame.f_code):
            self._left -= 1
            if self._left < 0 and not self.where:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} in {frame.f_code.co_name}"
                raise KeyboardInterrupt
        return self._trace


def in_every_state() -> dict[str, tuple[tuple[bool, ...], RetryPolicy, tuple[str, ...], str]]:
    """What is interrupted: how attempts end, the policy, what was called before, and the call."""
    up, down = (True,), (False,)
    return {
        "connect, which succeeds": (up, NEVER, (), "connect"),
        "connect, which fails": (down, NEVER, (), "connect"),
        "connect, which gives up": (down, RetryPolicy(attempts=1), (), "connect"),
        "connect, again": (up, NEVER, ("connect", "disconnect"), "connect"),
        "connect in a wait": ((False, True), NEVER, ("connect",), "connect"),
        "disconnect when connected": (up, NEVER, ("connect",), "disconnect"),
        "disconnect in a wait": (down, NEVER, ("connect",), "disconnect"),
        "disconnect in quick retries": (down, AT_ONCE, ("connect",), "disconnect"),
        "teardown when ready": (up, NEVER, (), "teardown"),
        "teardown when connected": (up, NEVER, ("connect",), "teardown"),
        "teardown in a wait": (down, NEVER, ("connect",), "teardown"),
        "teardown when disconnected": (up, NEVER, ("connect", "disconnect"), "teardown"),
    }


@pytest.fixture(autouse=True)
def tracing_has_begun() -> None:
    """CPython 3.12 traces single instructions only from the second time on that it is asked to."""
    with InterruptAt(10**9):
        ConnectionManager(Script(True)).disconnect()


@pytest.mark.parametrize("case", in_every_state())
def test_an_interrupt_at_any_place(case: str) -> None:
    outcomes, policy, before, call = in_every_state()[case]
    for place in range(10_000):
        connection = Script(*outcomes)
        manager = ConnectionManager(connection, retry=policy)
        ear = Ear(manager)
        for name in before:
            getattr(manager, name)()
        with InterruptAt(place) as interrupt, contextlib.suppress(KeyboardInterrupt):
            getattr(manager, call)()
        if not interrupt.where:
            assert place > 20  # all were seen
            Caller(manager.teardown).join()
            return
        try:
            check(manager, connection, ear)
        except BaseException as error:
            error.add_note(f"interrupted at {interrupt.where}")
            raise


def test_an_interrupt_before_connected_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever breaks off connect() finds the connection hung up, and everybody is told."""
    connection = Script(True)
    manager = ConnectionManager(connection, retry=NEVER)
    ear = Ear(manager)
    monkeypatch.setattr(manager._statistics, "count_connect", interrupt)
    with pytest.raises(KeyboardInterrupt):
        manager.connect()
    assert ear.told == [("ready", "connecting"), ("connecting", "disconnected")]
    assert connection.calls == ["try_connect", "disconnect"]
    assert workers_of(connection) == []
    manager.teardown()


def test_an_interrupt_before_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call stands in line no more."""
    connection = Script(True)
    manager = ConnectionManager(connection, retry=NEVER)
    with monkeypatch.context() as patch:
        patch.setattr(InputQueue, "_run_in_turn", interrupt)
        with pytest.raises(KeyboardInterrupt):
            manager.connect()
    assert in_line(manager) == []
    assert connection.calls == []
    manager.teardown()


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("begun", [True, False])
def test_an_interrupt_while_the_managers_thread_is_started(begun: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it runs by then or not, there is one afterwards, and one only."""
    start = threading.Thread.start
    before: list[threading.Thread] = []

    def interrupted(worker: threading.Thread) -> None:
        monkeypatch.setattr(threading.Thread, "start", start)
        before.append(worker)
        if begun:  # but it has not come to say so yet
            start(worker)
            monkeypatch.setattr(worker, "is_alive", lambda: False)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    connection = Script(True)
    manager = ConnectionManager(connection, retry=AT_ONCE)
    with manager._inputs.lock:  # so long the first one comes to nothing
        with pytest.raises(KeyboardInterrupt):
            manager.connect()
        manager.connect()
    assert manager.is_connected
    ear = Ear(manager)
    connection.raise_alarm()
    ear.wait_for_state("connected")
    wait_until(lambda: workers_of(connection) == [worker_of(manager)], "there is one worker")
    Caller(manager.teardown).join()
    assert workers_of(connection) == []


def workers_of(connection: Script) -> list[threading.Thread]:
    name = f"cnxman manager of {connection}"
    return [thread for thread in threading.enumerate() if thread.name == name and thread.ident]


def is_alive(thread: threading.Thread | None) -> bool:
    return thread is not None and thread.is_alive()


def check(manager: ConnectionManager, connection: Script, ear: Ear) -> None:
    """It does what it says it does, it can be torn down, and nothing is left then."""
    if manager._recovery._policy is AT_ONCE:  # the call may not have come to its turn
        connection.outcomes = [True]
        wait_until(lambda: manager.state in ("connected", "disconnected"), "it is connected")
    state = Caller(lambda: manager.state).join()
    assert in_line(manager) == []
    if state in ("connected", "recovering"):
        connection.outcomes = [True]
        manager._recovery._policy = AT_ONCE
        if state == "connected":
            connection.raise_alarm()
            ear.wait_for(lambda: "recovering" in ear.states)
        else:
            Caller(manager.connect).join()
        wait_until(lambda: manager.is_connected, "it recovers")
    else:
        assert state in ("ready", "disconnected", "torndown")
        wait_until(lambda: not is_alive(worker_of(manager)), "no worker is left")
    Caller(manager.teardown).join()
    assert manager.state == "torndown"
    assert 1 <= connection.calls.count("teardown") <= 2
    assert connection.calls[-1] == "teardown"
    assert "try_connect" not in connection.calls or "disconnect" in connection.calls[-3:]
    assert connection.overlaps == []
    ear.check_order()
    assert ear.states[-1] == "torndown"
    wait_until(lambda: not workers_of(connection), "no thread is left")


def test_an_interrupt_before_its_turn_lets_the_next_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits behind the call in line is woken when it is taken out."""
    connection = Script(True)
    manager = ConnectionManager(connection, retry=NEVER)
    me, run_in_turn = threading.current_thread(), InputQueue._run_in_turn
    behind: list[Caller] = []

    def interrupted(inputs: InputQueue, given: Input) -> None:
        if threading.current_thread() is not me:
            run_in_turn(inputs, given)
            return
        behind.append(Caller(manager.connect))
        wait_until_waiting(behind[0].thread, run_in_turn)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(InputQueue, "_run_in_turn", interrupted)
        with pytest.raises(KeyboardInterrupt):
            manager.connect()
        behind[0].join()
    assert manager.is_connected
    assert connection.attempts == 1
    manager.teardown()
