"""What a connection is, and what it raises when something goes wrong.

These are the parts of `cnxman.basics` that know nothing of a manager, and bear its name.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable

from cnxman import signals


class ConnectionException(Exception):
    """Raised, or told, when an error occurs within a connection.

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


class Connection(ABC):
    """Extend this class to define a logical connection to something.

    What a `ConnectionManager` counts on, and what a subclass may count on:

    * `try_connect` may be called again after an alarm with no `disconnect` in between; it replaces what is
      broken. An exception from it is a failed attempt.
    * `disconnect` and `teardown` may be called in any state, and twice.
    * No two of the three ever run at the same time under one manager. They run on whichever thread called the
      manager, or on the manager's own.
    * When the thing is lost, call `raise_alarm()`, from any thread.

    A subclass need not call `super().__init__()`.
    """

    class Signals(signals.Signal):
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
        """Tell anyone who might be interested (like a `ConnectionManager`) that there is trouble.

        Returns once all receivers have been told; a manager only notes the alarm, and recovers on its own thread.

        Args:
            error: what happened, if it is known.
        """
        signals.send(self, Connection.Signals.RAISE_ALARM, error=error)

    def presence(self) -> Hashable | None:
        """Override this method to let a manager notice that the thing has come back.

        While a manager recovers it calls this some twenty times a second, on its own thread. When the answer changes
        to something true, the next attempt is made at once instead of at the end of the wait.

        It should take less than a millisecond, and may be called while another of the connection's methods runs.

        Returns:
            None if this cannot be told (what this method does unless it is overridden); a false value, such as
            False or "", while the thing is absent; anything else while it is there, such as a tuple that identifies
            it, so that one that was taken out and put back is seen to be new.
        """
        return None

    def subscribe(self, receiver: signals.Receiver, signal: Hashable = Signals.RAISE_ALARM) -> Callable[[], None]:
        """Have `receiver` hear one of this connection's signals; it is held strongly, so a lambda will do.

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


# They are documented, pickled and shown under the name of the module that hands them on.
ConnectionException.__module__ = Connection.__module__ = "cnxman.basics"
