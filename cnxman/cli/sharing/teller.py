"""Events are written by a thread of their own: a standard error that nobody reads holds up no client."""

import queue
import threading
from collections.abc import Callable

from cnxman.cli.events import Events

MOST = 10_000
"""How many events wait to be written, at most. What is more is counted, not kept."""

Text = str | Callable[[], str]
"""What happened, in words; a function is called on the teller's thread, and may take its time."""


class Teller:
    """Takes events from any thread, at once.

    Args:
        events: writes them.
    """

    def __init__(self, events: Events) -> None:
        self._events = events
        self._queue: queue.Queue[tuple[str, Text] | None] = queue.Queue(MOST)
        self._missed = 0
        self._thread = threading.Thread(target=self._run, name="cnxman share: events", daemon=True)
        self._thread.start()

    def tell(self, what: str, text: Text = "") -> None:
        """Tell one event; see `Events.tell`."""
        try:
            self._queue.put_nowait((what, text))
        except queue.Full:
            self._missed += 1

    def finish(self, patience: float) -> None:
        """Write what waits, for so many seconds at most."""
        try:
            self._queue.put(None, timeout=patience)
        except queue.Full:
            return
        self._thread.join(patience)

    def _run(self) -> None:
        while (event := self._queue.get()) is not None:
            what, text = event
            self._events.tell(what, text if isinstance(text, str) else text())
            missed, self._missed = self._missed, 0
            if missed:
                self._events.tell("missed", f"{missed} events, which could not be written in time")
