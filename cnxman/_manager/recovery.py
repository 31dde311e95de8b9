"""The bookkeeping of a recovery: failures and attempts counted, and the thing's return noticed."""

import logging
from collections.abc import Callable, Hashable

from cnxman._connection import Connection
from cnxman._manager.clock import Clock
from cnxman._manager.wait import Wait
from cnxman.retry import RetryPolicy

_logger = logging.getLogger(__name__)

LOOK_EVERY = 0.05
"""Seconds between two looks for a device's return: half the wait is the delay one sees, and a look costs 30 us."""

TRY_QUICKLY_FOR = 5.0
"""For so many seconds after a device's return, attempts follow each other quickly: its node may be root's for a
moment, or a modem manager may hold it."""

TRY_QUICKLY_EVERY = 0.1
"""Seconds between these attempts."""


class Recovery:
    """Counts what a `RetryPolicy` asks for, and decides when a wait is over.

    Everything but `_is_back` runs within the manager's inputs, one at a time; that runs on the manager's own
    thread, during a wait.

    Args:
        connection: whose return to look for.
        policy: when to try again.
        clock: the manager's.
    """

    def __init__(self, connection: Connection, policy: RetryPolicy, clock: Clock) -> None:
        self._connection = connection
        self._policy = policy
        self._clock = clock
        self.failures = 0
        """How many failures in a row: what the next delay depends on."""
        self._attempts = 0
        self._connected_at = 0.0
        self._waiting_since = 0.0
        self._returned_at: float | None = None
        self._seen: Hashable | None = None

    @property
    def is_used_up(self) -> bool:
        """Whether the policy allows no further attempt."""
        return self._policy.attempts is not None and self._attempts >= self._policy.attempts

    def start_afresh(self) -> None:
        """Somebody called connect(): whatever was counted before is past."""
        self.failures = self._attempts = 0
        self._returned_at = None

    def attempt(self) -> None:
        """An attempt begins."""
        self._attempts += 1
        self._seen = self._look()  # before it is opened: it may be lost, and back already, before anybody looks again

    def success(self) -> None:
        """It succeeded."""
        self._connected_at = self._clock.now()
        if not self._seen:  # it came during the attempt
            self._seen = self._look()

    def failure(self) -> None:
        """It failed."""
        self.failures += 1

    def loss(self) -> None:
        """What was up is lost: one more failure, unless it had held."""
        held = self._clock.now() - self._connected_at
        self.failures = 1 if held >= self._policy.reset_after else self.failures + 1
        self._attempts = 0
        self._returned_at = None

    def wait(self, retry: Callable[[], None]) -> tuple[Wait, float]:
        """What to wait for now before the input `retry`, and for how long, in seconds, at most."""
        delay = self._policy.delay(self.failures)
        self._waiting_since = self._clock.now()
        look = self._is_back if self._look() is not None else None
        return Wait(retry, self._waiting_since + delay, look, LOOK_EVERY), delay

    def _look(self) -> Hashable | None:
        try:
            return self._connection.presence()
        except Exception as error:
            _logger.debug("presence() of %r raised", self._connection, exc_info=error)
            return None

    def _is_back(self) -> bool:
        """Whether to try now: the thing has just come back, or has a little while ago and was not ready yet."""
        now, seen = self._clock.now(), self._look()
        if seen != self._seen:
            self._seen = seen
            self._returned_at = now if seen else None  # type: ignore[truthy-bool]  # False says: absent
            return self._returned_at is not None
        back_lately = self._returned_at is not None and now - self._returned_at < TRY_QUICKLY_FOR
        return back_lately and now - self._waiting_since >= TRY_QUICKLY_EVERY
