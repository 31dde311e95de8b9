"""How long to wait before the next attempt, and how many attempts to make."""

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class RetryPolicy:
    """When a `ConnectionManager` tries again.

    The wait after failure number `n` grows from `initial` by `factor` up to `maximum`. The jitter lies
    inside the cap: no wait is ever longer than `maximum`. `RetryPolicy(5, 1, 5, 0)` waits a fixed five
    seconds, as cnxman 0.0.2 did.

    Args:
        initial: the first wait, in seconds; 0 is allowed.
        factor: what each further wait is multiplied by, 1 or more.
        maximum: the longest wait, in seconds.
        jitter: how much of a wait is left to chance, from 0 (nothing) to 1 (all of it): a wait lies between
            `(1 - jitter)` times its full length and its full length.
        attempts: how often to call `try_connect` since `connect()`, or since a loss, before the manager
            gives up and is disconnected; None never gives up.
        reset_after: a loss counts as one more failure in a row unless the line had held for this many
            seconds, so that a line that flaps is not hammered.

    Raises:
        ValueError: for a value that makes no sense.
        TypeError: for one that is no number.
    """

    initial: float = 0.1
    factor: float = 2.0
    maximum: float = 5.0
    jitter: float = 0.1
    attempts: int | None = None
    reset_after: float = 10.0

    def __post_init__(self) -> None:
        for name in ("initial", "factor", "maximum", "jitter", "reset_after"):
            _check_number(name, getattr(self, name))
        if self.initial < 0:
            raise ValueError(f"initial must be 0 seconds or more, not {self.initial!r}")
        if self.factor < 1:
            raise ValueError(f"factor must be 1 or more, not {self.factor!r}")
        if self.maximum < self.initial:
            raise ValueError(f"maximum must be at least initial ({self.initial!r} seconds), not {self.maximum!r}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter must be from 0 to 1, not {self.jitter!r}")
        if self.reset_after < 0:
            raise ValueError(f"reset_after must be 0 seconds or more, not {self.reset_after!r}")
        if self.attempts is not None:
            _check_count("attempts", self.attempts)

    @classmethod
    def fixed(cls, seconds: float, *, attempts: int | None = None) -> "RetryPolicy":
        """A policy that always waits the same time: `RetryPolicy.fixed(5)` is `RetryPolicy(5, 1, 5, 0)`.

        Args:
            seconds: each wait, in seconds; 0 is allowed.
            attempts: see `RetryPolicy`.

        Raises:
            ValueError, TypeError: as `RetryPolicy` does.
        """
        return cls(initial=seconds, factor=1, maximum=seconds, jitter=0, attempts=attempts)

    def delay(self, failures: int) -> float:
        """The wait after failure number `failures`.

        Args:
            failures: how many failures there were in a row, counted from 1.

        Returns:
            The wait in seconds, between `(1 - jitter)` times its full length and its full length.

        Raises:
            ValueError: if `failures` is less than 1.
        """
        _check_count("failures", failures)
        # Not security: chance only keeps many lines from trying in step.
        return self._full_delay(failures) * (1 - self.jitter * random.random())  # noqa: S311

    def _full_delay(self, failures: int) -> float:
        if self.initial == 0:
            return 0.0
        try:
            grown = self.initial * float(self.factor) ** (failures - 1)
        except OverflowError:
            return float(self.maximum)
        return float(min(grown, self.maximum))


def _check_number(name: str, value: float) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not _is_finite(value) and not (name == "reset_after" and value > 0):
        raise ValueError(f"{name} must be finite, not {value!r}")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def _check_count(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be 1 or more, not {value!r}")
