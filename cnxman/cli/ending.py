"""How the command comes to its end: the main thread waits here, whatever the others are doing."""

import contextlib
import os
import select
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Self

from cnxman.cli.stdio import is_abandoned, is_pipe

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")

_LOOK_EVERY = 0.1
"""Seconds between two looks, where `poll` can't wait."""


class Ending:
    """Ends when a signal asks for it, when another thread does, or when nobody reads standard output any more.

    To be used as a context manager, on the main thread. A signal that was ignored when the command began stays
    ignored (nohup).

    Args:
        output: the descriptor whose closing by the reader ends the command, if it is a pipe; None for no such.
    """

    def __init__(self, output: int | None) -> None:
        self._output = output
        self._status: int | None = None
        self._bell: _Bell | None = _Bell() if hasattr(select, "poll") else None
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> Self:
        """Take over the signals."""
        for name in _SIGNALS:
            number = getattr(signal, name, None)  # Windows has no SIGHUP, the others no SIGBREAK
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        if self._bell is not None:
            self._bell.close()

    def end(self, status: int = 0) -> None:
        """End with this status, unless it ends already. From any thread; returns at once."""
        if self._status is None:
            self._status = status
        if self._bell is not None:
            self._bell.ring()

    def wait(self) -> int:
        """Wait for the end.

        Returns:
            The exit status.
        """
        while self._status is None:
            self._wait_once(None)
        return self._status

    def comes_within(self, duration: float) -> bool:
        """Wait for the end, but for so many seconds at most; tell whether it has come."""
        until = time.monotonic() + duration
        while self._status is None and (left := until - time.monotonic()) > 0:
            self._wait_once(left)
        return self._status is not None

    def _wait_once(self, most: float | None) -> None:
        if self._bell is None:
            time.sleep(_LOOK_EVERY if most is None else min(most, _LOOK_EVERY))
            if self._output is not None and is_abandoned(self._output):
                self.end()
        elif self._bell.wait_for_closed(self._output, most):
            self.end()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.end()


class _Bell:
    """A pipe that wakes the main thread: other threads ring it, and so does every signal, whichever thread it hits."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal may come while the main thread has it
        self._closed = False
        self._out, self._in = os.pipe()
        os.set_blocking(self._in, False)
        self._wakeup_before = signal.set_wakeup_fd(self._in, warn_on_full_buffer=False)

    def ring(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):  # rung often enough
            if not self._closed:  # else it is all over, and this is a thread that is left
                os.write(self._in, b"!")

    def wait_for_closed(self, output: int | None, most: float | None) -> bool:
        """Wait until the bell rings, or until `output` is a pipe that nobody reads; tell whether it was that.

        At most for so many seconds; None waits for as long as it takes.
        """
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        if output is not None and is_pipe(output):
            poll.register(output, select.POLLHUP)  # an error is told in any case, but on macOS not without this
        happened = dict(poll.poll(None if most is None else most * 1000))
        if self._out in happened:
            os.read(self._out, 64)  # a signal's number; its handler is called about now
        return output in happened

    def close(self) -> None:
        """Signals ring no more."""
        signal.set_wakeup_fd(self._wakeup_before)
        with self._lock:
            self._closed = True
            os.close(self._in)
            os.close(self._out)
