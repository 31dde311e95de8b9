"""What a connection and a manager have in common in asyncio: data, writes, and the way up and down."""

import asyncio
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from cnxman._aio.attachment import P, SerialAttachment
from cnxman._aio.loop_listener import LoopListener, Write, can_read, make_listener
from cnxman._aio.threads import Calls, call_in_loop, log_unawaited, runs_here
from cnxman._aio.waiting import AsyncReceiveQueue
from cnxman._line.port import IncompleteWriteError
from cnxman._validation import check_size
from cnxman.framing import Framer, check_framer
from cnxman.reading import Until
from cnxman.serial import ListenerFactory, SerialConnection

_T = TypeVar("_T")


class AsyncStream(AsyncIterator[bytes]):
    """An async iterator over what comes: chunks, or frames. Made by `data` and `frames`.

    Several tasks may iterate over the same one: each item goes to one of them.
    """

    def __init__(self, queue: AsyncReceiveQueue, framer: Framer[bytes] | None) -> None:
        self._queue = queue
        self._framer = framer
        self._ready: list[bytes] = []  # frames, the next one last

    async def __anext__(self) -> bytes:
        """The next chunk or frame.

        Raises:
            StopAsyncIteration: somebody disconnected the line.
            ConnectionException: the line was lost, and nobody will open it again.
        """
        queue = self._queue
        if queue.data:
            await asyncio.sleep(0)  # everybody else in the loop has a turn even if there is always something here
        while not self._ready:
            queue.is_awaited = True  # before the look: what comes between on a thread wakes us
            if queue.data or queue.ended:
                data, is_first = queue.take_now()
                if is_first and self._framer is not None:
                    self._framer.reset()
            else:
                data = await queue.sleep()
            if not data:
                continue  # another task was quicker
            if self._framer is None:
                return data
            self._ready = list(self._framer.feed(data))[::-1]
        return self._ready.pop()

    async def aclose(self) -> None:
        """Receive no more, and discard what wasn't taken. Twice does nothing."""
        self._ready.clear()
        self._queue.close()

    def __del__(self) -> None:
        self._queue.is_abandoned = True
        if not self._queue.ended:  # its lock may be taken at this moment: the loop closes it
            call_in_loop(self._queue.loop, self._queue.close)


class AsyncLine(ABC):
    """What a connection and a manager have in common here.

    Args:
        name: what to name threads after.
        connection: whose data to receive; None if it is of a kind that has none.
        buffer_size: how many bytes an iterator holds; None for as many as the connection.
        in_loop: whether the loop reads where it can.
    """

    def __init__(
        self, name: str, connection: SerialConnection | None, buffer_size: int | None, *, in_loop: bool
    ) -> None:
        if buffer_size is not None:
            check_size("buffer_size", buffer_size)
        self._serial = connection
        self._buffer_size = buffer_size
        self._in_loop = in_loop
        self._factory: ListenerFactory | None = None
        self._calls = Calls(name)
        self._first: AsyncReceiveQueue | None = None  # what the first iterator will receive
        self._queues: list[weakref.ref[AsyncReceiveQueue]] = []

    # -- data ---------------------------------------------------------------------------------------------

    def data(self) -> AsyncStream:
        """An iterator over the data, in chunks as they come: `async for chunk in line.data()`."""
        return self._stream(None)

    def __aiter__(self) -> AsyncStream:
        """What `data` gives: `async for chunk in line`."""
        return self._stream(None)

    def frames(self, framer: Framer[bytes]) -> AsyncStream:
        """An iterator over frames: `async for line in line.frames(Lines())`.

        Half a frame from before an outage is never glued to one from after.

        Args:
            framer: what cuts the data into frames; see `cnxman.framing`. It begins anew, and serves nobody else.
        """
        check_framer(framer)
        framer.reset()
        return self._stream(framer)

    async def write(self, data: bytes | bytearray | memoryview) -> int:
        """Send a message; messages go out one after another, in the order of the calls.

        Returns:
            How many bytes were written, which is all of them.

        Raises:
            TypeError: if `data` isn't bytes.
            ConnectionException: see `SerialConnection.write`.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data must be bytes, not {data!r}")
        return await self._start_write(bytes(data))

    def _start_write(self, message: bytes) -> "asyncio.Future[int]":
        """Begin to send a message, or line it up behind others. In the loop."""
        connection, loop = self._line(), asyncio.get_running_loop()
        opening = connection.current_opening
        listener = opening.listener if opening is not None and opening.is_open else None
        if isinstance(listener, LoopListener) and listener.loop is loop and not self._calls.has_line:
            future: asyncio.Future[int] = loop.create_future()
            if listener.write(Write(message, future, partial(_settle, connection, future, len(message)))):
                return future
        return self._calls.line_up(partial(connection.write, message), loop)

    async def query(self, question: bytes, until: Until = b"\n", *, timeout: float | None = 1.0) -> bytes:
        """Ask the device, and wait for its answer; see `SerialConnection.query`.

        When it is cancelled it goes on until its answer or its time-out comes, and the next question waits for that.
        """
        return await self._in_thread(partial(self._line().query, question, until, timeout=timeout))

    def attach(self, protocol_factory: Callable[[], P]) -> SerialAttachment[P]:
        """Have a protocol on this line; see `cnxman.aio.attach`."""
        if not callable(protocol_factory):
            raise TypeError(f"protocol_factory must be callable, such as a protocol's class, not {protocol_factory!r}")
        connection, loop = self._line(), asyncio.get_running_loop()
        if self._first is not None:
            self._first.close()  # the protocol is the first to ask

        def make_queue() -> AsyncReceiveQueue:
            queue = AsyncReceiveQueue(loop, connection, self._limit(connection), across_reconnects=False, claimed=True)
            self._note_queue(queue)
            return queue

        return SerialAttachment(
            connection,
            protocol_factory,
            make_queue=make_queue,
            write=self._start_write,
            disconnect=lambda: self._calls.start(self._disconnect, loop),
        )

    # -- up and down --------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Connect."""
        self._loop = asyncio.get_running_loop()
        if self._serial is not None:
            self._first = self._queue(self._serial, claimed=False)
            if self._in_loop and can_read(self._loop):
                self._factory = self._serial.listener_factory = partial(make_listener, self._loop)
                self._need_no_thread()
        try:
            await self.connect()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tear down. All iterators come to their end."""
        await self._end()

    @abstractmethod
    async def connect(self) -> None:
        """Connect."""

    async def disconnect(self) -> None:
        """Disconnect, and stay so until somebody connects."""
        await self._in_thread(self._disconnect)

    @abstractmethod
    def _disconnect(self) -> None:
        """Disconnect. On a thread."""

    @abstractmethod
    def _need_no_thread(self) -> None:
        """The loop reads from now on."""

    @abstractmethod
    def _tear_down(self) -> None:
        """Release everything. On a thread."""

    @abstractmethod
    def _queue(self, connection: SerialConnection, *, claimed: bool) -> AsyncReceiveQueue:
        """What an iterator will take from."""

    @abstractmethod
    def _is_down(self) -> bool:
        """Whether nothing will come unless somebody connects."""

    # -- how ----------------------------------------------------------------------------------------------

    def _line(self) -> SerialConnection:
        if self._serial is None:
            raise TypeError("only a SerialConnection can be read and written here")
        return self._serial

    def _limit(self, connection: SerialConnection) -> int:
        return max(1, connection.buffer_size) if self._buffer_size is None else self._buffer_size

    def _stream(self, framer: Framer[bytes] | None) -> AsyncStream:
        first, self._first = self._first, None
        if first is None or not first.claim() or (first.ended and not self._is_down()):
            if first is not None:
                first.close()
            first = self._queue(self._line(), claimed=True)
        self._note_queue(first)
        return AsyncStream(first, framer)

    def _note_queue(self, queue: AsyncReceiveQueue) -> None:
        """Have a queue end when this does."""
        self._queues = [weakref.ref(queue), *map(weakref.ref, self._live_queues())]

    def _live_queues(self) -> list[AsyncReceiveQueue]:
        return [queue for refer in self._queues if (queue := refer()) is not None and not queue.ended]

    async def _in_thread(self, call: Callable[[], _T]) -> _T:
        return await self._calls.start(call, asyncio.get_running_loop())

    async def _end(self) -> None:
        """Tear down, and wait for that if there still is a loop to wait in: garbage collection may have come here."""
        first, self._first = self._first, None
        if first is not None:
            first.close()
        self._calls.end_line()
        if self._serial is not None and self._serial.listener_factory is self._factory:
            self._serial.listener_factory = None
        torn_down = self._calls.start(self._release, self._loop)
        try:
            if runs_here(self._loop):
                await torn_down
        finally:
            for queue in self._live_queues():
                queue.finish(None)

    def _release(self) -> None:
        self._tear_down()
        self._calls.join()


def _settle(
    connection: SerialConnection,
    future: "asyncio.Future[int]",
    size: int,
    sent: int,
    failed: IncompleteWriteError | None,
) -> None:
    """A message of `size` bytes is over: count it, and settle the future of whoever waits for it."""
    connection.count_written(sent)
    if failed is None:
        if not future.cancelled():
            future.set_result(sent)
        return
    error = connection.write_error(failed, size)
    error.__cause__ = failed.cause
    if future.cancelled():
        log_unawaited("write", error)
    else:
        future.set_exception(error)
