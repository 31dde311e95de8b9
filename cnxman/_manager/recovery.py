"""The bookkeeping of a recovery: counts failures and attempts, and notices that the device is back."""

import logging
from collections.abc import Callable, Hashable

from cnxman._manager.clock import Clock
from cnxman.retry import RetryPolicy

_logger = logging.getLogger(__name__)

POLL_INTERVAL = 0.05
"""Seconds between two looks for a device's return: half the wait is the delay one sees, and a look costs 30 us."""

QUICK_RETRY_PERIOD = 15.0
"""For so many seconds after a device's return, attempts follow each other quickly: its node may be root's for a
moment, and a modem manager may hold it for up to 10 s."""

QUICK_RETRY_INTERVAL = 0.1
"""Seconds between these attempts."""


class Wait:
    """A wait between two attempts: it is over when its time is up, or when a look says so.

    Args:
        run: the input to run then, on the worker.
        due: when the time is up, by the manager's clock, in seconds.
        look: called on the worker with no lock held, each `POLL_INTERVAL` seconds; True ends the wait. None for none.
    """

    def __init__(self, run: Callable[[], None], due: float, look: Callable[[], bool] | None) -> None:
        self.run = run
        self._due = due
        self._look = look

    def longest_sleep(self, clock: Clock) -> float:
        """How long to sleep, in seconds, before asking whether it is over."""
        left = max(0.0, self._due - clock.now())
        return min(left, POLL_INTERVAL) if self._look else left

    def is_over(self, clock: Clock) -> bool:
        """Whether the time is up, or the look says so."""
        try:
            return clock.now() >= self._due or (self._look is not None and self._look())
        except Exception:
            _logger.exception("the look for the device's return raised; it is not repeated in this wait")
            self._look = None
            return False


class Recovery:
    """Counts what a `RetryPolicy` asks for, and decides when a wait is over.

    `_is_back` runs on the worker, between inputs. Everything else runs inside an input, so one call at a time.

    Args:
        presence: asked whether the device is there; see `Connection.presence`.
        policy: when to try again.
        clock: the manager's.
    """

    def __init__(self, presence: Callable[[], Hashable | None], policy: RetryPolicy, clock: Clock) -> None:
        self._presence = presence
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

    def reset(self) -> None:
        """Somebody called connect(): begin to count from zero."""
        self.failures = self._attempts = 0
        self._returned_at = None

    def attempt(self) -> None:
        """An attempt begins."""
        self._attempts += 1
        self._seen = self._look()  # before it is opened: it may be lost, and back, before the next look

    def success(self) -> None:
        """It succeeded."""
        self._connected_at = self._clock.now()
        if not self._seen:  # it came during the attempt
            self._seen = self._look()

    def failure(self) -> None:
        """It failed."""
        self.failures += 1

    def loss(self) -> None:
        """The connection was lost: one more failure, unless it had held."""
        held = self._clock.now() - self._connected_at
        self.failures = 1 if held >= self._policy.reset_after else self.failures + 1
        self._attempts = 0
        self._returned_at = None

    def make_wait(self, retry: Callable[[], None]) -> tuple[Wait, float]:
        """The wait before the input `retry`, and its delay in seconds."""
        delay = self._policy.delay(self.failures)
        self._waiting_since = self._clock.now()
        look = self._is_back if self._look() is not None else None
        return Wait(retry, self._waiting_since + delay, look), delay

    def _look(self) -> Hashable | None:
        try:
            return self._presence()
        except Exception as error:
            _logger.debug("presence() raised", exc_info=error)
            return None

    def _is_back(self) -> bool:
        """Whether to try now: the device has just come back, or came back lately and was not ready yet."""
        now, seen = self._clock.now(), self._look()
        if seen != self._seen:
            self._seen = seen
            self._returned_at = now if seen else None  # type: ignore[truthy-bool]  # False says: absent
            return self._returned_at is not None
        back_lately = self._returned_at is not None and now - self._returned_at < QUICK_RETRY_PERIOD
        return back_lately and now - self._waiting_since >= QUICK_RETRY_INTERVAL
