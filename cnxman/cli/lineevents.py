"""What becomes of a managed line, told to a person: one line for each event, few of them in a long outage."""

import time
from collections.abc import Callable

from cnxman import ConnectionException, ConnectionState, RetryPolicy
from cnxman.cli.events import seconds


class LineEvents:
    """Tells of a manager's connections and retries. For the manager's thread.

    Args:
        policy: the manager's.
        title: the port and its settings, in words.
        tell: takes an event: what happened in a word, and the rest of the line.
    """

    def __init__(self, policy: RetryPolicy, title: str, tell: Callable[[str, str], None]) -> None:
        self._policy = policy
        self._title = title
        self._tell = tell
        self._lost_at: float | None = None
        self._reason = ""  # the last that was told
        self._steady = False  # whether all that follows was told

    def connected(self) -> None:
        """The line is up."""
        after = f", after {seconds(time.monotonic() - self._lost_at)}" if self._lost_at is not None else ""
        self.forget()
        self._tell(ConnectionState.CONNECTED, self._title + after)

    def forget(self) -> None:
        """What comes now belongs to no outage that was told of."""
        self._lost_at = None
        self._reason, self._steady = "", False

    def retry(self, delay: float, error: ConnectionException) -> None:
        """Tell each attempt while the waits grow; then once that they go on, lest a night fills the screen."""
        if self._lost_at is None:
            self._lost_at = time.monotonic()
        reason = str(error)
        if reason != self._reason:
            self._reason, self._steady = reason, False
            self._tell("recovering", f"{reason} (next attempt in {seconds(delay)})")
        elif delay < self._policy.maximum * (1 - self._policy.jitter):
            self._tell("recovering", f"next attempt in {seconds(delay)}")
        elif not self._steady:
            self._steady = True
            self._tell("recovering", f"next attempt in {seconds(delay)}, and so on until it is back")
