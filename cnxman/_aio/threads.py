"""From threads into a loop, and from a loop to threads.

Two rules make it safe. What threads do reaches the loop by `call_soon_threadsafe` alone, and a loop that is closed by
then is no error: nobody is left to notify. And no call that could wait is made on the loop's own thread.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Generic, TypeVar

from cnxman import signals

_logger = logging.getLogger("cnxman.aio")
_T = TypeVar("_T")


def call_in_loop(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> bool:
    """Have the loop call something soon; False if it is closed. From any thread."""
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:  # the only one it raises
        return False
    return True


class LoopDispatch(signals.Dispatch):
    """The calling of receivers in a loop, on its thread.

    Args:
        loop: which loop.
        pause: what a receiver calls that must not wait here.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, pause: signals.Pause) -> None:
        super().__init__()
        self.loop = loop
        self.pause = pause
        self.afterwards: list[Callable[[], object]] = []
        """What is to be called in the loop when all receivers were."""
        self.takers: list[Callable[[bytes], object]] = []
        """Likewise, with the chunk that receivers were called with."""


def runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the current thread is just running this loop."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def log_unawaited(what: str, error: BaseException) -> None:
    """Log an error of a call whose awaiting was cancelled."""
    _logger.warning("%s, for which nobody waits any more, raised: %s", what, error)


class _Call(Generic[_T]):
    """A call that is made on another thread and awaited in the loop."""

    def __init__(self, call: Callable[[], _T], loop: asyncio.AbstractEventLoop) -> None:
        self._call = call
        self._loop = loop
        self.future: asyncio.Future[_T] = loop.create_future()

    def run(self) -> None:
        """Make the call, unless nobody waits for it any more. On the other thread."""
        if self.future.cancelled():
            return
        try:
            result = self._call()
        except BaseException as error:
            if not call_in_loop(self._loop, partial(self._fail, error)):
                log_unawaited(signals.name_of(self._call), error)
        else:
            call_in_loop(self._loop, partial(self._succeed, result))

    def _succeed(self, result: _T) -> None:
        if not self.future.cancelled():
            self.future.set_result(result)

    def _fail(self, error: BaseException) -> None:
        if self.future.cancelled():
            log_unawaited(signals.name_of(self._call), error)
        else:
            self.future.set_exception(error)


class Calls:
    """Calls that may wait, made on daemon threads: a loop that is closed meanwhile waits for none of them.

    (asyncio's own executor has few threads for all of a process, and closing a loop waits for all of them.)

    Args:
        name: what the threads are named after.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._threads: list[threading.Thread] = []
        self._line: SimpleQueue[_Call[int] | None] | None = None
        self._lined_up = 0

    def __del__(self) -> None:
        self.end_line()

    def start(self, call: Callable[[], _T], loop: asyncio.AbstractEventLoop) -> "asyncio.Future[_T]":
        """Make a call on a thread of its own, at once. If its awaiting is cancelled it goes on all the same."""
        made = _Call(call, loop)
        self._start(made.run)
        return made.future

    def line_up(self, call: Callable[[], int], loop: asyncio.AbstractEventLoop) -> "asyncio.Future[int]":
        """Make a call after those that were lined up before. If its awaiting is cancelled before, it isn't made."""
        if self._line is None:
            self._line = SimpleQueue()
            self._start(partial(_work_off, self._line))
        made = _Call(call, loop)
        self._lined_up += 1
        made.future.add_done_callback(self._leave_line)
        self._line.put(made)
        return made.future

    @property
    def has_line(self) -> bool:
        """Whether any of what was lined up has yet to be made, or waited for."""
        return self._lined_up > 0

    def _leave_line(self, _: object) -> None:
        self._lined_up -= 1

    def end_line(self) -> None:
        """Nothing more is lined up; the thread ends when it has made all the calls."""
        if self._line is not None:
            self._line.put(None)
            self._line = None

    def join(self) -> None:
        """Wait for all the threads, but for the one this is."""
        for thread in tuple(self._threads):
            if thread is not threading.current_thread():
                thread.join()

    def _start(self, run: Callable[[], None]) -> None:
        threads = self._threads  # and not us: who holds us no more ends the line

        def run_and_leave() -> None:
            try:
                run()
            finally:
                threads.remove(thread)

        thread = threading.Thread(target=run_and_leave, name=f"cnxman aio for {self._name}", daemon=True)
        threads.append(thread)
        try:
            thread.start()
        except RuntimeError:
            threads.remove(thread)
            raise


def _work_off(line: "SimpleQueue[_Call[int] | None]") -> None:
    """Make the calls in a line until its end, holding nothing but the line: what it is for may be garbage."""
    while (call := line.get()) is not None:
        call.run()
        del call  # not kept while it waits for the next
