"""After a fork, a line belongs to the parent. This is the one place that sees to it.

The child has a copy of each descriptor, and with it of the lock on the port: it would keep the port taken after the
parent has closed it, or has died. The child has none of the threads, and may have locks that nobody will ever release.
So in the child every copy is closed, without a lock and without a word to the port. `SerialConnection` and
`ConnectionManager` note the process that uses them, and refuse to work in another one.

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

_logger = logging.getLogger(__name__)
_Object = TypeVar("_Object")

LONGEST_WAIT = 1.0
"""How long, in seconds, a fork waits for ports that are being opened or closed: a driver may take for ever."""


class _Registration(weakref.ref[_Object]):
    """An object, and what to do with it in a child. A closure for each would take four times the memory."""

    __slots__ = ("do", "number")
    do: Callable[[_Object], None]
    number: int


_registered: dict[int, _Registration[Any]] = {}
"""By `id`: whoever inherits from a class of ours may compare as it likes, and be hashable or not."""


def _forget(registration: _Registration[Any], pop: Callable[..., object] = _registered.pop) -> None:
    """Forget an object that is gone. All that this needs is in it: the interpreter may be on its way out."""
    pop(registration.number, None)


_change = threading.Condition()
_guarded: list[int] = []
"""The threads that are within `no_fork` now; guarded by `_change`."""


def after_in_child(what: _Object, do: Callable[[_Object], None]) -> None:
    """Have `do(what)` called in every child that is forked while `what` lives.

    It is called right after the fork, with no other thread running, in the order of registration. It must take no lock
    that another thread may have held.
    """
    registration = _Registration(what, _forget)
    registration.number, registration.do = id(what), do
    _registered[registration.number] = registration


@contextlib.contextmanager
def no_fork() -> Iterator[None]:
    """Within this, no other thread forks (unless it lasts longer than `LONGEST_WAIT`)."""
    me = threading.get_ident()
    with _change:
        _guarded.append(me)
    try:
        yield
    finally:
        with _change:
            _guarded.remove(me)
            _change.notify_all()


def _before() -> None:
    me = threading.get_ident()
    _change.acquire()
    _change.wait_for(lambda: all(thread == me for thread in _guarded), LONGEST_WAIT)


def _in_parent() -> None:
    _change.release()


def _in_child() -> None:
    global _change  # noqa: PLW0603 (its lock is the parent's)
    me = threading.get_ident()
    _change = threading.Condition()
    _guarded[:] = [thread for thread in _guarded if thread == me]
    for registration in list(_registered.values()):
        what = registration()
        try:
            if what is not None:
                registration.do(what)
        except Exception:
            _logger.exception("%r could not be left to the parent process", what)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
