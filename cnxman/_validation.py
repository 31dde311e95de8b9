"""What more than one module refuses: arguments that make no sense, each with what is allowed instead."""

import math


def check_timeout(timeout: float | None, name: str = "timeout") -> None:
    """Refuse what is no time to wait: seconds from 0, or None for as long as it takes."""
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"{name} must be a number of seconds or None, not {timeout!r}")
    if not 0 <= timeout < math.inf:
        raise ValueError(f"{name} must be 0 seconds or more, or None, not {timeout!r}")


def check_size(name: str, value: int, *, least: int = 1) -> None:
    """Refuse what is no size: a whole number of bytes, so many or more."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number of bytes, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be {least} byte{'' if least == 1 else 's'} or more, not {value!r}")
