r"""Serial lines in asyncio: `async for` the data, `await` a write, the next connect, a state.

    async with AsyncManager(ConnectionManager(SerialConnection("/dev/ttyUSB0"))) as line:
        await line.write(b"START\n")
        async for sentence in line.frames(Lines()):  # goes on after an outage
            print(sentence)

`AsyncManager` is for a line that is kept up; `AsyncConnection` for a single connection, without recovery. Both are
faces: what they are made of works as ever, and receivers, readers and other threads may use it at the same time.

**Who receives what.** Every iterator receives everything from when it was made, beside all others. The first one made
within `async with` receives everything since the port was opened. (Once `buffer_size` bytes wait that nobody has asked
for, they are dropped.) Breaking off a loop over the line ends its iterator. To go on later, keep the iterator:

    data = line.data()
    async for chunk in data: ...  # breaks off somewhere
    async for chunk in data: ...  # goes on there

**Where the bytes are read.** Inside `async with`, on a loop that has `add_reader` and for a port that has a descriptor,
the loop itself reads and writes: there is no thread while the line is connected, and receivers of the connection's
signals are called on the loop's thread (where one that blocks holds up the loop). Everywhere else (the Proactor loop of
Windows, `rfc2217://`, `loop://`, `spy://`), and with `in_loop=False`, a thread reads and wakes the loop. Both promise
the same.

**Slow consumers.** An iterator buffers up to `buffer_size` bytes. Then reading pauses, for everybody, and flow control
stops the device. (Where a thread reads, the connection's own buffer takes as many again before.) Nothing is dropped.
An iterator that is garbage, or closed, or whose loop is closed, pauses nothing.

**Cancelling** any await is safe: no data is lost by it. A write that hasn't begun never will; one that has begun goes
on (or half a message would have gone out). A connect that is cancelled goes on too, unless it was that of
`async with`, which then disconnects before it is left. What may block runs on daemon threads, none in asyncio's
executor, so that a loop can be closed at any moment, also in an outage. (A line that a closed loop was reading is read
by nobody until it is torn down.)

Everything here is to be used in the loop, but for `manager` and `connection`.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from functools import partial
from typing import TypeVar

from serial.tools.list_ports_common import ListPortInfo

from cnxman import ports
from cnxman._aio.attachment import P, SerialAttachment, SerialTransport
from cnxman._aio.line import AsyncLine, AsyncStream
from cnxman._aio.threads import call_in_loop
from cnxman._aio.waiting import AsyncReceiveQueue, Expected
from cnxman.basics import ConnectionException, ConnectionManager, ConnectionState
from cnxman.serial import SerialConnection

__all__ = [
    "AsyncConnection",
    "AsyncManager",
    "AsyncStream",
    "SerialAttachment",
    "SerialTransport",
    "attach",
    "watch_ports",
]

_T = TypeVar("_T")


class AsyncConnection(AsyncLine):
    """A serial connection in asyncio, without recovery: `async with AsyncConnection(connection) as line: ...`.

    Entering connects, and raises a `ConnectionException` if that fails; leaving tears down. Iterators raise a
    `ConnectionException` when the line is lost, after what had come before, and end when somebody disconnects it.

    Args:
        connection: the connection.
        buffer_size: how many bytes an iterator holds, at most; None for as many as the connection's own.
        in_loop: False has a thread read even where the loop could.
    """

    def __init__(self, connection: SerialConnection, *, buffer_size: int | None = None, in_loop: bool = True) -> None:
        super().__init__(connection.port, connection, buffer_size, in_loop=in_loop)
        self.connection = connection
        """The connection. It may be used from any thread; see there what waits."""

    async def connect(self) -> None:
        """Open the port.

        Raises:
            ConnectionException: it couldn't be opened.
        """
        if not await self._in_thread(self.connection.try_connect):
            raise _down(self.connection)

    def _disconnect(self) -> None:
        self.connection.disconnect()

    def next_connect(self) -> Coroutine[object, None, None]:
        """Wait until the port is opened, from this call on: `await line.next_connect()`."""
        opened = Expected[None]()
        opened.receive(self.connection, lambda: opened.settle(None), SerialConnection.Signals.OPENED)
        return opened

    def wait_closed(self) -> Coroutine[object, None, ConnectionException | None]:
        """Wait until the port is closed; if it is closed now, don't.

        Returns:
            Why, or None if somebody asked for it.
        """
        closed = Expected[ConnectionException | None]()
        closed.receive(self.connection, lambda error: closed.settle(error), SerialConnection.Signals.CLOSED)
        if _has_closed(self.connection):
            closed.settle(self.connection.last_error)
        return closed

    def _need_no_thread(self) -> None:
        """It has none by itself."""

    def _tear_down(self) -> None:
        self.connection.teardown()

    def _queue(self, connection: SerialConnection, *, claimed: bool) -> AsyncReceiveQueue:
        limit, loop = self._limit(connection), asyncio.get_running_loop()
        queue = AsyncReceiveQueue(loop, connection, limit, across_reconnects=False, claimed=claimed)
        if claimed and _has_closed(connection):
            queue.finish(_down(connection))
        return queue

    def _is_down(self) -> bool:
        return not self.connection.is_connected


class AsyncManager(AsyncLine):
    """A manager in asyncio: `async with AsyncManager(manager) as line: ...`.

    Entering makes the first attempt, and goes on recovering in the background if that fails; leaving tears down.
    Iterators go on through outages. They end when the manager is disconnected or torn down, and raise a
    `ConnectionException` when it gives up because its policy's attempts are used up.

    Args:
        manager: the manager. For data, writes and queries its connection must be a `SerialConnection`.
        buffer_size: how many bytes an iterator holds, at most; None for as many as the connection's own.
        in_loop: False has a thread read even where the loop could.
    """

    def __init__(self, manager: ConnectionManager, *, buffer_size: int | None = None, in_loop: bool = True) -> None:
        if not isinstance(manager, ConnectionManager):
            raise TypeError(f"manager must be a ConnectionManager, not {manager!r}")
        connection = manager.connection
        serial = connection if isinstance(connection, SerialConnection) else None
        super().__init__(str(connection), serial, buffer_size, in_loop=in_loop)
        self.manager = manager
        """The manager. It may be used from any thread; see there what waits."""

    async def connect(self) -> None:
        """Connect, and keep the connection up; see `ConnectionManager.connect`."""
        await self._in_thread(self.manager.connect)

    def _disconnect(self) -> None:
        self.manager.disconnect()

    def next_connect(self) -> Coroutine[object, None, None]:
        """Wait until the manager connects, from this call on: `await line.next_connect()`.

        Raises:
            ConnectionException: it gave up, or was torn down.
        """
        connected = Expected[None]()
        self._expect(connected, {ConnectionState.CONNECTED}, lambda _: connected.settle(None))
        return connected

    def wait_for(self, *states: ConnectionState) -> Coroutine[object, None, ConnectionState]:
        """Wait until the manager is in one of these states; if it is now, don't. From this call on none is overlooked.

        Returns:
            The state.

        Raises:
            ConnectionException: it gave up, or was torn down, and that isn't among the states.
            ValueError: for no state.
        """
        if not states:
            raise ValueError("wait_for needs one state or more")
        reached = Expected[ConnectionState]()
        wanted = {ConnectionState(state) for state in states}
        self._expect(reached, wanted, reached.settle)
        if (state := self.manager.state) in wanted:
            reached.settle(state)
        return reached

    def _expect(
        self, expected: "Expected[_T]", states: set[ConnectionState], settle: Callable[[ConnectionState], None]
    ) -> None:
        def on_state(state: ConnectionState, error: ConnectionException | None) -> None:
            if state in states:
                settle(state)
            elif state is ConnectionState.TORNDOWN or (state is ConnectionState.DISCONNECTED and error is not None):
                expected.fail(error or _torn_down())

        expected.receive(self.manager, on_state, ConnectionManager.Signals.STATE_CHANGED)
        if self.manager.state is ConnectionState.TORNDOWN and ConnectionState.TORNDOWN not in states:
            expected.fail(_torn_down())

    def _need_no_thread(self) -> None:
        self.manager.keeps_worker = False

    def _tear_down(self) -> None:
        self.manager.teardown()

    def _queue(self, connection: SerialConnection, *, claimed: bool) -> AsyncReceiveQueue:
        limit, loop = self._limit(connection), asyncio.get_running_loop()
        queue = AsyncReceiveQueue(loop, connection, limit, across_reconnects=True, claimed=claimed)
        queue.end_with(self.manager)
        return queue

    def _is_down(self) -> bool:
        return self.manager.state in (ConnectionState.DISCONNECTED, ConnectionState.TORNDOWN)


def attach(line: AsyncConnection | AsyncManager, protocol_factory: Callable[[], P]) -> SerialAttachment[P]:
    """Have an `asyncio.Protocol` on a line: a new one each time the line connects, as `cnxman.protocols.attach` has it.

    To be called in the loop: before `async with line`, to miss nothing; or later, to receive what comes from then on.
    Its calls are made in the loop: `connection_made` with a `SerialTransport`, `data_received` any number of times,
    `connection_lost` once, with a `ConnectionException` if the line was lost, and None if somebody disconnected it; and
    `pause_writing` when the line takes nothing, `resume_writing` when it does again.

    What a protocol raises is given to the loop's exception handler. From `data_received`, and the two of writing:
    `connection_lost` is called with it, and the factory makes another protocol for the line at once. From
    `connection_made`, or the factory: no other until the line connects again.

    Args:
        line: the line.
        protocol_factory: returns a new protocol; often it is the protocol's class.

    Returns:
        The attachment: its `protocol` is the one of now, and its `stop()` ends it.

    Raises:
        TypeError: if the line has no `SerialConnection`, or the factory can't be called.
    """
    if not isinstance(line, (AsyncConnection, AsyncManager)):
        raise TypeError(f"line must be an AsyncConnection or an AsyncManager, not {line!r}")
    return line.attach(protocol_factory)


def _has_closed(connection: SerialConnection) -> bool:
    """Whether no CLOSED is yet to come."""
    opening = connection.current_opening
    return opening is None or opening.has_closed


def _down(connection: SerialConnection) -> ConnectionException:
    cause = connection.last_error or ConnectionError(f"{connection.port} is not connected")
    return ConnectionException(str(cause), cause)


def _torn_down() -> ConnectionException:
    return ConnectionException("the manager is torn down", ConnectionAbortedError("somebody tore it down"))


async def watch_ports() -> AsyncGenerator[tuple[ports.PortEvent, ListPortInfo], None]:
    """The ports that arrive and depart, one after another, for as long as it is iterated over.

        async with contextlib.aclosing(watch_ports()) as events:
            async for event, info in events:
                print(event, info.device)

    Returns:
        An async iterator over pairs: `ports.PortEvent.ARRIVED` or `DEPARTED`, and the port as `ports.available` has it.
        See `ports.watch`, whose thread looks for them. Close it (`aclose`) when you take no more: that ends the thread.
    """
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[tuple[ports.PortEvent, ListPortInfo]] = asyncio.Queue()

    def note(event: ports.PortEvent, info: ListPortInfo) -> None:
        call_in_loop(loop, partial(events.put_nowait, (event, info)))

    watch = await asyncio.to_thread(ports.watch, note)
    try:
        while True:
            yield await events.get()
    finally:
        watch.stop()
