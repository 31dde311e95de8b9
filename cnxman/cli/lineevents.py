"""What becomes of a managed line, told to a person: one line for each event, few of them in a long outage."""

import time
from collections.abc import Callable

from cnxman import ConnectionException, ConnectionManager, ConnectionState, RetryPolicy
from cnxman.cli.events import seconds


class LineEvents:
    """Tells of a manager's connections and retries, on the manager's thread.

    Args:
        manager: the line.
        policy: the manager's.
        title: the port and its settings, in words.
        tell: takes an event: what happened in a word, and the rest of the line.
    """

    def __init__(
        self, manager: ConnectionManager, policy: RetryPolicy, title: str, tell: Callable[[str, str], None]
    ) -> None:
        self._policy = policy
        self._title = title
        self._tell = tell
        self._lost_at: float | None = None
        self._reason = ""  # the last that was told
        self._steady = False  # whether all that follows was told
        manager.subscribe(self._on_state)
        manager.subscribe(self._on_retry, ConnectionManager.Signals.RETRY_SCHEDULED)

    def _on_state(self, state: ConnectionState) -> None:
        if state is ConnectionState.CONNECTED:
            after = f", after {seconds(time.monotonic() - self._lost_at)}" if self._lost_at is not None else ""
            self._lost_at = None
            self._reason, self._steady = "", False
            self._tell(state, self._title + after)

    def _on_retry(self, delay: float, error: ConnectionException) -> None:
        """Tell each attempt while the waits grow; then once that they go on, lest a night fills the log."""
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
