"""What tasks of asyncio's wait for: data, and what a signal will bring."""

import asyncio
import contextvars
import logging
import types
from collections.abc import Callable, Coroutine, Generator, Hashable
from functools import partial
from types import TracebackType
from typing import NoReturn, TypeVar

from cnxman import signals
from cnxman._aio.threads import LoopDispatch, call_in_loop
from cnxman.basics import Connection, ConnectionException, ConnectionManager, ConnectionState
from cnxman.reading import MOST_AT_ONCE, ReceiveQueue
from cnxman.serial import SerialConnection

_logger = logging.getLogger("cnxman.aio")
_T = TypeVar("_T")


class Sleeper:
    """What a task sleeps on, by `yield sleeper`, until `wake` runs the task at once, within its call.

    A future has the loop run the task in the next round, and that round costs more than reading a short packet does.
    This is what `asyncio.isfuture` calls a Future-like object. Calls from a task into Python cost as well, so there are
    two fewer: a task looks at `_loop` where there is no `get_loop`, and a task that is woken is given a future that is
    done, whose result it gets without one.
    """

    __slots__ = ("_asyncio_future_blocking", "_context", "_done", "_loop", "data", "run")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asyncio_future_blocking = False  # as a future has it: set before the yield, and reset by the task
        self._done: asyncio.Future[None] = loop.create_future()
        self._done.set_result(None)
        self.data = b""
        """What `wake` was given."""
        self.run: Callable[[object], object] | None = None
        """Runs the task that sleeps; None while there is none."""
        self._context: contextvars.Context

    def wake(self, data: bytes = b"") -> bool:
        """Run the task that sleeps, and give it `data`; whether there is one. Not within a task."""
        run, self.run = self.run, None
        if run is None:
            return False
        self.data = data
        self._context.run(run, self._done)
        return True

    # -- what a task asks of a future ---------------------------------------------------------------------

    def add_done_callback(self, call: Callable[[object], object], *, context: contextvars.Context) -> None:
        """See `asyncio.Future`."""
        self.run, self._context = call, context

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002 (a task passes it)
        """See `asyncio.Future`."""
        run, self.run = self.run, None
        if run is None:
            return False
        self._loop.call_soon(run, self, context=self._context)
        return True

    def result(self) -> NoReturn:
        """See `asyncio.Future`. A task asks for it when it was cancelled."""
        raise asyncio.CancelledError


class AsyncReceiveQueue(ReceiveQueue):
    """A receive queue that tasks take from.

    The loop is woken only when a task waits, so once for a burst however many chunks that is. Where the loop itself
    reads, a chunk that somebody waits for goes to it directly, and not through the queue.

    Args:
        loop: where the tasks are.
        connection: where the bytes come from.
        limit: how many bytes wait here, at most.
        across_reconnects: go on when the connection is closed and opened again; see `end_with`.
        claimed: whether there is somebody to take. Otherwise reading pauses for nobody: once it is full it is given up.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connection: SerialConnection,
        limit: int,
        *,
        across_reconnects: bool,
        claimed: bool,
    ) -> None:
        self.loop = loop
        self._sleeper = Sleeper(loop)  # of the first task that sleeps; mostly there is no other
        self._other_sleepers: tuple[Sleeper, ...] = ()
        self.on_arrival: Callable[[], object] = self._wake
        """Called in the loop when something has come, if `is_awaited`. By itself it wakes the tasks in `sleep`."""
        self.take_directly: Callable[[bytes], object] = self._give
        """Called in the loop with a chunk that came while nothing else was here, if `is_ready`."""
        self.is_ready = False
        self.is_awaited = False
        self._claimed = claimed
        super().__init__(connection, limit, across_reconnects=across_reconnects)

    def end_with(self, manager: ConnectionManager) -> None:
        """End when the manager is disconnected or torn down: with an error if it gave up.

        If it is so now, that is the end at once, unless this queue is there for a connect that is to come.
        """
        self._undo.append(manager.subscribe(self._on_state, ConnectionManager.Signals.STATE_CHANGED))
        state = manager.state if self._claimed else None
        if state is ConnectionState.DISCONNECTED:
            self.finish(manager.last_error)
        elif state is ConnectionState.TORNDOWN:
            self.finish(None)

    def claim(self) -> bool:
        """There is somebody to take now. Whether everything is still here."""
        with self.lock:
            self._claimed = True
            return not self.is_abandoned

    def take_now(self) -> tuple[bytes, bool]:
        """Take what there is.

        Returns:
            Bytes of one opening of the port, and whether they are the first of it; b"" if something may come yet.

        Raises:
            StopAsyncIteration, ConnectionException: nothing more will come.
        """
        with self.lock:
            if self.data:
                if not self._beginnings:
                    return self.take(MOST_AT_ONCE), False
                is_first = self.is_first_of_opening()
                return self.take(MOST_AT_ONCE), is_first
            if not self.ended:
                self.is_awaited = True
                return b"", False
        if self.error is None:
            raise StopAsyncIteration
        raise ConnectionException(self.error.message, self.error)

    @types.coroutine
    def sleep(self) -> Generator[Sleeper, None, bytes]:
        """Sleep, when there is nothing to take. Returns a chunk, or b"" when there may be something to take."""
        sleeper = self._sleeper
        if sleeper.run is not None:
            sleeper = Sleeper(self.loop)
            others = (other for other in self._other_sleepers if other.run is not None)  # not those cancelled
            self._other_sleepers = (*others, sleeper)
        self.is_ready = True
        sleeper._asyncio_future_blocking = True
        yield sleeper
        data, sleeper.data = sleeper.data, b""
        return data

    def _wake(self) -> None:
        others, self._other_sleepers, self.is_ready = self._other_sleepers, (), False
        self._sleeper.wake()
        for sleeper in others:
            sleeper.wake()

    def _give(self, data: bytes) -> None:
        """Give a chunk to the first task that sleeps, unless that was cancelled meanwhile."""
        if not self._sleeper.wake(data):
            self.keep(data)

    def keep(self, data: bytes) -> None:
        """Keep a chunk that was not taken directly after all."""
        with self.lock:
            if not self.is_abandoned:
                self.data += data
        self.on_arrival()

    # -- where the line is read, mostly on another thread -------------------------------------------------

    def on_data(self, data: bytes) -> None:
        """See `Tap`."""
        if self.is_ready and not (self.data or self._beginnings or self.ended):
            dispatch = signals.here.dispatch
            if isinstance(dispatch, LoopDispatch) and dispatch.loop is self.loop:
                self.is_ready = False
                dispatch.takers.append(self.take_directly)
                return
        super().on_data(data)

    def notify(self) -> None:
        """Wake whoever waits. The lock is held."""
        if not self.is_awaited:
            return
        self.is_awaited = False
        dispatch = signals.current_dispatch()
        if isinstance(dispatch, LoopDispatch) and dispatch.loop is self.loop:
            dispatch.afterwards.append(self.on_arrival)
        else:
            call_in_loop(self.loop, self.on_arrival)

    def is_wanted(self) -> bool:
        """Whether somebody may still take something."""
        return not (self.is_abandoned or self.ended or self.loop.is_closed())

    def wait_for_room(self) -> None:
        """Wait until there is room, if there is somebody to make it."""
        with self.lock:
            self.is_abandoned = self.is_abandoned or not self._claimed
        if not self.is_abandoned:
            super().wait_for_room()
        else:
            _logger.warning("%s: nobody has taken the first %d bytes: dropped", self.connection.port, self.limit)
            self.close()

    def _on_state(self, state: ConnectionState, error: ConnectionException | None) -> None:
        if state in (ConnectionState.DISCONNECTED, ConnectionState.TORNDOWN):
            self.finish(error)


class Expected(Coroutine[object, None, _T]):
    """Something that a signal will bring, to be awaited once. Made in the loop; receives from then on.

    It is a coroutine, for `create_task` and the like. (One that Python itself makes receives nothing until it is
    awaited, and complains if it never is.)
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._settled = asyncio.Event()
        self._outcomes: list[Callable[[], _T]] = []
        self._undo: list[Callable[[], None]] = []
        self._waiting: Coroutine[object, None, _T] | None = None

    def receive(self, sender: Connection | ConnectionManager, receiver: signals.Receiver, signal: Hashable) -> None:
        """Have `receiver` called for a signal, until this is settled. It calls `settle` or `fail` in time."""
        self._undo.append(sender.subscribe(receiver, signal))

    def settle(self, result: _T) -> None:
        """It has come. From any thread; the first time counts."""
        self._come_to(lambda: result)

    def fail(self, error: ConnectionException) -> None:
        """It will never come. From any thread; the first time counts."""
        self._come_to(partial(_raise, error))

    def __await__(self) -> Generator[object, None, _T]:
        """Wait for it."""
        return self._wait().__await__()

    def send(self, value: None) -> object:
        """As of every coroutine: go on."""
        if self._waiting is None:
            self._waiting = self._wait()
        return self._waiting.send(value)

    def throw(
        self,
        kind: type[BaseException] | BaseException,
        value: object = None,  # noqa: ARG002 (the two were for Python 2)
        trace: TracebackType | None = None,  # noqa: ARG002
    ) -> object:
        """As of every coroutine: raise this where it waits. asyncio does so to cancel it."""
        if self._waiting is None:
            self._leave()
            raise kind
        return self._waiting.throw(kind)

    def close(self) -> None:
        """As of every coroutine: nobody will go on."""
        self._leave()
        if self._waiting is not None:
            self._waiting.close()

    async def _wait(self) -> _T:
        try:
            await self._settled.wait()
            return self._outcomes[0]()
        finally:
            self._leave()

    def _come_to(self, outcome: Callable[[], _T]) -> None:
        self._outcomes.append(outcome)
        self._leave()
        call_in_loop(self._loop, self._settled.set)

    def _leave(self) -> None:
        for undo in self._undo:
            undo()


def _raise(error: ConnectionException) -> NoReturn:
    raise ConnectionException(error.message, error)
