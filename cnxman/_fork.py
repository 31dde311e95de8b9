"""After a fork, a line belongs to the parent.

The child has a copy of each descriptor, and with it of the lock on the port: it would keep the port taken after the
parent has let go of it, or has died. It has none of the threads, and may have locks that nobody will ever release. So
in the child every copy is closed, without a lock and without a word to the port, and whoever uses such a line is told.

While one thread opens or closes a port, its descriptor is open without being known for a moment. A fork on another
thread waits for the end of that moment.
"""

import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from cnxman._connection import ConnectionException

_logger = logging.getLogger(__name__)
_What = TypeVar("_What")

LONGEST_WAIT = 1.0
"""How long, in seconds, a fork waits for ports that are being opened or closed: a driver may take for ever."""

_known: dict[int, tuple["weakref.ref[Any]", Callable[[Any], None]]] = {}
"""By `id`: whoever inherits from a connection may compare as it likes, and be hashable or not."""

_change = threading.Condition()
_openers: list[int] = []
"""The threads that are within `held_off` now; guarded by `_change`."""


def in_child(what: _What, do: Callable[[_What], None]) -> None:
    """Have `do(what)` called in every child that is forked while `what` lives.

    It is called right after the fork, with no other thread running, in the order in which this was asked for. It must
    take no lock that another thread may have held.
    """
    number, forget = id(what), _known.pop
    _known[number] = (weakref.ref(what, lambda _: forget(number, None)), do)


def not_here(what: str) -> ConnectionException:
    """What using such a thing in a child raises."""
    message = f"{what} belongs to the process that this one was forked from; make one of your own here"
    return ConnectionException(message, ConnectionError(message))


@contextlib.contextmanager
def held_off() -> Iterator[None]:
    """Within this, no other thread forks (unless it lasts longer than `LONGEST_WAIT`)."""
    me = threading.get_ident()
    with _change:
        _openers.append(me)
    try:
        yield
    finally:
        with _change:
            _openers.remove(me)
            _change.notify_all()


def _before() -> None:
    me = threading.get_ident()
    _change.acquire()
    _change.wait_for(lambda: all(opener == me for opener in _openers), LONGEST_WAIT)


def _in_parent() -> None:
    _change.release()


def _in_child() -> None:
    global _change  # noqa: PLW0603 (its lock is the parent's)
    me = threading.get_ident()
    _change = threading.Condition()
    _openers[:] = [opener for opener in _openers if opener == me]
    for known, do in list(_known.values()):
        what = known()
        try:
            if what is not None:
                do(what)
        except Exception:
            _logger.exception("%r could not be left to the parent", what)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
