"""What the tests of the manager share: connections that do as they are told, and an ear for signals."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cnxman.basics import Connection, ConnectionException, ConnectionManager, ConnectionState
from cnxman.retry import RetryPolicy

BOUND = 60.0
"""Seconds after which something that should have happened by now never will."""

NEVER = RetryPolicy(1e6, 1, 1e6, 0)
"""No retry comes by itself within a test."""

AT_ONCE = RetryPolicy(0, 1, 0, 0)

Outcome = bool | BaseException | Callable[[], bool]


class Script(Connection):
    """A connection whose attempts end as a list says, the last entry for ever. It notes how it was used."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes or [True])
        self.calls: list[str] = []
        self.overlaps: list[str] = []
        self.threads: list[threading.Thread] = []
        self.on_disconnect: Callable[[], object] = lambda: None
        self.on_teardown: Callable[[], object] = lambda: None
        self._busy = threading.Lock()

    def try_connect(self) -> bool:
        with self._alone("try_connect"):
            outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome if isinstance(outcome, bool) else outcome()

    def disconnect(self) -> None:
        with self._alone("disconnect"):
            self.on_disconnect()

    def teardown(self) -> None:
        with self._alone("teardown"):
            self.on_teardown()

    @property
    def attempts(self) -> int:
        return self.calls.count("try_connect")

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """No two of the three ever run at the same time under one manager."""
        alone = self._busy.acquire(blocking=False)
        if not alone:
            self.overlaps.append(name)
        try:
            self.calls.append(name)
            self.threads.append(threading.current_thread())
            yield
        finally:
            if alone:
                self._busy.release()


class Gate:
    """An attempt that waits until it is let go."""

    def __init__(self, outcome: Outcome = True) -> None:
        self.outcome = outcome
        self.begun = threading.Event()
        self.go = threading.Event()

    def __call__(self) -> bool:
        self.begun.set()
        end = time.monotonic() + BOUND
        while not self.go.wait(0.01):  # a signal that comes just before a wait begins does not end it
            if time.monotonic() > end:
                raise TimeoutError("nobody let the attempt go")
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome if isinstance(self.outcome, bool) else self.outcome()


class Ear:
    """Hears what a manager tells, in order."""

    def __init__(self, manager: ConnectionManager) -> None:
        self.told: list[tuple[str, str]] = []
        self.errors: list[ConnectionException | None] = []
        self.retries: list[tuple[int, float]] = []
        self._news = threading.Condition()
        self._undo = [
            manager.subscribe(self._on_state),
            manager.subscribe(self._on_retry, ConnectionManager.Signals.RETRY_SCHEDULED),
        ]

    def _on_state(self, state: ConnectionState, previous: ConnectionState, error: ConnectionException | None) -> None:
        with self._news:
            self.told.append((str(previous), str(state)))
            self.errors.append(error)
            self._news.notify_all()

    def _on_retry(self, attempt: int, delay: float) -> None:
        with self._news:
            self.retries.append((attempt, delay))
            self._news.notify_all()

    @property
    def states(self) -> list[str]:
        return [state for _, state in self.told]

    def clear(self) -> None:
        with self._news:
            self.told.clear()
            self.errors.clear()
            self.retries.clear()

    def wait_for(self, wanted: Callable[[], bool]) -> None:
        with self._news:
            assert self._news.wait_for(wanted, BOUND), f"heard only {self.told}"

    def wait_for_state(self, state: str) -> None:
        self.wait_for(lambda: bool(self.told) and self.told[-1][1] == state)

    def check_order(self) -> None:
        """Each change begins where the one before it ended."""
        assert all(before[1] == after[0] for before, after in zip(self.told, self.told[1:], strict=False)), self.told


class Caller:
    """Calls something on a thread of its own."""

    def __init__(self, function: Callable[[], object], name: str = "caller") -> None:
        self.error: BaseException | None = None
        self.result: object = None
        self.began = threading.Event()
        self.done = threading.Event()
        self._function = function
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.began.set()
        try:
            self.result = self._function()
        except BaseException as error:
            self.error = error
        finally:
            self.done.set()

    def join(self, timeout: float = BOUND) -> object:
        """What it returned, or raises what it raised."""
        self.thread.join(timeout)
        assert not self.thread.is_alive(), "deadlock: the call never returned"
        if self.error is not None:
            raise self.error
        return self.result


def all_join(callers: list[Caller], timeout: float = BOUND) -> None:
    for caller in callers:
        caller.join(timeout)


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Wait for something that gives no event of its own."""
    end = time.monotonic() + BOUND
    while not true():
        assert time.monotonic() < end, f"it never came to be that {what}"
        time.sleep(0.001)


def in_line(manager: ConnectionManager) -> list[str]:
    """The names of the inputs that wait for their turn."""
    with manager._inputs.lock:
        return [given.name for given in manager._inputs._queue]


def wait_in_line(manager: ConnectionManager, *names: str) -> None:
    wait_until(lambda: in_line(manager) == list(names), f"{names} stand in line")


def wait_until_waiting(thread: threading.Thread, function: Callable[..., object]) -> None:
    """Wait until a thread, within a call of `function`, waits on a condition."""

    def waiting() -> bool:
        frame = sys._current_frames().get(thread.ident or 0)
        codes = []
        while frame is not None:
            codes.append(frame.f_code)
            frame = frame.f_back
        return bool(codes) and codes[0] is threading.Condition.wait.__code__ and function.__code__ in codes

    wait_until(waiting, f"{thread.name} waits in {function.__qualname__}")


def worker_of(manager: ConnectionManager) -> threading.Thread | None:
    """The manager's own thread, if it has one."""
    return manager._inputs._worker
