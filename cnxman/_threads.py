"""The library's own threads: daemons, named after what they serve, and known to the library.

Knowing them matters in one place: a call on one of them must never wait for another of them.
"""

import threading
from collections.abc import Callable

NAME = "cnxman"
"""Every thread's name begins so."""


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
