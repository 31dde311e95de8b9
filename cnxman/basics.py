"""The base classes: a connection to something, and the manager that keeps it up.

Nothing here knows of serial ports. `ConnectionManager` is a state machine. It is declared in the order states, inputs,
outputs, transitions, and then what they need. Which thread runs what is told in `cnxman._manager.input_queue`.
"""

import logging
import math
import os
import threading
import time
import warnings
import weakref
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum
from functools import partial
from types import TracebackType
from typing import Protocol, Self, TypeVar, runtime_checkable

from automat import MethodicalMachine, NoTransition

from cnxman import signals
from cnxman._manager.input_queue import InputQueue
from cnxman._manager.recovery import Recovery
from cnxman._validation import check_timeout
from cnxman.framing import Framer
from cnxman.logging import RepeatFilter, loggable_class
from cnxman.retry import RetryPolicy

__all__ = ["Connection", "ConnectionException", "ConnectionManager", "ConnectionState", "ManagerStatistics"]

_Frame = TypeVar("_Frame")
_Frame_co = TypeVar("_Frame_co", covariant=True)


class ConnectionException(Exception):
    """Raised when an error occurs within a connection.

    Args:
        message: what happened, in words for a person.
        inner: the exception responsible for this one; also its `__cause__`.
    """

    def __init__(self, message: str, inner: Exception) -> None:
        super().__init__(message, inner)
        self.message = message
        """What happened, in words for a person."""
        self.inner = inner
        """The original exception responsible for this one."""
        self.errno = find_errno(inner)
        """The system's error number, from wherever in the inner exception's chain it stands, or None."""
        self.written = 0
        """How many bytes went out, where this is raised by a write."""
        self.__cause__ = inner

    def __str__(self) -> str:
        return self.message

    @staticmethod
    def from_exception(ex: Exception) -> "ConnectionException":
        """Make a connection exception from another one.

        Args:
            ex: the original exception.

        Returns:
            A new connection exception whose message names the original's type and text.
        """
        text = str(ex)
        return ConnectionException(f"{type(ex).__name__}: {text}" if text else type(ex).__name__, ex)


def find_errno(error: BaseException | None) -> int | None:
    """The first error number in an exception's chain of causes and contexts.

    pyserial puts it in any of several places, or only into the text; `termios.error` is no OSError and has it as
    its first argument.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        number = getattr(error, "errno", None)
        if number is None and type(error).__module__ == "termios" and error.args:
            number = error.args[0]
        if isinstance(number, int):
            return number
        error = error.__cause__ or error.__context__
    return None


class Connection(metaclass=ABCMeta):
    """Extend this class to define a logical connection to something.

    What a `ConnectionManager` counts on, and what a subclass may count on:

    * `try_connect` may be called again after an alarm with no `disconnect` in between; it replaces what is
      broken. An exception from it is a failed attempt.
    * `disconnect` and `teardown` may be called in any state, and twice.
    * No two of the three ever run at the same time under one manager. They run on whichever thread called the
      manager, or on the manager's own.
    * When the connection is lost, call `raise_alarm()`, from any thread.

    A subclass need not call `super().__init__()`.
    """

    class Signals(Enum):
        """What connections send; see `pydispatch.dispatcher`."""

        RAISE_ALARM = "raise-alarm"
        """There is trouble: `error`, a `ConnectionException` or None. Sent on the thread that raised the alarm."""

    last_error: ConnectionException | None = None
    """Why the last attempt failed or the line was lost; None from a success until the next failure."""

    @abstractmethod
    def try_connect(self) -> bool:
        """Override this method to define the logic by which a connection is made.

        Returns:
            True if and only if the connection attempt is successful, otherwise False.
        """

    @abstractmethod
    def disconnect(self) -> None:
        """Override this method to take the steps required to gracefully disconnect."""

    @abstractmethod
    def teardown(self) -> None:
        """Override this method to release resources when requested."""

    def raise_alarm(self, error: ConnectionException | None = None) -> None:
        """Raise the alarm to notify anyone who might be interested (like a `ConnectionManager`) that there is trouble.

        Returns once all receivers were called. A manager only notes the alarm, and recovers on its own thread.

        Args:
            error: what happened, if it is known.
        """
        signals.send(self, Connection.Signals.RAISE_ALARM, error=error)

    def report_disconnect(self) -> None:
        """Notify a manager that the connection was closed by its own `disconnect` or `teardown`, not by the manager.

        Call it at the end of these methods: a manager that keeps the connection up then becomes disconnected. Within
        an attempt, and when the manager itself calls these methods, it changes nothing.
        """
        manager = _manager_of(self)
        if manager is not None:
            manager._on_disconnected()

    def is_lost(self) -> bool:
        """Override this method to say that what was up is lost, though the alarm may not have been dealt with yet.

        A manager that has been connected until now asks it for its `state`. It should answer at once, on any thread.

        Returns:
            Whether it is lost; False unless it is overridden.
        """
        return False

    def presence(self) -> Hashable | None:
        """Override this method to let a manager notice that the device has come back.

        While a manager recovers it calls this some twenty times a second, on its own thread. When the answer changes
        to something true, the next attempt is made at once instead of at the end of the wait.

        It should take less than a millisecond, and may be called while another of the connection's methods runs.

        Returns:
            None if it cannot be known (what this method returns unless it is overridden); a false value, such as
            False or "", while the device is absent; anything else while it is there, such as a tuple that identifies
            it, so that one that was taken out and put back is seen to be new.
        """
        return None

    def subscribe(self, receiver: signals.Receiver, signal: Hashable = Signals.RAISE_ALARM) -> Callable[[], None]:
        """Have `receiver` called for one of this connection's signals; it is held strongly, so a lambda will do.

        Args:
            receiver: called with those of the signal's arguments that it names.
            signal: which signal.

        Returns:
            A function that ends the subscription.

        Raises:
            TypeError: if the receiver cannot be called, does not say which arguments it takes, or needs one that the
                signal has not; or for a signal that is never sent.
        """
        return signals.subscribe(self, receiver, signal)


class ConnectionState(StrEnum):
    """The states of a `ConnectionManager`."""

    READY = "ready"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECOVERING = "recovering"
    DISCONNECTED = "disconnected"
    TORNDOWN = "torndown"


@dataclass
class ManagerStatistics:
    """A snapshot of what a `ConnectionManager` went through. Times are `time.time()`'s, in seconds."""

    connects: int = 0
    losses: int = 0
    failed_attempts: int = 0
    last_error: ConnectionException | None = None
    last_error_at: float | None = None
    up_since: float | None = None
    """Since when it is connected; None if it isn't."""
    down_seconds: float = 0.0
    """How long it was down in all though it was to be up: from a loss, or from a first attempt that failed, until it
    was connected, or until somebody disconnected it. An outage that goes on counts up to the snapshot."""
    _down: tuple[float, float | None] = field(default=(0.0, None), repr=False)
    """Seconds in the outages that are over; since when there is one, by the monotonic clock. (One attribute, as
    another thread may take a snapshot at any moment.)"""

    def snapshot(self) -> Self:
        """A copy, as it is now."""
        found = replace(self)
        seconds, since = found._down
        found.down_seconds = seconds + (0.0 if since is None else time.monotonic() - since)
        return found

    def count_connect(self) -> None:
        """It is up."""
        self.connects += 1
        self.up_since = time.time()
        self._end_outage()

    def count_failure(self, error: ConnectionException | None) -> None:
        """An attempt failed."""
        self.failed_attempts += 1
        self.last_error, self.last_error_at = error, time.time()
        self._begin_outage()

    def count_loss(self, error: ConnectionException | None) -> None:
        """It was up, and is lost."""
        self.losses += 1
        self.up_since = None
        self.last_error, self.last_error_at = error, time.time()
        self._begin_outage()

    def count_end(self) -> None:
        """It was disconnected."""
        self.up_since = None
        self._end_outage()

    def _begin_outage(self) -> None:
        seconds, since = self._down
        self._down = (seconds, time.monotonic() if since is None else since)

    def _end_outage(self) -> None:
        self._down = (self.snapshot().down_seconds, None)


@loggable_class()
class ConnectionManager:
    """Establishes a connection and keeps it up.

    Every method may be called from any thread, and from receivers. From `connect()` until `disconnect()` or
    `teardown()` the library itself keeps the manager and its connection alive.

    Mind that `manager.connected` and the other states are the machine's parts, and always true: ask
    `manager.state` or `manager.is_connected`.

    Args:
        connection: what to keep up. It has one manager at a time. Connect and disconnect it by the manager: what
            calls the connection's own `disconnect` or `teardown` makes the manager disconnected.
        retry: how long to wait between attempts, and how many to make.

    Raises:
        TypeError: for a connection or a policy that is none.
        ValueError: if another manager keeps this connection up.
    """

    logger: logging.Logger

    class Signals(Enum):
        """What a manager sends, on the thread that runs the input in question."""

        STATE_CHANGED = "state-changed"
        """`state` and `previous`, each a `ConnectionState`; `error`, a `ConnectionException` or None."""
        RETRY_SCHEDULED = "retry-scheduled"
        """`attempt`, the number of failures in a row; `delay` in seconds until the next attempt; `error`."""

    def __init__(self, connection: Connection, *, retry: RetryPolicy = RetryPolicy()) -> None:  # noqa: B008 (frozen)
        if not isinstance(connection, Connection):
            raise TypeError(f"connection must be a Connection, not {connection!r}")
        if not isinstance(retry, RetryPolicy):
            raise TypeError(f"retry must be a RetryPolicy, not {retry!r}")
        _check_unmanaged(connection)
        self._connection = connection
        self._inputs = InputQueue(f"manager of {connection}")
        self._recovery = Recovery(lambda: connection.presence(), retry, self._inputs.clock)
        self._process: int | None = None  # which one keeps the connection up
        # Reading the state makes Automat's part of the object, which two threads would otherwise make at once later.
        self._published = ConnectionState(self._serialized())
        self._error: ConnectionException | None = None
        self._statistics = ManagerStatistics()
        self._failure_log = RepeatFilter()
        self._interrupt: BaseException | None = None
        self._attempting: int | None = None  # the thread of the attempt that is under way
        signals.subscribe_weakly(connection, self._on_alarm, Connection.Signals.RAISE_ALARM)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.connection!r}: {self.state}>"

    # -- what users call ----------------------------------------------------------------------------------

    def connect(self, *, wait: bool = True) -> None:
        """Connect, and keep the connection up from now on.

        Returns when an attempt is over, whatever became of it; recovering goes on in the background. The
        attempt runs on the caller's thread. While one is under way, its outcome is waited for. During the
        wait between two attempts, the next one is made at once.

        Args:
            wait: False to return at once, and have the attempt made on the manager's own thread: for those who must
                not block, such as the main thread of a graphical program.

        Raises:
            automat.NoTransition: if the manager is torn down.
            ConnectionException: if the system gives us no thread to recover on.
            ValueError: if another manager keeps this connection up.
            KeyboardInterrupt, SystemExit: what interrupted the attempt; the manager is disconnected then.
        """
        if self._is_inherited:
            message = f"{self._connection!r} belongs to the process that this one was forked from; make your own here"
            raise ConnectionException(message, ConnectionError(message))
        _claim(self)
        run = partial(self._run_input, self._connect)
        if not wait and self.state is not ConnectionState.TORNDOWN:
            self._inputs.post("connect", run, if_retained=False)
            return
        if self._inputs.await_current(self._is_connecting, unless_queued=("disconnect", "teardown")):
            return
        try:
            self._inputs.submit("connect", run)
        except NoTransition as refused:
            _unclaim(self)
            refused.args = (f"{self!r} is torn down for good: make a new manager",)
            raise

    def disconnect(self) -> None:
        """Disconnect, and stay so. When this returns no attempt is under way and none will start."""
        if not self._is_inherited:
            self._inputs.submit("disconnect", partial(self._run_input, self._disconnect))

    def teardown(self) -> None:
        """Disconnect and release everything, for good. When this returns no thread of the library is left."""
        if not self._is_inherited:
            self._inputs.submit("teardown", partial(self._run_input, self._teardown))

    def query(
        self,
        question: bytes,
        until: bytes | int | Framer[_Frame] = b"\n",
        *,
        timeout: float | None = 1.0,
        patience: float = 60.0,
    ) -> bytes | _Frame:
        """Ask the device, and wait for its answer, in spite of outages; see `SerialConnection.query`.

        While the connection is down this waits for it. A question whose answer an outage cut off is asked again.

        Args:
            question: written as it is.
            until: where the answer ends.
            timeout: how long to wait for the answer once the question is written, in seconds.
            patience: for how long to wait for the connection and to ask again, in seconds.

        Returns:
            The answer.

        Raises:
            ConnectionException: there was no answer; its `inner` is a TimeoutError if the device was silent, or if it
                was not connected in time. Also at once if the manager is disconnected or torn down.
            TypeError: if the connection has no `query`, as a `SerialConnection` has it.
        """
        ask = getattr(self._connection, "query", None)
        if not callable(ask):
            raise TypeError(f"{self._connection!r} cannot be asked: it has no method query")
        check_timeout(patience, "patience")
        end = time.monotonic() + patience
        while True:
            self._await_connection(end, patience)
            connects = self._statistics.connects
            try:
                answer: bytes | _Frame = ask(question, until, timeout=timeout)
                return answer
            except TimeoutError as silence:
                raise ConnectionException(str(silence), silence) from silence
            except ConnectionException:
                if not self._notices_loss(connects, end):
                    raise  # the line is up all the same, so that asking again would be no better

    def frames(self, framer: Framer[_Frame], timeout: float | None = None) -> Iterator[_Frame]:
        """The frames that come from now on, in spite of outages: `for line in manager.frames(Lines()): ...`.

        It ends when the manager is disconnected or torn down.

        Args:
            framer: one of `cnxman.framing`; it serves this iterator alone.
            timeout: how long to wait for each frame, in seconds; None for as long as it takes.

        Returns:
            The iterator. It raises a TimeoutError when no frame came in time, after which `next` may be called again,
            and a `ConnectionException` when the manager gives up. Drop it when you take no more.

        Raises:
            TypeError: if the connection has no `frames`, as a `SerialConnection` has it; or for what is no framer.
        """
        if not isinstance(self._connection, _GivesFrames):
            raise TypeError(f"{self._connection!r} has no frames: it has no method frames")
        frames: _EndlessFrames[_Frame] = self._connection.frames(framer, timeout)
        reference = weakref.ref(frames)

        def on_state(state: ConnectionState, error: ConnectionException | None) -> None:
            if state in _DOWN_FOR_GOOD and (taken := reference()) is not None:
                taken.finish(error)

        weakref.finalize(frames, self.subscribe(on_state)).atexit = False
        if self.state in _DOWN_FOR_GOOD:
            frames.finish(None)
        return frames

    def wait_until_connected(self, timeout: float | None = None) -> bool:
        """Wait until the manager is connected.

        While it is disconnected or was never asked to connect, this waits too: for somebody to call `connect()`.
        On a thread of the library's, so in most receivers, it answers at once: nothing would ever change while
        it waited there.

        Args:
            timeout: how long to wait, in seconds; None, or infinity, waits for as long as it takes.

        Returns:
            Whether it is connected; False at once when it is torn down.

        Raises:
            TypeError, ValueError: for a time-out that is no number, or below 0.
        """
        check_timeout(None if timeout == math.inf else timeout)
        if timeout is not None:
            timeout = min(timeout, threading.TIMEOUT_MAX)
        if self._is_inherited or self._inputs.must_not_wait():
            return self.is_connected
        awaited = (ConnectionState.CONNECTED, ConnectionState.TORNDOWN)
        found = None

        def is_reached() -> bool:
            nonlocal found
            found = self.state
            return found in awaited

        self._inputs.wait_for(is_reached, timeout)  # it may be lost again by the time this returns
        return found is ConnectionState.CONNECTED

    @property
    def connection(self) -> Connection:
        """What is kept up, as it was given."""
        return self._connection

    @property
    def state(self) -> ConnectionState:
        """The state now. Answers at once, whatever is under way.

        Once the connection says that it is lost, this is recovering, though the manager's thread may not have come to
        the alarm yet.
        """
        if self._is_inherited:
            return ConnectionState.TORNDOWN
        state = self._machine_state
        is_lost = state is ConnectionState.CONNECTED and self._connection.is_lost()
        return ConnectionState.RECOVERING if is_lost else state

    @property
    def is_connected(self) -> bool:
        """Whether the state is connected. Answers at once."""
        return self.state is ConnectionState.CONNECTED

    @property
    def last_error(self) -> ConnectionException | None:
        """Why the last attempt failed or the connection was lost; None from a success until the next failure."""
        return self._error

    @property
    def keeps_worker(self) -> bool:
        """Whether a thread stands by while it is connected. If not (`cnxman.aio`), an alarm starts one."""
        return self._inputs.keeps_worker

    @keeps_worker.setter
    def keeps_worker(self, keeps: bool) -> None:
        self._inputs.keeps_worker = keeps
        self._inputs.notify()

    @property
    def statistics(self) -> ManagerStatistics:
        """What it went through since it was made: a snapshot."""
        snapshot = self._statistics.snapshot()
        if self._is_inherited:
            snapshot.count_end()
        return snapshot

    def subscribe(self, receiver: signals.Receiver, signal: Hashable = Signals.STATE_CHANGED) -> Callable[[], None]:
        """Have `receiver` called for one of this manager's signals. See `Connection.subscribe`.

        Args:
            receiver: called with those of the signal's arguments that it names.
            signal: which signal.

        Returns:
            A function that ends the subscription.

        Raises:
            TypeError: as `Connection.subscribe`.
        """
        return signals.subscribe(self, receiver, signal)

    def __enter__(self) -> Self:
        """Connect."""
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tear down."""
        self.teardown()

    # -- states -------------------------------------------------------------------------------------------

    machine = MethodicalMachine()  # type: ignore[no-untyped-call]

    @machine.state(initial=True, serialized=ConnectionState.READY)
    def ready(self) -> None:
        """Nothing has been asked of it yet."""

    @machine.state(serialized=ConnectionState.CONNECTING)
    def connecting(self) -> None:
        """An attempt is under way."""

    @machine.state(serialized=ConnectionState.CONNECTED)
    def connected(self) -> None:
        """It is up."""

    @machine.state(serialized=ConnectionState.RECOVERING)
    def recovering(self) -> None:
        """It is down, and waits for the retry delay, or for the device to reappear."""

    @machine.state(serialized=ConnectionState.DISCONNECTED)
    def disconnected(self) -> None:
        """It is down because somebody said so, or because the policy's attempts are used up."""

    @machine.state(serialized=ConnectionState.TORNDOWN)
    def torndown(self) -> None:
        """Everything is released, for good."""

    @machine.serializer()
    def _serialized(self, state: ConnectionState) -> ConnectionState:
        return state

    # -- inputs (never two at once, so none but an outcome ever comes while connecting) --------------------

    @machine.input()
    def _connect(self) -> None:
        """Somebody calls connect()."""

    @machine.input()
    def _disconnect(self) -> None:
        """Somebody calls disconnect()."""

    @machine.input()
    def _teardown(self) -> None:
        """Somebody calls teardown()."""

    @machine.input()
    def _alarm(self, error: ConnectionException | None) -> None:
        """The connection raised the alarm."""

    @machine.input()
    def _retry(self) -> None:
        """The wait is over, or the device is back."""

    @machine.input()
    def _succeeded(self) -> None:
        """The attempt returned True."""

    @machine.input()
    def _failed(self, error: ConnectionException | None) -> None:
        """The attempt returned False, or raised."""

    @machine.input()
    def _gave_up(self, error: ConnectionException | None) -> None:
        """The attempt failed and was the last one allowed, or a KeyboardInterrupt or SystemExit ended it."""

    @machine.input()
    def _interrupted(self) -> None:
        """An interrupt came after the state changed and before its outputs had run."""

    # -- outputs ------------------------------------------------------------------------------------------

    @machine.output()
    def _reset(self) -> None:
        """Somebody connects: forget the failures so far, and keep the manager alive from now on."""
        self._inputs.cancel_wait()
        self._retain()
        self._recovery.reset()

    @machine.output()
    def _attempt(self) -> None:
        """Make one attempt, and feed its outcome."""
        self._recovery.attempt()
        error = self._try_connect()
        if error is None:
            self._succeeded()
        elif self._recovery.is_used_up:
            self._gave_up(error)
        else:
            self._failed(error)

    @machine.output()
    def _note_success(self) -> None:
        """Note that the connection is up."""
        self._error = None
        self._recovery.success()
        self._statistics.count_connect()
        self._failure_log.forget()

    @machine.output()
    def _note_failure(self, error: ConnectionException | None) -> None:
        """Note why the attempt failed."""
        self._error = error or self._error
        self._recovery.failure()
        self._statistics.count_failure(self._error)

    @machine.output()
    def _note_loss(self, error: ConnectionException | None) -> None:
        """Note why the connection was lost."""
        self._error = error or self._connection.last_error or _unexplained_error("the connection raised the alarm")
        self._recovery.loss()
        self._statistics.count_loss(self._error)

    @machine.output()
    def _wait(self) -> None:
        """Schedule the next attempt, and publish the state and the delay."""
        wait, delay = self._recovery.make_wait(partial(self._run_input, self._retry))
        self._inputs.schedule(wait)
        self._publish_state(self._error)
        signals.send(
            self,
            ConnectionManager.Signals.RETRY_SCHEDULED,
            attempt=self._recovery.failures,
            delay=delay,
            error=self._error,
        )

    @machine.output()
    def _close(self) -> None:
        """Stop recovering, and disconnect the connection."""
        self._stop_keeping_up()
        self._statistics.count_end()
        self._call_safely(self._connection.disconnect)

    @machine.output()
    def _release(self) -> None:
        """Stop recovering, and have the connection release everything."""
        self._stop_keeping_up()
        self._call_safely(self._connection.teardown)

    @machine.output()
    def _publish(self) -> None:
        """Publish the new state."""
        self._publish_state(None)

    @machine.output()
    def _publish_giving_up(self, error: ConnectionException | None) -> None:
        """Publish the new state, and why the last attempt failed."""
        self._publish_state(error)

    # -- transitions --------------------------------------------------------------------------------------

    ready.upon(_connect, enter=connecting, outputs=[_reset, _publish, _attempt])
    ready.upon(_disconnect, enter=ready, outputs=[])
    ready.upon(_teardown, enter=torndown, outputs=[_release, _publish])
    ready.upon(_alarm, enter=ready, outputs=[])

    connecting.upon(_succeeded, enter=connected, outputs=[_note_success, _publish])
    connecting.upon(_failed, enter=recovering, outputs=[_note_failure, _wait])
    connecting.upon(_gave_up, enter=disconnected, outputs=[_note_failure, _close, _publish_giving_up])

    connected.upon(_connect, enter=connected, outputs=[])
    connected.upon(_disconnect, enter=disconnected, outputs=[_close, _publish])
    connected.upon(_teardown, enter=torndown, outputs=[_close, _release, _publish])
    connected.upon(_alarm, enter=recovering, outputs=[_note_loss, _wait])
    connected.upon(_interrupted, enter=disconnected, outputs=[_close, _publish])

    recovering.upon(_connect, enter=connecting, outputs=[_reset, _publish, _attempt])
    recovering.upon(_retry, enter=connecting, outputs=[_publish, _attempt])
    recovering.upon(_disconnect, enter=disconnected, outputs=[_close, _publish])
    recovering.upon(_teardown, enter=torndown, outputs=[_close, _release, _publish])
    recovering.upon(_alarm, enter=recovering, outputs=[])
    recovering.upon(_interrupted, enter=disconnected, outputs=[_close, _publish])

    disconnected.upon(_connect, enter=connecting, outputs=[_reset, _publish, _attempt])
    disconnected.upon(_disconnect, enter=disconnected, outputs=[])
    disconnected.upon(_teardown, enter=torndown, outputs=[_release, _publish])
    disconnected.upon(_alarm, enter=disconnected, outputs=[])
    disconnected.upon(_interrupted, enter=disconnected, outputs=[_close, _publish])

    torndown.upon(_disconnect, enter=torndown, outputs=[])
    torndown.upon(_teardown, enter=torndown, outputs=[])
    torndown.upon(_alarm, enter=torndown, outputs=[])
    torndown.upon(_interrupted, enter=torndown, outputs=[_close, _release, _publish])

    # -- what they need -----------------------------------------------------------------------------------

    @property
    def _is_inherited(self) -> bool:
        """Whether this is a forked child of the process that keeps the connection up."""
        return self._process is not None and self._process != os.getpid()

    @property
    def _machine_state(self) -> ConnectionState:
        return ConnectionState(self._serialized())

    def _is_connecting(self) -> bool:
        return self._machine_state is ConnectionState.CONNECTING

    def _await_connection(self, end: float, patience: float) -> None:
        if self.state in (ConnectionState.READY, *_DOWN_FOR_GOOD):
            message = f"{self._connection} is not kept up: the manager is {self.state}"
            raise ConnectionException(message, ConnectionError(message))
        if not self.wait_until_connected(max(0.0, end - time.monotonic())):
            message = f"{self._connection} was not connected within {patience} s"
            why = f": {self._error}" if self._error is not None else ""
            raise ConnectionException(message + why, TimeoutError(message))

    def _notices_loss(self, connects: int, end: float) -> bool:
        """Whether the connection is lost, since that count of `connects`. A call that failed may know before we do."""

        def is_lost() -> bool:
            return not self.is_connected or self._statistics.connects != connects

        self._inputs.wait_for(is_lost, max(0.0, min(LOSS_NOTICED_WITHIN, end - time.monotonic())))
        return is_lost()

    def _on_alarm(self, error: ConnectionException | None = None) -> None:
        """Note an alarm. Runs on the thread that raised it; the worker makes the change."""
        self._inputs.post("alarm", partial(self._run_input, partial(self._alarm, error)), if_retained=True)

    def _on_disconnected(self) -> None:
        """Note that the connection was closed, unless an attempt closes what is left of the one before."""
        if self._attempting != threading.get_ident():
            self._inputs.post("disconnect", partial(self._run_input, self._disconnect), if_retained=True)

    def _run_input(self, feed: Callable[[], None]) -> None:
        """Run one input. If it is interrupted, complete the transition: the machine never stays in connecting."""
        try:
            feed()
        finally:
            if not self._is_inherited:
                self._complete_transition()
            interrupt, self._interrupt = self._interrupt, None
            if interrupt is not None:
                raise interrupt

    def _complete_transition(self) -> None:
        if self._machine_state is ConnectionState.CONNECTING:
            self._gave_up(None)
        elif self._machine_state is not self._published:
            self._interrupted()

    def _retain(self) -> None:
        try:
            self._inputs.retain(self)
        except RuntimeError as no_thread:
            raise ConnectionException(f"cannot recover: {no_thread}", no_thread) from no_thread
        self._process = os.getpid()

    def _stop_keeping_up(self) -> None:
        self._inputs.release()
        _unclaim(self)
        self._process = None

    def _try_connect(self) -> ConnectionException | None:
        """One attempt: None if it succeeded, otherwise why it didn't."""
        self._attempting = threading.get_ident()
        try:
            if self._connection.try_connect():
                return None
        except Exception as raised:
            error = raised if isinstance(raised, ConnectionException) else ConnectionException.from_exception(raised)
            self._log(self._failure_log.level(str(error)), "the attempt raised %s", error, exc_info=raised)
            return error
        finally:
            self._attempting = None
        return self._connection.last_error or _unexplained_error("the attempt failed and gave no reason")

    def _call_safely(self, method: Callable[[], None]) -> None:
        try:
            method()
        except Exception as raised:
            self._log(logging.ERROR, "%s raised", signals.name_of(method), exc_info=raised)
        except BaseException as interrupt:  # Ctrl-C: the caller gets it once the input has been dealt with
            self._interrupt = interrupt

    def _publish_state(self, error: ConnectionException | None) -> None:
        state, previous = self._machine_state, self._published
        self._inputs.notify()
        self._log(logging.DEBUG, "%s: %s -> %s (%s)", self.connection, previous, state, error)
        self._published = state
        signals.send(self, ConnectionManager.Signals.STATE_CHANGED, state=state, previous=previous, error=error)

    def _log(self, level: int, message: str, *args: object, exc_info: Exception | None = None) -> None:
        known = {"port": _port_of(self.connection), "state": self._machine_state}
        self.logger.log(level, message, *args, exc_info=exc_info, extra=known)


LOSS_NOTICED_WITHIN = 0.5
"""How long, in seconds, after a call has failed the alarm for a lost line is to be expected, at most."""

_DOWN_FOR_GOOD = (ConnectionState.DISCONNECTED, ConnectionState.TORNDOWN)
"""The states in which nothing comes until somebody connects."""


class _EndlessFrames(Iterator[_Frame_co], Protocol[_Frame_co]):
    """Frames that go on after an outage, until they are finished."""

    def finish(self, error: ConnectionException | None) -> None:
        """Have them end, with this error or without one."""


@runtime_checkable
class _GivesFrames(Protocol):
    """A connection that gives frames in spite of outages, as a `SerialConnection` does."""

    def frames(self, framer: Framer[_Frame], timeout: float | None = ..., /) -> _EndlessFrames[_Frame]:
        """See `SerialConnection.frames`."""
        ...


class _AlwaysTrue:
    """Stands for a state on the class: asked of a manager it warns, as `if manager.connected:` is always true."""

    def __init__(self, state: object) -> None:
        self._state = state

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, manager: ConnectionManager | None, owner: type) -> object:
        if manager is not None:
            advice = "is_connected" if self._name == "connected" else f'state == "{self._name}"'
            warnings.warn(
                f"manager.{self._name} is a part of the machine and always true: ask manager.{advice}", stacklevel=2
            )
        return self._state


for _state in ConnectionState:
    _stand_in = _AlwaysTrue(vars(ConnectionManager)[_state])
    _stand_in.__set_name__(ConnectionManager, _state.value)
    setattr(ConnectionManager, _state, _stand_in)

signals.declare(Connection.Signals.RAISE_ALARM, "error")
signals.declare(ConnectionManager.Signals.STATE_CHANGED, "state", "previous", "error")
signals.declare(ConnectionManager.Signals.RETRY_SCHEDULED, "attempt", "delay", "error")


_claiming = threading.Lock()


def _manager_of(connection: Connection) -> ConnectionManager | None:
    """The manager that keeps a connection up."""
    reference: weakref.ref[ConnectionManager] | None = connection.__dict__.get("_kept_up_by")
    return None if reference is None else reference()


def _check_unmanaged(connection: Connection, manager: ConnectionManager | None = None) -> None:
    """Refuse a connection that another manager keeps up."""
    other = _manager_of(connection)
    if other is not None and other is not manager and not other._is_inherited:
        raise ValueError(f"{connection!r} is kept up by {other!r}: it has one manager at a time")


def _claim(manager: ConnectionManager) -> None:
    """From now on no other manager may keep its connection up."""
    with _claiming:
        _check_unmanaged(manager.connection, manager)
        manager.connection.__dict__["_kept_up_by"] = weakref.ref(manager)


def _unclaim(manager: ConnectionManager) -> None:
    with _claiming:
        if _manager_of(manager.connection) is manager:  # another one may keep it up by now
            del manager.connection.__dict__["_kept_up_by"]


def _unexplained_error(message: str) -> ConnectionException:
    return ConnectionException(message, ConnectionError(message))


def _port_of(connection: Connection) -> object:
    """What a log record says of the port. A connection of the user's may have none, or one that raises."""
    try:
        return getattr(connection, "port", None)
    except Exception as error:
        return error
