"""What others see and hear of a manager: its state, its errors, its signals."""

import logging
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import replace
from enum import StrEnum

from cnxman import signals
from cnxman._checks import check_timeout
from cnxman._connection import Connection, ConnectionException
from cnxman._manager.input_queue import Inputs
from cnxman._manager.statistics import ManagerStatistics


class ConnectionState(StrEnum):
    """The states of a `ConnectionManager`."""

    READY = "ready"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECOVERING = "recovering"
    DISCONNECTED = "disconnected"
    TORNDOWN = "torndown"


class Observed(ABC):
    """The part of a `ConnectionManager` that answers questions and tells of changes."""

    logger: logging.Logger

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._told = self.state  # also makes Automat's part, which would else be made lazily, by two threads
        self._make_lock()
        self._error: ConnectionException | None = None
        self._statistics = ManagerStatistics()

    def _make_lock(self) -> None:
        self._lock = threading.Lock()  # by itself: see `cnxman._manager.input_queue`
        self._change = threading.Condition(self._lock)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.connection!r}: {self.state}>"

    @property
    @abstractmethod
    def state(self) -> ConnectionState:
        """The state now. Answers at once, whatever is under way."""

    @property
    @abstractmethod
    def connection(self) -> Connection:
        """What is kept up, as it was given."""

    class Signals(signals.Signal):
        """What a manager sends, on the thread that runs the input in question."""

        STATE_CHANGED = "state-changed"
        """`state` and `previous`, each a `ConnectionState`; `error`, a `ConnectionException` or None."""
        RETRY_SCHEDULED = "retry-scheduled"
        """`attempt`, the number of failures in a row; `delay` in seconds until the next attempt; `error`."""

    @property
    def is_connected(self) -> bool:
        """Whether the state is connected. Answers at once."""
        return self.state is ConnectionState.CONNECTED

    @property
    def last_error(self) -> ConnectionException | None:
        """Why the last attempt failed or the connection was lost; None from a success until the next failure."""
        return self._error

    @property
    def statistics(self) -> ManagerStatistics:
        """What it went through since it was made: a snapshot."""
        return replace(self._statistics)

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
        if self._inputs.must_not_wait():
            return self.is_connected

        def settled() -> ConnectionState | None:
            state = self.state
            return state if state in (ConnectionState.CONNECTED, ConnectionState.TORNDOWN) else None

        with self._lock:
            found = self._change.wait_for(settled, timeout)  # it may be lost again by the time this returns
        return found is ConnectionState.CONNECTED

    def subscribe(self, receiver: signals.Receiver, signal: Hashable = Signals.STATE_CHANGED) -> Callable[[], None]:
        """Have `receiver` hear one of this manager's signals; it is held strongly, so a lambda will do.

        Args:
            receiver: called with those of the signal's arguments that it names.
            signal: which signal.

        Returns:
            A function that ends the subscription.

        Raises:
            TypeError: if the receiver cannot be called, does not tell which arguments it takes, or needs one that the
                signal has not; or for a signal that is never sent.
        """
        return signals.subscribe(self, receiver, signal)

    def _announce_change(self, error: ConnectionException | None) -> None:
        state, previous = self.state, self._told
        with self._lock:
            self._change.notify_all()
        self._log(logging.DEBUG, "%s: %s -> %s (%s)", self.connection, previous, state, error)
        self._told = state
        signals.send(self, Observed.Signals.STATE_CHANGED, state=state, previous=previous, error=error)

    def _log(self, level: int, message: str, *args: object, exc_info: Exception | None = None) -> None:
        known = {"port": _port_of(self.connection), "state": self.state}
        self.logger.log(level, message, *args, exc_info=exc_info, extra=known)


def _port_of(connection: Connection) -> object:
    """What a log record says of the port. A connection of the user's may have none, or one that can't be told."""
    try:
        return getattr(connection, "port", None)
    except Exception as error:
        return error


ConnectionState.__module__ = "cnxman.basics"  # documented, pickled and shown under that name
