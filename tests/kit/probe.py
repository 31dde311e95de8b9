"""The one place where tests look inside: what users cannot see, and some tests must wait for."""

import threading
import weakref
from typing import Any

import serial

from cnxman import ConnectionManager, SerialConnection
from cnxman._line.calls import CallLine


def port_of(connection: SerialConnection) -> serial.Serial:
    """pyserial's port of the opening that is under way."""
    assert connection.current_opening is not None
    return connection.current_opening.port


def line_of(connection: SerialConnection) -> Any:
    """The open line of a connection."""
    assert connection.current_opening is not None
    return connection.current_opening.listener.line


def source_of(connection: SerialConnection) -> Any:
    """What the listener of a connection reads from."""
    assert connection.current_opening is not None
    return connection.current_opening.listener.source


def waits_to_write(connection: SerialConnection) -> bool:
    """Whether a writer waits for room on the line; on Windows, whether one is writing."""
    line = line_of(connection)
    return line._write_under_way if isinstance(line, CallLine) else bool(line._writers)


def is_writing(connection: SerialConnection) -> bool:
    """Whether somebody holds the line's write lock."""
    return bool(line_of(connection)._write_lock._lock.locked())


def queued_inputs(manager: ConnectionManager) -> list[str]:
    """The names of the inputs that wait in a manager's queue."""
    with manager._inputs.lock:
        return [each.name for each in manager._inputs._queue]


def worker_of(manager: ConnectionManager) -> threading.Thread | None:
    """A manager's worker, if it has one."""
    return manager._inputs._worker


def subscriptions(sender: object) -> int:
    """How many receivers were subscribed to a sender, a manager that listens for the alarm not counted; and taps."""
    return len(getattr(sender, "taps", ())) + sum(
        not isinstance(each.receiver, weakref.ref) for each in sender.__dict__.get("_subscriptions", [])
    )


def managers_listening(sender: object) -> int:
    """How many managers listen for a connection's alarm."""
    return sum(isinstance(each.receiver, weakref.ref) for each in sender.__dict__.get("_subscriptions", []))
