"""After a fork, a line belongs to the parent.

The child has a copy of each descriptor, and with it of the lock on the port: it would keep the port taken after the
parent has let go of it. It has none of the threads, and may have locks that nobody will ever release. So in the child
every copy is closed, without a lock and without a word to the port, and whoever uses such a line is told.
"""

import os
import weakref
from typing import Protocol

from cnxman._connection import ConnectionException


class LeftToParent(Protocol):
    """Something that must not be used in a child."""

    def leave_to_parent(self) -> None:
        """In the child, right after the fork, with no other thread running: take no lock."""


_known: "weakref.WeakSet[LeftToParent]" = weakref.WeakSet()


def leave_to_parent(what: LeftToParent) -> None:
    """Have `what.leave_to_parent()` called in every child forked from now on."""
    _known.add(what)


def not_here(what: str) -> ConnectionException:
    """What using such a thing in a child raises."""
    message = f"{what} belongs to the process that this one was forked from; make one of your own here"
    return ConnectionException(message, ConnectionError(message))


def _in_child() -> None:
    for what in list(_known):
        what.leave_to_parent()
    _known.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
