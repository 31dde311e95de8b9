"""What happened, in numbers: counted as it happens, and given as a snapshot."""

import time
from dataclasses import dataclass

from cnxman._connection import ConnectionException


class Tally:
    """What the statistics of a manager and of a line have in common."""

    connects: int
    losses: int
    failed_attempts: int
    last_error: ConnectionException | None
    last_error_at: float | None
    up_since: float | None

    def count_connect(self) -> None:
        """It is up."""
        self.connects += 1
        self.up_since = time.time()

    def count_failure(self, error: ConnectionException | None) -> None:
        """An attempt failed."""
        self.failed_attempts += 1
        self._note(error)

    def count_loss(self, error: ConnectionException | None) -> None:
        """It was up, and is lost."""
        self.losses += 1
        self.up_since = None
        self._note(error)

    def count_end(self) -> None:
        """It was hung up."""
        self.up_since = None

    def _note(self, error: ConnectionException | None) -> None:
        self.last_error, self.last_error_at = error, time.time()


@dataclass
class ManagerStatistics(Tally):
    """A snapshot of what a `ConnectionManager` went through. Times are `time.time()`'s, in seconds."""

    connects: int = 0
    losses: int = 0
    failed_attempts: int = 0
    last_error: ConnectionException | None = None
    last_error_at: float | None = None
    up_since: float | None = None
    """Since when it is connected; None if it isn't."""
