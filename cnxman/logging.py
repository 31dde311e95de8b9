"""Loggers named after module and class; the same failure logged loudly only once; text made fit for a log."""

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


class RepeatFilter:
    """The level of a failure: a warning the first time, debug while the same one comes again.

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


def printable(text: str, most: int = 200) -> str:
    """Text from a device, or from another process, with its control characters shown as escapes.

    A line end could forge a line of a log; an escape sequence could change a terminal.

    Args:
        text: the text.
        most: how many characters to show; the rest is cut off, and "..." stands for it.
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:most])
    return shown if len(text) <= most else f"{shown}..."


class LastResort(logging.NullHandler):
    """Shows warnings and errors on standard error, each once, where nobody has set up logging.

    The library has it on its logger `cnxman`. As soon as a program gives a logger a handler of its own, on whichever
    level above the record's, this one is silent.
    """

    def __init__(self) -> None:
        super().__init__()
        self._shown: set[tuple[str, str, object]] = set()

    def handle(self, record: logging.LogRecord) -> bool:
        """Show a record, unless it is below a warning, was shown before, or somebody else handles it."""
        if record.levelno < logging.WARNING or self._is_handled(record.name):
            return False
        kind = record.exc_info[0] if record.exc_info else None
        shown = (record.name, str(record.msg), kind)
        if shown in self._shown or logging.lastResort is None:
            return False
        self._shown.add(shown)
        logging.lastResort.handle(record)
        return True

    def _is_handled(self, name: str) -> bool:
        logger: logging.Logger | None = logging.getLogger(name)
        while logger is not None:
            if any(handler is not self for handler in logger.handlers):
                return True
            logger = logger.parent if logger.propagate else None
        return False
