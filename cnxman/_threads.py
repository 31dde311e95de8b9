"""The library's own threads: daemons, named after what they serve, and known to the library.

Knowing them matters in one place: a call on one of them must never wait for another of them.
"""

import math
import sys
import threading
import time
from collections.abc import Callable

NAME = "cnxman"
"""Every thread's name begins so."""


WAIT_SLICE: float | None = 0.1 if sys.platform == "win32" else None
"""Seconds that a caller waits at a time, where nothing interrupts a wait."""


class _Here(threading.local):
    is_ours = False


_here = _Here()


def mark() -> None:
    """Note that the current thread is one of the library's. To be called first on it."""
    _here.is_ours = True


def on_library_thread() -> bool:
    """Whether the caller runs on one of the library's own threads, so most likely inside a receiver."""
    return _here.is_ours


def library_thread(name: str, run: Callable[[], object]) -> threading.Thread:
    """Make a daemon thread, not yet started. A process that never tore its line down still ends at once.

    Args:
        name: what it serves; the thread is called "cnxman NAME".
        run: what it runs.
    """

    def marked() -> None:
        mark()
        run()

    return threading.Thread(target=marked, name=f"{NAME} {name}", daemon=True)


def wait_for(condition: threading.Condition, is_true: Callable[[], object], timeout: float | None = None) -> bool:
    """Have a caller wait, as `condition.wait_for` does, so that Ctrl-C ends it: on Windows, between two slices."""
    if WAIT_SLICE is None:
        return bool(condition.wait_for(is_true, timeout))
    until = math.inf if timeout is None else time.monotonic() + timeout
    while not is_true():
        remaining = until - time.monotonic()
        if remaining <= 0:
            return False
        condition.wait(min(remaining, WAIT_SLICE))
    return True
