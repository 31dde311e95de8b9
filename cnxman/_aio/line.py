"""What a connection and a manager have in common in asyncio: data, writes, and the way up and down."""

import asyncio
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from cnxman._aio.threads import Calls, call_in_loop
from cnxman._aio.waiting import AsyncReceiveQueue
from cnxman._validation import check_size
from cnxman.framing import Framer, check_framer
from cnxman.reading import Until
from cnxman.serial import SerialConnection

_T = TypeVar("_T")


class AsyncStream(AsyncIterator[bytes]):
    """An async iterator over what comes: chunks, or frames. Made by `data` and `frames`.

    Several tasks may iterate over the same one: each item goes to one of them.
    """

    def __init__(self, queue: AsyncReceiveQueue, framer: Framer[bytes] | None) -> None:
        self._queue = queue
        self._framer = framer
        self._ready: deque[bytes] = deque()
        self._turn = asyncio.Lock()

    async def __anext__(self) -> bytes:
        """The next chunk or frame.

        Raises:
            StopAsyncIteration: somebody hung up.
            ConnectionException: the line was lost, and nobody will open it again.
        """
        async with self._turn:
            while not self._ready:
                data, is_first = await self._queue.next()
                if self._framer is None:
                    return data
                if is_first:
                    self._framer.reset()
                self._ready.extend(self._framer.feed(data))
            return self._ready.popleft()

    async def aclose(self) -> None:
        """Hear no more, and forget what wasn't taken. Twice does nothing."""
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
        connection: whose data to hear; None if it is of a kind that has none.
        buffer_size: how many bytes an iterator holds; None for as many as the connection.
    """

    def __init__(self, name: str, connection: SerialConnection | None, buffer_size: int | None) -> None:
        if buffer_size is not None:
            check_size("buffer_size", buffer_size)
        self._serial = connection
        self._buffer_size = buffer_size
        self._calls = Calls(name)
        self._first: AsyncReceiveQueue | None = None  # what the first iterator will have heard
        self._queues: weakref.WeakSet[AsyncReceiveQueue] = weakref.WeakSet()

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
        write = partial(self._line().write, bytes(data))
        return await self._calls.line_up(write, asyncio.get_running_loop())

    async def query(self, question: bytes, until: Until = b"\n", *, timeout: float | None = 1.0) -> bytes:
        """Ask the device, and wait for its answer; see `SerialConnection.query`.

        When it is cancelled it goes on until its answer or its time-out comes, and the next question waits for that.
        """
        return await self._in_thread(partial(self._line().query, question, until, timeout=timeout))

    # -- up and down --------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Connect."""
        self._loop = asyncio.get_running_loop()
        if self._serial is not None:
            self._first = self._queue(self._serial, claimed=False)
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

    @abstractmethod
    async def disconnect(self) -> None:
        """Disconnect."""

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
        return connection.buffer_size if self._buffer_size is None else self._buffer_size

    def _stream(self, framer: Framer[bytes] | None) -> AsyncStream:
        first, self._first = self._first, None
        if first is None or not first.claim() or (first.ended and not self._is_down()):
            if first is not None:
                first.close()
            first = self._queue(self._line(), claimed=True)
        self._queues.add(first)
        return AsyncStream(first, framer)

    async def _in_thread(self, call: Callable[[], _T]) -> _T:
        return await self._calls.start(call, asyncio.get_running_loop())

    async def _end(self) -> None:
        """Tear down, and wait for that if there still is a loop to wait in: garbage collection may have come here."""
        first, self._first = self._first, None
        if first is not None:
            first.close()
        self._calls.end_line()
        torn_down = self._calls.start(self._release, self._loop)
        try:
            if _runs(self._loop):
                await torn_down
        finally:
            for queue in tuple(self._queues):
                queue.finish(None)

    def _release(self) -> None:
        self._tear_down()
        self._calls.join()


def _runs(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
