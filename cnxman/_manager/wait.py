"""What a manager's worker waits for between two attempts."""

import logging
from collections.abc import Callable

from cnxman._manager.clock import Clock

_logger = logging.getLogger(__name__)


class Wait:
    """The time being up, or a look that says "now".

    Args:
        run: the input to run then, on the worker.
        due: when the time is up, by the manager's clock, in seconds.
        look: called on the worker with no lock held, each time `look_every` seconds are over; True ends the wait.
    """

    def __init__(self, run: Callable[[], None], due: float, look: Callable[[], bool] | None, look_every: float) -> None:
        self.run = run
        self._due = due
        self._look = look
        self._look_every = look_every

    def longest_nap(self, clock: Clock) -> float:
        """How long to sleep, in seconds, before asking whether it is over."""
        left = max(0.0, self._due - clock.now())
        return min(left, self._look_every) if self._look else left

    def is_over(self, clock: Clock) -> bool:
        """Whether the time is up, or the look says so."""
        try:
            return clock.now() >= self._due or (self._look is not None and self._look())
        except Exception:
            _logger.exception("the look for the thing's return raised; it is not repeated in this wait")
            self._look = None
            return False
