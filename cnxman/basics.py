"""The base classes: a connection to something, and the manager that keeps it up.

Nothing here knows of serial ports. `ConnectionManager` is a state machine; it is declared in the order states,
inputs, transitions, and then what they do. Which thread runs what is told in `cnxman._manager.input_queue`.
"""

import logging
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

from automat import MethodicalMachine, NoTransition

from cnxman import _fork, signals
from cnxman._connection import Connection, ConnectionException
from cnxman._manager.input_queue import Alarm, Inputs
from cnxman._manager.recovery import Recovery
from cnxman._manager.statistics import ManagerStatistics
from cnxman._observed import ConnectionState, Observed
from cnxman.logging import FirstThenDebug, loggable_class
from cnxman.retry import RetryPolicy

__all__ = ["Connection", "ConnectionException", "ConnectionManager", "ConnectionState", "ManagerStatistics"]


@loggable_class()
class ConnectionManager(Observed):
    """Establishes a connection and keeps it up.

    Every method may be called from any thread, and from receivers. From `connect()` until `disconnect()` or
    `teardown()` the library itself keeps the manager and its connection alive.

    Mind that `manager.connected` and the other states are the machine's parts, and always true: ask
    `manager.state` or `manager.is_connected`.

    Args:
        connection: what to keep up. It has one manager at a time.
        retry: how long to wait between attempts, and how many to make.
    """

    def __init__(self, connection: Connection, *, retry: RetryPolicy = RetryPolicy()) -> None:  # noqa: B008 (frozen)
        if not isinstance(connection, Connection):
            raise TypeError(f"connection must be a Connection, not {connection!r}")
        if not isinstance(retry, RetryPolicy):
            raise TypeError(f"retry must be a RetryPolicy, not {retry!r}")
        self._connection = connection
        self._is_parents = False
        super().__init__(Inputs(f"cnxman manager of {connection}"))
        self._recovery = Recovery(connection, retry, self._inputs.clock)
        self._complaint = FirstThenDebug()
        self._stop: BaseException | None = None
        signals.listen(connection, self._on_alarm, Connection.Signals.RAISE_ALARM)
        _fork.in_child(self, ConnectionManager.leave_to_parent)

    # -- what users call ----------------------------------------------------------------------------------

    def connect(self) -> None:
        """Connect, and keep the connection up from now on.

        Returns when an attempt is over, whatever became of it; recovering goes on in the background. The
        attempt runs on the caller's thread. While one is under way, its outcome is waited for. During the
        wait between two attempts, the next one is made at once.

        Raises:
            automat.NoTransition: if the manager is torn down.
            ConnectionException: if the system gives us no thread to recover on.
            KeyboardInterrupt, SystemExit: what interrupted the attempt; the manager is disconnected then.
        """
        if self._is_parents:
            raise _fork.not_here(repr(self._connection))
        if not self._inputs.join(lambda: self.state is ConnectionState.CONNECTING, ("disconnect", "teardown")):
            try:
                self._inputs.give("connect", partial(self._to_the_end, self._connect))
            except NoTransition as refused:
                refused.add_note(f"{self!r} is torn down for good: make a new manager")
                raise

    def disconnect(self) -> None:
        """Disconnect, and stay so. When this returns no attempt is under way and none will start."""
        if not self._is_parents:
            self._inputs.give("disconnect", partial(self._to_the_end, self._disconnect))

    def teardown(self) -> None:
        """Disconnect and release everything, for good. When this returns no thread of the library is left."""
        if not self._is_parents:
            self._inputs.give("teardown", partial(self._to_the_end, self._teardown))

    @property
    def connection(self) -> Connection:
        """What is kept up, as it was given."""
        return self._connection

    @property
    def state(self) -> ConnectionState:
        """The state now. Answers at once, whatever is under way."""
        return ConnectionState.TORNDOWN if self._is_parents else ConnectionState(self._serialized())

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
        """It is down, and the next attempt waits for its time or for the thing's return."""

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
        """The wait is over, or the thing is back."""

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
    def _broken_off(self) -> None:
        """Ctrl-C came between a change of state and what belongs to it."""

    # -- what they do -------------------------------------------------------------------------------------

    @machine.output()
    def _start_afresh(self) -> None:
        self._inputs.stop_waiting()
        self._keep_up()
        self._recovery.start_afresh()

    @machine.output()
    def _attempt(self) -> None:
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
        self._error = None
        self._recovery.success()
        self._statistics.count_connect()
        self._complaint.forget()

    @machine.output()
    def _note_failure(self, error: ConnectionException | None) -> None:
        self._error = error or self._error
        self._recovery.failure()
        self._statistics.count_failure(self._error)

    @machine.output()
    def _note_loss(self, error: ConnectionException | None) -> None:
        self._error = error or self._connection.last_error or _unexplained("the connection raised the alarm")
        self._recovery.loss()
        self._statistics.count_loss(self._error)

    @machine.output()
    def _wait(self) -> None:
        wait, delay = self._recovery.wait(partial(self._to_the_end, self._retry))
        self._inputs.wait_then_run(wait)
        self._announce_change(self._error)
        signals.send(
            self,
            ConnectionManager.Signals.RETRY_SCHEDULED,
            attempt=self._recovery.failures,
            delay=delay,
            error=self._error,
        )

    @machine.output()
    def _hang_up(self) -> None:
        self._inputs.let_go()
        self._statistics.count_end()
        self._call_safely(self._connection.disconnect)

    @machine.output()
    def _release(self) -> None:
        self._inputs.let_go()
        self._call_safely(self._connection.teardown)

    @machine.output()
    def _announce(self) -> None:
        self._announce_change(None)

    @machine.output()
    def _announce_giving_up(self, error: ConnectionException | None) -> None:
        self._announce_change(error)

    # -- transitions --------------------------------------------------------------------------------------

    ready.upon(_connect, enter=connecting, outputs=[_start_afresh, _announce, _attempt])
    ready.upon(_disconnect, enter=ready, outputs=[])
    ready.upon(_teardown, enter=torndown, outputs=[_release, _announce])
    ready.upon(_alarm, enter=ready, outputs=[])

    connecting.upon(_succeeded, enter=connected, outputs=[_note_success, _announce])
    connecting.upon(_failed, enter=recovering, outputs=[_note_failure, _wait])
    connecting.upon(_gave_up, enter=disconnected, outputs=[_note_failure, _hang_up, _announce_giving_up])

    connected.upon(_connect, enter=connected, outputs=[])
    connected.upon(_disconnect, enter=disconnected, outputs=[_hang_up, _announce])
    connected.upon(_teardown, enter=torndown, outputs=[_hang_up, _release, _announce])
    connected.upon(_alarm, enter=recovering, outputs=[_note_loss, _wait])
    connected.upon(_broken_off, enter=disconnected, outputs=[_hang_up, _announce])

    recovering.upon(_connect, enter=connecting, outputs=[_start_afresh, _announce, _attempt])
    recovering.upon(_retry, enter=connecting, outputs=[_announce, _attempt])
    recovering.upon(_disconnect, enter=disconnected, outputs=[_hang_up, _announce])
    recovering.upon(_teardown, enter=torndown, outputs=[_hang_up, _release, _announce])
    recovering.upon(_alarm, enter=recovering, outputs=[])
    recovering.upon(_broken_off, enter=disconnected, outputs=[_hang_up, _announce])

    disconnected.upon(_connect, enter=connecting, outputs=[_start_afresh, _announce, _attempt])
    disconnected.upon(_disconnect, enter=disconnected, outputs=[])
    disconnected.upon(_teardown, enter=torndown, outputs=[_release, _announce])
    disconnected.upon(_alarm, enter=disconnected, outputs=[])
    disconnected.upon(_broken_off, enter=disconnected, outputs=[_hang_up, _announce])

    torndown.upon(_disconnect, enter=torndown, outputs=[])
    torndown.upon(_teardown, enter=torndown, outputs=[])
    torndown.upon(_alarm, enter=torndown, outputs=[])
    torndown.upon(_broken_off, enter=torndown, outputs=[_hang_up, _release, _announce])

    def leave_to_parent(self) -> None:
        """In a forked child: what was being kept up is the parent's business."""
        if self._inputs.is_busy:
            self._is_parents = True
            self._told = ConnectionState.TORNDOWN
            self._statistics.count_end()
        self._inputs.leave_to_parent()
        self._make_lock()

    # -- how ----------------------------------------------------------------------------------------------

    def _on_alarm(self, error: ConnectionException | None = None) -> None:
        """Note an alarm. Runs on the thread that raised it; the change is made on the worker."""
        self._inputs.post(Alarm("alarm", partial(self._alarm, error), None))

    def _to_the_end(self, feed: Callable[[], None]) -> None:
        """Feed an input. Whatever breaks it off, the machine isn't left in connecting, and no step is left out."""
        try:
            feed()
        finally:
            if self.state is ConnectionState.CONNECTING:
                self._gave_up(None)
            elif self.state is not self._told:
                self._broken_off()
            stop, self._stop = self._stop, None
            if stop is not None:
                raise stop

    def _keep_up(self) -> None:
        try:
            self._inputs.keep_up(self)
        except RuntimeError as no_thread:
            raise ConnectionException(f"cannot recover: {no_thread}", no_thread) from no_thread

    def _try_connect(self) -> ConnectionException | None:
        """One attempt: None if it succeeded, otherwise why it didn't."""
        try:
            if self._connection.try_connect():
                return None
        except Exception as raised:
            error = raised if isinstance(raised, ConnectionException) else ConnectionException.from_exception(raised)
            self._log(self._complaint.level(str(error)), "the attempt raised %s", error, exc_info=raised)
            return error
        return self._connection.last_error or _unexplained("the attempt failed and gave no reason")

    def _call_safely(self, method: Callable[[], None]) -> None:
        try:
            method()
        except Exception as raised:
            self._log(logging.ERROR, "%s raised", signals.name_of(method), exc_info=raised)
        except BaseException as stop:  # Ctrl-C: it goes on to the caller once the input has been dealt with
            self._stop = stop


def _unexplained(message: str) -> ConnectionException:
    return ConnectionException(message, ConnectionError(message))
