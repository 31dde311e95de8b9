"""Loggers named after module and class, and a way to say the same thing loudly only once."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar, overload

_Class = TypeVar("_Class", bound=type[Any])


@overload
def loggable_class(logger_name: _Class) -> _Class: ...
@overload
def loggable_class(logger_name: str | None = None) -> Callable[[_Class], _Class]: ...
def loggable_class(logger_name: _Class | str | None = None) -> _Class | Callable[[_Class], _Class]:
    """A class decorator that gives the class its `logger`.

    Args:
        logger_name: the logger's name; None names it after the module and the class.

    Returns:
        The decorator (or the decorated class, where it is used without parentheses).

    Example:
        >>> @loggable_class()
        ... class Pump:
        ...     pass
        >>> Pump.logger.name == f"{Pump.__module__}.Pump"
        True
    """

    def decorate(cls: _Class) -> _Class:
        name = logger_name if isinstance(logger_name, str) else f"{cls.__module__}.{cls.__qualname__}"
        cls.logger = logging.getLogger(name)
        return cls

    if isinstance(logger_name, type):
        return decorate(logger_name)
    if logger_name is not None and not isinstance(logger_name, str):
        raise TypeError(f"logger_name must be a str or None, not {logger_name!r}")
    return decorate


class FirstThenDebug:
    """At which level to log a failure: a warning the first time, debug while the same one comes again.

    An outage of a night would otherwise write the same line some ten thousand times.
    """

    def __init__(self) -> None:
        self._last: str | None = None

    def level(self, failure: str) -> int:
        """The level for `failure`, given the failures since `forget()`."""
        known = failure == self._last
        self._last = failure
        return logging.DEBUG if known else logging.WARNING

    def forget(self) -> None:
        """It works again: the next failure is a new one."""
        self._last = None
