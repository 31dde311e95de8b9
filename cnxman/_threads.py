"""The library's own threads: daemons, named after what they serve, and known by their class.

Knowing them matters in one place: a call on one of them must never wait for another of them.
"""

import threading


class LibraryThread(threading.Thread):
    """A daemon thread of the library: a process whose line was never torn down still ends at once."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)


def on_library_thread() -> bool:
    """Whether the caller runs on one of the library's own threads (so: most likely inside a receiver)."""
    return isinstance(threading.current_thread(), LibraryThread)


class _Inside(threading.local):
    depth = 0
    """How many inputs, of whatever managers, are running on this thread."""


inside = _Inside()


def may_be_awaited() -> bool:
    """Whether an input that runs on another thread may be waiting for this one."""
    return on_library_thread() or inside.depth > 0
